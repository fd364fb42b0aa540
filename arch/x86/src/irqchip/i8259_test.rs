//! Tests of [`super::i8259`].

use super::i8259::{Pic, port};

use selftest::{Outcome, cases, check, check_eq};

const EOI: u8 = 0x20;
const SPECIFIC_EOI: u8 = 0x60;
const ROTATE_EOI: u8 = 0xa0;
const ROTATE_SPECIFIC_EOI: u8 = 0xe0;
const SET_PRIORITY: u8 = 0xc0;
const ROTATE_AUTO_SET: u8 = 0x80;
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const POLL: u8 = 0x0c;
const SPECIAL_MASK_ON: u8 = 0x68;

const AUTO_EOI: u8 = 0x02;
const FULLY_NESTED: u8 = 0x10;

/// As a PC's firmware sets the pair up: vectors 0x20 and 0x28, nothing masked.
fn pic(icw4: [u8; 2]) -> Pic {
    let mut pic = Pic::new();
    for (command, data, vector, cascade, icw4) in [
        (port::FIRST_COMMAND, port::FIRST_DATA, 0x20, 0x04, icw4[0]),
        (port::SECOND_COMMAND, port::SECOND_DATA, 0x28, 0x02, icw4[1]),
    ] {
        pic.write_port(command, 0x11);
        pic.write_port(data, vector);
        pic.write_port(data, cascade);
        pic.write_port(data, 0x01 | icw4);
    }
    pic
}

fn plain() -> Pic {
    pic([0, 0])
}

fn pulse(pic: &mut Pic, line: u8) {
    pic.set_line(line, true);
    pic.set_line(line, false);
}

/// The output is on, and the acknowledge says `vector`.
fn takes(pic: &mut Pic, vector: u8) -> Outcome {
    check!(pic.output(), "nothing to acknowledge, expected {vector:#x}");
    check_eq!(pic.acknowledge(), vector);
    Ok(())
}

cases! {
    fn nothing_comes_before_anything_is_raised() {
        let mut pic = plain();
        check!(!pic.output());
        check_eq!(pic.acknowledge(), 0x27);
        pic.write_port(port::FIRST_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0);
    }

    fn an_edge_interrupts_once() {
        let mut pic = plain();
        pic.set_line(4, true);
        takes(&mut pic, 0x24)?;
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 1 << 4);
        check!(!pic.output());
        pic.set_line(4, true);
        check!(!pic.output());
        pic.set_line(4, false);
        pic.set_line(4, true);
        takes(&mut pic, 0x24)?;
    }

    fn lines_have_priorities_and_nest() {
        let mut pic = plain();
        pulse(&mut pic, 5);
        pulse(&mut pic, 3);
        takes(&mut pic, 0x23)?;
        check!(!pic.output());
        pulse(&mut pic, 1);
        takes(&mut pic, 0x21)?;
        pic.write_port(port::FIRST_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0b1010);
        pic.write_port(port::FIRST_COMMAND, READ_IRR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0b10_0000);
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 1 << 1);
        check!(!pic.output());
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 1 << 3);
        takes(&mut pic, 0x25)?;
    }

    fn the_second_chip_comes_through_the_cascade() {
        let mut pic = plain();
        pulse(&mut pic, 12);
        takes(&mut pic, 0x2c)?;
        // Lower on the first chip than the cascade.
        pulse(&mut pic, 3);
        check!(!pic.output());
        // Higher on the second chip, but the cascade is in service.
        pulse(&mut pic, 8);
        check!(!pic.output());
        check_eq!(pic.write_port(port::SECOND_COMMAND, EOI), 1 << 12);
        check!(!pic.output());
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 0);
        takes(&mut pic, 0x28)?;
        pic.write_port(port::SECOND_COMMAND, EOI);
        pic.write_port(port::FIRST_COMMAND, EOI);
        takes(&mut pic, 0x23)?;
    }

    fn special_fully_nested_mode_lets_the_second_chip_nest() {
        let mut pic = pic([FULLY_NESTED, 0]);
        pulse(&mut pic, 12);
        takes(&mut pic, 0x2c)?;
        pulse(&mut pic, 14);
        check!(!pic.output());
        pulse(&mut pic, 8);
        takes(&mut pic, 0x28)?;
        pic.write_port(port::SECOND_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::SECOND_COMMAND), 0b1_0001);
    }

    fn both_of_two_interrupts_of_the_second_chip_come() {
        for icw4 in [0, AUTO_EOI] {
            let mut pic = pic([icw4, icw4]);
            pulse(&mut pic, 9);
            pulse(&mut pic, 10);
            takes(&mut pic, 0x29)?;
            pic.write_port(port::SECOND_COMMAND, EOI);
            pic.write_port(port::FIRST_COMMAND, EOI);
            takes(&mut pic, 0x2a)?;
            pic.write_port(port::SECOND_COMMAND, EOI);
            pic.write_port(port::FIRST_COMMAND, EOI);
            check!(!pic.output());
        }
    }

    fn the_mask_holds_back_and_keeps() {
        let mut pic = plain();
        pic.write_port(port::FIRST_DATA, 1 << 4);
        check_eq!(pic.read_port(port::FIRST_DATA), 1 << 4);
        pulse(&mut pic, 4);
        check!(!pic.output());
        pic.write_port(port::FIRST_DATA, 0);
        takes(&mut pic, 0x24)?;
    }

    fn levels_are_looked_at_again() {
        let mut pic = plain();
        pic.write_port(port::SECOND_ELCR, 0xff);
        check_eq!(pic.read_port(port::SECOND_ELCR), 0xde);
        pic.write_port(port::FIRST_ELCR, 0xff);
        check_eq!(pic.read_port(port::FIRST_ELCR), 0xf8);
        pic.set_line(11, true);
        for _ in 0..3 {
            takes(&mut pic, 0x2b)?;
            check!(!pic.output());
            check_eq!(pic.write_port(port::SECOND_COMMAND, EOI), 1 << 11);
            pic.write_port(port::FIRST_COMMAND, EOI);
        }
        pic.set_line(11, false);
        check!(!pic.output());
        check_eq!(pic.acknowledge(), 0x27);
    }

    fn a_level_that_goes_leaves_a_spurious_interrupt() {
        let mut pic = plain();
        pic.write_port(port::FIRST_ELCR, 1 << 5);
        pic.set_line(5, true);
        check!(pic.output());
        pic.set_line(5, false);
        check!(!pic.output());
        check_eq!(pic.acknowledge(), 0x27);
        pic.write_port(port::FIRST_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0);
        // The same with a mask on the second chip.
        pulse(&mut pic, 14);
        check!(pic.output());
        pic.write_port(port::SECOND_DATA, 0xff);
        check_eq!(pic.acknowledge(), 0x27);
        pic.write_port(port::SECOND_DATA, 0);
        takes(&mut pic, 0x2e)?;
    }

    fn a_specific_eoi_ends_what_it_names() {
        let mut pic = plain();
        pulse(&mut pic, 6);
        takes(&mut pic, 0x26)?;
        pulse(&mut pic, 1);
        takes(&mut pic, 0x21)?;
        check_eq!(pic.write_port(port::FIRST_COMMAND, SPECIFIC_EOI | 6), 1 << 6);
        pic.write_port(port::FIRST_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 1 << 1);
    }

    fn priorities_rotate() {
        let mut pic = plain();
        pulse(&mut pic, 4);
        takes(&mut pic, 0x24)?;
        pic.write_port(port::FIRST_COMMAND, ROTATE_EOI);
        // 5 is the highest now, 4 the lowest.
        pulse(&mut pic, 4);
        pulse(&mut pic, 0);
        pulse(&mut pic, 6);
        takes(&mut pic, 0x26)?;
        check!(!pic.output());
        pic.write_port(port::FIRST_COMMAND, EOI);
        takes(&mut pic, 0x20)?;
        pic.write_port(port::FIRST_COMMAND, ROTATE_SPECIFIC_EOI);
        // 0 is the lowest.
        pulse(&mut pic, 0);
        takes(&mut pic, 0x24)?;
        pic.write_port(port::FIRST_COMMAND, EOI);
        pic.write_port(port::FIRST_COMMAND, SET_PRIORITY | 7);
        takes(&mut pic, 0x20)?;
    }

    fn automatic_eoi_rotates_if_told() {
        let mut pic = pic([AUTO_EOI, 0]);
        pulse(&mut pic, 3);
        takes(&mut pic, 0x23)?;
        pulse(&mut pic, 3);
        takes(&mut pic, 0x23)?;
        pic.write_port(port::FIRST_COMMAND, READ_ISR);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0);
        pic.write_port(port::FIRST_COMMAND, ROTATE_AUTO_SET);
        pulse(&mut pic, 3);
        takes(&mut pic, 0x23)?;
        pulse(&mut pic, 3);
        pulse(&mut pic, 5);
        takes(&mut pic, 0x25)?;
        takes(&mut pic, 0x23)?;
    }

    fn special_mask_mode_lets_lower_ones_pass() {
        let mut pic = plain();
        pulse(&mut pic, 1);
        takes(&mut pic, 0x21)?;
        pulse(&mut pic, 6);
        check!(!pic.output());
        pic.write_port(port::FIRST_COMMAND, SPECIAL_MASK_ON);
        check!(!pic.output());
        pic.write_port(port::FIRST_DATA, 1 << 1);
        takes(&mut pic, 0x26)?;
        // An EOI that names none passes over what is masked.
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 1 << 6);
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 0);
        check_eq!(pic.write_port(port::FIRST_COMMAND, SPECIFIC_EOI | 1), 1 << 1);
    }

    fn a_poll_acknowledges() {
        let mut pic = plain();
        pulse(&mut pic, 5);
        pic.write_port(port::FIRST_COMMAND, POLL);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0x85);
        check!(!pic.output());
        pic.write_port(port::FIRST_COMMAND, POLL);
        check_eq!(pic.read_port(port::FIRST_DATA), 0);
        check_eq!(pic.read_port(port::FIRST_DATA), 0);
        check_eq!(pic.write_port(port::FIRST_COMMAND, EOI), 1 << 5);
        // The second chip, whose request then leaves the first.
        pulse(&mut pic, 13);
        check!(pic.output());
        pic.write_port(port::SECOND_COMMAND, POLL);
        check_eq!(pic.read_port(port::SECOND_COMMAND), 0x85);
        check!(!pic.output());
    }

    fn initialization_forgets() {
        let mut pic = plain();
        pulse(&mut pic, 1);
        takes(&mut pic, 0x21)?;
        pic.set_line(3, true);
        pic.write_port(port::FIRST_DATA, 0xf0);
        // Single, without ICW4: the vector is all.
        pic.write_port(port::FIRST_COMMAND, 0x12);
        check_eq!(pic.read_port(port::FIRST_COMMAND), 0);
        check_eq!(pic.read_port(port::FIRST_DATA), 0);
        pic.write_port(port::FIRST_DATA, 0x4f);
        pic.write_port(port::FIRST_DATA, 0x80);
        check_eq!(pic.read_port(port::FIRST_DATA), 0x80);
        // The line was high all along: no edge.
        check!(!pic.output());
        pic.set_line(3, false);
        pic.set_line(3, true);
        takes(&mut pic, 0x4b)?;
    }

    fn reset_and_restore() {
        let mut pic = plain();
        pulse(&mut pic, 12);
        pic.set_line(4, true);
        takes(&mut pic, 0x2c)?;
        let mut copy = Pic::new();
        copy.set_chips(pic.chips().clone());
        check_eq!(copy, pic);
        pic.reset();
        check_eq!(pic.chips()[0].lines, 1 << 4);
        pic.set_line(4, false);
        check_eq!(pic, Pic::new());
    }

    fn what_is_not_there_is_ignored() {
        let mut pic = plain();
        let before = pic.clone();
        pic.set_line(2, true);
        pic.set_line(16, true);
        pic.set_line(255, true);
        check_eq!(pic.write_port(0x22, 0xff), 0);
        check_eq!(pic.read_port(0x22), 0xff);
        check!(!Pic::has_port(0x22));
        check!(Pic::has_port(port::SECOND_ELCR));
        check_eq!(pic, before);
    }

    fn any_bytes_do_no_harm() {
        let mut pic = Pic::new();
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, value, choice, line] = seed.to_le_bytes();
            let ports = [port::FIRST_COMMAND, port::FIRST_DATA, port::SECOND_COMMAND,
                port::SECOND_DATA, port::FIRST_ELCR, port::SECOND_ELCR];
            let port = ports[usize::from(choice >> 2) % ports.len()];
            match choice & 3 {
                0 => { pic.write_port(port, value); }
                1 => { pic.read_port(port); }
                2 => pic.set_line(line % 18, value & 1 != 0),
                _ => {
                    let pending = pic.output();
                    let vector = pic.acknowledge();
                    check!(pending || vector & 7 == 7);
                }
            }
        }
    }
}
