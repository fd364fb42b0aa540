//! [`Presence`]: which vCPUs of a machine are in guest code, and on which processors.
//!
//! A vCPU says so before it looks for the last time whether it is to come out; who wants it to changes what it looks at, and looks here then:
//! one of the two sees the other. Both sides are sequentially consistent.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use arch_x86::machine::MAX_CPUS;
use virt::Errno;

/// Where vCPUs are: each one's processor and 1, or 0 outside of guest code.
pub struct Presence {
    inside: Box<[AtomicU32]>,
    /// One more than the highest number of a vCPU.
    count: AtomicU32,
}

impl Presence {
    /// Nobody is inside. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let mut inside = Vec::new();
        inside.try_reserve_exact(MAX_CPUS as usize).map_err(|_| Errno::ENOMEM)?;
        inside.resize_with(MAX_CPUS as usize, AtomicU32::default);
        Ok(Self { inside: inside.into_boxed_slice(), count: AtomicU32::new(0) })
    }

    /// There is a vCPU of this number.
    ///
    /// # Errors
    /// `EINVAL` for a number that none can have.
    pub fn add(&self, id: u32) -> Result<(), Errno> {
        if id as usize >= self.inside.len() {
            return Err(Errno::EINVAL);
        }
        self.count.fetch_max(id + 1, Ordering::SeqCst);
        Ok(())
    }

    /// A vCPU is in guest code from now on. With interrupts off.
    pub fn enter(&self, id: u32, processor: u32) {
        if let Some(inside) = self.inside.get(id as usize) {
            inside.store(processor + 1, Ordering::SeqCst);
        }
    }

    /// It has left guest code.
    pub fn leave(&self, id: u32) {
        if let Some(inside) = self.inside.get(id as usize) {
            inside.store(0, Ordering::Release);
        }
    }

    /// The processor on which a vCPU is in guest code.
    pub fn processor(&self, id: u32) -> Option<u32> {
        fence(Ordering::SeqCst);
        self.inside.get(id as usize)?.load(Ordering::SeqCst).checked_sub(1)
    }

    /// All processors on which a vCPU is in guest code.
    pub fn processors(&self) -> impl Iterator<Item = u32> {
        let count = self.count.load(Ordering::SeqCst);
        (0..count).filter_map(|id| self.processor(id))
    }
}
