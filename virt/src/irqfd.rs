//! irqfds: events that raise an interrupt: [`Irqfds`].
//!
//! [`crate::vm`] says what happens when one is signalled. That of an edge moves a line up and down. That of a level has it stay up
//! until the guest has ended the interrupt ([`Ended`]); then another event is signalled, for the device to say whether it still
//! interrupts: KVM's resample. Which events those are is in [`Resampled`].
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.75, `KVM_IRQFD`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::Mutex;

use crate::host::{Errno, Event, Host};
use crate::locked_list;
use crate::routing::Pin;

/// How many a machine may have.
pub const MAX: usize = 1000;

struct Irqfd<H: Host> {
    gsi: u32,
    event: H::Event,
    /// What is signalled when the guest has ended the interrupt: it is of a level.
    resample: Option<H::Event>,
    /// Dropped, it ends.
    _watch: H::Watch,
}

/// The irqfds of a machine.
pub struct Irqfds<H: Host>(Mutex<H::RawMutex, Vec<Irqfd<H>>>);

impl<H: Host> Default for Irqfds<H> {
    fn default() -> Self {
        Self(Mutex::new(Vec::new()))
    }
}

impl<H: Host> Irqfds<H> {
    /// Adds one, with what `watch` gives. Process context.
    ///
    /// # Errors
    /// `EBUSY` if the event raises an interrupt already, `ENOSPC` if there are too many, `ENOMEM`, and what `watch`
    /// says.
    pub fn add(
        &self,
        gsi: u32,
        event: &H::Event,
        resample: Option<&H::Event>,
        watch: impl FnOnce() -> Result<H::Watch, Errno>,
    ) -> Result<(), Errno> {
        self.check(event)?;
        // Not with the lock held: it may sleep.
        let new =
            Irqfd { gsi, event: event.clone(), resample: resample.cloned(), _watch: watch()? };
        self.insert(new).map_err(|(errno, _not_added)| errno)
    }

    fn check(&self, event: &H::Event) -> Result<(), Errno> {
        check(&self.0.lock(), event)
    }

    /// Gives back what is not added, to be dropped without the lock.
    fn insert(&self, new: Irqfd<H>) -> Result<(), (Errno, Irqfd<H>)> {
        // Another thread may have been faster.
        let event = new.event.clone();
        locked_list::push(&self.0, new, |all| check(all, &event))
    }

    /// Removes one, if it is there: what is signalled after this returned raises nothing. Gives the other event of one that is of
    /// a level. Process context.
    pub fn remove(&self, gsi: u32, event: &H::Event) -> Option<H::Event> {
        let mut all = self.0.lock();
        let found = all.iter().position(|one| one.gsi == gsi && one.event == *event);
        let removed = found.map(|at| all.swap_remove(at));
        drop(all);
        removed.and_then(|irqfd| irqfd.resample)
    }
}

fn check<H: Host>(all: &[Irqfd<H>], event: &H::Event) -> Result<(), Errno> {
    if all.iter().any(|one| one.event == *event) {
        return Err(Errno::EBUSY);
    }
    if all.len() >= MAX { Err(Errno::ENOSPC) } else { Ok(()) }
}

/// What is told that the guest has ended an interrupt.
pub trait Ended: Send + Sync + 'static {
    /// That of this input was ended. Atomic context, with no lock held.
    fn ended(&self, pin: Pin);
}

/// Which events are signalled when the guest has ended the interrupt of a GSI.
pub struct Resampled<H: Host>(Mutex<H::RawMutex, Events<H>>);

/// With the GSI that each is for.
type Events<H> = Arc<Vec<(u32, <H as Host>::Event)>>;

impl<H: Host> Default for Resampled<H> {
    fn default() -> Self {
        Self(Mutex::new(Arc::default()))
    }
}

impl<H: Host> Resampled<H> {
    fn now(&self) -> Events<H> {
        Arc::clone(&self.0.lock())
    }

    /// Whether there is one for a GSI. Atomic context.
    pub fn has(&self, gsi: u32) -> bool {
        self.now().iter().any(|(other, _)| *other == gsi)
    }

    /// Signals those of a GSI. Atomic context.
    pub fn signal(&self, gsi: u32) {
        self.now().iter().filter(|(other, _)| *other == gsi).for_each(|(_, event)| event.signal());
    }

    /// Adds one. It may be there several times. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn add(&self, gsi: u32, event: &H::Event) -> Result<(), Errno> {
        self.change(|all| all.push((gsi, event.clone())))
    }

    /// Removes one, once. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn remove(&self, gsi: u32, event: &H::Event) -> Result<(), Errno> {
        self.change(|all| {
            let found = all.iter().position(|(other, one)| *other == gsi && one == event);
            found.map(|at| all.swap_remove(at));
        })
    }

    /// Replaces the list by an edited copy. It is made, and the old one freed, while the lock is not held.
    fn change(&self, edit: impl Fn(&mut Vec<(u32, H::Event)>)) -> Result<(), Errno> {
        loop {
            let old = self.now();
            let mut copy = Vec::new();
            copy.try_reserve_exact(old.len() + 1).map_err(|_| Errno::ENOMEM)?;
            copy.extend_from_slice(&old);
            edit(&mut copy);
            let new = Arc::new(copy);
            let mut current = self.0.lock();
            if Arc::ptr_eq(&current, &old) {
                *current = new;
                return Ok(());
            }
        }
    }
}
