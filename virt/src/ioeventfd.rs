//! ioeventfds: writes of the guest's that signal an event, and are no exits.
//!
//! [`IoEventFds`] is shared and changes seldom; each vCPU looks at a write in its [`View`], an immutable table that it
//! takes anew when the generation has moved on: on the way of a write nothing is locked. Which writes one is for, and
//! which ones exclude each other, is as with Linux's KVM.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.59, `KVM_IOEVENTFD`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::host::{Errno, Event};

/// Where a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IoAddress {
    /// A port.
    Port(u16),
    /// A guest-physical address where no memory is.
    Mmio(u64),
}

/// Which writes signal which event.
#[derive(Clone, Debug, PartialEq)]
pub struct IoEventFd<E> {
    /// Those to exactly this address,
    pub at: IoAddress,
    /// of so many bytes: 1, 2, 4 or 8; 0: of any size,
    pub size: u8,
    /// and of this value, if there is one.
    pub data: Option<u64>,
    /// What they signal.
    pub event: E,
}

impl<E> IoEventFd<E> {
    fn is_valid(&self) -> bool {
        let ends = match self.at {
            IoAddress::Port(_) => true,
            IoAddress::Mmio(gpa) => gpa.checked_add(self.size.into()).is_some(),
        };
        // A value has a size.
        let has_size = self.size != 0 || self.data.is_none();
        matches!(self.size, 0 | 1 | 2 | 4 | 8) && ends && has_size
    }

    /// Whether some write would be for both.
    fn collides(&self, other: &Self) -> bool {
        let any_data = self.data.is_none() || other.data.is_none() || self.data == other.data;
        let any_size = self.size == 0 || other.size == 0;
        self.at == other.at && (any_size || self.size == other.size && any_data)
    }

    /// Whether a write to its address, of so many bytes, is for it.
    fn matches(&self, size: usize, value: u64) -> bool {
        self.size == 0
            || usize::from(self.size) == size && self.data.is_none_or(|data| data == value)
    }
}

/// All that there are at one moment, by address.
#[derive(Clone, Debug)]
struct Table<E>(Vec<IoEventFd<E>>);

impl<E: Event> Table<E> {
    fn at(&self, at: IoAddress) -> impl Iterator<Item = &IoEventFd<E>> {
        let from = self.0.partition_point(|other| other.at < at);
        self.0[from..].iter().take_while(move |other| other.at == at)
    }

    fn insert(&mut self, new: IoEventFd<E>) -> Result<(), Errno> {
        if !new.is_valid() {
            return Err(Errno::EINVAL);
        }
        if self.at(new.at).any(|other| other.collides(&new)) {
            return Err(Errno::EEXIST);
        }
        if self.0.len() >= MAX {
            return Err(Errno::ENOSPC);
        }
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.0.partition_point(|other| other.at < new.at);
        self.0.insert(at, new);
        Ok(())
    }

    fn remove(&mut self, old: &IoEventFd<E>) -> Result<(), Errno> {
        let at = self.0.iter().position(|other| other == old).ok_or(Errno::ENOENT)?;
        self.0.remove(at);
        Ok(())
    }
}

/// How many a machine may have.
pub const MAX: usize = 1000;

/// The ioeventfds of a machine, shared by its vCPUs.
pub struct IoEventFds<R, E> {
    current: Mutex<R, Arc<Table<E>>>,
    generation: AtomicU64,
}

impl<R: RawMutex, E: Event> Default for IoEventFds<R, E> {
    fn default() -> Self {
        let table = Arc::new(Table(Vec::new()));
        Self { current: Mutex::new(table), generation: AtomicU64::new(0) }
    }
}

impl<R: RawMutex, E: Event> IoEventFds<R, E> {
    /// Adds one: each write that begins after this returned is looked at for it. Process context.
    ///
    /// # Errors
    /// `EINVAL` for a size that there is not, a value without a size, or a range that wraps around; `EEXIST` if a write
    /// would be for another one, too; `ENOSPC` if there are too many; `ENOMEM`.
    pub fn add(&self, new: IoEventFd<E>) -> Result<(), Errno> {
        self.change(|table| table.insert(new.clone()))
    }

    /// Removes one. A vCPU keeps a handle of its event until it writes the next time. Process context.
    ///
    /// # Errors
    /// `ENOENT` if it is not there, `ENOMEM`.
    pub fn remove(&self, old: &IoEventFd<E>) -> Result<(), Errno> {
        self.change(|table| table.remove(old))
    }

    /// The table at this moment.
    #[must_use]
    pub fn view(&self) -> View<E> {
        let table = self.current.lock();
        View { table: Arc::clone(&table), generation: self.generation.load(Ordering::Acquire) }
    }

    /// Replaces the table by an edited copy. It is made, and the old one freed, while the lock is not held.
    fn change(&self, edit: impl Fn(&mut Table<E>) -> Result<(), Errno>) -> Result<(), Errno> {
        loop {
            let old = Arc::clone(&self.current.lock());
            let mut copy = Table(Vec::new());
            copy.0.try_reserve(old.0.len() + 1).map_err(|_| Errno::ENOMEM)?;
            copy.0.extend_from_slice(&old.0);
            edit(&mut copy)?;
            let new = Arc::new(copy);
            let mut current = self.current.lock();
            if Arc::ptr_eq(&current, &old) {
                *current = new;
                self.generation.fetch_add(1, Ordering::Release);
                return Ok(());
            }
        }
    }
}

/// One vCPU's copy of the table.
#[derive(Clone, Debug)]
pub struct View<E> {
    table: Arc<Table<E>>,
    generation: u64,
}

impl<E: Event> View<E> {
    /// Signals the event that a write is for; gives whether there is one. Process context.
    #[inline]
    pub fn write<R: RawMutex>(
        &mut self,
        all: &IoEventFds<R, E>,
        at: IoAddress,
        bytes: &[u8],
    ) -> bool {
        self.refresh(all);
        !self.table.0.is_empty() && self.signal(at, bytes)
    }

    /// Whether a write to this address may be for one.
    #[inline]
    pub fn covers<R: RawMutex>(&mut self, all: &IoEventFds<R, E>, at: IoAddress) -> bool {
        self.refresh(all);
        !self.table.0.is_empty() && self.table.at(at).next().is_some()
    }

    #[inline]
    fn refresh<R: RawMutex>(&mut self, all: &IoEventFds<R, E>) {
        if all.generation.load(Ordering::Acquire) != self.generation {
            *self = all.view();
        }
    }

    #[inline(never)]
    fn signal(&self, at: IoAddress, bytes: &[u8]) -> bool {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let value = u64::from_le_bytes(word);
        let found = self.table.at(at).find(|one| one.matches(bytes.len(), value));
        found.inspect(|one| one.event.signal()).is_some()
    }
}
