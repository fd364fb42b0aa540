//! [`DirtyLog`]: which pages of a slot were written to since that was last asked.
//!
//! The snapshots of the slots' table ([`crate::memory`]) that follow each other share it. Who marks a page, and when, and why no
//! write is lost: [`crate::Vm::take_dirty`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::host::Errno;

/// Pages of a word.
const BITS: u64 = u64::BITS as u64;

/// The pages of a slot, a bit each. All of its methods may be called in any context, but for those that make a bitmap.
#[derive(Debug)]
pub struct DirtyLog {
    words: Box<[AtomicU64]>,
}

impl DirtyLog {
    /// A log of so many pages, none of which is dirty. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: u64) -> Result<Self, Errno> {
        let words = pages.div_ceil(BITS) as usize;
        let mut all = Vec::new();
        all.try_reserve_exact(words).map_err(|_| Errno::ENOMEM)?;
        all.resize_with(words, AtomicU64::default);
        Ok(Self { words: all.into_boxed_slice() })
    }

    /// Marks pages, from `first` to `last`. What is beyond the slot is ignored.
    pub fn mark(&self, first: u64, last: u64) {
        for page in first..=last {
            if let Some(word) = self.words.get((page / BITS) as usize) {
                // Always a locked access, also if the bit is set: what was written before is seen by who takes the bit.
                word.fetch_or(1 << (page % BITS), Ordering::SeqCst);
            }
        }
    }

    /// Takes the marks: a bitmap, bit 0 of the first word is the first page. Process context.
    ///
    /// # Errors
    /// `ENOMEM`; nothing is taken then.
    pub fn take(&self) -> Result<Vec<u64>, Errno> {
        let mut taken = Vec::new();
        taken.try_reserve_exact(self.words.len()).map_err(|_| Errno::ENOMEM)?;
        // Most words are 0: they stay in other processors' caches.
        let take = |word: &AtomicU64| match word.load(Ordering::SeqCst) {
            0 => 0,
            _ => word.swap(0, Ordering::SeqCst),
        };
        taken.extend(self.words.iter().map(take));
        Ok(taken)
    }
}
