//! kvmclock. Neighbours: [`crate::ioctl`].
//!
//! See: api.rst 4.29 (`KVM_GET_CLOCK`).

/// The guest's clock: `struct kvm_clock_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockData {
    /// Nanoseconds of the guest's clock.
    pub clock: u64,
    /// `CLOCK_…`.
    pub flags: u32,
    /// Zero.
    pub pad0: u32,
    /// The host's wall clock at that moment, in nanoseconds.
    pub realtime: u64,
    /// The host's TSC at that moment.
    pub host_tsc: u64,
    /// Zero.
    pub pad: [u32; 4],
}

/// All vCPUs see the same value.
pub const CLOCK_TSC_STABLE: u32 = 1 << 1;
/// [`ClockData::realtime`] counts.
pub const CLOCK_REALTIME: u32 = 1 << 2;
/// [`ClockData::host_tsc`] counts.
pub const CLOCK_HOST_TSC: u32 = 1 << 3;
