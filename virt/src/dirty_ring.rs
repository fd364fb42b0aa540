//! [`DirtyRing`]: the pages that one vCPU has written to, in the order in which it first did, for a VMM that collects them while the
//! vCPU runs.
//!
//! It takes the place of asking for each slot's bitmap. That is still there ([`crate::dirty_log`]): a page whose bit is set is in some
//! ring, and not put into one again until the VMM has given it back. [`Vm::reset_dirty_rings`](crate::Vm::reset_dirty_rings) takes what
//! is given back: it clears the bits.
//!
//! A ring's entries ([`Entries`]) are in memory that the VMM has mapped, and may write anything to. The vCPU's thread fills them; the
//! VMM reads them, and says by a flag that it has; who resets frees those. What the VMM says of a page is believed no further than
//! that this page's bit is cleared, which it may ask for in any case. What the entries look like is [`crate::ioctl`]'s.
//!
//! A vCPU comes out when its ring is nearly full. What it may still write until it does has its place: [`RESERVED`].
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 8.29 (`KVM_CAP_DIRTY_LOG_RING`); virt/kvm/dirty_ring.c.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::host::Errno;

/// Entries that a ring may have.
pub const MAX_ENTRIES: u32 = 1 << 16;
/// Entries that stay free when a vCPU comes out: as many as Linux has on processors that log writes by themselves.
pub const RESERVED: u32 = 64 + 512;

/// The entries of a ring, in memory that the VMM writes to as well. All are free at first.
pub trait Entries: Send + Sync {
    /// Fills a free entry with a slot's page, for the VMM to collect.
    fn fill(&self, at: u32, slot: u32, page: u64);
    /// Frees an entry that the VMM has collected, if it has; gives the slot and page that it says.
    fn free(&self, at: u32) -> Option<(u32, u64)>;
}

/// Whether a ring may have so many entries: as many as a power of two, with room beside [`RESERVED`].
///
/// # Errors
/// `EINVAL`; `E2BIG` above [`MAX_ENTRIES`].
pub fn check_entries(entries: u64) -> Result<u32, Errno> {
    if !entries.is_power_of_two() || entries < u64::from(RESERVED) {
        return Err(Errno::EINVAL);
    }
    match u32::try_from(entries) {
        Ok(entries) if entries <= MAX_ENTRIES => Ok(entries),
        _ => Err(Errno::E2BIG),
    }
}

/// A vCPU's ring.
pub struct DirtyRing {
    entries: Box<dyn Entries>,
    /// How many there are, a power of two.
    size: u32,
    /// How many pages were put into it, modulo 2^32; the vCPU's thread counts.
    put: AtomicU32,
    /// How many were taken back; who resets counts, one after the other.
    freed: AtomicU32,
    overflowed: AtomicBool,
}

impl fmt::Debug for DirtyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (put, freed) = (&self.put, &self.freed);
        formatter.debug_struct("DirtyRing").field("put", put).field("freed", freed).finish()
    }
}

impl DirtyRing {
    /// An empty one of so many entries, which [`check_entries`] allows.
    #[must_use]
    pub fn new(entries: Box<dyn Entries>, size: u32) -> Self {
        let [put, freed] = [AtomicU32::new(0), AtomicU32::new(0)];
        Self { entries, size: size.max(1), put, freed, overflowed: AtomicBool::new(false) }
    }

    /// How many entries are in use.
    fn used(&self) -> u32 {
        self.put.load(Ordering::Relaxed).wrapping_sub(self.freed.load(Ordering::Acquire))
    }

    /// Puts a page of a slot into it. For the vCPU's thread.
    pub fn put(&self, slot: u32, page: u64) {
        if self.used() >= self.size {
            self.overflowed.store(true, Ordering::Relaxed);
            return;
        }
        let number = self.put.load(Ordering::Relaxed);
        self.entries.fill(number % self.size, slot, page);
        self.put.store(number.wrapping_add(1), Ordering::Release);
    }

    /// Whether the vCPU has to come out.
    #[must_use]
    #[inline]
    pub fn is_nearly_full(&self) -> bool {
        self.used() >= self.size.saturating_sub(RESERVED)
    }

    /// Whether a page had no room. It does not come to that where vCPUs come out as they should.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Frees the entries that the VMM has collected, in their order, and tells each one's slot and page, which are what the VMM says they
    /// are. Gives how many they were. One after the other.
    pub fn reset(&self, mut collected: impl FnMut(u32, u64)) -> u32 {
        let first = self.freed.load(Ordering::Relaxed);
        let there = self.put.load(Ordering::Acquire).wrapping_sub(first).min(self.size);
        for count in 0..there {
            let number = first.wrapping_add(count);
            let Some((slot, page)) = self.entries.free(number % self.size) else { return count };
            self.freed.store(number.wrapping_add(1), Ordering::Release);
            collected(slot, page);
        }
        there
    }
}
