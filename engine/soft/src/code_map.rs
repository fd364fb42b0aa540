//! [`CodeMap`]: which pages a vCPU may have decoded code of, for threads that write to memory otherwise than by its code.
//!
//! What such a thread writes is compared with what was decoded only if there may be something to compare: most of what a disk's device
//! reads into memory was never code. The pages themselves are [`CodePages`](crate::code_pages::CodePages), which are the vCPU's own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::ram;

/// Bits of the map: a page has the one of its number, modulo this. So many are those of 512 MiB, and many times the pages that a vCPU
/// keeps code of.
const BITS: u64 = 1 << 17;
const WORD: u64 = u64::BITS as u64;

/// The map of one vCPU.
pub struct CodeMap {
    words: Box<[AtomicU64]>,
    /// Something was written to one of the pages.
    written: AtomicBool,
}

impl Default for CodeMap {
    fn default() -> Self {
        let words = (0..BITS / WORD).map(|_| AtomicU64::new(0)).collect();
        Self { words, written: AtomicBool::new(false) }
    }
}

/// The word and the bit of a page.
fn place(page: u64) -> (usize, u64) {
    let bit = page % BITS;
    ((bit / WORD) as usize, 1 << (bit % WORD))
}

impl CodeMap {
    /// The vCPU is going to decode code of the page at this address.
    ///
    /// It reads the bytes after this, and who writes looks at the map after having written; both in one order for all. So either the vCPU
    /// decodes what was written, or the writer sees that there is code.
    pub fn enter(&self, gpa: u64) {
        let (word, bit) = place(gpa / ram::SIZE);
        // Only the vCPU itself takes bits away.
        if self.words[word].load(Ordering::Relaxed) & bit == 0 {
            self.words[word].fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// The vCPU has dropped all decoded code.
    pub fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
    }

    /// Somebody has written to these bytes.
    pub fn wrote(&self, start: u64, size: u64) {
        std::sync::atomic::fence(Ordering::SeqCst);
        let Some(last) = size.checked_sub(1).map(|rest| start.saturating_add(rest)) else { return };
        let mut pages = start / ram::SIZE..=last / ram::SIZE;
        let is_code = |page| {
            let (word, bit) = place(page);
            self.words[word].load(Ordering::SeqCst) & bit != 0
        };
        if pages.end() - pages.start() >= BITS || pages.any(is_code) {
            self.written.store(true, Ordering::SeqCst);
        }
    }

    /// Takes whether there is something to compare.
    pub fn take_written(&self) -> bool {
        // Most often there is not, and then the line stays with those who read it.
        self.written.load(Ordering::SeqCst) && self.written.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_count_where_there_is_code() {
        let map = CodeMap::default();
        map.wrote(0, u64::MAX);
        assert!(map.take_written(), "all of memory");
        map.enter(0x5000);
        map.wrote(0x4000, 0x1000);
        map.wrote(0x6000, 0x1000);
        map.wrote(0x5000, 0);
        assert!(!map.take_written());
        for (start, size) in
            [(0x5000, 1), (0x5fff, 1), (0x4fff, 2), (0, 0x10_0000), (0x5800, u64::MAX)]
        {
            map.wrote(start, size);
            assert!(map.take_written(), "{start:#x} {size:#x}");
            assert!(!map.take_written(), "it was taken");
        }
        map.clear();
        map.wrote(0x5000, 0x1000);
        assert!(!map.take_written());
    }

    #[test]
    fn pages_that_share_a_bit_count_for_each_other() {
        let map = CodeMap::default();
        map.enter(0x5000 + BITS * ram::SIZE);
        map.wrote(0x5000, 8);
        assert!(map.take_written());
    }
}
