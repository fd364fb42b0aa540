//! `ioctl`.
//!
//! KVM's numbers have a letter of their own, so that of all other calls nothing but that is looked at.

use std::arch::naked_asm;

use abi::ioctl::{KVMIO, RUN};
use libc::{c_int, c_ulong};

use super::{answer, install, signals};
use crate::cancels;
use crate::descriptors::DESCRIPTORS;
use crate::next::Next;

type Ioctl = unsafe extern "C" fn(c_int, c_ulong, ...) -> c_int;

// SAFETY: as the C library declares it.
pub(super) static IOCTL: Next<Ioctl> = unsafe { Next::new(c"ioctl") };

/// What `ioctl` returns, and what is to be allowed again first: see [`cancels::hold`].
#[repr(C)]
struct Answer {
    result: i64,
    allow: u64,
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn ioctl(descriptor: c_int, number: c_ulong, argument: usize) -> c_int {
    // Who is cancelled is on the way out of here, where nothing of this library's is on the stack but this, which unwinds.
    naked_asm!(
        ".cfi_startproc",
        "sub rsp, 24",
        ".cfi_def_cfa_offset 32",
        "call {answer}",
        "test edx, edx",
        "jz 3f",
        "mov [rsp], rax",
        "mov [rsp + 8], rdx",
        "test edx, {allowed}",
        "jz 2f",
        "xor edi, edi",
        "xor esi, esi",
        "call {set_state}",
        "2:",
        "mov rdx, [rsp + 8]",
        "test edx, {any_time}",
        "jz 4f",
        // The C library's own words for it: what is cancelled within the next call of some versions ends with another result.
        "call {test}",
        "mov edi, 1",
        "xor esi, esi",
        "call {set_type}",
        "4:",
        "mov rax, [rsp]",
        "3:",
        "add rsp, 24",
        ".cfi_def_cfa_offset 8",
        "ret",
        ".cfi_endproc",
        answer = sym answer_ioctl,
        any_time = const cancels::ANY_TIME,
        allowed = const cancels::ALLOWED,
        test = sym cancels::pthread_testcancel,
        set_type = sym cancels::pthread_setcanceltype,
        set_state = sym cancels::pthread_setcancelstate,
    )
}

unsafe extern "C" fn answer_ioctl(descriptor: c_int, number: c_ulong, argument: usize) -> Answer {
    if (number >> 8) as u8 == KVMIO
        && let Some(object) = DESCRIPTORS.get(descriptor)
    {
        let allow = if number as u32 == RUN {
            object.signal_mask().into_iter().for_each(signals::handle_unblocked);
            cancels::hold()
        } else {
            0
        };
        // The kernel takes 32 bits as well.
        let result = answer(object.ioctl(number as u32, argument as u64, install)).into();
        return Answer { result, allow };
    }
    // SAFETY: the caller's promise.
    let result = unsafe {
        match IOCTL.get() {
            Some(next) => next(descriptor, number, argument),
            None => libc::syscall(libc::SYS_ioctl, descriptor, number, argument) as c_int,
        }
    };
    Answer { result: result.into(), allow: 0 }
}
