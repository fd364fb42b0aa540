//! Closing and copying descriptors.
//!
//! Copies of KVM's are closed at `exec`, whatever the caller wants: there they would be nothing. An object is taken from its number
//! before that is closed, as another thread may get the number at once.
//!
//! The library has descriptors of its own among the program's, for events (`host_user::own_descriptor`). A program which closes numbers
//! that it does not know, one by one or in a range, does not close those: to it there is nothing. Not so if it has another
//! descriptor take such a number's place (`dup2`, `dup3`): what the library had there is gone, and the number is the program's.
//!
//! See: close_range(2), closefrom(3).

use std::iter;

use host_user::own_descriptor::{give_away, is_own, next_own};
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
    // The library's own closing comes here, too, through the standard library. By then the number is its own no more.
    if is_own(descriptor) {
        return fail(libc::EBADF);
    }
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
    if first > last || next_own(first).is_none_or(|own| own > last) {
        return next_close_range(first, last, flags);
    }
    // What the flags say of the whole is said first, of a range in which there is nothing: whether they are right, and that this thread
    // gets a table of its own. If it gets none, nothing may be closed. It is not said again: meanwhile a signal's handler may have
    // started a thread that is to share the table.
    let nothing = next_close_range(c_uint::MAX, c_uint::MAX, flags);
    let flags = flags & !(libc::CLOSE_RANGE_UNSHARE as c_int);
    let fails = |(first, last)| next_close_range(first, last, flags) != 0;
    if nothing != 0 || others(first, last).any(fails) { -1 } else { 0 }
}

/// The C library's, or the system call.
fn next_close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    // SAFETY: whose they are has the caller of the call to say.
    unsafe {
        match CLOSE_RANGE.get() {
            Some(next) => next(first, last, flags),
            None => libc::syscall(libc::SYS_close_range, first, last, flags) as c_int,
        }
    }
}

/// The parts of a range in which no number is the library's own.
fn others(first: c_uint, last: c_uint) -> impl Iterator<Item = (c_uint, c_uint)> {
    let mut rest = Some(first);
    iter::from_fn(move || {
        loop {
            let start = rest.filter(|start| *start <= last)?;
            let own = next_own(start).filter(|own| *own <= last);
            rest = own.map(|own| own + 1);
            match own {
                None => return Some((start, last)),
                Some(own) if own > start => return Some((start, own - 1)),
                Some(_) => {}
            }
        }
    })
}

/// # Safety
/// As the C library's.
#[cfg_attr(feature = "interpose", unsafe(no_mangle))]
pub unsafe extern "C" fn closefrom(first: c_int) {
    let first = first.max(0) as c_uint;
    DESCRIPTORS.remove_range(first, c_uint::MAX);
    for (first, last) in others(first, c_uint::MAX) {
        if last == c_uint::MAX {
            next_closefrom(first as c_int);
        } else if next_close_range(first, last, 0) != 0 {
            // Linux before 5.9 has none such. The C library's goes another way by itself.
            for number in first..=last {
                close_number(number as c_int);
            }
        }
    }
}

/// The C library's, or the system call.
fn next_closefrom(first: c_int) {
    // SAFETY: whose they are has the caller of the call to say.
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
        give_away(number);
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
    give_away(number);
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

#[cfg(test)]
#[path = "lives_test.rs"]
mod lives_test;
