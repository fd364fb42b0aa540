//! What a descriptor really is: a memfd, which is no object of KVM's to the kernel, but has a number that nothing else has. And
//! [`SharedPages`], the memory of it that is mapped here as well.
//!
//! A vCPU's memfd has the pages that the caller maps: so `mmap` is the kernel's own. But the ring of writes that wait is one page for
//! all vCPUs of a machine, [`Ring`], which is put over that page of each mapping. Statistics' memfd is what `read` reads. The others' are
//! empty.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use abi::memory::COALESCED_MMIO_PAGE_OFFSET;
use arch_x86::ioctl::Mapping;
use host_user::memory;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap, mmap_anonymous, mremap_fixed, munmap};
use virt::Errno;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Where the ring's page is among a vCPU's.
const RING: usize = COALESCED_MMIO_PAGE_OFFSET as usize * PAGE;

/// A descriptor for an object of this name, with `size` bytes to be mapped, which nobody can change the number of.
///
/// # Errors
/// When this process, or the host, has too many files open, or memory is short.
pub fn descriptor(name: &CStr, size: u32) -> Result<OwnedFd, Errno> {
    let descriptor = unsealed(name, size)?;
    seal(&descriptor, SealFlags::empty())?;
    Ok(descriptor)
}

/// The same, which only the memory that it gives beside it can write to.
///
/// # Errors
/// Likewise.
pub fn read_only(name: &CStr, size: u32) -> Result<(OwnedFd, SharedPages), Errno> {
    let descriptor = unsealed(name, size)?;
    let pages = SharedPages::new(&descriptor, size as usize)?;
    seal(&descriptor, SealFlags::FUTURE_WRITE)?;
    Ok((descriptor, pages))
}

fn unsealed(name: &CStr, size: u32) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let descriptor = memfd_create(name, flags).map_err(errno)?;
    ftruncate(&descriptor, size.into()).map_err(errno)?;
    Ok(descriptor)
}

fn seal(descriptor: &OwnedFd, more: SealFlags) -> Result<(), Errno> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(descriptor, seals | more).map_err(errno)
}

/// How pages are mapped.
const ACCESS: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// The memory of a descriptor, mapped here as well.
#[derive(Debug)]
pub struct SharedPages {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: it is the address of a mapping that is this value's own, accessed as guest memory is: without references, by any thread.
unsafe impl Send for SharedPages {}
// SAFETY: likewise.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Maps the `size` bytes of a [`descriptor`].
    ///
    /// # Errors
    /// When the host refuses.
    pub fn new(descriptor: impl AsFd, size: usize) -> Result<Self, Errno> {
        Self::from(descriptor, 0, size)
    }

    /// Maps `size` bytes of it that begin at a page.
    ///
    /// # Errors
    /// Likewise.
    pub fn from(descriptor: impl AsFd, offset: u32, size: usize) -> Result<Self, Errno> {
        let offset = offset.into();
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe { mmap(null_mut(), size, ACCESS, MapFlags::SHARED, descriptor, offset) };
        let start = NonNull::new(start.map_err(errno)?.cast()).ok_or(Errno::ENOMEM)?;
        Ok(Self { start, size })
    }

    /// Those of a vCPU, of which one page is the machine's.
    ///
    /// # Errors
    /// Likewise.
    pub fn of_vcpu(descriptor: impl AsFd, size: usize, ring: &Ring) -> Result<Self, Errno> {
        let pages = Self::new(descriptor, size)?;
        // SAFETY: these pages are this value's own, which nobody has yet.
        unsafe { ring.put_over(pages.start.as_ptr().expose_provenance(), 0, size)? };
        Ok(pages)
    }

    /// The address of `len` bytes at an offset, or of fewer, if they are not all there.
    fn place(&self, offset: usize, len: usize) -> (u64, usize) {
        let len = len.min(self.size.saturating_sub(offset));
        (self.start.as_ptr().expose_provenance() as u64 + offset.min(self.size) as u64, len)
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
        // SAFETY: it was mapped by `from`, with this size, and is used by nobody without a borrow of this. The caller's mapping is
        // another one, and so is the ring's.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}

/// The page of writes that wait, one for all vCPUs of a machine.
///
/// There is no descriptor of it, which the program might close: it is mapped once, and then from there.
#[derive(Debug)]
pub struct Ring(NonNull<u8>);

// SAFETY: it is the address of a mapping that is this value's own, and is only mapped elsewhere.
unsafe impl Send for Ring {}
// SAFETY: likewise.
unsafe impl Sync for Ring {}

impl Ring {
    /// An empty one.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let page = unsafe { mmap_anonymous(null_mut(), PAGE, ACCESS, MapFlags::SHARED) };
        NonNull::new(page.map_err(errno)?.cast()).map(Self).ok_or(Errno::ENOMEM)
    }

    /// Puts it over its page of a vCPU's that are mapped at `start`, `size` bytes from `offset` on, if that page is among them.
    ///
    /// # Errors
    /// When the host refuses.
    ///
    /// # Safety
    /// The mapping is the caller's to change.
    pub(crate) unsafe fn put_over(
        &self,
        start: usize,
        offset: usize,
        size: usize,
    ) -> Result<(), Errno> {
        if offset > RING || RING - offset >= size {
            return Ok(());
        }
        let to = std::ptr::with_exposed_provenance_mut(start + (RING - offset));
        // Of a length of 0, the pages are mapped once more, and stay where they were.
        // SAFETY: the caller's promise.
        let put =
            unsafe { mremap_fixed(self.0.as_ptr().cast(), 0, PAGE, MremapFlags::MAYMOVE, to) };
        put.map(drop).map_err(errno)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and nobody has its address. Where else the page is mapped it stays.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use virt::ioctl::VCPU_MMAP_SIZE;

    use super::*;

    const SIZE: usize = VCPU_MMAP_SIZE as usize;

    #[test]
    fn what_is_stored_is_in_every_mapping_and_nothing_is_beyond() {
        let descriptor = descriptor(c"test", VCPU_MMAP_SIZE).unwrap();
        let one = SharedPages::new(&descriptor, SIZE).unwrap();
        let other = SharedPages::new(&descriptor, SIZE).unwrap();
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

    #[test]
    fn the_ring_is_the_same_for_all_vcpus_of_a_machine_and_their_other_pages_are_not() {
        let ring = Ring::new().unwrap();
        let vcpu = || {
            let descriptor = descriptor(c"test", VCPU_MMAP_SIZE).unwrap();
            SharedPages::of_vcpu(&descriptor, SIZE, &ring).unwrap()
        };
        let (one, other) = (vcpu(), vcpu());
        let alone = SharedPages::new(descriptor(c"test", VCPU_MMAP_SIZE).unwrap(), SIZE).unwrap();
        one.store(RING - 1, &[1, 2, 3]);
        let load = |from: &SharedPages| {
            let mut bytes = [0xaa; 3];
            from.load(RING - 1, &mut bytes);
            bytes
        };
        assert_eq!((load(&one), load(&other), load(&alone)), ([1, 2, 3], [0, 2, 3], [0; 3]));
        // Part of the pages, of which it may be the first, or which end before it.
        let start = alone.start.as_ptr().expose_provenance();
        // SAFETY: the pages are this test's own.
        unsafe {
            ring.put_over(start, RING + PAGE, PAGE).unwrap();
            ring.put_over(start, RING - PAGE, PAGE).unwrap();
            assert_eq!(load(&alone), [0; 3]);
            ring.put_over(start, RING, PAGE).unwrap();
        }
        drop(one);
        let mut first = [0; 2];
        alone.load(0, &mut first);
        assert_eq!((first, load(&alone)), ([2, 3], [0; 3]));
        alone.store(0, &[4]);
        drop(ring);
        assert_eq!(load(&other), [0, 4, 3]);
    }

    #[test]
    fn what_is_only_to_be_read_is_written_by_its_memory_alone() {
        let (descriptor, pages) = read_only(c"test", 5).unwrap();
        pages.store(0, b"abcdefgh");
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::pread(&descriptor, &mut bytes, 1), Ok(4));
        assert_eq!(&bytes[..4], b"bcde");
        assert!(rustix::io::pwrite(&descriptor, b"x", 0).is_err());
        assert!(SharedPages::new(&descriptor, 5).is_err());
    }
}
