//! Sending descriptors to other processes (SCM_RIGHTS): of one of KVM's it is refused, with a word on stderr why.
//!
//! What it stands for is in this process, and nobody there could do anything with a memfd. A message with others among them is
//! refused whole, as one with a number that is none would be.
//!
//! See: unix(7), cmsg(3).

use std::mem::{MaybeUninit, offset_of};
use std::ptr;

use host_user::fixup;
use libc::{c_int, c_uint, cmsghdr, mmsghdr, msghdr, ssize_t};

use super::{fail, signals};
use crate::descriptors::DESCRIPTORS;
use crate::next::Next;

type Send = unsafe extern "C" fn(c_int, *const msghdr, c_int) -> ssize_t;
type SendMany = unsafe extern "C" fn(c_int, *mut mmsghdr, c_uint, c_int) -> c_int;

// SAFETY: as the C library declares it.
pub(super) static SENDMSG: Next<Send> = unsafe { Next::new(c"sendmsg") };
// SAFETY: likewise.
pub(super) static SENDMMSG: Next<SendMany> = unsafe { Next::new(c"sendmmsg") };

/// How many messages one call sends at most. See: Linux, include/uapi/linux/uio.h, `UIO_MAXIOV`.
const MAX_MESSAGES: usize = 1024;
/// How many descriptors one message has at most. See: Linux, include/net/scm.h, `SCM_MAX_FD`.
const MAX_DESCRIPTORS: usize = 253;

const REFUSED: &str = "unibody: cannot send a descriptor of /dev/kvm to another process: its machine is in this one\n";

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn sendmsg(socket: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if has_ours(message) {
        return refuse() as ssize_t;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match SENDMSG.get() {
            Some(next) => next(socket, message, flags),
            None => libc::syscall(libc::SYS_sendmsg, socket, message, flags) as ssize_t,
        }
    }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn sendmmsg(
    socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    let all = (0..MAX_MESSAGES.min(count as usize)).map(|n| {
        messages.wrapping_add(n).wrapping_byte_add(offset_of!(mmsghdr, msg_hdr)).cast_const()
    });
    if all.map(<*const mmsghdr>::cast).any(has_ours) {
        return refuse();
    }
    // SAFETY: the caller's promise.
    unsafe {
        match SENDMMSG.get() {
            Some(next) => next(socket, messages, count, flags),
            None => libc::syscall(libc::SYS_sendmmsg, socket, messages, count, flags) as c_int,
        }
    }
}

/// Says so where people look, and fails.
fn refuse() -> c_int {
    // SAFETY: it reads a text of this program's.
    unsafe { libc::write(libc::STDERR_FILENO, REFUSED.as_ptr().cast(), REFUSED.len()) };
    fail(libc::EOPNOTSUPP)
}

/// Whether a message has a descriptor of KVM's. What cannot be read of it is the kernel's to refuse.
fn has_ours(message: *const msghdr) -> bool {
    // Before that there is none, and nobody handles faults.
    if !signals::is_guarded() {
        return false;
    }
    let Some(header) = read(message) else { return false };
    let header_size = size_of::<cmsghdr>();
    let mut at = header.msg_control as usize;
    let Some(end) = at.checked_add(header.msg_controllen) else { return false };
    while end.saturating_sub(at) >= header_size {
        let Some(part) = read(ptr::with_exposed_provenance::<cmsghdr>(at)) else { return false };
        let size = part.cmsg_len;
        if size < header_size || size > end - at {
            return false;
        }
        if (part.cmsg_level, part.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let count = (size - header_size) / size_of::<c_int>();
            let numbers = ptr::with_exposed_provenance::<c_int>(at + header_size);
            let mut sent = (0..count.min(MAX_DESCRIPTORS)).map(|n| read(numbers.wrapping_add(n)));
            if sent.any(|number| number.is_some_and(|number| DESCRIPTORS.get(number).is_some())) {
                return true;
            }
        }
        at += size.next_multiple_of(size_of::<usize>());
    }
    false
}

/// What is there, if anything is.
fn read<T: Copy>(from: *const T) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: it is the program's own argument, which the kernel reads, too; a copy of any of the types above may be of any bits.
    unsafe {
        fixup::copy(value.as_mut_ptr().cast(), from.cast(), size_of::<T>()).ok()?;
        Some(value.assume_init())
    }
}
