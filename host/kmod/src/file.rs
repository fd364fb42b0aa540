//! Open files of who makes calls: [`OpenFile`].

use alloc::sync::Arc;
use core::ffi::c_int;

use virt::Errno;
use virt::host;

use crate::event::checked;

/// The kernel's `struct file`.
#[repr(C)]
pub struct File([u8; 0]);

// SAFETY: these are the glue's functions (glue/file.c), with these types.
unsafe extern "C" {
    /// The open file of a descriptor, or an error number as a pointer. Process context.
    safe fn unibody_file_get(descriptor: c_int) -> *mut File;
    /// Whether it is a VFIO group's. Process context.
    fn unibody_file_is_vfio_group(file: *mut File) -> bool;
    /// Lets go of a file. Any context.
    pub fn unibody_file_put(file: *mut File);
}

/// A handle of an open file.
#[derive(Clone)]
pub struct OpenFile(Arc<Open>);

struct Open(*mut File);

// SAFETY: it is held by a count of the kernel's, and used through its functions alone, which lock.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl OpenFile {
    /// The one that a descriptor of this process is of, which stays the caller's. Process context.
    ///
    /// # Errors
    /// `EBADF` if it is no descriptor.
    pub fn of(descriptor: i32) -> Result<Self, Errno> {
        Ok(Self(Arc::new(Open(checked(unibody_file_get(descriptor))?))))
    }
}

impl host::File for OpenFile {
    fn is_vfio_group(&self) -> bool {
        // SAFETY: it is open as long as there is a handle.
        unsafe { unibody_file_is_vfio_group(self.0.0) }
    }
}

impl PartialEq for OpenFile {
    fn eq(&self, other: &Self) -> bool {
        self.0.0 == other.0.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: it was given with a count, and nobody uses it any more.
        unsafe { unibody_file_put(self.0) };
    }
}
