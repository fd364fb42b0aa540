//! Memory slots: where guest-physical memory lies in the host's address space.
//!
//! [`Memory`] is shared and changes seldom; each vCPU holds a [`View`], an
//! immutable table that it refreshes when the generation has moved on. A slot is a host
//! virtual address with no promise about its life: access goes through
//! [`Host`], and may fail.
//!
//! A slot whose writes are logged has a [`DirtyLog`], which each write through a view marks. Who gets a host virtual
//! address to write to by itself ([`View::host_address`]) has the page marked then. A view that is a vCPU's may have a
//! [`DirtyRing`], where each page is told that is marked.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::dirty_log::DirtyLog;
use crate::dirty_ring::DirtyRing;
use crate::host::{Errno, Host};

/// Size of the page that slots are made of.
pub const PAGE: u64 = 4096;

/// Pages that a slot may have. See: Linux, include/linux/kvm_host.h, `KVM_MEM_MAX_NR_PAGES`.
const MAX_PAGES: u64 = (1 << 31) - 1;

/// A range of guest-physical memory and where it lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The caller's number for it.
    pub id: u32,
    /// Guest-physical start, page-aligned.
    pub gpa: u64,
    /// Size in bytes, a multiple of the page.
    pub size: u64,
    /// Host virtual start, page-aligned.
    pub hva: u64,
    /// Writes by the guest are not memory writes but exits.
    pub read_only: bool,
    /// The pages that the guest writes to are noted: see [`crate::Vm::take_dirty`].
    pub log_dirty: bool,
}

impl Slot {
    /// Whether the slot holds `gpa`.
    #[must_use]
    pub fn contains(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.gpa) < self.size
    }

    /// Whether it can be one by itself: whole pages, not too many, that do not wrap around. Gives its end.
    fn check(&self) -> Result<u64, Errno> {
        let whole = |value: u64| value.is_multiple_of(PAGE);
        let end = self.gpa.checked_add(self.size).ok_or(Errno::EINVAL)?;
        let is_whole = whole(self.gpa) && whole(self.size) && whole(self.hva);
        let has_place = self.hva.checked_add(self.size).is_some();
        if is_whole && has_place && (1..=MAX_PAGES).contains(&(self.size / PAGE)) {
            Ok(end)
        } else {
            Err(Errno::EINVAL)
        }
    }
}

/// A slot, and its log if it has one.
#[derive(Clone, Debug)]
struct Entry {
    slot: Slot,
    log: Option<Arc<DirtyLog>>,
}

impl Entry {
    fn new(slot: Slot, reads_count: bool) -> Result<Self, Errno> {
        let mut entry = Self { slot, log: None };
        entry.set_log(slot.log_dirty, reads_count)?;
        Ok(entry)
    }

    /// Has the slot be logged, or not. A new log is empty. Of memory that the guest may not write it stays so.
    fn set_log(&mut self, on: bool, reads_count: bool) -> Result<(), Errno> {
        let (pages, reads_count) = (self.slot.size / PAGE, reads_count && !self.slot.read_only);
        self.log = if on { Some(Arc::new(DirtyLog::new(pages, reads_count)?)) } else { None };
        self.slot.log_dirty = on;
        Ok(())
    }

    /// `size` bytes (not 0) at `offset` are marked, if that is logged, and put into the ring, if there is one.
    fn mark(&self, offset: u64, size: u64, ring: Option<&DirtyRing>) {
        let Some(log) = &self.log else { return };
        let (first, last) = (offset / PAGE, (offset + size - 1) / PAGE);
        match ring {
            None => log.mark(first, last, |_| {}),
            Some(ring) => log.mark(first, last, |page| ring.put(self.slot.id, page)),
        }
    }
}

/// The slots at one moment, sorted by address.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<Entry>);

impl Slots {
    /// How many slots a machine may have.
    pub const MAX: usize = 512;

    /// The slot that holds `gpa`.
    #[must_use]
    #[inline]
    pub fn find(&self, gpa: u64) -> Option<&Slot> {
        self.0.get(self.place(gpa)?).map(|entry| &entry.slot)
    }

    /// Where the slot that holds `gpa` is in the table.
    fn place(&self, gpa: u64) -> Option<usize> {
        let at = self.0.partition_point(|entry| entry.slot.gpa <= gpa).checked_sub(1)?;
        self.0.get(at)?.slot.contains(gpa).then_some(at)
    }

    /// All slots, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().map(|entry| &entry.slot)
    }

    /// Those of them that begin at an address, or behind it.
    pub fn from(&self, gpa: u64) -> impl Iterator<Item = &Slot> {
        let first = self.0.partition_point(|entry| entry.slot.gpa < gpa);
        self.0[first..].iter().map(|entry| &entry.slot)
    }

    fn insert(&mut self, entry: Entry) -> Result<(), Errno> {
        let slot = &entry.slot;
        let end = slot.check()?;
        if self.0.len() >= Self::MAX {
            return Err(Errno::EINVAL);
        }
        let overlaps = |other: &Slot| other.gpa < end && slot.gpa < other.gpa + other.size;
        if self.iter().any(|other| other.id == slot.id || overlaps(other)) {
            return Err(Errno::EEXIST);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|other| other.slot.gpa < slot.gpa);
        self.0.insert(at, entry);
        Ok(())
    }

    /// Where the slot of this number is in the table.
    fn position(&self, id: u32) -> Result<usize, Errno> {
        self.iter().position(|slot| slot.id == id).ok_or(Errno::ENOENT)
    }
}

/// The slots of a machine, shared by its vCPUs.
pub struct Memory<R> {
    current: Mutex<R, Arc<Slots>>,
    generation: AtomicU64,
    first_reads_count: AtomicBool,
}

impl<R: RawMutex> Default for Memory<R> {
    fn default() -> Self {
        Self {
            current: Mutex::new(Arc::default()),
            generation: AtomicU64::new(0),
            first_reads_count: AtomicBool::new(false),
        }
    }
}

impl<R: RawMutex> Memory<R> {
    /// Adds a slot. The caller tells the architecture of the change. Process context, as all changes.
    ///
    /// # Errors
    /// `EINVAL` for a range that is empty, not of whole pages, too large or that wraps around, and when there are
    /// [`Slots::MAX`]; `EEXIST` for a number in use or an overlap; `ENOMEM`.
    pub fn insert(&self, slot: Slot) -> Result<(), Errno> {
        // Before a log is made, whose size it is.
        slot.check()?;
        self.change(|slots| slots.insert(Entry::new(slot, self.first_reads_count())?))
    }

    /// Has new logs have a page as written when it is read for the first time, too: so it is with Linux's KVM, which maps a page for
    /// writing then if it can, and programs count on it.
    pub fn count_first_reads(&self) {
        self.first_reads_count.store(true, Ordering::Relaxed);
    }

    fn first_reads_count(&self) -> bool {
        self.first_reads_count.load(Ordering::Relaxed)
    }

    /// Removes a slot and gives it. The caller tells the architecture of the change.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number, `ENOMEM`.
    pub fn remove(&self, id: u32) -> Result<Slot, Errno> {
        self.change(|slots| {
            let at = slots.position(id)?;
            Ok(slots.0.remove(at).slot)
        })
    }

    /// Moves a slot to another guest-physical address, where it has the same bytes and the same log; gives what it was. The
    /// caller tells the architecture of the change, at both places.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number, and as [`insert`](Self::insert).
    pub fn relocate(&self, id: u32, gpa: u64) -> Result<Slot, Errno> {
        self.change(|slots| {
            let at = slots.position(id)?;
            let mut entry = slots.0.remove(at);
            let old = entry.slot;
            entry.slot.gpa = gpa;
            slots.insert(entry).map(|()| old)
        })
    }

    /// Has a slot be logged from now on, or not any more; gives it. The caller tells the architecture of the change. A log that
    /// is there already stays as it is.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number, `ENOMEM`.
    pub fn set_log(&self, id: u32, on: bool) -> Result<Slot, Errno> {
        self.change(|slots| {
            let at = slots.position(id)?;
            let entry = &mut slots.0[at];
            if entry.slot.log_dirty != on {
                entry.set_log(on, self.first_reads_count())?;
            }
            Ok(entry.slot)
        })
    }

    /// The slot of this number.
    #[must_use]
    pub fn slot(&self, id: u32) -> Option<Slot> {
        self.view().slots.iter().find(|slot| slot.id == id).copied()
    }

    /// A slot and its log.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number, or it has no log.
    pub fn log(&self, id: u32) -> Result<(Slot, Arc<DirtyLog>), Errno> {
        let slots = self.view().slots;
        let entry = &slots.0[slots.position(id)?];
        let log = entry.log.clone().ok_or(Errno::ENOENT)?;
        Ok((entry.slot, log))
    }

    /// The table at this moment.
    #[must_use]
    pub fn view(&self) -> View {
        let slots = self.current.lock();
        let generation = self.generation.load(Ordering::SeqCst);
        View { slots: Arc::clone(&slots), generation, last: Cell::new(0), ring: None }
    }

    /// Replaces the table by an edited copy. It is made, and the old one freed, while the lock is not held.
    fn change<T>(&self, edit: impl Fn(&mut Slots) -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            let old = Arc::clone(&self.current.lock());
            let mut copy = Slots::default();
            copy.0.try_reserve(old.0.len() + 1).map_err(|_| Errno::ENOMEM)?;
            copy.0.extend_from_slice(&old.0);
            let done = edit(&mut copy)?;
            let new = Arc::new(copy);
            let mut current = self.current.lock();
            if Arc::ptr_eq(&current, &old) {
                *current = new;
                // Who says that it accesses memory, and then looks for a change, sees this one; or who makes it sees that
                // it does.
                self.generation.fetch_add(1, Ordering::SeqCst);
                return Ok(done);
            }
        }
    }
}

/// One reader's copy of the table.
#[derive(Clone, Debug, Default)]
pub struct View {
    slots: Arc<Slots>,
    generation: u64,
    /// Where in the table the slot is that was found last: the next access is most often to the same one.
    last: Cell<usize>,
    /// Where what is marked is put, too.
    ring: Option<Arc<DirtyRing>>,
}

/// Guest-physical memory that an access could not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// No slot is there, or a write met a read-only one: a device's, or nobody's.
    NoSlot {
        /// The first address that was not reached.
        gpa: u64,
    },
    /// The slot's host virtual address is bad.
    BadAddress {
        /// The guest-physical address.
        gpa: u64,
    },
}

impl View {
    /// Takes the newest table if it has changed. Gives whether it has.
    #[inline]
    pub fn refresh<R: RawMutex>(&mut self, memory: &Memory<R>) -> bool {
        if memory.generation.load(Ordering::SeqCst) == self.generation {
            return false;
        }
        self.renew(memory.view());
        true
    }

    /// Takes the table of another one.
    pub fn renew(&mut self, newer: Self) {
        *self = Self { ring: self.ring.take(), ..newer };
    }

    /// Has pages that are marked for the first time put into a vCPU's ring: by this one's writes, on that vCPU's thread.
    pub fn set_ring(&mut self, ring: Arc<DirtyRing>) {
        self.ring = Some(ring);
    }

    /// The ring, if there is one.
    #[must_use]
    #[inline]
    pub fn ring(&self) -> Option<&DirtyRing> {
        self.ring.as_deref()
    }

    /// The table.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The slot of `gpa`, which is not the one that was found last.
    fn look_up(&self, gpa: u64) -> Option<&Entry> {
        let place = self.slots.place(gpa)?;
        self.last.set(place);
        self.slots.0.get(place)
    }

    /// The slot of `gpa`, and where it is in there.
    #[inline]
    fn find(&self, gpa: u64, write: bool) -> Result<(&Entry, u64), Unreached> {
        let last = self.slots.0.get(self.last.get()).filter(|entry| entry.slot.contains(gpa));
        match last.or_else(|| self.look_up(gpa)) {
            Some(entry) if !(write && entry.slot.read_only) => Ok((entry, gpa - entry.slot.gpa)),
            _ => Err(Unreached::NoSlot { gpa }),
        }
    }

    /// Where `gpa` lies, and how many bytes from there on may be accessed: as many as lie in the same slot. If writes
    /// are logged and `write` is asked, it is to the end of the page, which is dirty from now on; who keeps the address
    /// drops it when the architecture is told that memory has changed.
    ///
    /// # Errors
    /// When no slot is there, or it may not be written and `write` is asked.
    #[inline]
    pub fn host_address(&self, gpa: u64, write: bool) -> Result<(u64, u64), Unreached> {
        let (entry, offset) = self.find(gpa, write)?;
        let (hva, room) = (entry.slot.hva + offset, entry.slot.size - offset);
        match &entry.log {
            Some(_) if write => {
                entry.mark(offset, 1, self.ring());
                Ok((hva, PAGE - offset % PAGE))
            }
            Some(log) => {
                if log.note_read(offset / PAGE) {
                    entry.mark(offset, 1, self.ring());
                }
                Ok((hva, room))
            }
            None => Ok((hva, room)),
        }
    }

    /// Whether nobody need know of a write to `gpa`: then an address to read at may be kept as one to write at, too.
    #[must_use]
    #[inline]
    pub fn is_freely_written(&self, gpa: u64) -> bool {
        self.find(gpa, true).is_ok_and(|(entry, _)| entry.log.is_none())
    }

    /// Reads guest-physical memory, across slots. Process context.
    ///
    /// # Errors
    /// At the first address that can't be reached.
    pub fn read<H: Host>(&self, host: &H, gpa: u64, buffer: &mut [u8]) -> Result<(), Unreached> {
        let mut done = 0;
        while done < buffer.len() {
            let at = gpa.wrapping_add(done as u64);
            let (hva, room) = self.host_address(at, false)?;
            let end = buffer.len().min(done.saturating_add(room as usize));
            host.read(hva, &mut buffer[done..end])
                .map_err(|_| Unreached::BadAddress { gpa: at })?;
            done = end;
        }
        Ok(())
    }

    /// Writes guest-physical memory, across slots. Process context.
    ///
    /// # Errors
    /// At the first address that can't be reached; what lies before it is written.
    pub fn write<H: Host>(&self, host: &H, gpa: u64, bytes: &[u8]) -> Result<(), Unreached> {
        let mut done = 0;
        while done < bytes.len() {
            let at = gpa.wrapping_add(done as u64);
            let (entry, offset) = self.find(at, true)?;
            let room = entry.slot.size - offset;
            let end = bytes.len().min(done.saturating_add(room as usize));
            let written = host.write(entry.slot.hva + offset, &bytes[done..end]);
            // Not before: who takes the mark has to find what was written. Even if not all was.
            entry.mark(offset, (end - done) as u64, self.ring());
            written.map_err(|_| Unreached::BadAddress { gpa: at })?;
            done = end;
        }
        Ok(())
    }

    /// Compares and exchanges `size` bytes at an aligned `gpa`. Process context.
    ///
    /// # Errors
    /// When the address can't be reached.
    pub fn compare_exchange<H: Host>(
        &self,
        host: &H,
        gpa: u64,
        size: u8,
        expected: u128,
        new: u128,
    ) -> Result<u128, Unreached> {
        let (entry, offset) = self.find(gpa, true)?;
        let found = host
            .compare_exchange(entry.slot.hva + offset, size, expected, new)
            .map_err(|_| Unreached::BadAddress { gpa })?;
        if found == expected {
            entry.mark(offset, size.max(1).into(), self.ring());
        }
        Ok(found)
    }
}
