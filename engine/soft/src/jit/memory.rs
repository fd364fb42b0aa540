//! [`CodeMemory`]: where translated code lies, and how it gets there.
//!
//! The same pages are mapped twice: where they are written they cannot be executed, and where they are
//! executed they cannot be written. It is filled from its start, with what is seldom executed from its end, and
//! emptied as a whole.

use std::io;
use std::ops::Range;
use std::ptr;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Memory for translated code.
pub(crate) struct CodeMemory {
    /// Address at which it is written.
    writable: u64,
    /// Address at which it is executed.
    executable: u64,
    size: usize,
    /// How many bytes are used at the start, and where what is used at the end starts.
    used: usize,
    cold: usize,
}

// SAFETY: the mappings are this value's own, wherever it is used.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// `size` bytes, rounded up to whole pages; memory is used as code comes.
    ///
    /// # Errors
    /// If the host denies executable memory, or has none.
    pub fn new(size: usize) -> io::Result<Self> {
        let size = size.next_multiple_of(4096);
        let file = memfd_create("unibody-jit", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, size as u64)?;
        let map = |protection| {
            // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
            unsafe { mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, &file, 0) }
        };
        let writable = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let executable = match map(ProtFlags::READ | ProtFlags::EXEC) {
            Ok(executable) => executable,
            Err(error) => {
                // SAFETY: mapped above, and nobody else knows of it.
                let _ = unsafe { munmap(writable, size) };
                return Err(error.into());
            }
        };
        let address = |mapping: *mut core::ffi::c_void| mapping.expose_provenance() as u64;
        Ok(Self {
            writable: address(writable),
            executable: address(executable),
            size,
            used: 0,
            cold: size,
        })
    }

    /// The address at which what is added next will be executed.
    pub fn next(&self) -> u64 {
        self.executable + self.used as u64
    }

    /// The free room, at whose end what is seldom executed is added: `most` bytes of it.
    pub fn next_cold(&self, most: usize) -> Range<u64> {
        let end = self.executable + self.cold as u64;
        end - most.min(self.room()) as u64..end
    }

    /// How many bytes are left.
    pub fn room(&self) -> usize {
        self.cold - self.used
    }

    /// Adds code, `cold` what of it is seldom executed. Gives the address at which it is executed; `None` if
    /// there is no room.
    pub fn add(&mut self, code: &[u8], cold: &[u8]) -> Option<u64> {
        let size = code.len().next_multiple_of(16);
        if size + cold.len() > self.room() {
            return None;
        }
        let at = self.next();
        self.cold -= cold.len();
        for (from, offset) in [(code, self.used), (cold, self.cold)] {
            let to = ptr::with_exposed_provenance_mut(self.writable as usize + offset);
            // SAFETY: there is so much room between what is used, by the test above. The mapping is written here
            // only; its vCPU executes no code meanwhile, and no code that is there already changes.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        }
        self.used += size;
        Some(at)
    }

    /// Changes the distance of a jump or call that lies at `at`, to lead to `target`.
    pub fn redirect(&mut self, at: u64, target: u64) {
        let Some(place) = self.distance(at) else { return };
        let distance = target.wrapping_sub(at + 4) as u32;
        // SAFETY: within what is used of the mapping; its vCPU executes no code meanwhile.
        unsafe { place.write_unaligned(distance) };
    }

    /// Where the jump leads whose distance lies at `at`; `None` if no code does.
    pub fn target(&self, at: u64) -> Option<u64> {
        // SAFETY: within what is used of the mapping, which only `&mut self` writes to.
        let distance = unsafe { self.distance(at)?.read_unaligned() };
        Some((at + 4).wrapping_add_signed((distance as i32).into()))
    }

    /// The distance at `at`, where it is written.
    fn distance(&self, at: u64) -> Option<*mut u32> {
        let offset = at.checked_sub(self.executable)? as usize;
        let is_used = offset + 4 <= self.used || (self.cold..self.size - 3).contains(&offset);
        is_used.then(|| ptr::with_exposed_provenance_mut(self.writable as usize + offset))
    }

    /// Forgets all code but the first `kept` bytes. None of it may be executed again.
    pub fn truncate(&mut self, kept: usize) {
        self.used = self.used.min(kept);
        self.cold = self.size;
    }

    /// How many bytes are used.
    pub fn used(&self) -> usize {
        self.size - self.room()
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        for address in [self.writable, self.executable] {
            // SAFETY: mapped by `new` with this size; code is executed only while its owner lives.
            let _ =
                unsafe { munmap(ptr::with_exposed_provenance_mut(address as usize), self.size) };
        }
    }
}
