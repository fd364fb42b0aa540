//! What must hold of every host holds of the kernel, and what those bodies need of it: [`Here`]. Memory and descriptors are those of
//! the process that loads the module.

use core::ffi::c_int;

use ::selftest::Failure;
use virt::Errno;
use virt::host_test::{PAGE, Place, given};

use crate::event::{Context, EventFd};
use crate::kernel::Kernel;

// SAFETY: these are the glue's functions (glue/selftest.c), with these types. What they map and close is the test's own.
unsafe extern "C" {
    /// Maps memory for this process: its address, or an error number as a pointer.
    safe fn unibody_map(size: usize, read: bool, write: bool) -> u64;
    /// The same at a place.
    safe fn unibody_map_at(at: u64, size: usize, read: bool, write: bool) -> u64;
    safe fn unibody_unmap(start: u64, size: usize);
    /// A descriptor of a new eventfd, or a negative error number.
    safe fn unibody_eventfd_new() -> c_int;
    /// One of something else.
    safe fn unibody_other_descriptor() -> c_int;
    safe fn unibody_close(descriptor: c_int);
    fn unibody_event_take(event: *mut Context) -> u64;
}

/// The process that loads the module.
pub struct Here;

/// Maps memory for this process.
///
/// # Errors
/// The kernel's.
pub fn map(size: u64, read: bool, write: bool) -> Result<u64, Failure> {
    address(unibody_map(size as usize, read, write))
}

/// Takes memory of [`map`]'s away.
pub fn unmap(start: u64, size: u64) {
    unibody_unmap(start, size as usize);
}

/// An address, or the kernel's error number as a pointer.
///
/// # Errors
/// If it is that.
pub fn address(answer: u64) -> Result<u64, Failure> {
    given(if answer < 1 << 63 { Ok(answer) } else { Err(Errno((answer as i32).wrapping_neg())) })
}

fn descriptor(answer: c_int) -> Result<i32, Failure> {
    given(if answer >= 0 { Ok(answer) } else { Err(Errno(-answer)) })
}

impl Place for Here {
    type Host = Kernel;

    fn host() -> Kernel {
        Kernel
    }

    fn map() -> Result<u64, Failure> {
        let start = map(3 * PAGE, true, true)?;
        let size = PAGE as usize;
        address(unibody_map_at(start + PAGE, size, true, false))?;
        address(unibody_map_at(start + 2 * PAGE, size, false, false))?;
        Ok(start)
    }

    fn unmap(start: u64) {
        unmap(start, 3 * PAGE);
    }

    fn descriptors() -> Result<[i32; 2], Failure> {
        let event = descriptor(unibody_eventfd_new())?;
        let other = descriptor(unibody_other_descriptor());
        if other.is_err() {
            unibody_close(event);
        }
        Ok([event, other?])
    }

    fn close(descriptor: i32) {
        if descriptor >= 0 {
            unibody_close(descriptor);
        }
    }

    fn take(event: &EventFd) -> u64 {
        // SAFETY: there is a handle.
        unsafe { unibody_event_take(event.context()) }
    }
}

virt::host_contract!(Here);
