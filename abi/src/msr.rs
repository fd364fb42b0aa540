//! Model-specific registers. Neighbours: [`crate::cpuid`].
//!
//! See: api.rst 4.3 (`KVM_GET_MSR_INDEX_LIST`), 4.18 (`KVM_GET_MSRS`).

/// What precedes the entries: `struct kvm_msrs` without them.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrsHeader {
    /// How many entries follow.
    pub nmsrs: u32,
    /// Zero.
    pub pad: u32,
}

/// A register and its value: `struct kvm_msr_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrEntry {
    /// Which.
    pub index: u32,
    /// Zero.
    pub reserved: u32,
    /// Its value.
    pub data: u64,
}

/// What precedes the indices: `struct kvm_msr_list` without them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrListHeader {
    /// In: room for this many; out: this many there are.
    pub nmsrs: u32,
}

/// In `KVM_CAP_X86_USER_SPACE_MSR`, and in [`crate::run::Msr::reason`]: the register cannot hold the value.
pub const EXIT_REASON_INVAL: u32 = 1 << 0;
/// Likewise: there is no such register.
pub const EXIT_REASON_UNKNOWN: u32 = 1 << 1;
/// Likewise: the filter denies it.
pub const EXIT_REASON_FILTER: u32 = 1 << 2;

/// Ranges that fit in a [`MsrFilter`].
pub const MSR_FILTER_MAX_RANGES: usize = 16;
/// In [`MsrFilterRange::flags`]: about reads.
pub const MSR_FILTER_READ: u32 = 1 << 0;
/// In [`MsrFilterRange::flags`]: about writes.
pub const MSR_FILTER_WRITE: u32 = 1 << 1;
/// In [`MsrFilter::flags`]: what is in no range is denied.
pub const MSR_FILTER_DEFAULT_DENY: u32 = 1 << 0;

/// A range of registers with a bit each: `struct kvm_msr_filter_range`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrFilterRange {
    /// `MSR_FILTER_READ`, `MSR_FILTER_WRITE`.
    pub flags: u32,
    /// How many registers.
    pub nmsrs: u32,
    /// The first.
    pub base: u32,
    /// Address of the bits in the caller's memory: 1 allows.
    pub bitmap: u64,
}

/// Which registers the guest may use without asking: `struct kvm_msr_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrFilter {
    /// [`MSR_FILTER_DEFAULT_DENY`].
    pub flags: u32,
    /// The ranges; one of no registers is unused.
    pub ranges: [MsrFilterRange; MSR_FILTER_MAX_RANGES],
}
