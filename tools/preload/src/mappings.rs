//! That memory of slots is gone: the program has unmapped it, or moved it elsewhere.
//!
//! A vCPU has found pages before, and would touch them. With Linux's KVM the kernel takes them from it; here
//! [`interpose`](crate::interpose) says what the program has the C library do ([`Mappings::gone`]), and the next KVM_RUN has the vCPUs forget what they
//! have found. What goes during a run is still a fault of the program's.
//!
//! Nothing is locked: this is called in signals' handlers, too.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is known of slots, and of what is gone.
pub(crate) struct Mappings {
    /// All slots that there ever were lie between these.
    lowest: AtomicU64,
    highest: AtomicU64,
    gone: AtomicU64,
}

/// Those of this process.
pub(crate) static MAPPINGS: Mappings = Mappings::new();

impl Mappings {
    const fn new() -> Self {
        Self {
            lowest: AtomicU64::new(u64::MAX),
            highest: AtomicU64::new(0),
            gone: AtomicU64::new(0),
        }
    }

    /// Slots are at these addresses.
    pub(crate) fn used(&self, start: u64, size: u64) {
        self.lowest.fetch_min(start, Ordering::SeqCst);
        self.highest.fetch_max(start.saturating_add(size), Ordering::SeqCst);
    }

    /// Nothing is mapped there any more, or something else.
    pub(crate) fn gone(&self, start: u64, size: u64) {
        let end = start.saturating_add(size);
        let (lowest, highest) =
            (self.lowest.load(Ordering::SeqCst), self.highest.load(Ordering::SeqCst));
        if start < highest && lowest < end {
            self.gone.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// How many times it was said that something is gone which may be a slot's.
    pub(crate) fn how_many(&self) -> u64 {
        self.gone.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_all_slots_is_not_counted() {
        let mappings = Mappings::new();
        let counts = |start, size| {
            let before = mappings.how_many();
            mappings.gone(start, size);
            mappings.how_many() - before
        };
        assert_eq!(counts(0x1000, u64::MAX), 0, "there are no slots");
        mappings.used(0x10_0000, 0x2000);
        mappings.used(0x30_0000, 0x1000);
        for (start, size, counted) in [
            (0xf_f000, 0x1000, 0),
            (0xf_f000, 0x1001, 1),
            (0x10_1000, 0x1000, 1),
            (0x20_0000, 0x1000, 1),
            (0x30_0fff, 1, 1),
            (0x30_1000, u64::MAX, 0),
        ] {
            assert_eq!(counts(start, size), counted, "{size:#x} at {start:#x}");
        }
    }
}
