//! [`Tree`]: the tables as a tree, and what is done with it: enters pages, and works on what is there.
//!
//! It knows addresses only; [`super`] knows what they are good for, and holds it behind its lock.
//!
//! See: AMD APM vol. 2, 5.3, 15.25.5.

use arch_x86::hardware::{Pages, Platform};
use virt::Errno;
use virt::memory::{PAGE, Slot};

use super::table::{ENTRIES, Reserve, Table, entry};

/// Size of a large page, and of what a table of pages maps.
pub const LARGE: u64 = 2 << 20;
/// How far one walk under the lock looks for something, in tables of pages.
const REACH: u64 = 512 * LARGE;

/// What is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The guest-physical address of a 4 KiB page.
    pub gpa: u64,
    /// Its host virtual address.
    pub hva: u64,
    /// Its physical address.
    pub physical: u64,
    /// How large the host's page is that it is part of.
    pub size: u64,
    /// Whether the guest may write it.
    pub writable: bool,
}

impl Mapping {
    /// The large page that this is part of, if all three addresses are aligned alike and it is within `slot`.
    pub fn large(&self, slot: &Slot) -> Option<Self> {
        let offset = self.gpa % LARGE;
        let alike = self.hva % LARGE == offset && self.physical % LARGE == offset;
        let first = self.gpa - offset;
        let inside = slot.contains(first) && slot.contains(first + (LARGE - 1));
        let large = self.size >= LARGE && alike && inside && !slot.log_dirty;
        large.then(|| Self {
            gpa: first,
            hva: self.hva - offset,
            physical: self.physical - offset,
            ..*self
        })
    }

    /// The entry of it.
    const fn entry(&self) -> u64 {
        let write = if self.writable { entry::WRITABLE } else { 0 };
        self.physical & entry::ADDRESS | entry::PRESENT | entry::USER | write
    }
}

/// What is done with what is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It is taken out.
    Remove,
    /// Pages may not be written any more.
    Protect,
}

/// The tables.
pub struct Tree<G> {
    root: Table<G>,
    levels: u32,
    /// Counts what was taken out, or taken the right to write from.
    taken: u64,
}

/// How many bytes an entry at `level` stands for, where 1 is that of pages.
const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// The entry of `gpa` in a table of `level`.
const fn index(gpa: u64, level: u32) -> usize {
    (gpa / span(level)) as usize % ENTRIES
}

/// The first address that the entry of `gpa` at `level` does not stand for.
const fn behind(gpa: u64, level: u32) -> u64 {
    (gpa | (span(level) - 1)).saturating_add(1)
}

/// Whether an entry of level 2 is a page's.
const fn is_large(entry: u64) -> bool {
    let large = entry::PRESENT | entry::LARGE;
    entry & large == large
}

/// What of an entry says where it leads.
const IDENTITY: u64 = entry::ADDRESS | entry::LARGE;

/// What is entered where `old` is: the same page stays writable, for a processor may know that it is. Who takes that away
/// has the processors forget it.
const fn renewed(old: u64, new: u64) -> u64 {
    let same = old & entry::PRESENT != 0 && (old ^ new) & IDENTITY == 0;
    if same { new | old & entry::WRITABLE } else { new }
}

impl<G: Pages> Tree<G> {
    /// Empty ones of so many levels. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &impl Platform<Pages = G>, levels: u32) -> Result<Self, Errno> {
        Ok(Self { root: Table::new(platform, false)?, levels, taken: 0 })
    }

    /// Where they begin for the processor.
    pub fn root(&self) -> u64 {
        self.root.physical()
    }

    /// The end of the addresses that there are entries for.
    pub fn end(&self) -> u64 {
        span(self.levels + 1)
    }

    /// How much was taken out so far, or taken the right to write from.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Enters a page; gives whether translations that it had before may be known. `None` if the reserve was not filled.
    pub fn place(
        &mut self,
        page: &Mapping,
        large: Option<&Mapping>,
        reserve: &mut Reserve<G>,
    ) -> Option<bool> {
        let mut table = &mut self.root;
        for level in (3..=self.levels).rev() {
            table = table.make_below(index(page.gpa, level), reserve, false)?;
        }
        let at = index(page.gpa, 2);
        let old = table.get(at);
        let is_large = is_large(old);
        let is_free = is_large || table.below(at).is_none_or(|below| below.is_empty());
        if let Some(large) = large.filter(|_| is_free) {
            let new = renewed(old, large.entry() | entry::LARGE);
            table.set(at, new);
            return Some(self.replaced(old, new));
        }
        if is_large {
            // It goes, for small ones. Those are the same memory, unless it is not the host's any more.
            let is_part = (old & entry::ADDRESS) + page.gpa % LARGE == page.physical;
            if is_part {
                table.split(at, reserve)?;
            } else {
                table.set(at, 0);
            }
            self.taken += 1;
        }
        let pages = table.make_below(at, reserve, true)?;
        let at = index(page.gpa, 1);
        let old = pages.get(at);
        let new = renewed(old, page.entry());
        pages.set(at, new);
        Some(self.replaced(old, new) || is_large)
    }

    /// Whether an entry led elsewhere before. That is taken out, then.
    fn replaced(&mut self, old: u64, new: u64) -> bool {
        let elsewhere = old & entry::PRESENT != 0 && (old ^ new) & IDENTITY != 0;
        self.taken += u64::from(elsewhere);
        elsewhere
    }

    /// The table of level 2 that has the entry of an address, or the level at which there is none below.
    fn directory(&mut self, at: u64) -> Result<&mut Table<G>, u32> {
        let levels = self.levels;
        let mut table = &mut self.root;
        for level in (3..=levels).rev() {
            table = table.below(index(at, level)).ok_or(level)?;
        }
        Ok(table)
    }

    /// Works on what is mapped from `start` on, within one table of pages; gives where to go on.
    pub fn work(&mut self, start: u64, end: u64, work: Work) -> u64 {
        let mut at = start;
        while at < end && at - start < REACH {
            let table = match self.directory(at) {
                Ok(table) => table,
                Err(level) => {
                    at = behind(at, level);
                    continue;
                }
            };
            let (here, next) = (index(at, 2), behind(at, 2));
            if is_large(table.get(here)) {
                self.taken += u64::from(match work {
                    Work::Protect => table.protect(here),
                    Work::Remove => table.remove(here),
                });
                return next;
            }
            let Some(pages) = table.below(here).filter(|pages| !pages.is_empty()) else {
                at = next;
                continue;
            };
            let mut taken = 0;
            while at < next.min(end) {
                taken += u64::from(match work {
                    Work::Protect => pages.protect(index(at, 1)),
                    Work::Remove => pages.remove(index(at, 1)),
                });
                at += PAGE;
            }
            self.taken += taken;
            return next;
        }
        at
    }

    /// The entry that maps an address, and how many bytes it maps; for tests.
    #[cfg(test)]
    pub fn look(&mut self, gpa: u64) -> Option<(u64, u64)> {
        let levels = self.levels;
        let mut table = &mut self.root;
        for level in (1..=levels).rev() {
            let index = index(gpa, level);
            let found = table.get(index);
            if found & entry::PRESENT == 0 {
                return None;
            }
            if level == 1 || found & entry::LARGE != 0 {
                return Some((found, span(level)));
            }
            table = table.below(index)?;
            assert_eq!(found & entry::ADDRESS, table.physical());
        }
        None
    }
}
