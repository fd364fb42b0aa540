//! Keeps code that went astray from making system calls.

use std::mem::offset_of;
use std::ptr::null;

use libc::c_void;

use crate::layout::{CODE, CODE_SIZE};

/// Turns system calls of this thread that are made from the code's addresses into signals. Where
/// the kernel does not allow it the test runs without: no case means to make one.
pub(super) fn forbid_system_calls() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump =
        |code: u32, k: u64, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k: k as u32 };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let at_least = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let pointer = offset_of!(libc::seccomp_data, instruction_pointer) as u32;
    let mut filter = [
        statement(load, pointer + 4),
        jump(equal, 0, 0, 4),
        statement(load, pointer),
        jump(at_least, CODE, 0, 2),
        // A system call at the end leaves RIP behind it.
        jump(at_least, CODE + CODE_SIZE + 1, 1, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRAP),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is valid, and copied.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
            null::<c_void>(),
        );
    }
}
