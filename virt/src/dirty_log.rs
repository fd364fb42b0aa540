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
    /// The pages that were read so far; none if that does not count.
    read: Box<[AtomicU64]>,
}

impl DirtyLog {
    /// A log of so many pages, none of which is dirty. If `reads_count`, a page is marked when it is read for the first time.
    /// Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(pages: u64, reads_count: bool) -> Result<Self, Errno> {
        let bitmap = |pages: u64| {
            let words = pages.div_ceil(BITS) as usize;
            let mut all = Vec::new();
            all.try_reserve_exact(words).map_err(|_| Errno::ENOMEM)?;
            all.resize_with(words, AtomicU64::default);
            Ok(all.into_boxed_slice())
        };
        Ok(Self { words: bitmap(pages)?, read: bitmap(if reads_count { pages } else { 0 })? })
    }

    /// A page is about to be read. Gives whether it is to be marked for that.
    #[inline]
    pub fn note_read(&self, page: u64) -> bool {
        let Some(word) = self.read.get((page / BITS) as usize) else { return false };
        let bit = 1 << (page % BITS);
        let is_new = |word: u64| word & bit == 0;
        // Most were read before.
        is_new(word.load(Ordering::Relaxed)) && is_new(word.fetch_or(bit, Ordering::Relaxed))
    }

    /// Marks pages, from `first` to `last`, and tells each that was not. What is beyond the slot is ignored.
    pub fn mark(&self, first: u64, last: u64, mut marked: impl FnMut(u64)) {
        for at in first / BITS..=last / BITS {
            let Some(word) = self.words.get(at as usize) else { return };
            let from = first.saturating_sub(at * BITS);
            let above = (at * BITS + BITS - 1).saturating_sub(last);
            // Always a locked access, also if the bits are set: what was written before is seen by who takes them.
            let bits = u64::MAX << from & u64::MAX >> above;
            let mut new = bits & !word.fetch_or(bits, Ordering::SeqCst);
            while new != 0 {
                marked(at * BITS + u64::from(new.trailing_zeros()));
                new &= new - 1;
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

    /// The marks as they are, as [`take`](Self::take) gives them. They stay. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn look(&self) -> Result<Vec<u64>, Errno> {
        let mut marks = Vec::new();
        marks.try_reserve_exact(self.words.len()).map_err(|_| Errno::ENOMEM)?;
        marks.extend(self.words.iter().map(|word| word.load(Ordering::SeqCst)));
        Ok(marks)
    }

    /// Takes away the marks that are in `bits`, whose first word is of the pages from `first` on, a multiple of 64. Gives whether
    /// there was one.
    pub fn clear(&self, first: u64, bits: &[u64]) -> bool {
        let words = self.words.get((first / BITS) as usize..).unwrap_or_default();
        let mut any = false;
        for (word, bits) in words.iter().zip(bits).filter(|(_, bits)| **bits != 0) {
            any |= word.fetch_and(!bits, Ordering::SeqCst) & bits != 0;
        }
        any
    }
}
