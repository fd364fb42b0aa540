//! Tests of injection, and of what was not delivered.

use arch_x86::engine::Event;
use arch_x86::exception::{self, Exception};
use arch_x86::regs::cr0;

use crate::events::{inject, set_window, undelivered};
use crate::test_platform::{TestPages, TestPlatform};
use crate::vmcb::clean;
use crate::vmcb::page::VmcbPage;

fn protected() -> VmcbPage<TestPages> {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    vmcb.cr0 = cr0::PE;
    vmcb
}

const VALID: u64 = 1 << 31;

#[test]
fn events_have_their_type_vector_and_error_code() {
    let mut vmcb = protected();
    let table = [
        (Event::Interrupt { vector: 0xfe }, VALID | 0xfe),
        (Event::Nmi, VALID | 2 << 8 | 2),
        (Event::Exception(Exception::ud()), VALID | 3 << 8 | 6),
        (Event::Exception(Exception::gp(0x18)), 0x18 << 32 | VALID | 1 << 11 | 3 << 8 | 13),
        (Event::Exception(Exception::pf(0x1000, 7)), 7 << 32 | VALID | 1 << 11 | 3 << 8 | 14),
        (Event::Exception(Exception::plain(exception::BP)), VALID | 3 << 8 | 3),
    ];
    for (event, word) in table {
        inject(&mut vmcb, event);
        assert_eq!(vmcb.event_injection, word, "{event:?}");
    }
}

#[test]
fn there_are_no_error_codes_in_real_mode() {
    let mut vmcb = protected();
    vmcb.cr0 = 0;
    inject(&mut vmcb, Event::Exception(Exception::gp(0)));
    assert_eq!(vmcb.event_injection, VALID | 3 << 8 | 13);
}

#[test]
fn what_was_not_delivered_is_what_can_be_injected_again() {
    let mut vmcb = protected();
    (vmcb.cr2, vmcb.dr6) = (0x7777_0000, 0xffff_0ff0);
    let events = [
        Event::Interrupt { vector: 0x20 },
        Event::Nmi,
        Event::Exception(Exception::gp(0x18)),
        Event::Exception(Exception::plain(exception::DE)),
        Event::Exception(Exception::pf(0x7777_0000, 2)),
        Event::Exception(Exception::db(1 << 14)),
    ];
    for event in events {
        inject(&mut vmcb, event);
        vmcb.exit_int_info = vmcb.event_injection;
        assert_eq!(undelivered(&vmcb, 0xffff_4ff0, Some(event)), Some(event));
        // It may have been the guest's own, too.
        assert_eq!(undelivered(&vmcb, 0xffff_4ff0, None), Some(event));
        vmcb.exit_int_info &= !VALID;
        assert_eq!(undelivered(&vmcb, 0, Some(event)), None, "it was delivered");
    }
}

#[test]
fn the_guests_own_software_exceptions_are_executed_again() {
    let mut vmcb = protected();
    for vector in [exception::BP, exception::OF] {
        let event = Event::Exception(Exception::plain(vector));
        inject(&mut vmcb, event);
        vmcb.exit_int_info = vmcb.event_injection;
        assert_eq!(undelivered(&vmcb, 0, None), None);
        assert_eq!(undelivered(&vmcb, 0, Some(Event::Nmi)), None);
        assert_eq!(undelivered(&vmcb, 0, Some(event)), Some(event), "it was injected");
    }
    vmcb.exit_int_info = VALID | 4 << 8 | 0x80;
    assert_eq!(undelivered(&vmcb, 0, None), None, "INT n");
}

#[test]
fn a_window_is_a_virtual_interrupt_of_the_highest_priority() {
    let mut vmcb = protected();
    set_window(&mut vmcb, false);
    assert_eq!(vmcb.virtual_interrupt, 1 << 24);
    vmcb.clean = clean::ALL;
    set_window(&mut vmcb, true);
    assert_eq!(vmcb.virtual_interrupt, 1 << 24 | 1 << 20 | 0xf << 16 | 1 << 8);
    assert_eq!(vmcb.clean, clean::ALL & !clean::INTERRUPT);
    vmcb.clean = clean::ALL;
    set_window(&mut vmcb, true);
    assert_eq!(vmcb.clean, clean::ALL, "nothing changed");
}
