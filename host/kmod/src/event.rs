//! Events: eventfds of who makes calls.
//!
//! Deviation: a handle has the eventfd's file open, as in a process (`host/user`), where Linux's KVM gives an irqfd up when the last
//! descriptor is closed. One that nobody can signal any more stays until it is removed, or its machine is.

use alloc::sync::Arc;
use core::ffi::c_int;

use virt::Errno;
use virt::host::Event;

use crate::file::{File, unibody_file_put};

/// The kernel's `struct eventfd_ctx`.
#[repr(C)]
pub struct Context([u8; 0]);

// SAFETY: these are the glue's functions (glue/event.c), with these types.
unsafe extern "C" {
    /// The open file of an eventfd's descriptor, or an error number as a pointer. Process context.
    safe fn unibody_event_file(descriptor: c_int) -> *mut File;
    /// The eventfd that a file is of, likewise.
    fn unibody_event_of(file: *mut File) -> *mut Context;
    /// Adds one to its count, and wakes who waits. Any context.
    fn unibody_event_signal(event: *mut Context);
    /// Lets go of both. Any context.
    fn unibody_event_put(file: *mut File, event: *mut Context);
}

/// A handle of an eventfd.
#[derive(Clone)]
pub struct EventFd(Arc<Open>);

/// An eventfd's file, which is open, and what is behind it.
struct Open {
    file: *mut File,
    context: *mut Context,
}

// SAFETY: both are held by a count of the kernel's, and used through its functions alone, which lock.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl EventFd {
    /// The one that a descriptor of this process is of, which stays the caller's. Process context.
    ///
    /// # Errors
    /// `EBADF` if it is no descriptor, `EINVAL` if it is of something else.
    pub fn of(descriptor: i32) -> Result<Self, Errno> {
        let file = checked(unibody_event_file(descriptor))?;
        // SAFETY: the file was just opened, and is an eventfd's.
        match checked(unsafe { unibody_event_of(file) }) {
            Ok(context) => Ok(Self(Arc::new(Open { file, context }))),
            Err(errno) => {
                // SAFETY: as above; nobody has it any more.
                unsafe { unibody_file_put(file) };
                Err(errno)
            }
        }
    }

    /// The open file. Valid as long as there is a handle.
    pub fn file(&self) -> *mut File {
        self.0.file
    }

    /// What is behind it, likewise.
    pub fn context(&self) -> *mut Context {
        self.0.context
    }
}

impl Event for EventFd {
    fn signal(&self) {
        // SAFETY: it is there as long as there is a handle.
        unsafe { unibody_event_signal(self.0.context) };
    }
}

impl PartialEq for EventFd {
    /// Whether they are of one eventfd.
    fn eq(&self, other: &Self) -> bool {
        self.0.context == other.0.context
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: they were given with a count each, and nobody uses them any more.
        unsafe { unibody_event_put(self.file, self.context) };
    }
}

/// Takes an error number out of a pointer. See: Linux, include/linux/err.h.
///
/// # Errors
/// That one; `EINVAL` for a null pointer.
pub fn checked<T>(pointer: *mut T) -> Result<*mut T, Errno> {
    const MOST: usize = 4095;
    match pointer.addr().wrapping_neg() {
        errno @ 1..=MOST => Err(Errno(errno as i32)),
        _ if pointer.is_null() => Err(Errno::EINVAL),
        _ => Ok(pointer),
    }
}
