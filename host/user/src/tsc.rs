//! The processor's time stamp counter and its frequency.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Reads the counter.
pub fn read() -> u64 {
    // SAFETY: RDTSC is unprivileged unless the process asked the kernel to forbid it, and reads
    // nothing but a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter's frequency in kHz, measured once against the monotonic clock.
pub fn frequency_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| {
        /// A machine's start waits for it. A moment is told to 10 ns, so the error is three parts in a million; the clocks of hosts are
        /// corrected by more.
        const SAMPLE: Duration = Duration::from_millis(3);
        let (time, ticks) = sample();
        std::thread::sleep(SAMPLE);
        let (later, more) = sample();
        let nanoseconds = later.duration_since(time).as_nanos().max(1);
        let khz = u128::from(more.wrapping_sub(ticks)) * 1_000_000 / nanoseconds;
        u32::try_from(khz).unwrap_or(u32::MAX).max(1)
    })
}

/// A moment on both clocks: the tightest of some tries, so that being scheduled away
/// between the two readings does no harm.
fn sample() -> (Instant, u64) {
    const TRIES: usize = 8;
    let mut best = (Instant::now(), read(), u64::MAX);
    for _ in 0..TRIES {
        let before = read();
        let time = Instant::now();
        let width = read().wrapping_sub(before);
        if width < best.2 {
            best = (time, before.wrapping_add(width / 2), width);
        }
    }
    (best.0, best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_agrees_with_the_clock() {
        let khz = u128::from(frequency_khz());
        let (time, ticks) = sample();
        while time.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let (later, more) = sample();
        let expected = later.duration_since(time).as_nanos() * khz / 1_000_000;
        let counted = u128::from(more - ticks);
        assert!(counted.abs_diff(expected) * 1000 < expected, "{counted} ticks, not {expected}");
    }
}
