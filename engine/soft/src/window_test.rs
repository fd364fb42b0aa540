//! Accesses by the same registers, which translated code looks up together: where a page ends between them, or
//! one of them faults.

use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_machine::{Machine, assemble, at, machine, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    accesses_around_the_end_of_a_page_are_where_they_should_be,
    pushes_and_pops_around_the_end_of_a_page_are_in_order,
    a_fault_comes_after_what_is_before_it,
    flags_outlive_accesses_that_are_looked_up_together,
    an_operand_that_is_not_aligned_faults_where_it_stands,
}

/// The end of a page of data.
const END: u64 = at::DATA + 0x1000;

/// Forgets the page at `linear`.
fn unmap(machine: &Machine, linear: u64) {
    machine.write_u64(at::PT + (linear >> 12) * 8, 0);
}

fn accesses_around_the_end_of_a_page_are_where_they_should_be(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(r10, rax)?;
        a.add(qword_ptr(rbx + 8), rax)?;
        a.mov(dword_ptr(rbx + 16), eax)?;
        a.xor(rcx, qword_ptr(rbx - 24))?;
        a.mov(byte_ptr(rbx + 20), cl)?;
        a.mov(r11, qword_ptr(rbx + 8))?;
        a.movups(xmm0, xmmword_ptr(rbx + 4))?;
        a.movups(xmmword_ptr(rbx + 32), xmm0)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for start in END - 72..END + 32 {
        let bytes: Vec<u8> =
            (0..96u8).map(|n| (start as u8).wrapping_mul(29) ^ n.wrapping_mul(7)).collect();
        machine.write(start - 32, &bytes);
        let word = |at: usize| u64::from_le_bytes(bytes[32 + at..][..8].try_into().unwrap());
        let sum = word(8).wrapping_add(word(0));
        let mut expected = bytes[32..].to_vec();
        expected[8..16].copy_from_slice(&sum.to_le_bytes());
        expected[16..20].copy_from_slice(&bytes[32..36]);
        expected[20] = 0x5a ^ bytes[8];
        let moved: [u8; 16] = expected[4..20].try_into().unwrap();
        expected[32..48].copy_from_slice(&moved);
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RBX, start);
        vcpu.set_gpr(gpr::RCX, 0x5a);
        run_to_halt(&mut vcpu);
        let found: Vec<u8> =
            (0..64).step_by(8).flat_map(|n| machine.read_u64(start + n).to_le_bytes()).collect();
        assert_eq!(found, expected, "{start:#x}");
        assert_eq!((vcpu.gpr(10), vcpu.gpr(11)), (word(0), sum), "{start:#x}");
    }
}

fn pushes_and_pops_around_the_end_of_a_page_are_in_order(options: Options) {
    let machine = machine(options, |a| {
        a.push(rbx)?;
        a.push(r11)?;
        a.push(-2i32)?;
        a.mov(rcx, qword_ptr(rsp + 16))?;
        a.push(rsp)?;
        a.pop(rdx)?;
        a.pop(rsi)?;
        a.mov(qword_ptr(rsp - 40), rcx)?;
        a.pop(r10)?;
        a.pop(rdi)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for stack in (END - 48..END + 64).step_by(4) {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSP, stack);
        vcpu.set_gpr(gpr::RBX, 0x11);
        vcpu.set_gpr(11, 0x22);
        run_to_halt(&mut vcpu);
        let registers = [gpr::RCX, gpr::RDX, gpr::RSI, 10, gpr::RDI, gpr::RSP].map(|n| vcpu.gpr(n));
        let expected = [0x11, stack - 24, u64::MAX - 1, 0x22, 0x11, stack];
        assert_eq!(registers, expected, "{stack:#x}");
        assert_eq!(machine.read_u64(stack - 16 - 40), 0x11, "{stack:#x}");
    }
}

fn a_fault_comes_after_what_is_before_it(options: Options) {
    let code = assemble(at::CODE, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.inc(rax)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.inc(rax)?;
        a.mov(qword_ptr(rbx + 16), rax)?;
        a.inc(rax)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    machine.handle(14, &[0xf4]);
    unmap(&machine, END);
    let mut vcpu = machine.vcpu();
    for (start, done) in [(END - 8, 1), (END - 16, 2), (END - 12, 1), (END - 20, 2)] {
        machine.write(END - 32, &[0; 32]);
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RAX, 5);
        vcpu.set_gpr(gpr::RBX, start);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        run_to_halt(&mut vcpu);
        // MOV [RBX] is three bytes long, as is INC; MOV with a displacement four.
        let rip = at::CODE + [0, 6, 13][done];
        assert_eq!(machine.read_u64(vcpu.gpr(gpr::RSP) + 8), rip, "{start:#x}");
        assert_eq!(vcpu.gpr(gpr::RAX), 5 + done as u64, "{start:#x}");
        for n in 0..done as u64 {
            assert_eq!(machine.read_u64(start + n * 8), 5 + n, "{start:#x}");
        }
    }
}

fn flags_outlive_accesses_that_are_looked_up_together(options: Options) {
    let machine = machine(options, |a| {
        a.cmp(rsi, rdi)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx + 8))?;
        a.adc(rax, rcx)?;
        a.mov(qword_ptr(rbx + 16), rax)?;
        a.setc(byte_ptr(rbx + 24))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for start in [END - 64, END - 8, END - 16, END - 24] {
        for (less, first) in [(0, 7), (1, 7), (1, u64::MAX)] {
            machine.write_u64(start, first);
            machine.write_u64(start + 8, 0);
            vcpu.set_rip(at::CODE);
            vcpu.set_gpr(gpr::RBX, start);
            vcpu.set_gpr(gpr::RSI, 0);
            vcpu.set_gpr(gpr::RDI, less);
            run_to_halt(&mut vcpu);
            let (sum, carry) = first.overflowing_add(less);
            assert_eq!(machine.read_u64(start + 16), sum);
            assert_eq!(machine.read_u64(start + 24) & 0xff, carry.into());
        }
    }
}

fn an_operand_that_is_not_aligned_faults_where_it_stands(options: Options) {
    let code = assemble(at::CODE, |a| {
        a.mov(qword_ptr(rbx), rax)?;
        a.movaps(xmm0, xmmword_ptr(rbx + 16))?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    machine.handle(13, &[0xf4]);
    let mut vcpu = machine.vcpu();
    for (distance, faults) in [(0, false), (8, true), (4, true)] {
        let start = at::DATA + 0x100 + distance;
        machine.write(start, &[0; 16]);
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RAX, 9);
        vcpu.set_gpr(gpr::RBX, start);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        run_to_halt(&mut vcpu);
        assert_eq!(machine.read_u64(start), 9);
        assert_eq!(machine.read_u64(start + 8), if faults { 0 } else { 9 });
        if faults {
            assert_eq!(machine.read_u64(vcpu.gpr(gpr::RSP) + 8), at::CODE + 3);
        }
    }
}
