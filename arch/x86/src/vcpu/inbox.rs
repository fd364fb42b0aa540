//! What others want of a vCPU: a lock-free mailbox.
//!
//! A local APIC belongs to its vCPU's thread and has no lock. Devices, other vCPUs and timers
//! post here; the thread drains it before each entry. [`Inbox::request`] is the word that an engine
//! watches while the guest runs: as long as it is not zero the guest does not.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of the request word.
pub mod request {
    /// Interrupts were posted.
    pub const INTERRUPT: u32 = 1 << 0;
    /// An NMI was posted.
    pub const NMI: u32 = 1 << 1;
    /// INIT was posted.
    pub const INIT: u32 = 1 << 2;
    /// A start-up IPI was posted.
    pub const STARTUP: u32 = 1 << 3;
    /// The local APIC's timer may be due.
    pub const TIMER: u32 = 1 << 4;
    /// The 8259s' output changed.
    pub const EXTINT: u32 = 1 << 5;
    /// `run` is to return to the VMM.
    pub const EXIT: u32 = 1 << 6;
    /// The machine's clock was set.
    pub const CLOCK: u32 = 1 << 7;
}

/// The mailbox of one vCPU.
#[derive(Debug, Default)]
pub struct Inbox {
    request: AtomicU32,
    interrupts: [AtomicU64; 4],
    levels: [AtomicU64; 4],
    startup_vector: AtomicU32,
}

/// What was in the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// Bits of [`request`].
    pub request: u32,
    /// Page of the start-up code, with [`request::STARTUP`].
    pub startup_vector: u8,
}

impl Inbox {
    /// The word that an engine watches.
    pub fn request(&self) -> &AtomicU32 {
        &self.request
    }

    /// Posts a fixed interrupt.
    pub fn post_interrupt(&self, vector: u8, level: bool) {
        let (word, bit) = (usize::from(vector >> 6), 1 << (vector & 63));
        if level {
            self.levels[word].fetch_or(bit, Ordering::Relaxed);
        } else {
            self.levels[word].fetch_and(!bit, Ordering::Relaxed);
        }
        self.interrupts[word].fetch_or(bit, Ordering::Release);
        self.post(request::INTERRUPT);
    }

    /// Names the page of the start-up code.
    pub fn set_startup_vector(&self, vector: u8) {
        self.startup_vector.store(u32::from(vector), Ordering::Relaxed);
    }

    /// Posts a start-up IPI.
    pub fn post_startup(&self, vector: u8) {
        self.set_startup_vector(vector);
        self.post(request::STARTUP);
    }

    /// Posts bits of [`request`].
    pub fn post(&self, bits: u32) {
        self.request.fetch_or(bits, Ordering::AcqRel);
    }

    /// Takes the bits of [`request`] that are not in `keep`.
    pub fn take(&self, keep: u32) -> Mail {
        let request = self.request.fetch_and(keep, Ordering::AcqRel) & !keep;
        Mail { request, startup_vector: self.startup_vector.load(Ordering::Relaxed) as u8 }
    }

    /// Takes the posted interrupts, and gives each to `accept` with its trigger mode.
    pub fn take_interrupts(&self, mut accept: impl FnMut(u8, bool)) {
        for word in 0..4_u8 {
            let mut bits = self.interrupts[usize::from(word)].swap(0, Ordering::Acquire);
            let levels = self.levels[usize::from(word)].load(Ordering::Relaxed);
            while bits != 0 {
                let bit = bits.trailing_zeros() as u8;
                bits &= bits - 1;
                accept(word << 6 | bit, levels >> bit & 1 != 0);
            }
        }
    }

    /// Whether anything is in the mailbox.
    pub fn is_full(&self) -> bool {
        self.request.load(Ordering::Acquire) != 0
    }
}
