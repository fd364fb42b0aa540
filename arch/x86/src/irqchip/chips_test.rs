//! Tests of [`super::chips`].

use alloc::boxed::Box;

use super::chips::{Chips, Effects, Rearm, wiring};
use super::i8254::{self, nanoseconds, ticks};
use super::i8259;
use super::ioapic::{PINS, Version};
use virt::routing::Source;

use selftest::{cases, check, check_eq};

/// Sets the 8259s up, nothing masked, and GSIs 0 and `16..24` of the I/O APIC: vectors 0x40 +
/// pin, the latter level-triggered.
fn chips() -> Chips {
    let mut chips = Chips::new(Version::V20, true);
    for (command, data, vector) in [
        (i8259::port::FIRST_COMMAND, i8259::port::FIRST_DATA, 0x20),
        (i8259::port::SECOND_COMMAND, i8259::port::SECOND_DATA, 0x28),
    ] {
        for (port, value) in [(command, 0x11), (data, vector), (data, 4), (data, 1)] {
            let _ = chips.write_port(port, value, 0);
        }
    }
    redirect(&mut chips, 2, 0x42);
    for pin in 16..PINS as u8 {
        redirect(&mut chips, pin, 0x8040 + u32::from(pin));
    }
    chips
}

fn redirect(chips: &mut Chips, pin: u8, low: u32) {
    let _ = chips.write_mmio(0, &[0x10 + 2 * pin]);
    let _ = chips.write_mmio(0x10, &low.to_le_bytes());
}

fn program(chips: &mut Chips, mode: u8, count: u16, now: u64) -> Effects {
    let _ = chips.write_port(i8254::port::CONTROL, 0x30 | mode << 1, now);
    let [low, high] = count.to_le_bytes();
    let _ = chips.write_port(i8254::port::COUNTER_0, low, now);
    chips.write_port(i8254::port::COUNTER_0, high, now)
}

cases! {
    fn a_pin_is_active_as_long_as_one_has_it_so() {
        let mut chips = chips();
        let sent = |effects: &Effects| effects.messages.as_slice().len();
        check_eq!(sent(&chips.set_ioapic_pin(20, Source::Irqfd, true)), 1);
        check_eq!(sent(&chips.set_ioapic_pin(20, Source::Line, true)), 0);
        // The line has it active still, and it interrupts again.
        let ended = chips.eoi(0x54);
        check_eq!((sent(&ended), ended.ended_pins), (1, 1 << 20));
        check_eq!(chips.ioapic().state().lines, 1 << 20);
        let _ = chips.set_ioapic_pin(20, Source::Line, false);
        check_eq!(chips.ioapic().state().lines, 0);
        // Of the irqfd alone it is not active any more when its interrupt has ended.
        for end_of_interrupt in [true, false] {
            let ended = if end_of_interrupt { chips.eoi(0x54) } else { chips.write_mmio(0x40, &[0x54]) };
            check_eq!((sent(&ended), chips.ioapic().state().lines), (0, 0));
            check_eq!(sent(&chips.set_ioapic_pin(20, Source::Irqfd, true)), 1);
        }
        let _ = chips.set_ioapic_pin(20, Source::Irqfd, false);
        check_eq!(chips.ioapic().state().lines, 0);
        for pin in [PINS, 32, usize::MAX] {
            check_eq!(chips.set_ioapic_pin(pin, Source::Line, true), Effects::default());
        }
    }

    fn a_line_is_active_until_its_interrupt_has_ended() {
        let mut chips = chips();
        // Line 5 is a level.
        let _ = chips.write_port(i8259::port::FIRST_ELCR, 1 << 5, 0);
        check_eq!(chips.set_pic_line(5, Source::Irqfd, true).intr, Some(true));
        check_eq!(chips.acknowledge().0, 0x25);
        let ended = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 0);
        check_eq!((ended.ended_lines, ended.intr, chips.intr()), (1 << 5, None, false));
        let _ = chips.set_pic_line(5, Source::Irqfd, true);
        let _ = chips.set_pic_line(5, Source::Line, true);
        check_eq!(chips.acknowledge().0, 0x25);
        let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 0);
        check!(chips.intr(), "of the line");
        let _ = chips.set_pic_line(5, Source::Line, false);
        check!(!chips.intr());
        for line in [16, 40, u8::MAX] {
            check_eq!(chips.set_pic_line(line, Source::Line, true), Effects::default());
        }
    }

    fn gsis_are_wired_as_the_madt_says() {
        check_eq!(wiring(0), (Some(0), Some(2)));
        check_eq!(wiring(1), (Some(1), Some(1)));
        check_eq!(wiring(2), (None, None));
        check_eq!(wiring(15), (Some(15), Some(15)));
        check_eq!(wiring(16), (None, Some(16)));
        check_eq!(wiring(23), (None, Some(23)));
        check_eq!(wiring(24), (None, None));
        check_eq!(wiring(u32::MAX), (None, None));
    }

    fn a_gsi_reaches_both_controllers() {
        let mut chips = chips();
        redirect(&mut chips, 4, 0x44);
        let effects = chips.set_gsi(4, true);
        check_eq!(effects.intr, Some(true));
        check_eq!(effects.messages.as_slice().len(), 1);
        check_eq!(effects.messages.as_slice()[0].vector, 0x44);
        check!(chips.intr());
        check_eq!(chips.set_gsi(4, false), Effects::default());
        let (vector, effects) = chips.acknowledge();
        check_eq!(vector, 0x24);
        check_eq!(effects.intr, Some(false));
        let effects = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 0);
        check_eq!(effects.ended_lines, 1 << 4);
        // One of them alone.
        check_eq!(chips.set_pic_line(5, Source::Line, true).intr, Some(true));
        check!(chips.set_ioapic_pin(4, Source::Line, true).messages.as_slice().len() == 1);
    }

    fn a_level_ends_at_its_eoi() {
        let mut chips = chips();
        check_eq!(chips.set_gsi(17, true).messages.as_slice().len(), 1);
        let effects = chips.eoi(0x51);
        check_eq!(effects.ended_pins, 1 << 17);
        check_eq!(effects.messages.as_slice().len(), 1);
        let _ = chips.set_gsi(17, false);
        // By the I/O APIC's own register.
        let effects = chips.write_mmio(0x40, &0x51_u32.to_le_bytes());
        check_eq!(effects.ended_pins, 1 << 17);
        check!(effects.messages.is_empty());
    }

    fn the_timer_ticks_on_both_controllers() {
        let mut chips = chips();
        let start = 1_000_000;
        let effects = program(&mut chips, 2, 11_932, start);
        let Rearm::At(first) = effects.timer else {
            check!(false, "not armed: {effects:?}");
            return Ok(());
        };
        check_eq!(ticks(first), ticks(start) + 1 + 11_932);
        let mut due = first;
        for n in 1..=10 {
            let effects = chips.advance(due);
            check_eq!(effects.intr, Some(true), "tick {n}");
            check_eq!(effects.messages.as_slice().len(), 1);
            check_eq!(effects.messages.as_slice()[0].vector, 0x42);
            let Rearm::At(next) = effects.timer else { break };
            check_eq!(next, nanoseconds(ticks(start) + 1 + (n + 1) * 11_932));
            due = next;
            check_eq!(chips.acknowledge().0, 0x20);
            let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, due - 1);
        }
        check!(due > first + 90_000_000);
        // Too early: it is to be armed again.
        check_eq!(chips.advance(due - 1000).timer, Rearm::At(due));
        // Mode 0 without a count stops it.
        let effects = chips.write_port(i8254::port::CONTROL, 0x30, due - 999);
        check_eq!(effects.timer, Rearm::Stop);
    }

    fn missed_ticks_are_one_interrupt() {
        let mut chips = chips();
        let _ = program(&mut chips, 2, 1193, 0);
        let effects = chips.advance(10_000_000);
        check_eq!(effects.messages.as_slice().len(), 1);
        check_eq!(chips.acknowledge().0, 0x20);
        let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 0);
        check!(!chips.intr());
    }

    fn missed_ticks_are_made_up_for_at_the_8259s() {
        for auto_eoi in [false, true] {
            let mut chips = chips();
            if auto_eoi {
                for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3)] {
                    let _ = chips.write_port(port, value, 0);
                }
            }
            redirect(&mut chips, 2, 0x1_0042);
            chips.make_up_for_ticks(true);
            let _ = program(&mut chips, 2, 1193, 0);
            // Four, of which three are late; the fifth comes while the second is under way.
            let effects = chips.advance(4_500_000);
            check_eq!((effects.intr, effects.messages.as_slice().len()), (Some(true), 0));
            for n in 1..=5 {
                check!(chips.intr(), "tick {n}");
                check_eq!(chips.acknowledge().0, 0x20);
                if n == 2 {
                    let _ = chips.advance(5_500_000);
                }
                if !auto_eoi {
                    check!(!chips.intr());
                    let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 5_500_000);
                }
            }
            check!(!chips.intr());
            // And on.
            let _ = chips.advance(6_500_000);
            check!(chips.intr());
        }
    }

    fn missed_ticks_are_made_up_for_at_the_ioapic() {
        let mut chips = chips();
        check_eq!(chips.tick_vector(), None);
        check!(chips.eoi(0x42).messages.is_empty());
        chips.make_up_for_ticks(true);
        check_eq!(chips.tick_vector(), Some(0x42));
        let _ = chips.write_port(i8259::port::FIRST_DATA, 1, 0);
        let _ = program(&mut chips, 2, 1193, 0);
        check_eq!(chips.advance(3_500_000).messages.as_slice().len(), 1);
        check!(chips.advance(4_500_000).messages.is_empty(), "the first has not ended");
        check!(chips.eoi(0x43).messages.is_empty(), "another one's end");
        for n in 2..=4 {
            let messages = chips.eoi(0x42).messages;
            check_eq!(messages.as_slice().first().map(|message| message.vector), Some(0x42), "tick {n}");
        }
        check!(chips.eoi(0x42).messages.is_empty());
        check_eq!(chips.advance(5_500_000).messages.as_slice().len(), 1);
        // As a level, whose end it tells anyway.
        redirect(&mut chips, 2, 0x8042);
        check_eq!(chips.tick_vector(), None);
        redirect(&mut chips, 2, 0x1_0042);
        check_eq!(chips.tick_vector(), None);
        redirect(&mut chips, 2, 0x42);
        chips.make_up_for_ticks(false);
        check_eq!((chips.tick_vector(), chips.advance(9_500_000).messages.as_slice().len()), (None, 1));
        check!(chips.eoi(0x42).messages.is_empty());
        check_eq!(chips.advance(10_500_000).messages.as_slice().len(), 1);
    }

    fn ticks_are_forgotten_when_the_guest_counts_anew() {
        // Not by value: the kernel's stack is small.
        let owing = || {
            let mut chips = Box::new(chips());
            chips.make_up_for_ticks(true);
            let _ = program(&mut chips, 2, 1193, 0);
            let _ = chips.advance(4_500_000);
            check_eq!(chips.acknowledge().0, 0x20);
            Ok(chips)
        };
        let still_owes = |mut chips: Box<Chips>| {
            let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 4_600_000);
            chips.intr()
        };
        check!(still_owes(owing()?));
        // To look at the count is not to program it.
        let mut chips = owing()?;
        let _ = chips.write_port(i8254::port::CONTROL, 0, 4_550_000);
        let _ = chips.read_port(i8254::port::COUNTER_0, 4_550_000);
        check!(still_owes(chips));
        let mut chips = owing()?;
        let _ = program(&mut chips, 2, 1193, 4_550_000);
        check!(!still_owes(chips));
        // To mask it is not yet to let it through again.
        let mut chips = owing()?;
        let _ = chips.write_port(i8259::port::FIRST_DATA, 1, 4_550_000);
        let mut unmasked = chips.clone();
        let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 4_550_000);
        check!(chips.pic().chips()[0].irr() & 1 != 0);
        let _ = unmasked.write_port(i8259::port::FIRST_DATA, 0, 4_560_000);
        check!(!still_owes(unmasked));
        let mut chips = owing()?;
        redirect(&mut chips, 2, 0x1_0042);
        check!(still_owes(chips.clone()));
        redirect(&mut chips, 2, 0x42);
        check!(!still_owes(chips));
        let mut chips = owing()?;
        let _ = chips.restore(|_, _, _| {});
        check!(!still_owes(chips));
        // And then none is under way: the next comes.
        let mut chips = owing()?;
        let _ = program(&mut chips, 2, 1193, 4_550_000);
        let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x20, 4_560_000);
        check!(!chips.intr());
        let _ = chips.advance(5_600_000);
        check!(chips.intr());
    }

    fn a_one_shot_does_not_come_again() {
        let mut chips = chips();
        let effects = program(&mut chips, 4, 1000, 0);
        let Rearm::At(due) = effects.timer else {
            check!(false, "not armed: {effects:?}");
            return Ok(());
        };
        let effects = chips.advance(due);
        check_eq!(effects.intr, Some(true));
        check_eq!(effects.messages.as_slice().len(), 1);
        check_eq!(effects.timer, Rearm::Keep);
        check!(chips.advance(due * 100).messages.is_empty());
    }

    fn reading_can_have_effects() {
        let mut chips = chips();
        let _ = chips.set_gsi(1, true);
        let _ = chips.write_port(i8259::port::FIRST_COMMAND, 0x0c, 0);
        let (value, effects) = chips.read_port(i8259::port::FIRST_COMMAND, 0);
        check_eq!(value, 0x81);
        check_eq!(effects.intr, Some(false));
        let mut data = [0; 4];
        let _ = chips.write_mmio(0, &[1]);
        chips.read_mmio(0x10, &mut data);
        check_eq!(u32::from_le_bytes(data), 0x0017_0020);
    }

    fn without_a_timer_its_ports_are_not_there() {
        let mut chips = Chips::new(Version::V11, false);
        check!(!chips.has_port(i8254::port::CONTROL));
        check!(chips.has_port(i8259::port::FIRST_COMMAND));
        check!(!chips.has_port(0x60));
        check_eq!(program(&mut chips, 2, 1000, 0), Effects::default());
        check_eq!(chips.read_port(i8254::port::COUNTER_0, 0).0, 0xff);
        check_eq!(chips.advance(1_000_000_000), Effects::default());
        let _ = chips.set_pit(true);
        check!(chips.has_port(i8254::port::CONTROL));
        check!(matches!(program(&mut chips, 2, 1000, 0).timer, Rearm::At(_)));
        check!(chips.deadline().is_some());
        check_eq!(chips.set_pit(false).timer, Rearm::Stop);
        check_eq!(chips.deadline(), None);
    }

    fn reset_and_restore() {
        let mut chips = chips();
        let _ = program(&mut chips, 2, 1000, 0);
        check_eq!(chips.set_pic_line(4, Source::Line, true).intr, Some(true));
        let mut copy = Chips::new(Version::V20, true);
        let effects = copy.restore(|pic, pit, ioapic| {
            pic.set_chips(chips.pic().chips().clone());
            if let (Some(pit), Some((counters, speaker))) = (pit, chips.pit().map(|pit| pit.state())) {
                pit.set_state(counters.clone(), speaker);
            }
            ioapic.set_state(chips.ioapic().state().clone());
        });
        check_eq!((copy.pic(), copy.pit(), copy.ioapic()), (chips.pic(), chips.pit(), chips.ioapic()));
        // Nobody has it active here: the next one that moves it decides.
        let mut moved = copy.clone();
        let _ = moved.set_pic_line(4, Source::Irqfd, false);
        check_eq!(moved.pic().chips()[0].lines, 0);
        check_eq!(effects.intr, Some(true));
        check!(matches!(effects.timer, Rearm::At(_)));
        let effects = chips.reset();
        check_eq!(effects.intr, Some(false));
        check_eq!(effects.timer, Rearm::Stop);
    }
}
