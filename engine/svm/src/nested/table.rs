//! [`Table`]: one table of the nested ones, and what is below it; [`Reserve`]: tables to be.
//!
//! Entries are changed by single atomic accesses, for processors walk the tables, and set accessed and dirty bits, meanwhile. A
//! table stays where it is until all are freed: a processor may keep the way to it. Under a page of 2 MiB its place is kept, empty.
//!
//! See: AMD APM vol. 2, 5.3 (format), 15.25.5.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use arch_x86::hardware::{Pages, Platform};
use virt::Errno;

/// Entries of a table.
pub const ENTRIES: usize = 512;

/// Bits of an entry.
pub mod entry {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITABLE: u64 = 1 << 1;
    /// All of a guest's accesses are a user's.
    pub const USER: u64 = 1 << 2;
    pub const LARGE: u64 = 1 << 7;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// What the entry of a large page and those of the small ones in it have in common, but for where they are.
    pub const SMALL: u64 = ADDRESS | PRESENT | WRITABLE | USER;
}

/// The entry `index` of a page of them.
fn slot<G: Pages>(page: &G, index: usize) -> &AtomicU64 {
    let index = index % ENTRIES;
    // SAFETY: the page is 4096 bytes at a page's alignment, ours until it is dropped, which the borrow is before; its words are only
    // ever accessed atomically, by us and by processors.
    unsafe { AtomicU64::from_ptr(page.address().cast::<u64>().add(index)) }
}

/// Sets all words of a page among several.
pub fn fill<G: Pages>(pages: &G, page: usize, value: u64) {
    for index in 0..ENTRIES {
        // SAFETY: `page` is one of those that were asked for, by the caller; nobody else uses them yet.
        let word = unsafe {
            AtomicU64::from_ptr(pages.address().cast::<u64>().add(page * ENTRIES + index))
        };
        word.store(value, Ordering::Relaxed);
    }
}

/// A byte of pages, for tests.
#[cfg(test)]
pub fn byte<G: Pages>(pages: &G, at: usize) -> u8 {
    // SAFETY: `at` is within what was asked for, by the test.
    let word = unsafe { AtomicU64::from_ptr(pages.address().cast::<u64>().add(at / 8)) };
    word.load(Ordering::Relaxed).to_le_bytes()[at % 8]
}

/// A table.
pub struct Table<G> {
    page: G,
    /// Tables below, by entry; none for a table of pages.
    below: Vec<Option<Box<Table<G>>>>,
    /// How many entries are present.
    used: usize,
}

impl<G: Pages> Table<G> {
    /// An empty one; `leaf`: of pages. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &impl Platform<Pages = G>, leaf: bool) -> Result<Self, Errno> {
        let mut below = Vec::new();
        if !leaf {
            below.try_reserve_exact(ENTRIES).map_err(|_| Errno::ENOMEM)?;
            below.resize_with(ENTRIES, || None);
        }
        Ok(Self { page: platform.pages(1)?, below, used: 0 })
    }

    /// Where it is for the processor.
    pub fn physical(&self) -> u64 {
        self.page.physical()
    }

    /// An entry.
    pub fn get(&self, index: usize) -> u64 {
        slot(&self.page, index).load(Ordering::Acquire)
    }

    /// Sets an entry.
    pub fn set(&mut self, index: usize, value: u64) {
        let old = slot(&self.page, index).swap(value, Ordering::AcqRel);
        let is_present = |entry: u64| usize::from(entry & entry::PRESENT != 0);
        self.used = (self.used + is_present(value)).saturating_sub(is_present(old));
    }

    /// Takes the right to write away. Gives whether it was there.
    pub fn protect(&mut self, index: usize) -> bool {
        let writable = entry::PRESENT | entry::WRITABLE;
        let old = slot(&self.page, index).fetch_and(!entry::WRITABLE, Ordering::AcqRel);
        old & writable == writable
    }

    /// Takes an entry out. Gives whether it was there.
    pub fn remove(&mut self, index: usize) -> bool {
        let was = self.get(index) & entry::PRESENT != 0;
        if was {
            self.set(index, 0);
        }
        was
    }

    /// Whether no entry is present.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The table whose place is below an entry, whether or not the entry leads to it.
    pub fn below(&mut self, index: usize) -> Option<&mut Table<G>> {
        self.below.get_mut(index)?.as_deref_mut()
    }

    /// The same, made of one in the reserve if there is none yet, and led to. `None` without either, or if a large page is there.
    pub fn make_below(
        &mut self,
        index: usize,
        reserve: &mut Reserve<G>,
        leaf: bool,
    ) -> Option<&mut Self> {
        let physical = self.have_below(index, reserve, leaf)?.physical();
        let old = self.get(index);
        if old & entry::PRESENT == 0 {
            self.lead(index, physical);
        } else if old & entry::LARGE != 0 {
            return None;
        }
        self.below(index)
    }

    /// Puts a table of the same pages, with the same rights, in a large page's place. `None` without a table.
    pub fn split(&mut self, index: usize, reserve: &mut Reserve<G>) -> Option<()> {
        let large = self.get(index);
        let pages = self.have_below(index, reserve, true)?;
        for (n, offset) in (0..ENTRIES).zip((0..).step_by(1 << 12)) {
            pages.set(n, (large & entry::SMALL) + offset);
        }
        let physical = pages.physical();
        self.lead(index, physical);
        Some(())
    }

    /// The table whose place is below an entry, made of one in the reserve if there is none yet.
    fn have_below(
        &mut self,
        index: usize,
        reserve: &mut Reserve<G>,
        leaf: bool,
    ) -> Option<&mut Self> {
        let place = self.below.get_mut(index)?;
        if place.is_none() {
            *place = Some(reserve.take(leaf)?);
        }
        place.as_deref_mut()
    }

    /// Has an entry lead to a table.
    fn lead(&mut self, index: usize, physical: u64) {
        self.set(index, physical | entry::PRESENT | entry::WRITABLE | entry::USER);
    }
}

/// Tables that were got while memory could be had, for one page to be mapped.
pub struct Reserve<G> {
    leaf: Option<Box<Table<G>>>,
    directories: [Option<Box<Table<G>>>; 3],
}

impl<G> Default for Reserve<G> {
    fn default() -> Self {
        Self { leaf: None, directories: [None, None, None] }
    }
}

impl<G: Pages> Reserve<G> {
    /// Fills it up. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fill(&mut self, platform: &impl Platform<Pages = G>) -> Result<(), Errno> {
        let directories = self.directories.iter_mut().map(|place| (place, false));
        for (place, leaf) in directories.chain([(&mut self.leaf, true)]) {
            if place.is_none() {
                *place = Some(Box::new(Table::new(platform, leaf)?));
            }
        }
        Ok(())
    }

    fn take(&mut self, leaf: bool) -> Option<Box<Table<G>>> {
        if leaf { self.leaf.take() } else { self.directories.iter_mut().find_map(Option::take) }
    }
}
