//! [`PageMarks`]: for translated code, which page of a kernel's code is where.
//!
//! A jump from one page to another has to know that the other page is still there, and may be executed. For the pages of a
//! kernel (64-bit mode, level 0, the upper half of the address space) that is one comparison: as long as the key of
//! such code holds (see [`crate::itlb`]) each place has the *mark* of the page that was entered there, a number that
//! no other page has at that place. A jump whose comparison succeeds leads to a block of that page without more.

use crate::blocks::AddressMap;
use crate::code_pages::PageId;
use crate::ram;

/// Places: pages that are a multiple of so many apart have the same.
const COUNT: usize = 4096;
/// The mark of no page.
const NONE: u32 = 0;

/// The marks of pages.
pub struct PageMarks {
    /// By place.
    pub(crate) current: [u32; COUNT],
    numbers: AddressMap<(u64, PageId), u32>,
}

/// The place of the page that holds `linear`.
pub const fn place(linear: u64) -> usize {
    (linear / ram::SIZE) as usize % COUNT
}

impl PageMarks {
    /// No page is anywhere.
    pub fn new() -> Self {
        Self { current: [NONE; COUNT], numbers: AddressMap::default() }
    }

    /// The page is at `linear` from now on.
    pub fn set(&mut self, linear: u64, page: PageId) {
        let next = self.numbers.len() as u32 + 1;
        let mark = self.numbers.entry((linear / ram::SIZE, page)).or_insert(next);
        self.current[place(linear)] = *mark;
    }

    /// The mark of a page that has been at `linear` before.
    pub fn of(&self, linear: u64, page: PageId) -> Option<u32> {
        self.numbers.get(&(linear / ram::SIZE, page)).copied()
    }

    /// Nothing is known of what is where.
    pub fn clear(&mut self) {
        self.current = [NONE; COUNT];
    }

    /// The same, and no code knows a mark any more.
    pub fn restart(&mut self) {
        self.clear();
        self.numbers.clear();
    }
}
