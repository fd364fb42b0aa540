//! [`Quirks`]: where Linux's KVM does otherwise than a processor, for guests that have come to count on it, unless the VMM
//! has it not do so.
//!
//! Of Linux's quirks these are here; the others it has are for what is not here (a fast way out of ports, memory types), or what is as a
//! processor has it in either case. See: Linux, Documentation/virt/kvm/api.rst, 7.31 (`KVM_CAP_DISABLE_QUIRKS2`).

use core::sync::atomic::{AtomicU64, Ordering};

/// IA32_MISC_ENABLE does not decide whether CPUID offers MONITOR.
pub const MISC_ENABLE_NO_MWAIT: u64 = 1 << 4;
/// The hypercall of another maker's processors is replaced by that of the guest's own.
pub const FIX_HYPERCALL: u64 = 1 << 5;
/// MONITOR and MWAIT do nothing where CPUID does not offer them, instead of faulting.
pub const MWAIT_NEVER_FAULTS: u64 = 1 << 6;

/// The quirks of a machine.
#[derive(Debug)]
pub struct Quirks(AtomicU64);

impl Quirks {
    /// All that there are.
    pub const ALL: u64 = MISC_ENABLE_NO_MWAIT | FIX_HYPERCALL | MWAIT_NEVER_FAULTS;

    /// A machine with all of them.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(Self::ALL))
    }

    /// Has the machine have none of these, and all others; vCPUs see it when they are run next.
    pub fn disable(&self, quirks: u64) {
        self.0.store(Self::ALL & !quirks, Ordering::Relaxed);
    }

    /// Those that the machine has.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether it has this one.
    pub fn has(&self, quirk: u64) -> bool {
        self.get() & quirk != 0
    }
}

impl Default for Quirks {
    fn default() -> Self {
        Self::new()
    }
}
