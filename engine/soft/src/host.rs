//! What the host's processor does that has no safe name.

use std::arch::x86_64::{_rdrand64_step, _rdseed64_step};

/// The host's time stamp counter.
#[inline]
pub fn time_stamp_counter() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; Linux lets user space execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Executes a serialising instruction.
pub fn serialize() {
    let _ = std::hint::black_box(core::arch::x86_64::__cpuid(0));
}

/// A number of RDRAND, or with `seed` of RDSEED; `None` if the host's processor has none just now,
/// or not the instruction.
pub fn random(seed: bool) -> Option<u64> {
    let mut number = 0;
    let there = if seed && is_x86_feature_detected!("rdseed") {
        // SAFETY: the processor has it.
        unsafe { _rdseed64_step(&mut number) }
    } else if !seed && is_x86_feature_detected!("rdrand") {
        // SAFETY: the processor has it.
        unsafe { _rdrand64_step(&mut number) }
    } else {
        0
    };
    (there != 0).then_some(number)
}
