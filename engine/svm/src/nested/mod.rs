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
//! [`tree`] is the tables themselves, [`table`] one of them. Pages of 4 KiB and 2 MiB, executable, and with memory type write-back: the guest's PAT decides. Tables are given back with the machine.
//!
//! See: AMD APM vol. 2, 15.25; Linux, virt/kvm/kvm_main.c, `mmu_invalidate_retry`, for the race.

use core::sync::atomic::{AtomicU64, Ordering};

use arch_x86::hardware::Platform;
use lock_api::Mutex;
use virt::Errno;
use virt::memory::{PAGE, Slot, View};

#[cfg(test)]
mod nested_test;
#[cfg(test)]
mod race_test;
pub mod table;
pub mod tree;

use table::Reserve;
use tree::{LARGE, Mapping, Tree, Work};

/// The host's CR4.LA57: nested tables have five levels then, too. See: AMD APM vol. 2, 15.25.3.
const CR4_LA57: u64 = 1 << 12;

/// What a mapping was made of. See [`Nested::ticket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// It is mapped.
    Done,
    /// What led to it may not hold any more: it is to be looked for again.
    Again,
    /// The same, when others have done what they are about: the host changes it, or the slots are being replaced.
    Busy,
}

/// What is done with a part of a slot.
struct Part {
    start: u64,
    end: u64,
    work: Work,
}

/// What the lock holds.
struct Inner<G> {
    tree: Tree<G>,
    /// The slots that all of what is mapped is of.
    slots: View,
    /// Others are to take their place: nothing is mapped meanwhile.
    adopting: bool,
    /// Changes of the host's that are under way, and the host virtual addresses of all of them.
    changes: u32,
    changing: (u64, u64),
    /// Counts what makes a [`Ticket`] worthless.
    sequence: u64,
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
        let levels = if host_cr4 & CR4_LA57 != 0 { 5 } else { 4 };
        let tree = Tree::new(platform, levels)?;
        Ok(Self {
            root: tree.root(),
            end: tree.end(),
            inner: Mutex::new(Inner {
                tree,
                slots: view,
                adopting: false,
                changes: 0,
                changing: (u64::MAX, 0),
                sequence: 0,
            }),
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
        let taken = self.inner.lock().tree.taken();
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
        if inner.adopting || !same {
            return Mapped::Busy;
        }
        if inner.sequence != ticket.0 {
            return Mapped::Again;
        }
        let is_changing = |page: &Mapping, size: u64| {
            inner.changes != 0 && page.hva < inner.changing.1 && inner.changing.0 < page.hva + size
        };
        if is_changing(&mapping, PAGE) {
            return Mapped::Busy;
        }
        let large = mapping.large(slot).filter(|large| !is_changing(large, LARGE));
        match inner.tree.place(&mapping, large.as_ref(), reserve) {
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
        self.each_part(|slot| {
            let (from, to) = (start.max(slot.hva), end.min(slot.hva.saturating_add(slot.size)));
            let gpa = slot.gpa.wrapping_add(from.wrapping_sub(slot.hva));
            (from < to).then(|| Part { start: gpa, end: gpa + (to - from), work: Work::Remove })
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

    /// Makes the tables be of the slots that are `current`: takes out what is of others, and from those that are logged now the right to write. [`flush`](Self::flush) is to follow. Gives false
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
            let now = view.slots().find(slot.gpa);
            let logged = Slot { log_dirty: true, ..*slot };
            // What is only to be logged from now on can still be read.
            let work = if now == Some(&logged) { Work::Protect } else { Work::Remove };
            if now != Some(slot) {
                self.each(slot.gpa, slot.gpa + slot.size, work);
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
        self.each_part(|slot| {
            let (from, to) = (start.max(slot.gpa), end.min(slot.gpa.saturating_add(slot.size)));
            let work = if slot.log_dirty { Work::Protect } else { Work::Remove };
            (from < to).then_some(Part { start: from, end: to, work })
        });
    }

    /// Works on what `part` says of each slot that the tables are of, a slot at a time. If others take their place meanwhile, that takes
    /// these out, and nothing of the new ones is there yet that a change under way, or a renewal, could be about. Any context: the last
    /// handle of slots is not dropped here.
    fn each_part(&self, part: impl Fn(&Slot) -> Option<Part>) {
        let mut next = 0;
        loop {
            let found = {
                let inner = self.inner.lock();
                let mut slots = inner.slots.slots().from(next);
                slots.find_map(|slot| Some((slot.gpa.saturating_add(slot.size), part(slot)?)))
            };
            let Some((behind, Part { start, end, work })) = found else { return };
            self.each(start, end, work);
            next = behind;
        }
    }

    /// Works on what is mapped from `start` to `end`, a table at a time.
    fn each(&self, start: u64, end: u64, work: Work) {
        let (mut at, end) = (start, end.min(self.end));
        while at < end {
            at = self.inner.lock().tree.work(at, end, work);
        }
    }

    /// The entry that maps an address, and how many bytes it maps; for tests.
    #[cfg(test)]
    pub fn look(&self, gpa: u64) -> Option<(u64, u64)> {
        self.inner.lock().tree.look(gpa)
    }
}
