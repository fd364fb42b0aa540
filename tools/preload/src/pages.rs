//! What a descriptor really is: a memfd, which is no object of KVM's to the kernel, but has a number that nothing else has. And
//! [`SharedPages`], the memory that a vCPU shares with its caller.
//!
//! A vCPU's memfd has the pages that the caller maps: so `mmap` is the kernel's own. The others' are empty.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use arch_x86::ioctl::Mapping;
use host_user::memory;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use virt::Errno;
use virt::ioctl::VCPU_MMAP_SIZE;

/// Bytes of the pages.
const SIZE: usize = VCPU_MMAP_SIZE as usize;

/// A descriptor for an object of this name, with `size` bytes to be mapped, which nobody can change the number of.
///
/// # Errors
/// When this process, or the host, has too many files open, or memory is short.
pub fn descriptor(name: &CStr, size: u32) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = memfd_create(name, flags).map_err(errno)?;
    ftruncate(&descriptor, size.into()).map_err(errno)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&descriptor, seals).map_err(errno)?;
    Ok(descriptor)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// The memory that a vCPU shares, mapped here as well.
#[derive(Debug)]
pub struct SharedPages(NonNull<u8>);

// SAFETY: it is the address of a mapping that is this value's own, accessed as guest memory is: without references, by any thread.
unsafe impl Send for SharedPages {}
// SAFETY: likewise.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Maps those of a [`descriptor`] with [`VCPU_MMAP_SIZE`] bytes.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn new(descriptor: impl AsFd) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe { mmap(null_mut(), SIZE, access, MapFlags::SHARED, descriptor, 0) };
        let start = NonNull::new(start.map_err(errno)?.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self(start))
    }

    /// The address of `len` bytes at an offset, or of fewer, if they are not all there.
    fn place(&self, offset: usize, len: usize) -> (u64, usize) {
        let len = len.min(SIZE.saturating_sub(offset));
        (self.0.as_ptr().expose_provenance() as u64 + offset.min(SIZE) as u64, len)
    }
}

impl Mapping for SharedPages {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        let (address, len) = self.place(offset, bytes.len());
        let (there, beyond) = bytes.split_at_mut(len);
        beyond.fill(0);
        // The mapping is there as long as this is, and sealed.
        let _ = memory::read(address, there);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        let (address, len) = self.place(offset, bytes.len());
        let _ = memory::write(address, &bytes[..len]);
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, with this size, and is used by nobody without a borrow of this. The caller's mapping is
        // another one.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_in_every_mapping_and_nothing_is_beyond() {
        let descriptor = descriptor(c"test", VCPU_MMAP_SIZE).unwrap();
        let one = SharedPages::new(&descriptor).unwrap();
        let other = SharedPages::new(&descriptor).unwrap();
        one.store(5, &[1, 2, 3]);
        one.store(SIZE - 2, &[4, 5, 6, 7]);
        one.store(SIZE + 5, &[8]);
        one.store(usize::MAX, &[8]);
        let load = |offset| {
            let mut bytes = [0xaa; 4];
            other.load(offset, &mut bytes);
            bytes
        };
        assert_eq!(load(4), [0, 1, 2, 3]);
        assert_eq!(load(SIZE - 2), [4, 5, 0, 0]);
        assert_eq!(load(SIZE), [0; 4]);
        assert_eq!(load(usize::MAX - 1), [0; 4]);
    }

    #[test]
    fn nobody_can_make_it_smaller() {
        let descriptor = descriptor(c"test", VCPU_MMAP_SIZE).unwrap();
        assert!(ftruncate(&descriptor, 0).is_err());
        assert!(ftruncate(&descriptor, 1 << 20).is_err());
        assert!(fcntl_add_seals(&descriptor, SealFlags::WRITE).is_err());
    }
}
