//! [`Polled`]: what translated code looks at to know whether it is to come out.
//!
//! A word that is not 0 says so. Where code looks into the jump cache it needs the instruction TLB's key anyway: so the keys are
//! here, too, and *poisoned* by who sets the word. Then no key is right, and one look is enough.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::itlb::{Keys, key};

/// A word, and keys.
#[repr(C)]
pub struct Polled {
    word: AtomicU32,
    keys: [[AtomicU32; 2]; 4],
}

/// A vCPU that never stays in translated code has this: never written.
pub static ALWAYS: Polled = Polled {
    word: AtomicU32::new(1),
    keys: [const { [const { AtomicU32::new(key::POISON) }; 2] }; 4],
};

/// Where the keys are, for translated code.
pub const KEYS: usize = offset_of!(Polled, keys);
const _: () = assert!(offset_of!(Polled, word) == 0);

impl Default for Polled {
    fn default() -> Self {
        Self { word: AtomicU32::new(0), keys: Default::default() }
    }
}

impl Polled {
    /// Its address.
    pub fn address(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }

    /// The word.
    #[inline(always)]
    pub fn word(&self) -> u32 {
        self.word.load(Ordering::SeqCst)
    }

    /// Sets bits of the word: the vCPU is to come out.
    pub fn set(&self, bits: u32) {
        self.word.fetch_or(bits, Ordering::SeqCst);
        self.poison();
    }

    /// Clears bits of the word. For the vCPU alone, as [`show`](Self::show).
    pub fn clear(&self, bits: u32) {
        self.word.fetch_and(!bits, Ordering::SeqCst);
    }

    /// These are the keys.
    pub fn show(&self, keys: &Keys) {
        for (to, key) in self.keys.iter().flatten().zip(keys.iter().flatten()) {
            to.store(*key, Ordering::SeqCst);
        }
        // Who has set the word meanwhile may have poisoned them before; or does so yet.
        if self.word() != 0 {
            self.poison();
        }
    }

    /// Whether the keys are poisoned, or are just being.
    #[inline(always)]
    pub fn is_poisoned(&self) -> bool {
        self.keys[0][0].load(Ordering::Relaxed) & key::POISON != 0
    }

    fn poison(&self) {
        // The one that `is_poisoned` looks at is the last.
        for key in self.keys.iter().flatten().rev() {
            key.fetch_or(key::POISON, Ordering::SeqCst);
        }
    }
}
