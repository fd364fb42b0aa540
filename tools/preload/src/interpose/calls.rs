//! `ioctl`.
//!
//! KVM's numbers have a letter of their own, so that of all other calls nothing but that is looked at.

use abi::ioctl::KVMIO;
use libc::{c_int, c_ulong};

use super::{answer, install};
use crate::descriptors::DESCRIPTORS;
use crate::next::Next;

type Ioctl = unsafe extern "C" fn(c_int, c_ulong, ...) -> c_int;

// SAFETY: as the C library declares it.
pub(super) static IOCTL: Next<Ioctl> = unsafe { Next::new(c"ioctl") };

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn ioctl(descriptor: c_int, number: c_ulong, argument: usize) -> c_int {
    if (number >> 8) as u8 == KVMIO
        && let Some(object) = DESCRIPTORS.get(descriptor)
    {
        // The kernel takes 32 bits as well.
        return answer(object.ioctl(number as u32, argument as u64, install));
    }
    // SAFETY: the caller's promise.
    unsafe {
        match IOCTL.get() {
            Some(next) => next(descriptor, number, argument),
            None => libc::syscall(libc::SYS_ioctl, descriptor, number, argument) as c_int,
        }
    }
}
