//! x87 instructions with operands in memory: of every size, across the end of a page, and where there is nothing.

use arch_x86::engine::EngineVcpu;
use arch_x86::regs::{Regs, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_machine::{assemble, at, machine, pte};
use crate::test_ways::in_every_way;
use crate::x87_test::{go, reset, st, status};
use crate::{Options, SoftVcpu};

in_every_way! {
    operands_are_of_every_size_and_anywhere,
    an_operand_that_is_not_there_faults_and_changes_nothing,
    what_may_not_be_written_is_not,
    neighbours_are_checked_to_their_end,
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Loads 1234 or 1234.5 from RSI: what is there, and its size.
const LOADS: [(Program, &[u8]); 7] = [
    (|a| a.fld(dword_ptr(rsi)), &[0x00, 0x50, 0x9a, 0x44]),
    (|a| a.fld(qword_ptr(r9 + r10)), &[0, 0, 0, 0, 0, 0x4a, 0x93, 0x40]),
    (|a| a.fld(tbyte_ptr(rsi)), &[0, 0, 0, 0, 0, 0, 0x50, 0x9a, 0x09, 0x40]),
    (|a| a.fild(word_ptr(r11)), &[0xd2, 4]),
    (|a| a.fild(dword_ptr(rsi).gs()), &[0xd2, 4, 0, 0]),
    (|a| a.fild(qword_ptr(r15)), &[0xd2, 4, 0, 0, 0, 0, 0, 0]),
    (|a| a.fbld(tbyte_ptr(rsi)), &[0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0]),
];

/// Stores the number at RSI, or all but its fraction.
const STORES: [(Program, &[u8]); 10] = [
    (|a| a.fst(dword_ptr(rsi)), &[0x00, 0x50, 0x9a, 0x44]),
    (|a| a.fstp(dword_ptr(rsi)), &[0x00, 0x50, 0x9a, 0x44]),
    (|a| a.fst(qword_ptr(r9 + r10)), &[0, 0, 0, 0, 0, 0x4a, 0x93, 0x40]),
    (|a| a.fstp(tbyte_ptr(r15)), &[0, 0, 0, 0, 0, 0, 0x50, 0x9a, 0x09, 0x40]),
    (|a| a.fist(word_ptr(rsi)), &[0xd2, 4]),
    (|a| a.fistp(dword_ptr(r11)), &[0xd2, 4, 0, 0]),
    (|a| a.fistp(qword_ptr(rsi)), &[0xd2, 4, 0, 0, 0, 0, 0, 0]),
    (|a| a.fisttp(qword_ptr(rsi).gs()), &[0xd2, 4, 0, 0, 0, 0, 0, 0]),
    (|a| a.fbstp(tbyte_ptr(rsi)), &[0x34, 0x12, 0, 0, 0, 0, 0, 0, 0, 0]),
    (|a| a.fnstcw(word_ptr(rsi)), &[0x7f, 3]),
];

/// 1234.5 and 1234 in a register.
const FRACTION: [u8; 10] = [0, 0, 0, 0, 0, 0, 0x50, 0x9a, 0x09, 0x40];
const WHOLE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0x40, 0x9a, 0x09, 0x40];

/// Points all registers that the programs use at a place.
fn point(vcpu: &mut SoftVcpu, at: u64) {
    for n in [gpr::RSI, 11, 15] {
        vcpu.set_gpr(n, at);
    }
    vcpu.set_gpr(9, at - 0x123);
    vcpu.set_gpr(10, 0x123);
}

fn operands_are_of_every_size_and_anywhere(options: Options) {
    let page = at::DATA + 0x1000;
    for (load, bytes) in LOADS {
        let machine = machine(options, |a| {
            load(a)?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        let size = bytes.len() as u64;
        for place in [page, page + 0x7f3, page - size, page - size + 1, page - 1] {
            machine.write(place, bytes);
            for _ in 0..3 {
                reset(&mut vcpu, 0x37f);
                point(&mut vcpu, place);
                go(&mut vcpu);
                let expected = if bytes[0] == 0 { FRACTION } else { WHOLE };
                assert_eq!(st(&vcpu, 0), expected, "{bytes:x?}, {place:x}");
                assert_eq!((status(&vcpu), vcpu.fxsave().0[4]), (7 << 11, 0x80));
            }
        }
    }
    for (store, bytes) in STORES {
        let machine = machine(options, |a| {
            a.fld(tbyte_ptr(at::LARGE))?;
            store(a)?;
            a.hlt()
        });
        machine.write(at::LARGE, &FRACTION);
        let mut vcpu = machine.vcpu();
        let size = bytes.len() as u64;
        for place in [page, page + 0x7f3, page - size, page - size + 1, page - 1] {
            for _ in 0..3 {
                let around = [0xa5; 18];
                machine.write(place - 4, &around);
                reset(&mut vcpu, 0x37f);
                point(&mut vcpu, place);
                go(&mut vcpu);
                let mut expected = around;
                expected[4..4 + bytes.len()].copy_from_slice(bytes);
                for (n, byte) in (0..).zip(expected) {
                    let at = place - 4 + n;
                    assert_eq!(machine.read_u64(at) as u8, byte, "{bytes:x?}, {place:x}, {n}");
                }
            }
        }
    }
}

fn an_operand_that_is_not_there_faults_and_changes_nothing(options: Options) {
    let page = at::DATA + 0x1000;
    let entry = at::PT + (page >> 12) * 8;
    for (n, (program, bytes)) in LOADS.into_iter().chain(STORES).enumerate() {
        let machine = machine(options, |a| {
            a.fld1()?;
            a.fld(tbyte_ptr(at::LARGE))?;
            program(a)?;
            a.hlt()
        });
        machine.write(at::LARGE, &FRACTION);
        // The page comes back, and the instruction is tried again.
        let code = assemble(at::HANDLERS + 14 * 256, |a| {
            a.inc(ebx)?;
            a.mov(rdx, qword_ptr(rsp + 8))?;
            a.mov(rcx, entry)?;
            a.mov(qword_ptr(rcx), r8)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        machine.handle(14, &code);
        let mut vcpu = machine.vcpu();
        let place = page - 1;
        machine.write(place, bytes);
        // The first time nothing is in the TLB, the third time all but what is tried.
        for time in 0..4 {
            machine.write_u64(entry, if time % 2 == 0 { 0 } else { page | pte::RIGHTS });
            vcpu.flush_tlb();
            reset(&mut vcpu, 0x37f);
            point(&mut vcpu, place);
            vcpu.set_gpr(gpr::RBX, 0);
            vcpu.set_gpr(8, page | pte::RIGHTS);
            go(&mut vcpu);
            assert_eq!(vcpu.gpr(gpr::RBX), u64::from(time % 2 == 0), "{n}, {time}");
            if time == 0 {
                assert_eq!(vcpu.cr2(), page);
                assert_eq!(vcpu.gpr(gpr::RDX), at::CODE + 2 + 7, "{n}");
            }
            let top = status(&vcpu) >> 11 & 7;
            let popped = u16::from(n >= LOADS.len() && !matches!(n - LOADS.len(), 0 | 2 | 4 | 9));
            let pushed = u16::from(n < LOADS.len());
            assert_eq!(top, 6 + popped - pushed, "{n}, {time}");
        }
    }
}

/// Runs until HLT, which may be that of the handler of page faults; gives whether it is.
fn faults(vcpu: &mut SoftVcpu) -> bool {
    go(vcpu);
    vcpu.rip() == at::HANDLERS + 14 * 256 + 1
}

fn what_may_not_be_written_is_not(options: Options) {
    let page = at::DATA + 0x1000;
    for (store, bytes) in STORES {
        let machine = machine(options, |a| {
            a.fld(tbyte_ptr(at::LARGE))?;
            a.mov(al, byte_ptr(r11))?;
            store(a)?;
            a.hlt()
        });
        machine.handle(14, &[0xf4]);
        machine.write_u64(at::PT + (page >> 12) * 8, page | pte::PRESENT);
        let mut vcpu = machine.vcpu();
        for place in [page, page - 1, page - bytes.len() as u64] {
            for _ in 0..3 {
                machine.write(place, &[0xa5; 10]);
                reset(&mut vcpu, 0x37f);
                point(&mut vcpu, place);
                let reaches = place + bytes.len() as u64 > page;
                assert_eq!(faults(&mut vcpu), reaches, "{bytes:x?}, {place:x}");
                if reaches {
                    assert_eq!(vcpu.cr2(), page);
                    assert_eq!(machine.read_u64(place), 0xa5a5_a5a5_a5a5_a5a5);
                    assert_eq!(status(&vcpu) >> 11, 7);
                }
            }
        }
    }
}

/// Accesses that share a look-up: the second one reaches further, or is the only one that writes.
fn neighbours_are_checked_to_their_end(options: Options) {
    let page = at::DATA + 0x1000;
    let machine = machine(options, |a| {
        a.fld(dword_ptr(rsi))?;
        a.fadd(dword_ptr(rsi + 4))?;
        a.fstp(tbyte_ptr(rsi + 8))?;
        a.hlt()
    });
    machine.handle(14, &[0xf4]);
    let mut vcpu = machine.vcpu();
    for entry in [page | pte::RIGHTS, page | pte::PRESENT, 0] {
        machine.write_u64(at::PT + (page >> 12) * 8, entry);
        vcpu.flush_tlb();
        for place in [page - 18, page - 17, page - 9, page - 5, page, page + 0x100] {
            for _ in 0..3 {
                machine.write(place, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40, 0xa5, 0xa5, 0xa5]);
                reset(&mut vcpu, 0x37f);
                point(&mut vcpu, place);
                let reaches = place + 18 > page && entry != page | pte::RIGHTS;
                assert_eq!(faults(&mut vcpu), reaches, "{entry:x}, {place:x}");
                let found = machine.read_u64(place + 10);
                // 1 + 2.
                let sum = 0x4000_c000_0000_0000;
                assert_eq!(found == sum, !reaches, "{entry:x}, {place:x}: {found:x}");
            }
        }
    }
}
