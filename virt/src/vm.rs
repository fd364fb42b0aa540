//! One virtual machine: its memory, its interrupt routes, its events and its architecture's part.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::arch::Arch;
use crate::dirty_log::DirtyLog;
use crate::dirty_ring::{DirtyRing, Entries, check_entries};
use crate::host::{Errno, Host, Notify};
use crate::ioeventfd::IoEventFd;
use crate::irqfd::{Ended, Irqfds, Resampled};
use crate::locked_list;
use crate::memory::{Memory, PAGE, Slot};
use crate::routing::{Pin, Reached, Route, Routes, Source, reached_by_both};
use crate::vfio::Groups;

/// The lock of a host.
pub type Lock<A> = <<A as Arch>::Host as Host>::RawMutex;

/// The event of a host.
pub type HostEvent<A> = <<A as Arch>::Host as Host>::Event;

/// One virtual machine.
///
/// Lock order: the routes' lock, then (released) whatever the architecture takes.
pub struct Vm<A: Arch> {
    memory: Arc<Memory<Lock<A>>>,
    /// New dirty logs begin with all pages marked.
    logs_begin_marked: AtomicBool,
    /// Who asks for a dirty log takes no marks.
    logs_are_kept: AtomicBool,
    /// Entries of a vCPU's dirty ring; 0: there are none.
    ring_entries: AtomicU32,
    rings: Mutex<Lock<A>, Vec<Arc<DirtyRing>>>,
    irqfds: Irqfds<A::Host>,
    groups: Groups<A::Host>,
    lines: Arc<Lines<A>>,
}

/// Takes marks away, page by page, of few slots in turn.
struct Marks<'a, R> {
    memory: &'a Memory<R>,
    last: Option<(Slot, Arc<DirtyLog>)>,
    /// From the lowest to the highest address of slots that had one.
    changed: Option<[u64; 2]>,
}

impl<R: RawMutex> Marks<'_, R> {
    /// Takes the mark of a page away, if there is such a page.
    fn clear(&mut self, id: u32, page: u64) {
        if self.last.as_ref().is_none_or(|(slot, _)| slot.id != id) {
            self.last = self.memory.log(id).ok();
        }
        let Some((slot, log)) = &self.last else { return };
        if page < slot.size / PAGE && log.clear(page & !63, &[1 << (page % 64)]) {
            let [start, end] = self.changed.unwrap_or([slot.gpa, slot.gpa]);
            self.changed = Some([start.min(slot.gpa), end.max(slot.gpa + slot.size)]);
        }
    }
}

/// The global system interrupts, and what they lead to.
struct Lines<A: Arch> {
    routes: Mutex<Lock<A>, Arc<Routes>>,
    resampled: Resampled<A::Host>,
    arch: A,
}

impl<A: Arch> Lines<A> {
    fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.lock())
    }

    fn set(&self, gsi: u32, source: Source, level: bool) -> Reached {
        let routes = self.routes();
        let reached = routes.of(gsi).map(|route| match route {
            Route::Pin(pin) => self.arch.set_pin(pin, source, level),
            Route::Msi { address, data } if level => self.arch.send_msi(address, data),
            Route::Msi { .. } => None,
        });
        reached.fold(None, reached_by_both)
    }
}

/// An irqfd's edge.
struct Edge<A: Arch> {
    lines: Weak<Lines<A>>,
    gsi: u32,
}

impl<A: Arch> Notify for Edge<A> {
    fn signalled(&self) {
        if let Some(lines) = self.lines.upgrade() {
            lines.set(self.gsi, Source::Line, true);
            lines.set(self.gsi, Source::Line, false);
        }
    }
}

/// An irqfd's level.
struct Level<A: Arch> {
    lines: Weak<Lines<A>>,
    gsi: u32,
}

impl<A: Arch> Notify for Level<A> {
    fn signalled(&self) {
        let Some(lines) = self.lines.upgrade() else { return };
        lines.set(self.gsi, Source::Irqfd, true);
        // It may have been removed meanwhile: who did, or this one, sees that.
        if !lines.resampled.has(self.gsi) {
            lines.set(self.gsi, Source::Irqfd, false);
        }
    }
}

impl<A: Arch> Ended for Lines<A> {
    fn ended(&self, pin: Pin) {
        for gsi in self.routes().to(pin).filter(|gsi| self.resampled.has(*gsi)) {
            // Elsewhere, too.
            self.set(gsi, Source::Irqfd, false);
            self.resampled.signal(gsi);
        }
    }
}

impl<A: Arch> Vm<A> {
    /// Makes a machine around its architecture's part, with the default routes.
    ///
    /// `memory` is the one that `arch` (and its engine) look into.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(memory: Arc<Memory<Lock<A>>>, arch: A) -> Result<Self, Errno> {
        let routes = Mutex::new(Arc::new(A::default_routes()?));
        let lines = Arc::new(Lines { routes, resampled: Resampled::default(), arch });
        Ok(Self {
            memory,
            logs_begin_marked: AtomicBool::new(false),
            logs_are_kept: AtomicBool::new(false),
            ring_entries: AtomicU32::new(0),
            rings: Mutex::new(Vec::new()),
            irqfds: Irqfds::default(),
            groups: Groups::default(),
            lines,
        })
    }

    /// The architecture's part.
    pub fn arch(&self) -> &A {
        &self.lines.arch
    }

    /// The devices that are passed through.
    pub fn groups(&self) -> &Groups<A::Host> {
        &self.groups
    }

    /// The memory slots.
    pub fn memory(&self) -> &Memory<Lock<A>> {
        &self.memory
    }

    /// Adds a memory slot. Process context, as all that changes slots: it waits for vCPUs. Whoever calls these has them one
    /// after the other.
    ///
    /// # Errors
    /// As [`Memory::insert`].
    pub fn add_slot(&self, slot: Slot) -> Result<(), Errno> {
        self.memory.insert(slot)?;
        self.begin_log(&slot);
        self.arch().memory_changed(slot.gpa, slot.size);
        Ok(())
    }

    /// Makes the slot of this number what it is to be: a new one, one at another guest-physical address, with or without a log;
    /// or none, for a size of 0. Process context.
    ///
    /// # Errors
    /// `EINVAL` for what is not of whole pages or above all addresses, another size, place or kind than the slot has, and a size of 0
    /// when there is none; and as [`add_slot`](Self::add_slot).
    pub fn set_slot(&self, new: Slot) -> Result<(), Errno> {
        if [new.gpa, new.size, new.hva].iter().any(|value| !value.is_multiple_of(PAGE)) {
            return Err(Errno::EINVAL);
        }
        let end = new.gpa.checked_add(new.size).ok_or(Errno::EINVAL)?;
        if end > 1 << A::ADDRESS_BITS {
            return Err(Errno::EINVAL);
        }
        match self.memory.slot(new.id) {
            None => self.add_slot(new),
            Some(_) if new.size == 0 => self.remove_slot(new.id),
            Some(old) => self.change_slot(&old, &new),
        }
    }

    fn change_slot(&self, old: &Slot, new: &Slot) -> Result<(), Errno> {
        if (Slot { gpa: new.gpa, log_dirty: new.log_dirty, ..*old }) != *new {
            return Err(Errno::EINVAL);
        }
        if new.gpa != old.gpa {
            self.move_slot(new.id, new.gpa)?;
        }
        if new.log_dirty != old.log_dirty {
            self.log_dirty(new.id, new.log_dirty)?;
        }
        Ok(())
    }

    /// Removes a memory slot; when this returns no vCPU uses it any more. Process context.
    ///
    /// # Errors
    /// As [`Memory::remove`].
    pub fn remove_slot(&self, id: u32) -> Result<(), Errno> {
        let slot = self.memory.remove(id)?;
        self.arch().memory_changed(slot.gpa, slot.size);
        Ok(())
    }

    /// Moves a memory slot to another guest-physical address; when this returns no vCPU uses the old one any
    /// more. Process context.
    ///
    /// # Errors
    /// As [`Memory::relocate`].
    pub fn move_slot(&self, id: u32, gpa: u64) -> Result<(), Errno> {
        let slot = self.memory.relocate(id, gpa)?;
        self.arch().memory_changed(slot.gpa, slot.size);
        self.arch().memory_changed(gpa, slot.size);
        Ok(())
    }

    /// Switches a slot's dirty log on or off: what the guest writes after this returns is in it. Process context.
    ///
    /// # Errors
    /// As [`Memory::set_log`].
    pub fn log_dirty(&self, id: u32, on: bool) -> Result<(), Errno> {
        let had_one = self.memory.slot(id).is_some_and(|slot| slot.log_dirty);
        let slot = self.memory.set_log(id, on)?;
        if !had_one {
            self.begin_log(&slot);
        }
        // Also what may be written through addresses that were given before there was a log.
        self.arch().memory_changed(slot.gpa, slot.size);
        Ok(())
    }

    /// Takes a slot's dirty log: a bitmap with a bit for each page, 64 a word, that is set if the guest has written to the page
    /// since the log was switched on or taken. It may be set without: an access that faulted half-way. Process context.
    ///
    /// No write is lost. Say that a page is copied after this returns, if its bit is set, and that this is done again and again:
    /// when the guest has stopped, and it was done once more, the copy is the same as the memory.
    ///
    /// - The run loop, through [`View`](crate::memory::View), marks a page after it has written. If the bit is taken, the
    ///   write was before, and is copied. If the mark comes too late, the next one takes it.
    /// - An engine marks a page when it is given an address to write at, and then writes as long as it has it, unseen. Such
    ///   an address was given before the bit was taken, or later. If later, the bit is set again, for the next one. If before,
    ///   the engine may go on writing through it until `memory_changed` has made it drop it: but that is before this
    ///   returns, so before the copy. Its next write needs an address again, and marks.
    ///
    /// So the order is: take the bits, then have the addresses dropped. The other way round an address that is given
    /// in between would outlive its bit.
    ///
    /// # Errors
    /// `ENOENT` when there is no slot of this number, or it has no log; `ENOMEM`.
    pub fn take_dirty(&self, id: u32) -> Result<Vec<u64>, Errno> {
        let (slot, log) = self.memory.log(id)?;
        let taken = log.take()?;
        // Nobody has an address to write to a page that is not marked.
        if taken.iter().any(|word| *word != 0) {
            self.arch().memory_changed(slot.gpa, slot.size);
        }
        Ok(taken)
    }

    /// The marks of a slot's dirty log, which stay: see [`clear_dirty`](Self::clear_dirty). Process context.
    ///
    /// # Errors
    /// As [`take_dirty`](Self::take_dirty).
    pub fn look_dirty(&self, id: u32) -> Result<Vec<u64>, Errno> {
        self.memory.log(id)?.1.look()
    }

    /// Takes away marks of a slot's dirty log: those in `bits`, whose first word is of the pages from `first` on, a multiple of
    /// 64. It is with them as with [`take_dirty`](Self::take_dirty): who copies these pages after this returns misses no
    /// write. Process context.
    ///
    /// # Errors
    /// `ENOENT` when there is no slot of this number, or it has no log.
    pub fn clear_dirty(&self, id: u32, first: u64, bits: &[u64]) -> Result<(), Errno> {
        let (slot, log) = self.memory.log(id)?;
        if log.clear(first, bits) {
            self.arch().memory_changed(slot.gpa, slot.size);
        }
        Ok(())
    }

    /// Has new dirty logs begin with all pages marked, or with none.
    pub fn begin_logs_marked(&self, on: bool) {
        self.logs_begin_marked.store(on, Ordering::Relaxed);
    }

    /// Has the ioctl that asks for a dirty log leave the marks, or take them.
    pub fn keep_logs(&self, on: bool) {
        self.logs_are_kept.store(on, Ordering::Relaxed);
    }

    /// Whether it leaves them.
    pub fn keeps_logs(&self) -> bool {
        self.logs_are_kept.load(Ordering::Relaxed)
    }

    /// Marks all pages of a slot whose log is new, if that is wanted. Where pages come in rings they come when they are written to.
    fn begin_log(&self, slot: &Slot) {
        if self.logs_begin_marked.load(Ordering::Relaxed)
            && self.ring_entries().is_none()
            && let Ok((_, log)) = self.memory.log(slot.id)
        {
            log.mark(0, slot.size / PAGE - 1, |_| {});
        }
    }

    /// Has each vCPU have a ring of so many entries, in which are the pages that it has written to, in place of bitmaps that are asked
    /// for. Before the first vCPU, and once. Process context.
    ///
    /// # Errors
    /// As [`check_entries`]; `EINVAL` when there is a vCPU, and the second time.
    pub fn use_dirty_rings(&self, entries: u64) -> Result<(), Errno> {
        let entries = check_entries(entries)?;
        if self.ring_entries().is_some() || self.arch().has_vcpus() {
            return Err(Errno::EINVAL);
        }
        self.ring_entries.store(entries, Ordering::Relaxed);
        Ok(())
    }

    /// How many entries a vCPU's ring has, if it has one.
    pub fn ring_entries(&self) -> Option<u32> {
        Some(self.ring_entries.load(Ordering::Relaxed)).filter(|entries| *entries != 0)
    }

    /// Makes the ring of a vCPU that is being made, of so many entries. The caller hands it to the vCPU. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn add_dirty_ring(
        &self,
        entries: Box<dyn Entries>,
        size: u32,
    ) -> Result<Arc<DirtyRing>, Errno> {
        let ring = Arc::new(DirtyRing::new(entries, size));
        let added = locked_list::push(&self.rings, Arc::clone(&ring), |_| Ok(()));
        added.map(|()| ring).map_err(|(errno, _)| errno)
    }

    /// Takes the pages that the VMM gives back in the rings, all that it has collected: they are told again when they are written to again.
    /// Gives how many. Who copies these pages after this returns misses no write, as with [`take_dirty`](Self::take_dirty).
    /// Process context, one after the other.
    ///
    /// # Errors
    /// `EINVAL` when there are no rings; `ENOMEM`.
    pub fn reset_dirty_rings(&self) -> Result<u32, Errno> {
        self.ring_entries().ok_or(Errno::EINVAL)?;
        let mut rings = Vec::new();
        // None comes in between: who makes a vCPU comes after the other, too. Memory is had without the lock.
        let there = self.rings.lock().len();
        rings.try_reserve_exact(there).map_err(|_| Errno::ENOMEM)?;
        rings.extend(self.rings.lock().iter().take(rings.capacity()).cloned());
        let mut marks = Marks { memory: &self.memory, last: None, changed: None };
        let mut count = 0_u32;
        for ring in &rings {
            count = count.saturating_add(ring.reset(|slot, page| marks.clear(slot, page)));
        }
        if let Some([start, end]) = marks.changed {
            self.arch().memory_changed(start, end - start);
        }
        Ok(count)
    }

    /// Replaces the interrupt routes. Process context.
    pub fn set_routes(&self, routes: Routes) {
        let routes = Arc::new(routes);
        let old = core::mem::replace(&mut *self.lines.routes.lock(), routes);
        drop(old);
    }

    /// Sets the level of a global system interrupt. A GSI without a route is
    /// connected to nothing. Gives what that has reached. Atomic context.
    pub fn set_irq(&self, gsi: u32, level: bool) -> Reached {
        self.lines.set(gsi, Source::Line, level)
    }

    /// Has each signal of `event` raise an edge on a GSI: its level goes up and down. Process context.
    ///
    /// # Errors
    /// As [`Irqfds::add`].
    pub fn add_irqfd(&self, gsi: u32, event: &HostEvent<A>) -> Result<(), Errno> {
        let edge = Edge { lines: Arc::downgrade(&self.lines), gsi };
        let watch = || self.arch().host().watch(event, Arc::new(edge));
        self.irqfds.add(gsi, event, None, watch)
    }

    /// Has each signal of `event` move a GSI's level up until the guest has ended the interrupt. Then it is down, and `resample` is
    /// signalled, each time that an interrupt of that GSI has ended. Process context.
    ///
    /// # Errors
    /// As [`Irqfds::add`].
    pub fn add_level_irqfd(
        &self,
        gsi: u32,
        event: &HostEvent<A>,
        resample: &HostEvent<A>,
    ) -> Result<(), Errno> {
        let lines = Arc::downgrade(&self.lines);
        self.arch().tell_ended(Weak::clone(&lines) as _);
        self.lines.resampled.add(gsi, resample)?;
        let level = Level { lines, gsi };
        let watch = || self.arch().host().watch(event, Arc::new(level));
        let added = self.irqfds.add(gsi, event, Some(resample), watch);
        if added.is_err() {
            self.end_level(gsi, resample)?;
        }
        added
    }

    /// A GSI's level stays up no longer, if it was for this event's irqfd only.
    fn end_level(&self, gsi: u32, resample: &HostEvent<A>) -> Result<(), Errno> {
        self.lines.resampled.remove(gsi, resample)?;
        if !self.lines.resampled.has(gsi) {
            self.lines.set(gsi, Source::Irqfd, false);
        }
        Ok(())
    }

    /// Ends that, if it is so: what is signalled after this returned raises nothing. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn remove_irqfd(&self, gsi: u32, event: &HostEvent<A>) -> Result<(), Errno> {
        match self.irqfds.remove(gsi, event) {
            Some(resample) => self.end_level(gsi, &resample),
            None => Ok(()),
        }
    }

    /// Has writes of the guest's signal an event. Process context.
    ///
    /// # Errors
    /// As [`IoEventFds::add`](crate::ioeventfd::IoEventFds::add).
    pub fn add_ioeventfd(&self, new: IoEventFd<HostEvent<A>>) -> Result<(), Errno> {
        self.arch().ioeventfds().add(new)
    }

    /// Ends that. Process context.
    ///
    /// # Errors
    /// As [`IoEventFds::remove`](crate::ioeventfd::IoEventFds::remove).
    pub fn remove_ioeventfd(&self, old: &IoEventFd<HostEvent<A>>) -> Result<(), Errno> {
        self.arch().ioeventfds().remove(old)
    }
}
