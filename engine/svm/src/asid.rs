//! ASIDs: [`Asids`], those of one processor, and [`Assigned`], the one that a vCPU has.
//!
//! A vCPU gets a new one of the processor that it comes to, and whenever its translations are to go where the processor cannot flush those
//! of one ASID. When all were given out a new generation of them begins, with all translations flushed.
//!
//! See: AMD APM vol. 2, 15.5.1, 15.16.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::vmcb::tlb_control;

/// The ASIDs of one processor. All of its methods are called there, with interrupts off: so its words are never changed by two at once.
#[derive(Debug)]
pub struct Asids {
    generation: AtomicU64,
    next: AtomicU32,
    /// How many there are; 0 is the host's.
    count: u32,
}

/// The ASID of a vCPU. By default none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Whose it is.
    processor: Option<u32>,
    generation: u64,
    asid: u32,
}

impl Assigned {
    /// Whether it is one of this processor's: what that keeps of the vCPU's VMCB is of its last entry.
    pub fn is_of(&self, processor: u32) -> bool {
        self.processor == Some(processor)
    }
}

impl Asids {
    /// All of them, of which none was given out since the processor was switched on.
    pub const fn new(count: u32) -> Self {
        // Beyond the last: the first one begins a generation.
        Self { generation: AtomicU64::new(0), next: AtomicU32::new(count), count }
    }

    /// Forgets what was given out: the processor was switched on.
    pub fn restart(&self) {
        self.generation.store(self.generation.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.next.store(self.count, Ordering::Relaxed);
    }

    /// The ASID for the next entry on this processor, and what VMRUN does with the TLB. With `flush` no translation that the vCPU had is
    /// used any more.
    pub fn assign(
        &self,
        processor: u32,
        has: &mut Assigned,
        flush: bool,
        flush_by_asid: bool,
    ) -> (u32, u32) {
        let generation = self.generation.load(Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let is_valid = has.is_of(processor) && has.generation == generation;
        if is_valid && !flush {
            return (has.asid, tlb_control::KEEP);
        }
        if is_valid && flush_by_asid {
            return (has.asid, tlb_control::FLUSH_ASID);
        }
        let (generation, asid, control) = if next < self.count {
            (generation, next, tlb_control::KEEP)
        } else {
            (generation + 1, 1, tlb_control::FLUSH_ALL)
        };
        self.generation.store(generation, Ordering::Relaxed);
        self.next.store(asid + 1, Ordering::Relaxed);
        *has = Assigned { processor: Some(processor), generation, asid };
        (asid, control)
    }
}
