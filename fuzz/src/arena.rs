//! All memory that ioctls and guests are given: [`Arena`].
//!
//! In a row: a page that nobody may write, the guest's memory, another such page, the place for arguments, and pages that are not there. So
//! what writes beside a slot changes a guard, and what reads an argument beyond its end finds nothing.
//!
//! Guests and calls access it at any time; there is no reference to it.

use std::ptr::{copy_nonoverlapping, null_mut};

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of the guest's memory.
pub const RAM: usize = 2 << 20;
/// Bytes of the place for arguments.
pub const ARGUMENTS: usize = 64 * PAGE;
/// What a guard is full of.
const GUARD: u8 = 0xa5;

const RAM_AT: usize = PAGE;
const UPPER_GUARD_AT: usize = RAM_AT + RAM;
const ARGUMENTS_AT: usize = UPPER_GUARD_AT + PAGE;
const NOTHING_AT: usize = ARGUMENTS_AT + ARGUMENTS;
const SIZE: usize = NOTHING_AT + PAGE;

/// The memory.
#[derive(Debug)]
pub struct Arena {
    start: *mut u8,
}

// SAFETY: it is the address of a mapping that is this value's own, and stays.
unsafe impl Send for Arena {}

impl Arena {
    /// All of it zero, but for the guards.
    ///
    /// # Panics
    /// When the host has no memory.
    #[must_use]
    pub fn new() -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses, of which one page is taken away again.
        let start = unsafe {
            let start =
                mmap_anonymous(null_mut(), SIZE, access, MapFlags::PRIVATE).expect("memory");
            mprotect(start.byte_add(NOTHING_AT), PAGE, MprotectFlags::empty()).expect("memory");
            start.cast()
        };
        let arena = Self { start };
        for at in [0, UPPER_GUARD_AT] {
            arena.write(at, &[GUARD; PAGE]);
        }
        arena
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= NOTHING_AT && bytes.len() <= NOTHING_AT - at, "{at:#x}");
        // SAFETY: that is inside of the mapping, which nobody has a reference to.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        assert!(at <= NOTHING_AT && bytes.len() <= NOTHING_AT - at, "{at:#x}");
        // SAFETY: likewise.
        unsafe { copy_nonoverlapping(self.start.add(at), bytes.as_mut_ptr(), bytes.len()) };
    }

    fn address(&self, at: usize) -> u64 {
        self.start.expose_provenance() as u64 + at as u64
    }

    /// Makes memory and arguments zero.
    pub fn clear(&self) {
        for (at, size) in [(RAM_AT, RAM), (ARGUMENTS_AT, ARGUMENTS)] {
            // SAFETY: these pages are this value's own, and nobody counts on what is in them.
            let cleared =
                unsafe { madvise(self.start.add(at).cast(), size, Advice::LinuxDontNeed) };
            cleared.expect("it can be cleared");
        }
    }

    /// The address of a byte of the guest's memory.
    #[must_use]
    pub fn ram(&self, offset: usize) -> u64 {
        self.address(RAM_AT + offset % RAM)
    }

    /// The address of a byte for arguments, or of one behind them, where nothing is.
    #[must_use]
    pub fn argument(&self, offset: usize) -> u64 {
        self.address(ARGUMENTS_AT + offset % (ARGUMENTS + PAGE))
    }

    /// Writes the guest's memory, as far as there is any.
    pub fn write_ram(&self, offset: usize, bytes: &[u8]) {
        let offset = offset % RAM;
        self.write(RAM_AT + offset, &bytes[..bytes.len().min(RAM - offset)]);
    }

    /// Writes what an argument is.
    pub fn write_argument(&self, offset: usize, bytes: &[u8]) {
        let offset = offset % ARGUMENTS;
        self.write(ARGUMENTS_AT + offset, &bytes[..bytes.len().min(ARGUMENTS - offset)]);
    }

    /// A number in an argument.
    #[must_use]
    pub fn argument_word(&self, offset: usize) -> u64 {
        let mut word = [0; 8];
        self.read(ARGUMENTS_AT + offset % (ARGUMENTS - 8), &mut word);
        u64::from_le_bytes(word)
    }

    /// Whether nobody has written to a guard.
    #[must_use]
    pub fn guards_are_whole(&self) -> bool {
        [0, UPPER_GUARD_AT].into_iter().all(|at| {
            let mut page = [0; PAGE];
            self.read(at, &mut page);
            page == [GUARD; PAGE]
        })
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new()
    }
}
