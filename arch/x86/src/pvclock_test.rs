//! Test bodies of [`crate::pvclock`].

use selftest::{cases, check, check_eq};

use crate::pvclock::{TimeInfo, scale, wall_clock};

/// What a guest computes. See: Linux, pvclock_scale_delta.
fn nanoseconds(ticks: u64, (shift, multiplier): (i8, u32)) -> u64 {
    let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
    ((u128::from(shifted) * u128::from(multiplier)) >> 32) as u64
}

cases! {
    fn a_second_of_ticks_is_a_second_at_any_frequency() {
        for khz in [1, 1000, 999_999, 1_000_000, 2_596_120, 4_000_000, 4_294_967_295_u32] {
            let second = nanoseconds(u64::from(khz) * 1000, scale(khz));
            let error = second.abs_diff(1_000_000_000);
            check!(error < 10, "{khz} kHz: off by {error} ns");
        }
        // A frequency of nothing is a caller's mistake that does no harm.
        check_eq!(scale(0), scale(1));
    }

    fn the_guest_finds_the_fields_where_linux_has_them() {
        let info = TimeInfo {
            version: 2,
            tsc_timestamp: 0x1122_3344_5566_7788,
            system_time: 5,
            tsc_to_system_mul: 0x8000_0000,
            tsc_shift: -1,
            flags: TimeInfo::STABLE,
        };
        let bytes = info.to_bytes();
        check_eq!(bytes[0..4], [2, 0, 0, 0]);
        check_eq!(bytes[8..16], 0x1122_3344_5566_7788_u64.to_le_bytes());
        check_eq!(bytes[16], 5);
        check_eq!(bytes[24..30], [0, 0, 0, 0x80, 0xff, 1]);
        let clock = wall_clock(4, 1_700_000_000_000_000_007);
        check_eq!(clock[0], 4);
        check_eq!(clock[4..8], 1_700_000_000_u32.to_le_bytes());
        check_eq!(clock[8], 7);
    }
}
