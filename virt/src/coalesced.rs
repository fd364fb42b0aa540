//! Writes of the guest's that may wait: [`Coalesced`].
//!
//! A VMM names ranges of addresses whose writes need not be told at once, as nothing depends on when they are made. They are put into a
//! ring that it empties when a vCPU comes out for another reason. There is one ring a machine, so that the order of all its writes is
//! kept; what it looks like is [`crate::ioctl`]'s. If it is full, a write is told as others are.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.116, `KVM_REGISTER_COALESCED_MMIO`.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::host::Errno;
use crate::locked_list;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// They are ports, not memory.
    pub ports: bool,
    /// The first.
    pub first: u64,
    /// How many.
    pub size: u64,
}

impl Zone {
    /// Whether a range of the same sort lies in this one, all of it. One that wraps around holds nothing.
    fn holds(&self, other: &Self) -> bool {
        let ends = (self.first.checked_add(self.size), other.first.checked_add(other.size));
        let (Some(end), Some(other_end)) = ends else { return false };
        self.ports == other.ports && self.first <= other.first && other_end <= end
    }
}

/// How many ranges of ports a machine may have, and how many of memory.
pub const MAX: usize = 1000;

/// Which writes may wait, and the lock of the ring that they wait in.
pub struct Coalesced<R> {
    zones: Mutex<R, Vec<Zone>>,
    /// Whether there is any: most machines have none.
    is_used: AtomicBool,
}

impl<R: RawMutex> Default for Coalesced<R> {
    fn default() -> Self {
        Self { zones: Mutex::new(Vec::new()), is_used: AtomicBool::new(false) }
    }
}

impl<R: RawMutex> Coalesced<R> {
    /// Has writes to this range wait. Process context.
    ///
    /// # Errors
    /// `ENOSPC` if there are too many, `ENOMEM`.
    pub fn add(&self, zone: Zone) -> Result<(), Errno> {
        let ports = zone.ports;
        let has_room = |zones: &[Zone]| {
            let others = zones.iter().filter(|other| other.ports == ports).count();
            if others < MAX { Ok(()) } else { Err(Errno::ENOSPC) }
        };
        locked_list::push(&self.zones, zone, has_room).map_err(|(errno, _)| errno)?;
        // Last: if another thread has removed it meanwhile, there is only a look for nothing.
        self.is_used.store(true, Ordering::Release);
        Ok(())
    }

    /// Has writes not wait any more by the ranges that this one lies in: not after this has returned. Process context.
    pub fn remove(&self, zone: &Zone) {
        let mut zones = self.zones.lock();
        zones.retain(|other| !other.holds(zone));
        self.is_used.store(!zones.is_empty(), Ordering::Release);
    }

    /// If a write of these addresses may wait, has `put` put it into the ring, with the ring's lock held. Gives whether it waits there.
    #[inline]
    pub fn keep(&self, write: &Zone, put: impl FnOnce() -> bool) -> bool {
        self.is_used.load(Ordering::Acquire) && self.keep_locked(write, put)
    }

    #[inline(never)]
    fn keep_locked(&self, write: &Zone, put: impl FnOnce() -> bool) -> bool {
        let zones = self.zones.lock();
        zones.iter().any(|zone| zone.holds(write)) && put()
    }
}
