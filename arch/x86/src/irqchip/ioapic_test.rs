//! Tests of [`super::ioapic`].

use super::ioapic::{IoApic, PINS, Redirection, Version};
use super::{BROADCAST, Delivery, Message, Messages, Shorthand};

use selftest::{cases, check, check_eq};

const INDEX: u64 = 0x00;
const DATA: u64 = 0x10;
const EOI: u64 = 0x40;

const LEVEL: u64 = Redirection::LEVEL;
const LOGICAL: u64 = Redirection::LOGICAL;
const MASKED: u64 = Redirection::MASKED;

fn write(ioapic: &mut IoApic, index: u8, value: u32) -> Messages {
    let _ = ioapic.write(INDEX, &[index], 0);
    ioapic.write(DATA, &value.to_le_bytes(), 0).messages
}

fn read(ioapic: &mut IoApic, index: u8) -> u32 {
    let _ = ioapic.write(INDEX, &u32::from(index).to_le_bytes(), 0);
    let mut data = [0; 4];
    ioapic.read(DATA, &mut data);
    u32::from_le_bytes(data)
}

/// Writes a redirection, the upper half first.
fn redirect(ioapic: &mut IoApic, pin: u8, value: u64) -> Messages {
    let high = write(ioapic, 0x11 + 2 * pin, (value >> 32) as u32);
    let low = write(ioapic, 0x10 + 2 * pin, value as u32);
    if low.is_empty() { high } else { low }
}

fn message(vector: u8, destination: u32) -> Message {
    Message { destination, vector, assert: true, ..Message::default() }
}

fn ioapic() -> IoApic {
    IoApic::new(Version::V20)
}

cases! {
    fn registers_after_reset() {
        let mut ioapic = ioapic();
        check_eq!(read(&mut ioapic, 0), 0);
        check_eq!(read(&mut ioapic, 1), 0x0017_0020);
        check_eq!(read(&mut ioapic, 0x10), 0x1_0000);
        check_eq!(read(&mut ioapic, 0x3f), 0);
        // Beyond the table.
        check_eq!(read(&mut ioapic, 0x40), 0);
        check_eq!(read(&mut ioapic, 0xff), 0);
        check_eq!(read(&mut ioapic, 0x05), 0);
        let mut old = IoApic::new(Version::V11);
        check_eq!(read(&mut old, 1), 0x0017_0011);
    }

    fn only_writable_bits_are_written() {
        let mut ioapic = ioapic();
        write(&mut ioapic, 0, 0xffff_ffff);
        check_eq!(read(&mut ioapic, 0), 0x0f00_0000);
        check_eq!(read(&mut ioapic, 2), 0x0f00_0000);
        write(&mut ioapic, 1, 0);
        check_eq!(read(&mut ioapic, 1), 0x0017_0020);
        redirect(&mut ioapic, 23, u64::MAX);
        check_eq!(read(&mut ioapic, 0x3e), 0x0001_afff);
        check_eq!(read(&mut ioapic, 0x3f), 0xff00_0000);
        check!(write(&mut ioapic, 0x40, 0).is_empty());
    }

    fn an_edge_sends_one_message() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 4, 3 << 56 | 0x41);
        check_eq!(ioapic.set_line(4, true), Some(message(0x41, 3)));
        check_eq!(ioapic.set_line(4, true), None);
        check_eq!(ioapic.set_line(4, false), None);
        check_eq!(ioapic.set_line(4, true), Some(message(0x41, 3)));
        // No EOI is awaited.
        check_eq!(ioapic.eoi(0x41, 0).pins, 0);
    }

    fn a_masked_edge_is_lost() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 4, MASKED | 0x41);
        check_eq!(ioapic.set_line(4, true), None);
        check!(redirect(&mut ioapic, 4, 0x41).is_empty());
        check_eq!(ioapic.set_line(4, true), None);
        check_eq!(ioapic.set_line(4, false), None);
        check_eq!(ioapic.set_line(4, true), Some(message(0x41, 0)));
    }

    fn a_level_lasts_until_its_eoi() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 10, LEVEL | 0x51);
        let expected = Message { level: true, ..message(0x51, 0) };
        check_eq!(ioapic.set_line(10, true), Some(expected));
        check_eq!(u64::from(read(&mut ioapic, 0x24)), LEVEL | 0x51 | Redirection::REMOTE_IRR);
        // Not again before the EOI, however the line moves.
        check_eq!(ioapic.set_line(10, false), None);
        check_eq!(ioapic.set_line(10, true), None);
        check_eq!(ioapic.eoi(0x52, 0).pins, 0);
        let ended = ioapic.eoi(0x51, 0);
        check_eq!(ended.pins, 1 << 10);
        check_eq!(ended.messages.as_slice(), [expected]);
        check_eq!(ioapic.set_line(10, false), None);
        let ended = ioapic.eoi(0x51, 0);
        check_eq!(ended.pins, 1 << 10);
        check!(ended.messages.is_empty());
        check_eq!(u64::from(read(&mut ioapic, 0x24)), LEVEL | 0x51);
    }

    fn a_masked_level_waits_for_its_mask() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 10, LEVEL | MASKED | 0x51);
        check_eq!(ioapic.set_line(10, true), None);
        let messages = redirect(&mut ioapic, 10, LEVEL | 0x51);
        check_eq!(messages.as_slice(), [Message { level: true, ..message(0x51, 0) }]);
        // Masked with the EOI outstanding: sent again only when both are gone.
        redirect(&mut ioapic, 10, LEVEL | MASKED | 0x51);
        let ended = ioapic.eoi(0x51, 0);
        check!(ended.messages.is_empty() && ended.pins == 1 << 10);
        check!(!redirect(&mut ioapic, 10, LEVEL | 0x51).is_empty());
    }

    fn becoming_an_edge_ends_a_level() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 10, LEVEL | 0x51);
        check!(ioapic.set_line(10, true).is_some());
        check!(redirect(&mut ioapic, 10, MASKED | 0x51).is_empty());
        check!(!redirect(&mut ioapic, 10, LEVEL | 0x51).is_empty());
    }

    fn one_eoi_ends_all_pins_of_a_vector() {
        let mut ioapic = ioapic();
        for pin in 0..PINS as u8 {
            redirect(&mut ioapic, pin, LEVEL | u64::from(pin) << 56 | 0x60);
            check!(ioapic.set_line(pin.into(), true).is_some());
        }
        let ended = ioapic.eoi(0x60, 0);
        check_eq!(ended.pins, (1 << PINS) - 1);
        check_eq!(ended.messages.as_slice().len(), PINS);
        check_eq!(ended.messages.as_slice()[23].destination, 23);
    }

    fn the_eoi_register_is_of_version_20() {
        for (version, ends) in [(Version::V11, 0), (Version::V20, 1 << 10)] {
            let mut ioapic = IoApic::new(version);
            redirect(&mut ioapic, 10, LEVEL | 0x51);
            check!(ioapic.set_line(10, true).is_some());
            check_eq!(ioapic.write(EOI, &[0x51, 0, 0, 0], 0).pins, ends);
        }
    }

    fn destinations_and_delivery_modes() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 1, 0xff << 56 | LOGICAL | 1 << 8 | 0x41);
        check_eq!(
            ioapic.set_line(1, true),
            Some(Message {
                destination: BROADCAST,
                logical: true,
                delivery: Delivery::LowestPriority,
                vector: 0x41,
                level: false,
                assert: true,
                shorthand: Shorthand::None,
            })
        );
        // NMI is an edge, whatever the entry says.
        redirect(&mut ioapic, 2, LEVEL | 4 << 8 | 0x42);
        let nmi = ioapic.set_line(2, true);
        check_eq!(nmi.map(|m| (m.delivery, m.level)), Some((Delivery::Nmi, false)));
        check_eq!(u64::from(read(&mut ioapic, 0x14)), LEVEL | 4 << 8 | 0x42);
        // The reserved mode sends nothing.
        redirect(&mut ioapic, 3, 3 << 8 | 0x43);
        check_eq!(ioapic.set_line(3, true), None);
    }

    fn what_is_not_there_is_ignored() {
        let mut ioapic = ioapic();
        check_eq!(ioapic.set_line(PINS, true), None);
        check_eq!(ioapic.set_line(usize::MAX, true), None);
        check_eq!(ioapic.write(0x20, &[1, 2, 3, 4], 0).pins, 0);
        check_eq!(ioapic.write(DATA, &[], 0).pins, 0);
        let mut data = [0xaa; 8];
        ioapic.read(0x44, &mut data);
        check_eq!(data, [0; 8]);
        let _ = ioapic.write(INDEX, &[1], 0);
        ioapic.read(DATA, &mut data);
        check_eq!(data, [0x20, 0, 0x17, 0, 0, 0, 0, 0]);
    }

    fn reset_and_restore() {
        let mut ioapic = ioapic();
        redirect(&mut ioapic, 10, LEVEL | 0x51);
        check!(ioapic.set_line(10, true).is_some());
        let mut copy = IoApic::new(Version::V20);
        copy.set_state(ioapic.state().clone());
        check_eq!(copy, ioapic);
        check!(!copy.eoi(0x51, 0).messages.is_empty());
        ioapic.reset();
        check_eq!(ioapic.state().lines, 1 << 10);
        check_eq!(ioapic.set_line(10, false), None);
        check_eq!(ioapic, IoApic::new(Version::V20));
    }
}
