//! Tests of [`super::lapic_timer`].

use super::lapic_timer::{Deadline, MIN_PERIOD, Mode, Timer};

use selftest::{cases, check, check_eq};

/// The divide configuration for 1.
const BY_1: u32 = 0b1011;

fn timer(mode: Mode, divide: u32) -> Timer {
    let mut timer = Timer::default();
    timer.set_mode(mode);
    timer.set_divide(divide, 0);
    timer
}

cases! {
    fn every_divider() {
        for (code, divisor) in [
            (0b0000, 2), (0b0001, 4), (0b0010, 8), (0b0011, 16),
            (0b1000, 32), (0b1001, 64), (0b1010, 128), (0b1011, 1),
        ] {
            let mut timer = timer(Mode::OneShot, code);
            timer.set_initial_count(1000, 50);
            check_eq!(timer.deadline(), Deadline::At(50 + 1000 * divisor), "code {code:#b}");
            check_eq!(timer.current_count(50 + 10 * divisor), 990);
            check_eq!(timer.divide(), code);
        }
    }

    fn one_shot_expires_once() {
        let mut timer = timer(Mode::OneShot, BY_1);
        timer.set_initial_count(100, 1000);
        check_eq!(timer.current_count(1000), 100);
        check_eq!(timer.current_count(1099), 1);
        check_eq!(timer.current_count(1100), 0);
        check!(!timer.expired(1099, u64::MAX));
        check!(timer.expired(1100, 0));
        check!(!timer.expired(5000, 0));
        check_eq!(timer.deadline(), Deadline::None);
        check_eq!(timer.current_count(5000), 0);
        check_eq!(timer.initial_count(), 100);
    }

    fn a_count_of_0_stops() {
        let mut timer = timer(Mode::Periodic, BY_1);
        timer.set_initial_count(100, 0);
        timer.set_initial_count(0, 10);
        check_eq!(timer.deadline(), Deadline::None);
        check_eq!(timer.current_count(10), 0);
        check!(!timer.expired(u64::MAX, 0));
    }

    fn periodic_does_not_drift() {
        let mut timer = timer(Mode::Periodic, BY_1);
        timer.set_initial_count(1_000_000, 7);
        for n in 1..=1000_u64 {
            let due = 7 + n * 1_000_000;
            check_eq!(timer.deadline(), Deadline::At(due));
            check!(!timer.expired(due - 1, 0));
            check!(timer.expired(due + n % 9 * 100, 0));
        }
        // Missed periods expire once.
        check!(timer.expired(7 + 1_500_500_000, 0));
        check_eq!(timer.deadline(), Deadline::At(7 + 1_501_000_000));
        check_eq!(timer.current_count(7 + 1_500_600_000), 400_000);
        // Before it is noticed that a period has ended, too.
        check_eq!(timer.current_count(7 + 1_501_600_000), 400_000);
    }

    fn fast_periods_are_reported_rarely() {
        let mut timer = timer(Mode::Periodic, BY_1);
        timer.set_initial_count(10, 0);
        check_eq!(timer.deadline(), Deadline::At(MIN_PERIOD));
        check_eq!(timer.current_count(4), 6);
        check!(!timer.expired(10, 0));
        check!(timer.expired(MIN_PERIOD + 3, 0));
        check_eq!(timer.current_count(MIN_PERIOD + 3), 7);
        check_eq!(timer.deadline(), Deadline::At(2 * MIN_PERIOD));
    }

    fn a_new_divider_keeps_the_count() {
        let mut timer = timer(Mode::OneShot, BY_1);
        timer.set_initial_count(1000, 0);
        timer.set_divide(0b0000, 400);
        check_eq!(timer.current_count(400), 600);
        check_eq!(timer.deadline(), Deadline::At(400 + 1200));
    }

    fn tsc_deadline() {
        let mut timer = timer(Mode::TscDeadline, 0);
        timer.set_initial_count(5, 0);
        check_eq!(timer.initial_count(), 0);
        check_eq!(timer.deadline(), Deadline::None);
        timer.set_tsc_deadline(1000);
        check_eq!(timer.deadline(), Deadline::Tsc(1000));
        check!(!timer.expired(u64::MAX, 999));
        check_eq!(timer.tsc_deadline(), 1000);
        check!(timer.expired(0, 1000));
        check_eq!(timer.tsc_deadline(), 0);
        check!(!timer.expired(0, u64::MAX));
        timer.set_tsc_deadline(5);
        timer.set_tsc_deadline(0);
        check_eq!(timer.deadline(), Deadline::None);
    }

    fn changing_to_and_from_tsc_deadline_disarms() {
        let mut timer = timer(Mode::OneShot, BY_1);
        timer.set_tsc_deadline(1000);
        check_eq!(timer.tsc_deadline(), 0);
        timer.set_initial_count(100, 0);
        timer.set_mode(Mode::Periodic);
        check_eq!(timer.current_count(10), 90);
        timer.set_mode(Mode::TscDeadline);
        check_eq!((timer.initial_count(), timer.deadline()), (0, Deadline::None));
        timer.set_tsc_deadline(1000);
        timer.set_mode(Mode::OneShot);
        check_eq!((timer.tsc_deadline(), timer.deadline()), (0, Deadline::None));
    }

    fn the_end_of_time_does_no_harm() {
        let mut timer = timer(Mode::Periodic, 0b1010);
        timer.set_initial_count(u32::MAX, u64::MAX - 5);
        check_eq!(timer.deadline(), Deadline::At(u64::MAX));
        check!(timer.expired(u64::MAX, 0));
        let _ = timer.current_count(0);
    }
}
