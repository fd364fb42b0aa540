//! The C library's functions that this library stands before: each looks whether it is about KVM, and else is the C library's own.
//!
//! - `device`: opening `/dev/kvm`, and looking whether it is there;
//! - `calls`: `ioctl`;
//! - `contents`: reading and mapping descriptors;
//! - `mappings`: unmapping and moving memory;
//! - `lives`: closing and copying descriptors;
//! - `sends`: sending descriptors to other processes;
//! - [`signals`]: setting handlers;
//! - `threads`: cancelling threads;
//! - `start`: what is done when the library is loaded.
//!
//! They are called at any time: before the library's constructor has run, and in signals' handlers. What is not about KVM costs a
//! comparison or two, allocates nothing, waits for nothing, and leaves `errno` as the C library does.
//!
//! The names are exported with the feature `interpose` only. Arguments that C passes behind `...` are plain ones here:
//! on x86-64 they are passed alike.
//!
//! See: System V ABI, AMD64 supplement, 3.5.7; ld.so(8), `LD_PRELOAD`.

mod calls;
mod contents;
mod device;
mod lives;
mod mappings;
mod sends;
pub mod signals;
mod start;
mod threads;

pub use calls::*;
pub use contents::*;
pub use device::*;
pub use lives::*;
pub use mappings::*;
pub use sends::*;
pub use threads::*;

use std::os::fd::IntoRawFd;

use libc::c_int;
use virt::Errno;

use crate::descriptors::{DESCRIPTORS, Held};
use crate::object::Made;

/// Gives an object the number of its descriptor.
fn install(made: Made) -> Result<u32, Errno> {
    let Made { object, descriptor } = made;
    let number = descriptor.into_raw_fd();
    match DESCRIPTORS.insert(number, Held::new(object)) {
        Ok(()) => Ok(number as u32),
        Err(errno) => {
            lives::close_number(number);
            Err(errno)
        }
    }
}

/// What a function of the C library returns.
fn answer(result: Result<u32, Errno>) -> c_int {
    match result {
        Ok(value) => value as c_int,
        Err(Errno(number)) => fail(number),
    }
}

/// Has a function fail with this number.
fn fail(number: c_int) -> c_int {
    // SAFETY: it is this thread's own.
    unsafe { *libc::__errno_location() = number };
    -1
}
