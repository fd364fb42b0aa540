//! Memory slots: where guest-physical memory lies in the host's address space.
//!
//! [`Memory`] is shared and changes seldom; each vCPU holds a [`View`], an
//! immutable table that it refreshes when the generation has moved on. A slot is a host
//! virtual address with no promise about its life: access goes through
//! [`Host`], and may fail.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::host::{Errno, Host};

/// Size of the page that slots are made of.
pub const PAGE: u64 = 4096;

/// A range of guest-physical memory and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Slot {
    /// Whether the slot holds `gpa`.
    #[must_use]
    pub fn contains(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.gpa) < self.size
    }
}

/// The slots at one moment, sorted by address.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<Slot>);

impl Slots {
    /// How many slots a machine may have.
    pub const MAX: usize = 512;

    /// The slot that holds `gpa`.
    #[must_use]
    #[inline]
    pub fn find(&self, gpa: u64) -> Option<&Slot> {
        let at = self.0.partition_point(|slot| slot.gpa <= gpa);
        self.0.get(at.checked_sub(1)?).filter(|slot| slot.contains(gpa))
    }

    /// All slots, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter()
    }

    fn insert(&mut self, slot: Slot) -> Result<(), Errno> {
        let whole = |value: u64| value.is_multiple_of(PAGE);
        let end = slot.gpa.checked_add(slot.size).ok_or(Errno::EINVAL)?;
        if slot.size == 0
            || !(whole(slot.gpa) && whole(slot.size) && whole(slot.hva))
            || slot.hva.checked_add(slot.size).is_none()
            || self.0.len() >= Self::MAX
        {
            return Err(Errno::EINVAL);
        }
        let overlaps = |other: &Slot| other.gpa < end && slot.gpa < other.gpa + other.size;
        if self.0.iter().any(|other| other.id == slot.id || overlaps(other)) {
            return Err(Errno::EEXIST);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|other| other.gpa < slot.gpa);
        self.0.insert(at, slot);
        Ok(())
    }
}

/// The slots of a machine, shared by its vCPUs.
pub struct Memory<R> {
    current: Mutex<R, Arc<Slots>>,
    generation: AtomicU64,
}

impl<R: RawMutex> Default for Memory<R> {
    fn default() -> Self {
        Self { current: Mutex::new(Arc::default()), generation: AtomicU64::new(0) }
    }
}

impl<R: RawMutex> Memory<R> {
    /// Adds a slot. The caller tells the architecture of the change.
    ///
    /// # Errors
    /// `EINVAL` for a range that is empty, not of whole pages or that wraps around,
    /// `EEXIST` for a number in use or an overlap, `ENOMEM`.
    pub fn insert(&self, slot: Slot) -> Result<(), Errno> {
        self.change(|slots| slots.insert(slot))
    }

    /// Removes a slot and gives it. The caller tells the architecture of the change.
    ///
    /// # Errors
    /// `ENOENT` when there is none of this number, `ENOMEM`.
    pub fn remove(&self, id: u32) -> Result<Slot, Errno> {
        self.change(|slots| {
            let at = slots.0.iter().position(|slot| slot.id == id).ok_or(Errno::ENOENT)?;
            Ok(slots.0.remove(at))
        })
    }

    /// The table at this moment.
    #[must_use]
    pub fn view(&self) -> View {
        let slots = self.current.lock();
        View { slots: Arc::clone(&slots), generation: self.generation.load(Ordering::Acquire) }
    }

    fn change<T>(&self, edit: impl FnOnce(&mut Slots) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut copy = Slots::default();
        let mut current = self.current.lock();
        copy.0.try_reserve(current.0.len() + 1).map_err(|_| Errno::ENOMEM)?;
        copy.0.extend_from_slice(&current.0);
        let done = edit(&mut copy)?;
        *current = Arc::new(copy);
        self.generation.fetch_add(1, Ordering::Release);
        Ok(done)
    }
}

/// One reader's copy of the table.
#[derive(Clone, Debug, Default)]
pub struct View {
    slots: Arc<Slots>,
    generation: u64,
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
    pub fn refresh<R: RawMutex>(&mut self, memory: &Memory<R>) -> bool {
        if memory.generation.load(Ordering::Acquire) == self.generation {
            return false;
        }
        *self = memory.view();
        true
    }

    /// The table.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Where `gpa` lies, and how many bytes from there on lie in the same slot.
    ///
    /// # Errors
    /// When no slot is there, or it may not be written and `write` is asked.
    #[inline]
    pub fn host_address(&self, gpa: u64, write: bool) -> Result<(u64, u64), Unreached> {
        match self.slots.find(gpa) {
            Some(slot) if !(write && slot.read_only) => {
                let offset = gpa - slot.gpa;
                Ok((slot.hva + offset, slot.size - offset))
            }
            _ => Err(Unreached::NoSlot { gpa }),
        }
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
            let (hva, room) = self.host_address(at, true)?;
            let end = bytes.len().min(done.saturating_add(room as usize));
            host.write(hva, &bytes[done..end]).map_err(|_| Unreached::BadAddress { gpa: at })?;
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
        let (hva, _) = self.host_address(gpa, true)?;
        host.compare_exchange(hva, size, expected, new).map_err(|_| Unreached::BadAddress { gpa })
    }
}
