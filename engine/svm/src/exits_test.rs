//! Tests of what exits mean.

use alloc::boxed::Box;
use alloc::vec::Vec;

use arch_x86::engine::Intercept;
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{Attr, efer};
use virt::Errno;

use crate::exits::{Cause, cause, code};
use crate::features::Features;
use crate::test_platform::TestPlatform;
use crate::vmcb::Vmcb;
use crate::vmcb::page::VmcbPage;

const OLD: Features = features(false);
const NEW: Features = features(true);

const fn features(new: bool) -> Features {
    Features {
        next_rip: new,
        clean_bits: new,
        flush_by_asid: new,
        decode_assists: new,
        pause_filter: new,
        pause_filter_threshold: new,
        invpcid: new,
        tsc_aux: new,
        xsave: new,
        xsaves: new,
        prediction_barrier: new,
        speculation_control: 0,
        asids: 8,
    }
}

/// A guest in 64-bit mode that came out of an instruction of `len` bytes.
fn with(exit_code: u64, info: [u64; 2], len: u64) -> Box<dyn core::ops::Deref<Target = Vmcb>> {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    vmcb.exit_code = exit_code;
    [vmcb.exit_info1, vmcb.exit_info2] = info;
    vmcb.rip = 0xffff_ffff_8000_0000;
    vmcb.next_rip = vmcb.rip.wrapping_add(len);
    vmcb.efer = efer::LMA | efer::LME;
    vmcb.cs.attr = Attr::L | Attr::P;
    Box::new(vmcb)
}

fn of(exit_code: u64, info: [u64; 2], len: u64) -> Cause {
    cause(&with(exit_code, info, len), &NEW, 0)
}

#[test]
fn instructions_come_out_with_their_length_or_are_emulated() {
    type Out = fn(u8) -> Intercept;
    let table: [(u64, [u64; 2], Out); 5] = [
        (code::CPUID, [0; 2], |len| Intercept::Cpuid { len }),
        (code::HLT, [0; 2], |len| Intercept::Halt { len }),
        (code::VMMCALL, [0; 2], |len| Intercept::Hypercall { len }),
        (code::MSR, [0, 0], |len| Intercept::ReadMsr { len }),
        (code::MSR, [1, 0], |len| Intercept::WriteMsr { len }),
    ];
    for (code, info, out) in table {
        for len in [1, 2, 5, 15] {
            let vmcb = with(code, info, len);
            assert_eq!(cause(&vmcb, &NEW, 0), Cause::Out(out(len as u8)));
            assert_eq!(
                cause(&vmcb, &OLD, 0),
                Cause::Out(Intercept::Emulate),
                "no length is assumed"
            );
        }
        for len in [0, 16, 1 << 32, u64::MAX] {
            assert_eq!(of(code, info, len), Cause::Out(Intercept::Emulate), "{len} is no length");
        }
    }
}

#[test]
fn the_length_wraps_around_outside_of_64_bit_mode() {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    (vmcb.exit_code, vmcb.rip, vmcb.next_rip) = (code::CPUID, 0xffff_fffe, 0);
    assert_eq!(cause(&vmcb, &NEW, 0), Cause::Out(Intercept::Cpuid { len: 2 }));
}

#[test]
fn what_is_rare_is_emulated() {
    let rare = [0x00, 0x04, 0x10, 0x14, 0x1f, 0x20, 0x27, 0x30, 0x37, 0x3f, 0x65, 0x6f, 0x74, 0x76]
        .into_iter()
        .chain([0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0xa2]);
    for code in rare {
        assert_eq!(of(code, [0; 2], 3), Cause::Out(Intercept::Emulate), "{code:#x}");
    }
}

#[test]
fn svm_is_no_instruction_of_the_guests() {
    for code in [0x73, 0x7a, 0x80, 0x82, 0x83, 0x84, 0x85, 0x86, 0x8e] {
        assert_eq!(of(code, [0; 2], 3), Cause::Raised(Exception::ud()), "{code:#x}");
    }
}

#[test]
fn what_is_the_hosts_is_served_by_it() {
    for code in 0x60..=0x63 {
        assert_eq!(of(code, [0; 2], 0), Cause::Host);
    }
    assert_eq!(of(0x64, [0; 2], 0), Cause::Window);
    assert_eq!(of(0x77, [0; 2], 0), Cause::Pause);
    assert_eq!(of(0x7f, [0; 2], 0), Cause::Out(Intercept::Shutdown));
}

#[test]
fn what_was_not_asked_for_is_a_failure() {
    for code in [u64::MAX, 0xffff_ffff] {
        assert_eq!(of(code, [0; 2], 2), Cause::Refused);
    }
    let asked = [0x6d, 0x6e, 0x70, 0x7d, 0x7e, 0xa0, 0x401, u64::MAX - 1];
    for code in asked {
        assert_eq!(of(code, [0; 2], 2), Cause::Out(Intercept::Failed(Errno::EIO)), "{code:#x}");
    }
}

#[test]
fn ports_have_their_next_rip_on_every_processor() {
    let next = 0xffff_ffff_8000_0000 + 2;
    for (bits, size) in [(0x10, 1), (0x20, 2), (0x40, 4)] {
        let input = with(code::IOIO, [0xcf8 << 16 | bits | 1, next], 9);
        let output = with(code::IOIO, [0xffff << 16 | bits, next], 9);
        let string = with(code::IOIO, [0x3f8 << 16 | bits | 0b1100, next], 9);
        for features in [&NEW, &OLD] {
            let port = Intercept::In { port: 0xcf8, size, len: 2 };
            assert_eq!(cause(&input, features, 0), Cause::Out(port));
            let port = Intercept::Out { port: 0xffff, size, len: 2 };
            assert_eq!(cause(&output, features, 0), Cause::Out(port));
            assert_eq!(cause(&string, features, 0), Cause::Out(Intercept::StringIo));
        }
    }
    // What the processor should not say.
    assert_eq!(of(code::IOIO, [0x80 << 16 | 0x30, next], 2), Cause::Out(Intercept::Emulate));
    assert_eq!(of(code::IOIO, [0x80 << 16 | 0x10, 0], 2), Cause::Out(Intercept::Emulate));
}

#[test]
fn cr8_needs_decode_assists() {
    let read = with(code::READ_CR8, [1 << 63 | 13, 0], 4);
    let write = with(code::WRITE_CR8, [1 << 63 | 2, 0], 4);
    assert_eq!(cause(&read, &NEW, 0), Cause::Out(Intercept::ReadCr8 { gpr: 13, len: 4 }));
    assert_eq!(cause(&write, &NEW, 0), Cause::Out(Intercept::WriteCr8 { gpr: 2, len: 4 }));
    let one = Features { decode_assists: true, ..OLD };
    let other = Features { next_rip: true, ..OLD };
    for features in [OLD, one, other] {
        assert_eq!(cause(&read, &features, 0), Cause::Out(Intercept::Emulate));
        assert_eq!(cause(&write, &features, 0), Cause::Out(Intercept::Emulate));
    }
    assert_eq!(of(code::READ_CR8, [13, 0], 4), Cause::Out(Intercept::Emulate), "it is no MOV");
}

#[test]
fn every_exception_is_the_guests_or_the_run_loops() {
    let with_error: Vec<u8> = (0..32).filter(|v| matches!(v, 8 | 10..=14 | 17)).collect();
    for vector in (0..32).filter(|vector| *vector != exception::MC) {
        let vmcb = with(0x40 + u64::from(vector), [0x18, 0xdead_b000], 3);
        let expected = Exception {
            vector,
            error: with_error.contains(&vector).then_some(0x18),
            payload: if vector == exception::PF { 0xdead_b000 } else { 0 },
        };
        let unwanted = match vector {
            // It may be another maker's hypercall.
            exception::UD => Cause::Undefined,
            _ => Cause::Raised(expected),
        };
        assert_eq!(cause(&vmcb, &NEW, !(1 << vector)), unwanted);
        let wanted = Cause::Out(Intercept::Exception(expected));
        assert_eq!(cause(&vmcb, &NEW, 1 << vector), wanted);
    }
    let check = with(0x40 + u64::from(exception::MC), [0; 2], 3);
    assert_eq!(cause(&check, &NEW, u32::MAX), Cause::MachineCheck, "it is never the guest's");
}

#[test]
fn the_payload_of_a_debug_exception_is_what_it_adds_to_dr6() {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    vmcb.exit_code = 0x41;
    vmcb.dr6 = 0xffff_0ff0 | 1 << 14 | 2;
    assert_eq!(cause(&vmcb, &NEW, 0), Cause::Raised(Exception::db(1 << 14 | 2)));
}

#[test]
fn an_access_to_a_debug_register_is_an_exception_of_the_debuggers() {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    let db = 1 << exception::DB;
    for code in [0x20, 0x27, 0x30, 0x37] {
        vmcb.exit_code = code;
        vmcb.dr7 = 0x400;
        assert_eq!(cause(&vmcb, &NEW, db), Cause::Out(Intercept::Emulate));
        vmcb.dr7 |= 1 << 13;
        let detected = Intercept::Exception(Exception::db(1 << 13));
        assert_eq!(cause(&vmcb, &NEW, db), Cause::Out(detected));
        assert_eq!(
            cause(&vmcb, &NEW, 0),
            Cause::Out(Intercept::Emulate),
            "the emulator finds GD itself"
        );
        vmcb.cpl = 3;
        assert_eq!(cause(&vmcb, &NEW, db), Cause::Out(Intercept::Emulate), "#GP comes first");
        vmcb.cpl = 0;
    }
    vmcb.exit_code = code::ICEBP;
    let int1 = Intercept::Exception(Exception::db(0));
    assert_eq!(cause(&vmcb, &NEW, db), Cause::Out(int1));
}

#[test]
fn a_walk_of_the_guests_tables_is_a_write() {
    for (info, write) in [(4, false), (6, true), (1 << 32 | 0x14, false), (1 << 33 | 4, true)] {
        let nested = of(code::NESTED_PAGE_FAULT, [info, 0x12_3456], 0);
        assert_eq!(nested, Cause::Nested { gpa: 0x12_3456, write });
    }
}
