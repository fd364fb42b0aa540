//! Which model-specific registers the guest may use, and whose accesses the VMM wants to see: [`MsrPolicy`].
//!
//! A VMM may have a filter ([`MsrFilter`]): an access that it denies is no access to the register. What becomes of that, and of an access
//! to what is no register, is hidden, or cannot hold the value, is a general protection fault, or an exit if the VMM has asked for it.
//! Neighbours: [`crate::machine`] has it, `vcpu::msr` asks it. The VMM itself may get and set all registers.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.97 (`KVM_X86_SET_MSR_FILTER`), 7.21 (`KVM_CAP_X86_USER_SPACE_MSR`),
//! 7.15 (`KVM_CAP_MSR_PLATFORM_INFO`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::{Mutex, RawMutex};

use crate::msr::index;

/// Why an access was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrReason {
    /// The register cannot hold the value.
    Invalid,
    /// There is no such register.
    Unknown,
    /// The filter denies it.
    Filtered,
}

impl MsrReason {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Registers that follow each other, for which a filter has a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRange {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// It is about reads.
    pub reads: bool,
    /// It is about writes.
    pub writes: bool,
    /// A bit each, from bit 0 of the first byte on: may be accessed. One that is not there is 0.
    pub allowed: Vec<u8>,
}

impl FilterRange {
    /// Whether an access is allowed, if this range says.
    fn says(&self, number: u32, write: bool) -> Option<bool> {
        let at = number.checked_sub(self.first).filter(|at| *at < self.count)?;
        let about = if write { self.writes } else { self.reads };
        let byte = self.allowed.get(at as usize / 8).copied().unwrap_or(0);
        about.then_some(byte >> (at % 8) & 1 != 0)
    }
}

/// Which accesses of the guest's are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsrFilter {
    /// What no range is about is denied.
    pub denies: bool,
    /// The first that is about an access says.
    pub ranges: Vec<FilterRange>,
}

impl MsrFilter {
    /// Whether an access is made. The local APIC's registers are not filtered.
    fn allows(&self, number: u32, write: bool) -> bool {
        if matches!(number, index::X2APIC_FIRST..=index::X2APIC_LAST) {
            return true;
        }
        self.ranges.iter().find_map(|range| range.says(number, write)).unwrap_or(!self.denies)
    }
}

/// What a VMM has asked for. All of it may be called in any context, but for what changes it.
pub struct MsrPolicy<R> {
    /// The reasons for which the VMM wants to see an access, a bit each.
    exits: AtomicU32,
    hides_platform_info: AtomicBool,
    is_filtered: AtomicBool,
    filter: Mutex<R, Option<Arc<MsrFilter>>>,
}

impl<R: RawMutex> Default for MsrPolicy<R> {
    fn default() -> Self {
        Self {
            exits: AtomicU32::new(0),
            hides_platform_info: AtomicBool::new(false),
            is_filtered: AtomicBool::new(false),
            filter: Mutex::new(None),
        }
    }
}

impl<R: RawMutex> MsrPolicy<R> {
    /// Has accesses be exits for these reasons, and no others.
    pub fn set_exits(&self, reasons: impl Iterator<Item = MsrReason>) {
        let bits = reasons.fold(0, |bits, reason| bits | reason.bit());
        self.exits.store(bits, Ordering::Relaxed);
    }

    /// Whether the VMM wants to see an access that was not made for this reason.
    pub fn wants(&self, reason: MsrReason) -> bool {
        self.exits.load(Ordering::Relaxed) & reason.bit() != 0
    }

    /// Has the guest's reads of PLATFORM_INFO be made, or not.
    pub fn show_platform_info(&self, on: bool) {
        self.hides_platform_info.store(!on, Ordering::Relaxed);
    }

    /// Whether the guest's read is not made of what is a register otherwise.
    pub fn hides(&self, number: u32) -> bool {
        number == index::PLATFORM_INFO && self.hides_platform_info.load(Ordering::Relaxed)
    }

    /// Filters accesses from now on. Process context.
    pub fn set_filter(&self, filter: Arc<MsrFilter>) {
        let old = self.filter.lock().replace(filter);
        self.is_filtered.store(true, Ordering::Release);
        // Without the lock.
        drop(old);
    }

    /// Whether the guest's access is made.
    #[inline]
    pub fn allows(&self, number: u32, write: bool) -> bool {
        !self.is_filtered.load(Ordering::Acquire) || self.filter_allows(number, write)
    }

    #[inline(never)]
    fn filter_allows(&self, number: u32, write: bool) -> bool {
        let filter = self.filter.lock().clone();
        filter.is_none_or(|filter| filter.allows(number, write))
    }
}
