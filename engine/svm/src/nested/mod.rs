//! The nested page tables of a machine: [`Nested`]. Guest-physical addresses to the host's pages.
//!
//! They are filled as the guest reaches pages (`resolve`), and a page is mapped only if what led to it still holds: the slots
//! are those that the tables are of, and no change of the host's mapping, nor of what is logged, has begun or ended since a [`Ticket`] was
//! taken. All of that is looked at under one lock, which those who take pages away hold, too. It is
//! held for one table of pages at a time.
//!
//! The tables know which slots they are of ([`Nested::adopt`]): where a slot is gone its pages are taken out before others are let in. So
//! who knows a page by its host virtual address finds it by those slots, also when the machine's have changed already.
//!
//! Pages of 4 KiB and 2 MiB, executable, and with memory type write-back: the guest's PAT decides. Tables are given back with the machine.
//!
//! See: AMD APM vol. 2, 15.25; Linux, virt/kvm/kvm_main.c, `mmu_invalidate_retry`, for the race.

use core::sync::atomic::{AtomicU64, Ordering};

use arch_x86::hardware::{Pages, Platform};
use lock_api::Mutex;
use virt::Errno;
use virt::memory::{PAGE, Slot, View};

#[cfg(test)]
mod nested_test;
#[cfg(test)]
mod race_test;
pub mod table;

use table::{ENTRIES, Reserve, Table, entry};

/// Size of a large page, and of what a table of pages maps.
pub const LARGE: u64 = 2 << 20;
/// How far one walk under the lock looks for something, in tables of pages.
const REACH: u64 = 512 * LARGE;

/// The host's CR4.LA57: nested tables have five levels then, too. See: AMD APM vol. 2, 15.25.3.
const CR4_LA57: u64 = 1 << 12;

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
    fn large(&self, slot: &Slot) -> Option<Self> {
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

/// What a mapping was made of. See [`Nested::ticket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// It is mapped.
    Done,
    /// What led to it may not hold any more.
    Again,
}

/// What is done with what is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Remove,
    /// Pages may not be written any more; a large one is removed.
    Protect,
}

/// What the lock holds.
struct Inner<G> {
    root: Table<G>,
    levels: u32,
    /// The slots that all of what is mapped is of.
    slots: View,
    /// Others are to take their place: nothing is mapped meanwhile.
    adopting: bool,
    /// Changes of the host's that are under way, and the host virtual addresses of all of them.
    changes: u32,
    changing: (u64, u64),
    /// Counts what makes a [`Ticket`] worthless.
    sequence: u64,
    /// Counts what was taken out, or taken the right to write from.
    taken: u64,
}

/// The nested page tables.
pub struct Nested<P: Platform> {
    inner: Mutex<P::RawMutex, Inner<P::Pages>>,
    root: u64,
    /// The end of the addresses that there are entries for.
    end: u64,
    /// What a vCPU's translations are to be newer than.
    flushes: AtomicU64,
    /// How much of what was taken out no processor can still use.
    flushed: AtomicU64,
}

impl<P: Platform> Nested<P> {
    /// Empty ones, of the slots of `view`. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(platform: &P, host_cr4: u64, view: View) -> Result<Self, Errno> {
        let root = Table::new(platform, false)?;
        let levels = if host_cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let physical = root.physical();
        let inner = Inner {
            root,
            levels,
            slots: view,
            adopting: false,
            changes: 0,
            changing: (u64::MAX, 0),
            sequence: 0,
            taken: 0,
        };
        Ok(Self {
            inner: Mutex::new(inner),
            root: physical,
            end: span(levels + 1),
            flushes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
        })
    }

    /// Where they begin for the processor: the VMCB's nested CR3.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Whether there are entries for an address: others are reached by the run loop alone.
    pub fn reaches(&self, gpa: u64) -> bool {
        gpa < self.end
    }

    /// How often translations had to be dropped so far.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Has all vCPUs drop translations before they enter guest code again.
    fn ask_for_flush(&self) {
        self.flushes.fetch_add(1, Ordering::SeqCst);
    }

    /// Has all vCPUs drop what they have of what was taken out, by `wait`, which brings out who is inside; unless that was done. Whoever
    /// took it out: when this returns it is used no more.
    pub fn flush(&self, wait: impl FnOnce()) {
        let taken = self.inner.lock().taken;
        if self.flushed.load(Ordering::SeqCst) < taken {
            self.ask_for_flush();
            wait();
            self.flushed.fetch_max(taken, Ordering::SeqCst);
        }
    }

    /// To be taken before the slots, and what is behind them, are looked at.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.inner.lock().sequence)
    }

    /// Maps a page, as a large one if it can be, unless what `ticket` is of has changed, or `view` is not of the slots that
    /// are mapped here. Takes tables from `reserve`, which was filled.
    pub fn map(
        &self,
        ticket: Ticket,
        view: &View,
        mapping: Mapping,
        reserve: &mut Reserve<P::Pages>,
    ) -> Mapped {
        let Some(slot) = view.slots().find(mapping.gpa) else { return Mapped::Again };
        let mut inner = self.inner.lock();
        if mapping.gpa >= self.end {
            return Mapped::Again;
        }
        let same = core::ptr::eq(inner.slots.slots(), view.slots());
        if inner.sequence != ticket.0 || inner.adopting || !same {
            return Mapped::Again;
        }
        let is_changing = |page: &Mapping, size: u64| {
            inner.changes != 0 && page.hva < inner.changing.1 && inner.changing.0 < page.hva + size
        };
        if is_changing(&mapping, PAGE) {
            return Mapped::Again;
        }
        let large = mapping.large(slot).filter(|large| !is_changing(large, LARGE));
        match inner.place(&mapping, large.as_ref(), reserve) {
            Some(replaced) => {
                drop(inner);
                if replaced {
                    // A processor that knows what was there faults, and comes here.
                    self.ask_for_flush();
                }
                Mapped::Done
            }
            None => Mapped::Again,
        }
    }

    /// A change of the host's mapping from `start` to `end` begins: takes the pages out, and lets none in until
    /// [`changed`](Self::changed). [`flush`](Self::flush) is to follow. Any context.
    pub fn change(&self, start: u64, end: u64) {
        {
            let mut inner = self.inner.lock();
            inner.changes += 1;
            let (from, to) = inner.changing;
            inner.changing = (from.min(start), to.max(end));
        }
        self.each_slot(|slot| {
            let (from, to) = (start.max(slot.hva), end.min(slot.hva.saturating_add(slot.size)));
            if from < to {
                let gpa = slot.gpa + (from - slot.hva);
                self.each(gpa, gpa + (to - from), Work::Remove);
            }
        });
    }

    /// A change is over. Any context.
    pub fn changed(&self) {
        let mut inner = self.inner.lock();
        inner.changes = inner.changes.saturating_sub(1);
        if inner.changes == 0 {
            inner.changing = (u64::MAX, 0);
        }
        inner.sequence += 1;
    }

    /// Makes the tables be of the slots that are `current`: takes out what is of others. [`flush`](Self::flush) is to follow. Gives false
    /// while another one does so: then it is to be tried again. Process context.
    #[must_use]
    pub fn adopt(&self, current: impl Fn() -> View) -> bool {
        let view = current();
        let old = {
            let mut inner = self.inner.lock();
            if inner.adopting {
                return false;
            }
            if core::ptr::eq(inner.slots.slots(), view.slots()) {
                return true;
            }
            inner.adopting = true;
            inner.slots.clone()
        };
        // Once more: those of before may be older than what another one has just made it be of.
        let view = current();
        for slot in old.slots().iter() {
            if view.slots().find(slot.gpa) != Some(slot) {
                self.each(slot.gpa, slot.gpa + slot.size, Work::Remove);
            }
        }
        let mut inner = self.inner.lock();
        let former = core::mem::replace(&mut inner.slots, view);
        inner.adopting = false;
        inner.sequence += 1;
        drop(inner);
        // Without the lock.
        drop(former);
        true
    }

    /// The pages from `start` to `end` are not what they were, or which of them are dirty was taken: takes them out; in slots with a log they
    /// only may not be written any more. [`flush`](Self::flush) is to follow. Process context.
    pub fn renew(&self, start: u64, end: u64) {
        self.inner.lock().sequence += 1;
        self.each_slot(|slot| {
            let (from, to) = (start.max(slot.gpa), end.min(slot.gpa.saturating_add(slot.size)));
            if from < to {
                let work = if slot.log_dirty { Work::Protect } else { Work::Remove };
                self.each(from, to, work);
            }
        });
    }

    /// Calls `work` for each slot that the tables are of, without the lock. If others take their place meanwhile, that takes
    /// these out, and nothing of the new ones is there yet that a change under way, or a renewal, could be about. Any context: the last
    /// handle of slots is not dropped here.
    fn each_slot(&self, work: impl Fn(&Slot)) {
        let mut next = 0;
        loop {
            let slot = {
                let inner = self.inner.lock();
                inner.slots.slots().iter().find(|slot| slot.gpa >= next).copied()
            };
            let Some(slot) = slot else { return };
            work(&slot);
            next = slot.gpa.saturating_add(slot.size);
        }
    }

    /// Works on what is mapped from `start` to `end`, a table at a time.
    fn each(&self, start: u64, end: u64, work: Work) {
        let (mut at, end) = (start, end.min(self.end));
        while at < end {
            at = self.inner.lock().work(at, end, work);
        }
    }

    /// The entry that maps an address, and how many bytes it maps; for tests.
    #[cfg(test)]
    pub fn look(&self, gpa: u64) -> Option<(u64, u64)> {
        let mut inner = self.inner.lock();
        let levels = inner.levels;
        let mut table = &mut inner.root;
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

impl<G: Pages> Inner<G> {
    /// Enters a page; gives whether translations that it had before may be known. `None` if the reserve was not filled.
    fn place(
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
        // The large page is not the host's any more: it goes, for small ones.
        if is_large {
            table.set(at, 0);
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
    fn work(&mut self, start: u64, end: u64, work: Work) -> u64 {
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
                table.set(here, 0);
                self.taken += 1;
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
}
