//! irqfds: events that raise an interrupt: [`Irqfds`].
//!
//! [`crate::vm`] says what happens when one is signalled.
//!
//! Not implemented: an irqfd of a level that stays until the guest has ended the interrupt (KVM's resample).
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.75, `KVM_IRQFD`.

use alloc::vec::Vec;

use lock_api::Mutex;

use crate::host::{Errno, Host};

/// How many a machine may have.
pub const MAX: usize = 1000;

struct Irqfd<H: Host> {
    gsi: u32,
    event: H::Event,
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
        watch: impl FnOnce() -> Result<H::Watch, Errno>,
    ) -> Result<(), Errno> {
        self.check(event)?;
        // Not with the lock held: it may sleep.
        let new = Irqfd { gsi, event: event.clone(), _watch: watch()? };
        self.insert(new).map_err(|(errno, _not_added)| errno)
    }

    fn check(&self, event: &H::Event) -> Result<(), Errno> {
        check(&self.0.lock(), event)
    }

    /// Gives back what is not added, to be dropped without the lock.
    fn insert(&self, new: Irqfd<H>) -> Result<(), (Errno, Irqfd<H>)> {
        let mut all = self.0.lock();
        // Another thread may have been faster.
        let result =
            check(&all, &new.event).and_then(|()| all.try_reserve(1).map_err(|_| Errno::ENOMEM));
        match result {
            Ok(()) => {
                all.push(new);
                Ok(())
            }
            Err(errno) => Err((errno, new)),
        }
    }

    /// Removes one, if it is there: what is signalled after this returned raises nothing. Process context.
    pub fn remove(&self, gsi: u32, event: &H::Event) {
        let mut all = self.0.lock();
        let found = all.iter().position(|one| one.gsi == gsi && one.event == *event);
        let removed = found.map(|at| all.swap_remove(at));
        drop(all);
        drop(removed);
    }
}

fn check<H: Host>(all: &[Irqfd<H>], event: &H::Event) -> Result<(), Errno> {
    if all.iter().any(|one| one.event == *event) {
        return Err(Errno::EBUSY);
    }
    if all.len() >= MAX { Err(Errno::ENOSPC) } else { Ok(()) }
}
