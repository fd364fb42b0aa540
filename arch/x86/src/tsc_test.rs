//! Test bodies of [`crate::tsc`].

use selftest::{cases, check_eq};

use crate::tsc::TscOffset;

const KHZ: u32 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

cases! {
    fn counters_that_are_set_one_after_the_other_are_the_same() {
        let tsc = TscOffset::starting_at(500);
        check_eq!(tsc.get(), 0_u64.wrapping_sub(500));
        // Saved at 70 s; a millisecond goes by between two.
        let first = tsc.synchronise(70 * SECOND, 1000, KHZ);
        check_eq!(first, 70 * SECOND - 1000);
        check_eq!(tsc.synchronise(70 * SECOND, 1_001_000, KHZ), first);
        check_eq!(tsc.synchronise(70 * SECOND + SECOND / 2, 2_001_000, KHZ), first);
        check_eq!(tsc.get(), first);
    }

    fn zero_is_what_the_others_count() {
        let tsc = TscOffset::starting_at(500);
        check_eq!(tsc.synchronise(0, 10 * SECOND, KHZ), 0_u64.wrapping_sub(500));
        let other = tsc.synchronise(99 * SECOND, 10 * SECOND, KHZ);
        check_eq!(other, 89 * SECOND);
        check_eq!(tsc.synchronise(0, 20 * SECOND, KHZ), other);
    }

    fn the_first_value_is_taken_as_it_is() {
        let tsc = TscOffset::starting_at(0);
        check_eq!(tsc.synchronise(SECOND / 2, 100, KHZ), SECOND / 2 - 100);
    }

    fn a_value_that_is_far_away_is_a_new_one() {
        let tsc = TscOffset::starting_at(0);
        let first = tsc.synchronise(70 * SECOND, 0, KHZ);
        check_eq!(tsc.synchronise(71 * SECOND, 0, KHZ), first + SECOND);
        check_eq!(tsc.synchronise(u64::MAX, 0, KHZ), u64::MAX);
        check_eq!(tsc.synchronise(1, u64::MAX, u32::MAX), u64::MAX);
    }
}
