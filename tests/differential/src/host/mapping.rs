//! [`Mapping`]: memory that both processors work on.

use std::ptr::null_mut;
use std::sync::Arc;

use engine_soft::{Options, SoftEngine};
use libc::c_int;
use virt::Memory;
use virt::memory::Slot;

/// Memory of this process that others than Rust access as well.
pub struct Mapping {
    start: *mut u8,
    size: usize,
}

impl Mapping {
    /// Zeroed memory.
    #[must_use]
    pub fn anonymous(size: u64) -> Self {
        Self::map(None, size, libc::PROT_READ | libc::PROT_WRITE, -1, 0)
    }

    pub(super) fn map(
        at: Option<u64>,
        size: u64,
        protection: c_int,
        file: c_int,
        offset: u64,
    ) -> Self {
        let fixed = if at.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
        let kind =
            if file < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
        // SAFETY: a new mapping, that replaces none.
        let start = unsafe {
            libc::mmap(
                at.map_or(null_mut(), |at| std::ptr::with_exposed_provenance_mut(at as usize)),
                size as usize,
                protection,
                kind | fixed | libc::MAP_POPULATE,
                file,
                offset as i64,
            )
        };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        assert!(at.is_none_or(|at| at == start.expose_provenance() as u64));
        Self { start: start.cast(), size: size as usize }
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let offset = offset as usize;
        assert!(offset <= self.size && bytes.len() <= self.size - offset);
        // SAFETY: within the mapping, which is never unmapped and to which there are no references.
        unsafe { self.start.add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Reads bytes at `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) {
        let offset = offset as usize;
        assert!(offset <= self.size && buffer.len() <= self.size - offset);
        // SAFETY: as in `write`.
        unsafe { self.start.add(offset).copy_to_nonoverlapping(buffer.as_mut_ptr(), buffer.len()) };
    }

    /// A software CPU whose memory this is.
    #[must_use]
    pub fn engine(&self, options: Options) -> SoftEngine {
        let memory = Arc::new(Memory::<spin::Mutex<()>>::default());
        let slot = Slot {
            size: self.size as u64,
            hva: self.start.expose_provenance() as u64,
            ..Slot::default()
        };
        memory.insert(slot).expect("the first slot");
        // SAFETY: the mapping is never unmapped, and there are no references to it.
        unsafe { SoftEngine::new(memory, options) }
    }

    /// Unmaps it.
    pub(super) fn unmap(self) {
        // SAFETY: a mapping of this value's own, which is gone.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
