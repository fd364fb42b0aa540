//! The time stamp counters of a machine's vCPUs, as the VMM sets them: [`TscOffset`].
//!
//! A guest expects that all its processors count the same. A VMM can only set one after the other, with time between them; so
//! a value that is about what the others count means: the same as the others. Neighbours: [`crate::machine`] has it,
//! [`crate::vcpu`] uses it.
//!
//! See: Linux, Documentation/virt/kvm/devices/vcpu.rst, 4.1; arch/x86/kvm/x86.c, `kvm_synchronize_tsc`.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is added to the host's time stamp counter to make the guest's, of the vCPU that was set last.
#[derive(Debug)]
pub struct TscOffset {
    offset: AtomicU64,
    set: AtomicBool,
}

impl TscOffset {
    /// A counter that begins with 0 when the host's is `tsc`.
    #[must_use]
    pub const fn starting_at(tsc: u64) -> Self {
        Self { offset: AtomicU64::new(tsc.wrapping_neg()), set: AtomicBool::new(false) }
    }

    /// The offset.
    pub fn get(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// The offset of a vCPU whose counter the VMM sets to `value` when the host's, which counts `khz`, is `tsc`.
    ///
    /// It is the last one, so that the counters are the same, if the value is within a second of what that makes; and for a
    /// value of 0, with which a vCPU that is made later begins. Before any was set only 0 means that.
    pub fn synchronise(&self, value: u64, tsc: u64, khz: u32) -> u64 {
        let last = self.get();
        let ahead = value.wrapping_sub(tsc.wrapping_add(last)) as i64;
        let second = u64::from(khz) * 1000;
        let close = self.set.swap(true, Ordering::Relaxed) && ahead.unsigned_abs() < second;
        if value == 0 || close {
            return last;
        }
        let offset = value.wrapping_sub(tsc);
        self.offset.store(offset, Ordering::Relaxed);
        offset
    }
}
