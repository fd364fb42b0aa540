//! On a host that denies executable memory the guest runs all the same: slower, and the person is told why.

mod support;

use std::io;
use std::mem::offset_of;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null;

use support::{SOFT, outcome, unibody};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;

/// Where the filter finds the low half of a system call's argument.
fn argument(n: usize) -> u32 {
    (offset_of!(libc::seccomp_data, args) + n * size_of::<u64>()) as u32
}

/// A filter of system calls that denies shared mappings which are executable: what programs and libraries are
/// loaded by are private ones.
fn filter() -> [libc::sock_filter; 8] {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let has = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    [
        statement(load, offset_of!(libc::seccomp_data, nr) as u32),
        jump(equal, libc::SYS_mmap as u32, 0, 5),
        statement(load, argument(2)),
        jump(has, libc::PROT_EXEC as u32, 0, 3),
        statement(load, argument(3)),
        jump(has, libc::MAP_SHARED as u32, 0, 1),
        statement(end, DENY),
        statement(end, ALLOW),
    ]
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the command, and all that it starts, a process to which this host denies executable memory.
fn deny(command: &mut Command) {
    let mut filter = filter();
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program is valid, and copied.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
                null::<libc::c_void>(),
            ))
        }
    };
    // SAFETY: between fork and exec the closure makes system calls only, which are async-signal-safe, and
    // touches no memory but its own.
    unsafe { command.pre_exec(install) };
}

/// `unibody run` with `arguments` on such a host.
fn run_denied(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = unibody();
    command.args(SOFT).args(arguments);
    deny(&mut command);
    outcome(command)
}

#[test]
fn a_guest_runs_where_executable_memory_is_denied() {
    let told = "unibody: this host does not let code be translated (permission denied): \
                the guest runs slower\n";
    let expected = (Some(0), "hi\n".to_owned(), told.to_owned());
    assert_eq!(run_denied(&["--", "echo", "hi"]), expected);
}

#[test]
fn who_wants_no_translation_is_told_nothing() {
    let expected = (Some(0), "hi\n".to_owned(), String::new());
    assert_eq!(run_denied(&["--no-jit", "--", "echo", "hi"]), expected);
}

#[test]
fn translated_code_can_not_be_checked_where_there_is_none() {
    let (status, stdout, stderr) = run_denied(&["--lockstep", "--", "true"]);
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (Some(125), "", 1), "{stderr}");
    assert!(stderr.contains("lets none be translated (permission denied)"), "{stderr}");
}
