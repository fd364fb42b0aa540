//! The clocks: the kernel's monotonic one, which its timers go by as well, its wall clock, and the time stamp counter.

// SAFETY: these are the glue's functions (glue/time.c), which take nothing and may be called anywhere.
unsafe extern "C" {
    /// Monotonic time in nanoseconds.
    safe fn unibody_now() -> u64;
    /// Nanoseconds since 1970, UTC.
    safe fn unibody_wall_clock() -> u64;
    /// The time stamp counter, not read ahead of time.
    safe fn unibody_tsc() -> u64;
    /// Its frequency in kHz, as the kernel has measured it.
    safe fn unibody_tsc_khz() -> u32;
}

/// Monotonic time in nanoseconds.
pub fn now() -> u64 {
    unibody_now()
}

/// Nanoseconds since 1970, UTC.
pub fn wall_clock() -> u64 {
    unibody_wall_clock()
}

/// The time stamp counter of the processor that this runs on.
pub fn tsc() -> u64 {
    unibody_tsc()
}

/// Its frequency in kHz.
pub fn tsc_khz() -> u32 {
    unibody_tsc_khz()
}
