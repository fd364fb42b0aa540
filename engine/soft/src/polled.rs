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

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::{ALWAYS, Polled};
    use crate::itlb::Keys;

    const KEYS: Keys = [[0x41, 0x42], [0x43, 0x44], [0x45, 0x46], [0x47, 0x48]];

    /// Which of the keys translated code would find right.
    fn right(polled: &Polled) -> Vec<bool> {
        let shown = polled.keys.iter().flatten().map(|key| key.load(Ordering::SeqCst));
        shown.zip(KEYS.as_flattened()).map(|(shown, key)| shown == *key).collect()
    }

    #[test]
    fn no_key_is_right_while_the_word_is_set() {
        let polled = Polled::default();
        polled.show(&KEYS);
        assert_eq!((right(&polled), polled.is_poisoned()), (vec![true; 8], false));
        polled.set(2);
        assert_eq!((right(&polled), polled.is_poisoned()), (vec![false; 8], true));
        // New keys, and what was asked for has not been seen yet.
        polled.show(&KEYS);
        assert_eq!((right(&polled), polled.is_poisoned()), (vec![false; 8], true));
        polled.set(1);
        polled.clear(2);
        polled.show(&KEYS);
        assert_eq!((right(&polled), polled.word()), (vec![false; 8], 1));
        polled.clear(1);
        // Until they are shown again.
        assert!(polled.is_poisoned());
        polled.show(&KEYS);
        assert_eq!((right(&polled), polled.is_poisoned()), (vec![true; 8], false));
    }

    #[test]
    fn what_always_comes_out_has_no_right_key() {
        assert_eq!((right(&ALWAYS), ALWAYS.is_poisoned()), (vec![false; 8], true));
        assert_ne!(ALWAYS.word(), 0);
    }

    #[test]
    fn no_kick_is_overlooked_however_late_it_is() {
        let polled = Polled::default();
        for round in 0..2000 {
            std::thread::scope(|scope| {
                scope.spawn(|| polled.set(1));
                // As the run loop does it, meanwhile.
                for _ in 0..round % 7 {
                    polled.clear(1);
                    polled.show(&KEYS);
                }
            });
            // It is over: either it has been seen, or no key is right.
            if polled.word() != 0 {
                assert_eq!(right(&polled), vec![false; 8], "{round}");
            }
            polled.clear(1);
            assert!(right(&polled).contains(&true) || polled.is_poisoned());
            polled.show(&KEYS);
            assert_eq!((right(&polled), polled.is_poisoned()), (vec![true; 8], false));
        }
    }
}
