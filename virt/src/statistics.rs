//! What can be counted of a machine and of its vCPUs: [`Counter`], [`Statistics`].
//!
//! An architecture has counters, and says what they are; [`crate::ioctl::StatisticsFile`] shows them as KVM's binary statistics. To count
//! is on the way of every exit, so a counter has one writer, and costs no locked access.

use core::sync::atomic::{AtomicU64, Ordering};

/// A number that one writer at a time changes, and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. By its writer. Any context.
    #[inline]
    pub fn count(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// Sets it. By its writer. Any context.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Its value. Any context.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a statistic tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// How often something has happened.
    Count,
    /// Whether something is so now: 0 or 1.
    State,
}

/// One statistic. Names are Linux's where it has the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, shorter than [`abi::stats::NAME_SIZE`].
    pub name: &'static str,
    /// What it tells.
    pub kind: Kind,
}

/// Statistics of a machine or a vCPU. Any context.
pub trait Statistics: Send + Sync + 'static {
    /// What there are.
    fn descriptions(&self) -> &'static [Description];

    /// The value of the one that is described at this place.
    fn value(&self, at: usize) -> u64;
}
