//! Pages of the kernel's that programs map: those of a vCPU, [`VcpuPages`], and [`SharedPages`] one after the other.
//!
//! A program writes to them at any time, so there is no reference to them: they are read and written as guest memory is, byte by byte or a
//! word at once.

use alloc::sync::Arc;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::memory::COALESCED_MMIO_PAGE_OFFSET;
use arch_x86::hardware::Pages;
use virt::Errno;
use virt::ioctl::{Mapping, VCPU_MMAP_SIZE};
use virt::memory::PAGE;

use crate::pages::KernelPages;

/// Some pages, one after the other.
pub struct SharedPages {
    pages: KernelPages,
    size: usize,
}

impl SharedPages {
    /// So many bytes, rounded up to pages, all zeros. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(size: usize) -> Result<Self, Errno> {
        let size = size.next_multiple_of(PAGE as usize);
        Ok(Self { pages: KernelPages::new(size / PAGE as usize)?, size })
    }

    /// The page of this number.
    pub fn page(&self, number: u64) -> Option<NonNull<u8>> {
        let offset = usize::try_from(number.checked_mul(PAGE)?).ok()?;
        // SAFETY: the page is among these.
        let page = (offset < self.size).then(|| unsafe { self.pages.address().add(offset) })?;
        NonNull::new(page)
    }

    /// How many of `len` bytes at an offset there are.
    fn room(&self, offset: usize, len: usize) -> usize {
        len.min(self.size.saturating_sub(offset))
    }

    fn place(&self, offset: usize) -> *mut u8 {
        // SAFETY: an offset that there is room at is among these, and others are as far as the end.
        unsafe { self.pages.address().add(offset.min(self.size)) }
    }
}

impl Mapping for SharedPages {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        let (there, beyond) = bytes.split_at_mut(self.room(offset, bytes.len()));
        beyond.fill(0);
        let from = self.place(offset);
        // SAFETY: the bytes are among the pages; a word is aligned to its size.
        unsafe {
            match there.len() {
                1 => there[0] = AtomicU8::from_ptr(from).load(Relaxed),
                2 if from.cast::<u16>().is_aligned() => {
                    let value = AtomicU16::from_ptr(from.cast()).load(Relaxed);
                    there.copy_from_slice(&value.to_ne_bytes());
                }
                4 if from.cast::<u32>().is_aligned() => {
                    let value = AtomicU32::from_ptr(from.cast()).load(Relaxed);
                    there.copy_from_slice(&value.to_ne_bytes());
                }
                8 if from.cast::<u64>().is_aligned() => {
                    let value = AtomicU64::from_ptr(from.cast()).load(Relaxed);
                    there.copy_from_slice(&value.to_ne_bytes());
                }
                _ => {
                    let words = whole_words(from, there.len());
                    let (whole, rest) = there.split_at_mut(words * 8);
                    for (at, word) in whole.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                        let value = AtomicU64::from_ptr(from.cast::<u64>().add(at)).load(Relaxed);
                        *word = value.to_ne_bytes();
                    }
                    for (at, byte) in rest.iter_mut().enumerate() {
                        *byte = AtomicU8::from_ptr(from.add(words * 8 + at)).load(Relaxed);
                    }
                }
            }
        }
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        let bytes = &bytes[..self.room(offset, bytes.len())];
        let to = self.place(offset);
        // SAFETY: as in `load`.
        unsafe {
            match *bytes {
                [a, b] if to.cast::<u16>().is_aligned() => {
                    AtomicU16::from_ptr(to.cast()).store(u16::from_ne_bytes([a, b]), Relaxed);
                }
                [a, b, c, d] if to.cast::<u32>().is_aligned() => {
                    AtomicU32::from_ptr(to.cast()).store(u32::from_ne_bytes([a, b, c, d]), Relaxed);
                }
                [a, b, c, d, e, f, g, h] if to.cast::<u64>().is_aligned() => {
                    let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                    AtomicU64::from_ptr(to.cast()).store(value, Relaxed);
                }
                _ => {
                    let words = whole_words(to, bytes.len());
                    let (whole, rest) = bytes.split_at(words * 8);
                    for (at, word) in whole.as_chunks::<8>().0.iter().enumerate() {
                        let value = u64::from_ne_bytes(*word);
                        AtomicU64::from_ptr(to.cast::<u64>().add(at)).store(value, Relaxed);
                    }
                    for (at, byte) in rest.iter().enumerate() {
                        AtomicU8::from_ptr(to.add(words * 8 + at)).store(*byte, Relaxed);
                    }
                }
            }
        }
    }
}

/// How many words of eight bytes there are among so many bytes from an address on.
fn whole_words(address: *const u8, bytes: usize) -> usize {
    if address.cast::<u64>().is_aligned() { bytes / 8 } else { 0 }
}

/// The pages of a vCPU, the last of which is one of the machine's: see [`virt::ioctl::VCPU_MMAP_SIZE`].
pub struct VcpuPages {
    own: SharedPages,
    ring: Arc<SharedPages>,
}

/// Where the machine's page is.
const RING: usize = COALESCED_MMIO_PAGE_OFFSET as usize * PAGE as usize;

const _: () = assert!(RING + PAGE as usize == VCPU_MMAP_SIZE as usize);

impl VcpuPages {
    /// Those of a vCPU, with the machine's page. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(ring: Arc<SharedPages>) -> Result<Self, Errno> {
        Ok(Self { own: SharedPages::new(RING)?, ring })
    }

    /// The page of this number.
    pub fn page(&self, number: u64) -> Option<NonNull<u8>> {
        let first = u64::from(COALESCED_MMIO_PAGE_OFFSET);
        self.own.page(number).or_else(|| self.ring.page(number.checked_sub(first)?))
    }
}

impl Mapping for VcpuPages {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        match offset.checked_sub(RING) {
            Some(offset) => self.ring.load(offset, bytes),
            None => self.own.load(offset, bytes),
        }
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        match offset.checked_sub(RING) {
            Some(offset) => self.ring.store(offset, bytes),
            None => self.own.store(offset, bytes),
        }
    }
}
