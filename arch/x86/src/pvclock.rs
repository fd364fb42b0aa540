//! KVM's paravirtual clock: what the guest finds in its own memory.
//!
//! The guest names a place by an MSR; the hypervisor writes there how to make nanoseconds
//! of a time stamp. As the TSC is invariant and the same on all vCPUs, that is written
//! once, not at each entry.
//!
//! See: Linux, Documentation/virt/kvm/x86/msr.rst, arch/x86/include/asm/pvclock-abi.h.

use core::sync::atomic::{AtomicU64, Ordering};

/// The clock of a machine: nanoseconds since it was made, or from where a VMM has set it.
#[derive(Debug)]
pub struct MachineClock {
    /// The host's time at which it was 0, modulo 2^64.
    zero: AtomicU64,
}

impl MachineClock {
    /// A clock that begins with 0 when the host's time is `now`.
    #[must_use]
    pub const fn starting_at(now: u64) -> Self {
        Self { zero: AtomicU64::new(now) }
    }

    /// What it shows when the host's time is `now`.
    pub fn at(&self, now: u64) -> u64 {
        now.wrapping_sub(self.zero.load(Ordering::Relaxed))
    }

    /// Has it show `value` when the host's time is `now`. The vCPUs' copies have to be made anew.
    pub fn set(&self, value: u64, now: u64) {
        self.zero.store(now.wrapping_sub(value), Ordering::Relaxed);
    }
}

/// The time of one vCPU, as the guest reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// Even when the rest may be read; it grows with each change.
    pub version: u32,
    /// The time stamp at which `system_time` was right.
    pub tsc_timestamp: u64,
    /// What the machine's clock showed then.
    pub system_time: u64,
    /// Multiplier from (shifted) ticks to nanoseconds, over 2^32.
    pub tsc_to_system_mul: u32,
    /// How far to shift the ticks left, or right if negative.
    pub tsc_shift: i8,
    /// Bit 0: time never goes back between vCPUs.
    pub flags: u8,
}

impl TimeInfo {
    /// Size in the guest's memory.
    pub const SIZE: usize = 32;
    /// The flag for a TSC that is the same on all vCPUs.
    pub const STABLE: u8 = 1 << 0;
    /// The flag for a guest that was paused; the guest clears it.
    pub const GUEST_STOPPED: u8 = 1 << 1;

    /// As the guest sees it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.tsc_timestamp.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.system_time.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.tsc_to_system_mul.to_le_bytes());
        bytes[28] = self.tsc_shift as u8;
        bytes[29] = self.flags;
        bytes
    }
}

/// The shift and multiplier that turn ticks of `khz` into nanoseconds:
/// `(ticks << shift) * multiplier >> 32`.
#[must_use]
pub fn scale(khz: u32) -> (i8, u32) {
    let mut shift = 0;
    let mut hz = u64::from(khz.max(1)) * 1000;
    // The multiplier is below 1 (2^32), and as large as can be.
    while hz > 2_000_000_000 {
        hz >>= 1;
        shift -= 1;
    }
    while hz <= 1_000_000_000 {
        hz <<= 1;
        shift += 1;
    }
    (shift, ((1_000_000_000_u64 << 32) / hz) as u32)
}

/// The wall-clock time at which the machine was made, as the guest reads it.
#[must_use]
pub fn wall_clock(version: u32, nanoseconds: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    let seconds = (nanoseconds / 1_000_000_000) as u32;
    let rest = (nanoseconds % 1_000_000_000) as u32;
    bytes[0..4].copy_from_slice(&version.to_le_bytes());
    bytes[4..8].copy_from_slice(&seconds.to_le_bytes());
    bytes[8..12].copy_from_slice(&rest.to_le_bytes());
    bytes
}
