//! Tests of [`super::i8254`] and [`super::i8254_counter`].

use super::i8254::{FREQUENCY_HZ, MIN_PERIOD, Pit, nanoseconds, port, ticks};
use super::i8254_counter::Run;

use selftest::{Outcome, cases, check, check_eq};

/// Control words: the counter in bits 6–7, both bytes.
const fn control(counter: u8, mode: u8) -> u8 {
    counter << 6 | 0x30 | mode << 1
}

const READ_BACK: u8 = 0xc0;
const NO_COUNT: u8 = 0x20;
const NO_STATUS: u8 = 0x10;

const NULL_COUNT: u8 = 0x40;
const OUT: u8 = 0x80;

/// Some time that is not 0.
const START: u64 = 1_000_000;

/// A time at which `tick` ticks have passed since [`START`].
fn at(tick: u64) -> u64 {
    nanoseconds(START + tick)
}

fn program(pit: &mut Pit, counter: u8, mode: u8, count: u16, now: u64) {
    pit.write_port(port::CONTROL, control(counter, mode), now);
    for byte in count.to_le_bytes() {
        pit.write_port(port::COUNTER_0 + u16::from(counter), byte, now);
    }
}

fn count(pit: &mut Pit, counter: u8, now: u64) -> u16 {
    let port = port::COUNTER_0 + u16::from(counter);
    pit.write_port(port::CONTROL, counter << 6, now);
    let low = pit.read_port(port, now);
    u16::from_le_bytes([low, pit.read_port(port, now)])
}

fn status(pit: &mut Pit, counter: u8, now: u64) -> u8 {
    pit.write_port(port::CONTROL, READ_BACK | NO_COUNT | 2 << counter, now);
    pit.read_port(port::COUNTER_0 + u16::from(counter), now)
}

/// Checks channel 0's output, from the tick after the count was written, against 1s and 0s.
fn output_is(pit: &Pit, from: u64, wave: &str) -> Outcome {
    for (tick, level) in wave.bytes().enumerate() {
        let tick = from + tick as u64;
        check_eq!(pit.output(at(tick)), level == b'1', "at tick {tick}");
    }
    Ok(())
}

cases! {
    fn ticks_and_nanoseconds_are_inverse() {
        for tick in [0, 1, 2, 11_931, FREQUENCY_HZ, FREQUENCY_HZ * 86_400 * 365 * 20 + 7] {
            let now = nanoseconds(tick);
            check_eq!(ticks(now), tick);
            check!(now == 0 || ticks(now - 1) < tick);
        }
        check_eq!(nanoseconds(FREQUENCY_HZ * 3600), 3_600_000_000_000);
        let _ = (ticks(u64::MAX), nanoseconds(u64::MAX));
    }

    fn nothing_counts_after_reset() {
        let mut pit = Pit::new();
        check_eq!(pit.deadline(), None);
        check_eq!(pit.advance(at(1_000_000)), 0);
        check!(pit.output(at(5)));
    }

    fn mode_0_interrupts_once() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 4, at(0));
        output_is(&pit, 0, "0000011111")?;
        check_eq!(pit.deadline(), Some(at(5)));
        check_eq!(pit.advance(at(4)), 0);
        check_eq!(pit.advance(at(5)), 1);
        check_eq!(pit.advance(at(70_000)), 0);
        check_eq!(pit.deadline(), None);
        // It counts on.
        check_eq!(count(&mut pit, 0, at(1)), 4);
        check_eq!(count(&mut pit, 0, at(4)), 1);
        check_eq!(count(&mut pit, 0, at(5)), 0);
        check_eq!(count(&mut pit, 0, at(6)), 0xffff);
    }

    fn the_first_byte_stops_mode_0() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 100, at(0));
        pit.write_port(port::COUNTER_0, 4, at(50));
        check_eq!(pit.deadline(), None);
        check_eq!(pit.advance(at(1000)), 0);
        pit.write_port(port::COUNTER_0, 0, at(1000));
        check_eq!(pit.deadline(), Some(at(1005)));
    }

    fn mode_2_divides_the_frequency() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 4, at(0));
        output_is(&pit, 0, "1111011101110")?;
        let counts = [4, 4, 3, 2, 1, 4, 3];
        for (tick, expected) in counts.into_iter().enumerate() {
            check_eq!(count(&mut pit, 0, at(tick as u64)), expected, "at tick {tick}");
        }
        check_eq!(pit.advance(at(5)), 1);
        check_eq!(pit.advance(at(8)), 0);
        check_eq!(pit.advance(at(9)), 1);
        check_eq!(pit.advance(at(29)), 5);
    }

    fn a_rate_does_not_drift() {
        let mut pit = Pit::new();
        // 1000 Hz, nearly: what a guest asks for is what it gets on average, late as its host may be.
        program(&mut pit, 0, 2, 1193, at(0));
        let mut edges = 0;
        let mut now = at(0);
        for n in 0..10_000_u64 {
            let Some(deadline) = pit.deadline() else { return output_is(&pit, 0, "none") };
            check!(deadline > now);
            check_eq!(deadline, nanoseconds(START + 1 + (edges + 1) * 1193));
            now = deadline + n % 7 * 1000;
            edges += pit.advance(now);
        }
        check_eq!(edges, 10_000);
    }

    fn fast_rates_are_reported_rarely_but_exactly() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 2, at(0));
        check_eq!(pit.deadline(), Some(at(1 + MIN_PERIOD)));
        check_eq!(pit.advance(at(1 + MIN_PERIOD)), MIN_PERIOD / 2);
        check_eq!(pit.deadline(), Some(at(1 + 2 * MIN_PERIOD)));
    }

    fn mode_3_is_a_square_wave() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 3, 4, at(0));
        output_is(&pit, 1, "110011001100")?;
        program(&mut pit, 0, 3, 5, at(100));
        output_is(&pit, 101, "1110011100111")?;
        program(&mut pit, 0, 3, 6, at(200));
        for (tick, expected) in [6, 4, 2, 6, 4, 2, 6].into_iter().enumerate() {
            check_eq!(count(&mut pit, 0, at(201 + tick as u64)), expected, "at tick {tick}");
        }
        let _ = pit.advance(at(206));
        check_eq!(pit.advance(at(207)), 1);
        check_eq!(pit.advance(at(213)), 1);
    }

    fn a_new_rate_begins_with_the_next_period() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 100, at(0));
        check_eq!(pit.advance(at(150)), 1);
        for byte in 10_u16.to_le_bytes() {
            pit.write_port(port::COUNTER_0, byte, at(150));
        }
        check!(status(&mut pit, 0, at(150)) & NULL_COUNT != 0);
        check_eq!(pit.deadline(), Some(at(201)));
        check_eq!(count(&mut pit, 0, at(191)), 10);
        check_eq!(pit.advance(at(200)), 0);
        check_eq!(pit.advance(at(201)), 1);
        check!(status(&mut pit, 0, at(201)) & NULL_COUNT == 0);
        check_eq!(pit.advance(at(211)), 1);
        check_eq!(count(&mut pit, 0, at(212)), 9);
    }

    fn mode_4_strobes_once() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 4, 3, at(0));
        output_is(&pit, 0, "1111011111")?;
        check_eq!(pit.deadline(), Some(at(5)));
        check_eq!(pit.advance(at(4)), 0);
        check_eq!(pit.advance(at(5)), 1);
        check_eq!(pit.deadline(), None);
        // As a clock event device does it: another count, the same mode.
        for byte in 3_u16.to_le_bytes() {
            pit.write_port(port::COUNTER_0, byte, at(10));
        }
        check_eq!(pit.deadline(), Some(at(15)));
    }

    fn leaving_a_low_output_is_an_edge() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 0, 1000, at(0));
        pit.write_port(port::CONTROL, control(0, 2), at(10));
        check_eq!(pit.advance(at(10)), 1);
        pit.write_port(port::CONTROL, control(0, 2), at(11));
        check_eq!(pit.advance(at(11)), 0);
    }

    fn a_count_of_0_is_the_longest() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 0, at(0));
        check_eq!(pit.deadline(), Some(at(65_537)));
        check_eq!(count(&mut pit, 0, at(1)), 0);
        check_eq!(count(&mut pit, 0, at(2)), 0xffff);
        pit.write_port(port::CONTROL, control(0, 2) | 1, at(100));
        for _ in 0..2 {
            pit.write_port(port::COUNTER_0, 0, at(100));
        }
        check_eq!(pit.deadline(), Some(at(10_101)));
        check_eq!(count(&mut pit, 0, at(102)), 0x9999);
    }

    fn decimals_count() {
        let mut pit = Pit::new();
        pit.write_port(port::CONTROL, control(0, 0) | 1, at(0));
        pit.write_port(port::COUNTER_0, 0x00, at(0));
        pit.write_port(port::COUNTER_0, 0x12, at(0));
        check_eq!(count(&mut pit, 0, at(1)), 0x1200);
        check_eq!(count(&mut pit, 0, at(2)), 0x1199);
        check_eq!(pit.deadline(), Some(at(1201)));
        check_eq!(count(&mut pit, 0, at(1202)), 0x9999);
    }

    fn single_bytes_are_read_and_written() {
        let mut pit = Pit::new();
        pit.write_port(port::CONTROL, 0x14, at(0));
        pit.write_port(port::COUNTER_0, 0x34, at(0));
        check_eq!(pit.read_port(port::COUNTER_0, at(0)), 0x34);
        check_eq!(pit.read_port(port::COUNTER_0, at(2)), 0x33);
        pit.write_port(port::CONTROL, 0x24, at(10));
        pit.write_port(port::COUNTER_0, 0x12, at(10));
        check_eq!(pit.read_port(port::COUNTER_0, at(11)), 0x12);
        check_eq!(pit.read_port(port::COUNTER_0, at(12)), 0x11);
    }

    fn a_latched_count_stands_still() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 0x1234, at(0));
        pit.write_port(port::CONTROL, 0, at(1));
        // A second latch before the first was read does nothing.
        pit.write_port(port::CONTROL, 0, at(2));
        check_eq!(pit.read_port(port::COUNTER_0, at(0x100)), 0x34);
        check_eq!(pit.read_port(port::COUNTER_0, at(0x200)), 0x12);
        check_eq!(pit.read_port(port::COUNTER_0, at(1 + 0x34)), 0x00);
    }

    fn read_back_gives_the_status_then_the_count() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 0x1234, at(0));
        program(&mut pit, 1, 0, 0x5678, at(0));
        check_eq!(status(&mut pit, 0, at(0)), OUT | NULL_COUNT | control(0, 2));
        check_eq!(status(&mut pit, 0, at(1)), OUT | control(0, 2));
        check_eq!(status(&mut pit, 1, at(1)), control(0, 0));
        // Counters 0 and 1 at once; the status comes first.
        pit.write_port(port::CONTROL, READ_BACK | 2 | 4, at(1));
        check_eq!(pit.read_port(port::COUNTER_0, at(9)), OUT | control(0, 2));
        check_eq!(pit.read_port(port::COUNTER_0, at(9)), 0x34);
        check_eq!(pit.read_port(port::COUNTER_0, at(9)), 0x12);
        check_eq!(pit.read_port(port::COUNTER_1, at(9)), control(0, 0));
        check_eq!(pit.read_port(port::COUNTER_1, at(9)), 0x78);
        check_eq!(pit.read_port(port::COUNTER_1, at(9)), 0x56);
        // The count alone.
        pit.write_port(port::CONTROL, READ_BACK | NO_STATUS | 2, at(2));
        check_eq!(pit.read_port(port::COUNTER_0, at(9)), 0x33);
    }

    fn the_gate_of_channel_2_holds_mode_0() {
        let mut pit = Pit::new();
        check_eq!(pit.read_port(port::SYSTEM_B, at(0)) & 0x23, 0x20);
        // As Linux measures the TSC: gate on, speaker off, mode 0, wait for the output.
        pit.write_port(port::SYSTEM_B, 0x01, at(0));
        program(&mut pit, 2, 0, 1000, at(0));
        check_eq!(pit.read_port(port::SYSTEM_B, at(1000)) & 0x23, 0x01);
        check_eq!(pit.read_port(port::SYSTEM_B, at(1001)) & 0x23, 0x21);
        program(&mut pit, 2, 0, 1000, at(2000));
        pit.write_port(port::SYSTEM_B, 0x02, at(2501));
        check_eq!(count(&mut pit, 2, at(2900)), 500);
        check_eq!(pit.read_port(port::SYSTEM_B, at(9000)) & 0x23, 0x02);
        pit.write_port(port::SYSTEM_B, 0x03, at(9000));
        check_eq!(pit.read_port(port::SYSTEM_B, at(9499)) & 0x20, 0);
        check_eq!(pit.read_port(port::SYSTEM_B, at(9500)) & 0x20, 0x20);
    }

    fn the_gate_triggers_modes_1_and_5() {
        let mut pit = Pit::new();
        let out = |pit: &mut Pit, tick| pit.read_port(port::SYSTEM_B, at(tick)) & 0x20 != 0;
        program(&mut pit, 2, 1, 10, at(0));
        check!(out(&mut pit, 50));
        pit.write_port(port::SYSTEM_B, 1, at(50));
        check!(!out(&mut pit, 51));
        check!(!out(&mut pit, 60));
        check!(out(&mut pit, 61));
        // Triggered again while it runs.
        pit.write_port(port::SYSTEM_B, 0, at(70));
        pit.write_port(port::SYSTEM_B, 1, at(70));
        pit.write_port(port::SYSTEM_B, 0, at(75));
        pit.write_port(port::SYSTEM_B, 1, at(75));
        check!(!out(&mut pit, 85));
        check!(out(&mut pit, 86));
        pit.write_port(port::SYSTEM_B, 0, at(90));
        program(&mut pit, 2, 5, 10, at(100));
        pit.write_port(port::SYSTEM_B, 1, at(100));
        check!(out(&mut pit, 110));
        check!(!out(&mut pit, 111));
        check!(out(&mut pit, 112));
    }

    fn the_gate_restarts_mode_2() {
        let mut pit = Pit::new();
        pit.write_port(port::SYSTEM_B, 1, at(0));
        program(&mut pit, 2, 2, 100, at(0));
        pit.write_port(port::SYSTEM_B, 0, at(51));
        check_eq!(count(&mut pit, 2, at(60)), 100);
        check_eq!(pit.read_port(port::SYSTEM_B, at(100)) & 0x20, 0x20);
        pit.write_port(port::SYSTEM_B, 1, at(200));
        check_eq!(count(&mut pit, 2, at(211)), 90);
    }

    fn refresh_toggles() {
        let mut pit = Pit::new();
        let first = pit.read_port(port::SYSTEM_B, at(0)) & 0x10;
        check!(pit.read_port(port::SYSTEM_B, at(18)) & 0x10 != first);
        check_eq!(pit.read_port(port::SYSTEM_B, at(36)) & 0x10, first);
    }

    fn restored_counts_are_possible_ones() {
        let mut pit = Pit::new();
        program(&mut pit, 0, 2, 100, at(0));
        let (counters, speaker) = pit.state();
        let mut copy = Pit::new();
        copy.set_state(counters.clone(), speaker);
        check_eq!(copy, pit);
        let mut counters = counters.clone();
        for counter in &mut counters {
            counter.edges = u64::MAX;
            counter.written = Some(0);
            counter.run = Some(Run { start: 5, count: 0, edges: u64::MAX, held: Some(0) });
        }
        copy.set_state(counters, true);
        let _ = (copy.advance(at(1)), copy.deadline(), count(&mut copy, 0, at(1)));
        copy.reset();
        check_eq!(copy, Pit::new());
    }

    fn any_bytes_do_no_harm() {
        let mut pit = Pit::new();
        let mut seed = 1_u32;
        let mut now = 0_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, value, choice, step] = seed.to_le_bytes();
            now += u64::from(step) * 5_000;
            let port = match choice >> 1 & 7 {
                n @ 0..=3 => port::COUNTER_0 + u16::from(n),
                4 => port::SYSTEM_B,
                _ => port::COUNTER_0,
            };
            if choice & 1 == 0 {
                pit.write_port(port, value, now);
            } else {
                pit.read_port(port, now);
            }
            let edges = pit.advance(now);
            check!(edges <= 1_000_000, "{edges} edges at once");
            check!(pit.deadline().is_none_or(|deadline| deadline > now), "a deadline in the past");
        }
    }
}
