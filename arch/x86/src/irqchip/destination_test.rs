//! Tests of [`super::destination`] and of [`super::Message`] as an MSI.

use super::destination::{Address, Mode, Model, arbitrate, matches, single, x2apic_logical_id};
use super::{BROADCAST, Delivery, Message, Messages, Shorthand, widen_destination};

use selftest::{cases, check, check_eq};

fn xapic(id: u32, logical_id: u8, model: Model) -> Address {
    Address { id, logical_id, model, mode: Mode::XApic, enabled: true }
}

fn x2apic(id: u32) -> Address {
    Address { id, mode: Mode::X2Apic, enabled: true, ..Address::default() }
}

fn physical(destination: u32) -> Message {
    Message { destination, vector: 0x40, assert: true, ..Message::default() }
}

fn logical(destination: u32) -> Message {
    Message { logical: true, ..physical(destination) }
}

cases! {
    fn physical_ids() {
        check!(matches(&physical(3), None, xapic(3, 0, Model::Flat)));
        check!(!matches(&physical(3), None, xapic(4, 0, Model::Flat)));
        check!(matches(&physical(BROADCAST), None, xapic(4, 0, Model::Flat)));
        check!(matches(&physical(0x103), None, x2apic(0x103)));
        check!(!matches(&physical(3), None, x2apic(0x103)));
        // To an x2APIC 0xff is an ID like others.
        check!(matches(&physical(0xff), None, x2apic(0xff)));
        check!(!matches(&physical(0xff), None, x2apic(1)));
        check!(matches(&physical(widen_destination(0xff)), None, x2apic(1)));
    }

    fn flat_logical_ids() {
        let target = xapic(7, 0b0000_0100, Model::Flat);
        check!(matches(&logical(0b0000_0110), None, target));
        check!(!matches(&logical(0b0000_0011), None, target));
        check!(matches(&logical(BROADCAST), None, target));
        check!(!matches(&logical(0x104), None, target));
    }

    fn cluster_logical_ids() {
        let target = xapic(7, 0x24, Model::Cluster);
        check!(matches(&logical(0x2c), None, target));
        check!(!matches(&logical(0x23), None, target));
        check!(!matches(&logical(0x34), None, target));
        check!(matches(&logical(BROADCAST), None, target));
    }

    fn x2apic_logical_ids() {
        check_eq!(x2apic_logical_id(0x25), 0x0002_0020);
        check!(matches(&logical(0x0002_0021), None, x2apic(0x25)));
        check!(!matches(&logical(0x0002_0021), None, x2apic(0x24)));
        check!(!matches(&logical(0x0001_0020), None, x2apic(0x25)));
        check!(matches(&logical(BROADCAST), None, x2apic(0x25)));
        // An I/O APIC's eight bits reach the first eight of cluster 0.
        check!(matches(&logical(0x80), None, x2apic(7)));
    }

    fn disabled_local_apics_take_nothing() {
        check!(!matches(&physical(BROADCAST), None, Address::from_bits(0)));
        let asleep = Address { enabled: false, ..x2apic(1) };
        check!(!matches(&physical(1), None, asleep));
        let nmi = Message { delivery: Delivery::Nmi, ..physical(1) };
        check!(matches(&nmi, None, asleep));
        let start = Message { delivery: Delivery::StartUp, ..physical(1) };
        check!(matches(&start, None, asleep));
    }

    fn shorthands() {
        let to = |shorthand| Message { shorthand, ..physical(9) };
        let (me, other) = (x2apic(1), x2apic(2));
        for (shorthand, mine, others) in [
            (Shorthand::Myself, true, false),
            (Shorthand::All, true, true),
            (Shorthand::Others, false, true),
            (Shorthand::None, false, false),
        ] {
            check_eq!(matches(&to(shorthand), Some(1), me), mine);
            check_eq!(matches(&to(shorthand), Some(1), other), others);
            check_eq!(Shorthand::from_bits(shorthand as u32), shorthand);
        }
        check_eq!(single(&to(Shorthand::Myself), Some(1)), Some(1));
        check_eq!(single(&to(Shorthand::None), Some(1)), Some(9));
        check_eq!(single(&to(Shorthand::All), Some(1)), None);
        check_eq!(single(&logical(1), None), None);
        check_eq!(single(&physical(BROADCAST), None), None);
    }

    fn arbitration_stays_within_the_candidates() {
        check_eq!(arbitrate(0x31, 0), None);
        check_eq!(arbitrate(0x31, 1), Some(0));
        check_eq!(arbitrate(0x31, 4), Some(1));
        check_eq!(arbitrate(0x32, 4), Some(2));
    }

    fn addresses_pack_into_a_word() {
        for address in [
            Address::default(),
            x2apic(0xfedc_ba98),
            xapic(0xff, 0xa5, Model::Cluster),
            Address { enabled: false, ..xapic(1, 1, Model::Flat) },
        ] {
            check_eq!(Address::from_bits(address.to_bits()), address);
        }
    }

    fn msis_become_messages() {
        let message = Message::from_msi(0xfee0_3004, 0x4041);
        check_eq!(
            message,
            Some(Message {
                destination: 3,
                logical: true,
                vector: 0x41,
                assert: true,
                ..Message::default()
            })
        );
        let hinted = Message::from_msi(0xfeef_f00c, 0x0041);
        check_eq!(hinted.map(|m| (m.delivery, m.destination)),
            Some((Delivery::LowestPriority, BROADCAST)));
        let level = Message::from_msi(0xfee0_0000, 0xc041);
        check_eq!(level.map(|m| (m.level, m.assert)), Some((true, true)));
        let deassert = Message::from_msi(0xfee0_0000, 0x8041);
        check_eq!(deassert.map(|m| m.assert), Some(false));
        let wide = Message::from_msi(0x0001_2300_fee0_5000, 0x0041);
        check_eq!(wide.map(|m| m.destination), Some(0x0001_2305));
        check_eq!(Message::from_msi(0xfed0_0000, 0x41), None);
        check_eq!(Message::from_msi(0xfee0_0000, 0x341), None);
    }

    fn messages_become_msis_and_come_back() {
        check_eq!(physical(3).to_msi(), (0xfee0_3000, 0x4040));
        let nmi = Message { delivery: Delivery::Nmi, ..physical(BROADCAST) };
        check_eq!(nmi.to_msi(), (0xfeef_f000, 0x4440));
        let level = Message { level: true, delivery: Delivery::LowestPriority, ..logical(0x12) };
        check_eq!(level.to_msi(), (0xfee1_2004, 0xc140));
        for message in [physical(3), nmi, level, physical(0x0001_2305)] {
            let (address, data) = message.to_msi();
            check_eq!(Message::from_msi(address, data), Some(message));
        }
    }

    fn a_full_list_keeps_its_messages() {
        let mut messages = Messages::default();
        check!(messages.is_empty());
        for vector in 0..=Messages::CAPACITY as u8 {
            messages.push(Message { vector, ..Message::default() });
        }
        check_eq!(messages.as_slice().len(), Messages::CAPACITY);
        check_eq!(messages.as_slice()[Messages::CAPACITY - 1].vector, Messages::CAPACITY as u8 - 1);
    }
}
