//! Closing and copying descriptors.
//!
//! Copies of KVM's are closed at `exec`, whatever the caller wants: there they would be nothing. An object is taken from its number
//! before that is closed, as another thread may get the number at once.

use libc::{c_int, c_uint};

use super::fail;
use crate::descriptors::DESCRIPTORS;
use crate::next::Next;

type One = unsafe extern "C" fn(c_int) -> c_int;
type Two = unsafe extern "C" fn(c_int, c_int) -> c_int;
type Three = unsafe extern "C" fn(c_int, c_int, c_int) -> c_int;
type Fcntl = unsafe extern "C" fn(c_int, c_int, ...) -> c_int;
type Range = unsafe extern "C" fn(c_uint, c_uint, c_int) -> c_int;
type From = unsafe extern "C" fn(c_int);

// SAFETY: as the C library declares them.
pub(super) static CLOSE: Next<One> = unsafe { Next::new(c"close") };
// SAFETY: likewise.
pub(super) static DUP: Next<One> = unsafe { Next::new(c"dup") };
// SAFETY: likewise.
pub(super) static DUP2: Next<Two> = unsafe { Next::new(c"dup2") };
// SAFETY: likewise.
pub(super) static DUP3: Next<Three> = unsafe { Next::new(c"dup3") };
// SAFETY: likewise.
pub(super) static FCNTL: Next<Fcntl> = unsafe { Next::new(c"fcntl") };
// SAFETY: likewise.
pub(super) static FCNTL64: Next<Fcntl> = unsafe { Next::new(c"fcntl64") };
// SAFETY: likewise.
pub(super) static CLOSE_RANGE: Next<Range> = unsafe { Next::new(c"close_range") };
// SAFETY: likewise.
pub(super) static CLOSEFROM: Next<From> = unsafe { Next::new(c"closefrom") };

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn close(descriptor: c_int) -> c_int {
    let object = DESCRIPTORS.remove(descriptor);
    let closed = close_number(descriptor);
    // What it may be the end of comes after that, and is nothing that the caller hears of.
    keep_errno(|| drop(object));
    closed
}

/// Closes a descriptor, and nothing else.
pub(super) fn close_number(descriptor: c_int) -> c_int {
    // SAFETY: whose it is has the caller of the call to say.
    unsafe {
        match CLOSE.get() {
            Some(next) => next(descriptor),
            None => libc::syscall(libc::SYS_close, descriptor) as c_int,
        }
    }
}

fn keep_errno(work: impl FnOnce()) {
    // SAFETY: it is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: likewise.
    let before = unsafe { *errno };
    work();
    // SAFETY: likewise.
    unsafe { *errno = before };
}

/// Closes a range of descriptors, unless it is said that it is to happen later.
///
/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    if flags as c_uint & libc::CLOSE_RANGE_CLOEXEC == 0 && first <= last {
        DESCRIPTORS.remove_range(first, last);
    }
    // SAFETY: the caller's promise.
    unsafe {
        match CLOSE_RANGE.get() {
            Some(next) => next(first, last, flags),
            None => libc::syscall(libc::SYS_close_range, first, last, flags) as c_int,
        }
    }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn closefrom(first: c_int) {
    let first = first.max(0);
    DESCRIPTORS.remove_range(first as c_uint, c_uint::MAX);
    // SAFETY: the caller's promise.
    unsafe {
        match CLOSEFROM.get() {
            Some(next) => next(first),
            None => drop(libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0)),
        }
    }
}

/// Copies a descriptor of KVM's, to the lowest number from `least` on; `None` if it is another's.
fn copy(descriptor: c_int, least: c_int) -> Option<c_int> {
    let object = DESCRIPTORS.get(descriptor)?;
    // SAFETY: the call takes any numbers.
    let number = unsafe { raw_fcntl(descriptor, libc::F_DUPFD_CLOEXEC, least as usize) };
    if number < 0 {
        return Some(number);
    }
    if DESCRIPTORS.insert(number, object.object()).is_err() {
        close_number(number);
        return Some(fail(libc::EMFILE));
    }
    Some(number)
}

/// # Safety
/// As `fcntl`.
unsafe fn raw_fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_fcntl, descriptor, command, argument) as c_int }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn dup(descriptor: c_int) -> c_int {
    if let Some(number) = copy(descriptor, 0) {
        return number;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match DUP.get() {
            Some(next) => next(descriptor),
            None => libc::syscall(libc::SYS_dup, descriptor) as c_int,
        }
    }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn dup2(descriptor: c_int, number: c_int) -> c_int {
    if descriptor != number && DESCRIPTORS.has(descriptor) {
        // SAFETY: the caller's promise.
        return unsafe { dup3(descriptor, number, libc::O_CLOEXEC) };
    }
    // SAFETY: the caller's promise.
    let copied = unsafe {
        match DUP2.get() {
            Some(next) => next(descriptor, number),
            None => libc::syscall(libc::SYS_dup2, descriptor, number) as c_int,
        }
    };
    if copied >= 0 && descriptor != number {
        keep_errno(|| drop(DESCRIPTORS.remove(number)));
    }
    copied
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn dup3(descriptor: c_int, number: c_int, flags: c_int) -> c_int {
    let object = DESCRIPTORS.get(descriptor).map(|object| object.object());
    let flags = if object.is_some() { flags | libc::O_CLOEXEC } else { flags };
    // SAFETY: the caller's promise.
    let copied = unsafe {
        match DUP3.get() {
            Some(next) => next(descriptor, number, flags),
            None => libc::syscall(libc::SYS_dup3, descriptor, number, flags) as c_int,
        }
    };
    if copied < 0 {
        return copied;
    }
    let Some(object) = object else {
        keep_errno(|| drop(DESCRIPTORS.remove(number)));
        return copied;
    };
    match DESCRIPTORS.insert(number, object) {
        Ok(()) => copied,
        Err(_) => {
            close_number(number);
            fail(libc::EMFILE)
        }
    }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { controlled(&FCNTL, descriptor, command, argument) }
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn fcntl64(descriptor: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { controlled(&FCNTL64, descriptor, command, argument) }
}

unsafe fn controlled(next: &Next<Fcntl>, descriptor: c_int, command: c_int, arg: usize) -> c_int {
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC)
        && let Some(number) = copy(descriptor, arg as c_int)
    {
        return number;
    }
    // SAFETY: the caller's promise.
    unsafe {
        match next.get() {
            Some(next) => next(descriptor, command, arg),
            None => raw_fcntl(descriptor, command, arg),
        }
    }
}
