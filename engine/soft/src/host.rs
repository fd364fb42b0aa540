//! What the host's processor does that has no safe name.

/// The host's time stamp counter.
#[inline]
pub fn time_stamp_counter() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC; Linux lets user space execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
