//! Single steps and breakpoints.

use arch_x86::exception;
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::code_asm::*;

use crate::Options;
use crate::run_test::handler;
use crate::test_machine::{Machine, at, machine, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    single_step_traps_after_each_instruction,
    software_interrupts_are_not_stepped,
    data_breakpoints_trap_after_the_access,
    instruction_breakpoints_fault_before_it_and_rf_lets_it_pass,
}

/// Counts #DB in R8, and gathers DR6 in R9 and the pushed RIP in R10.
fn count_debug_exceptions(machine: &Machine) {
    handler(machine, exception::DB, |a| {
        a.inc(r8)?;
        a.mov(r11, dr6)?;
        a.or(r9, r11)?;
        a.mov(r10, qword_ptr(rsp))?;
        a.iretq()
    });
}

fn single_step_traps_after_each_instruction(options: Options) {
    let machine = machine(options, |a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), rflags::TF as i32)?;
        a.popfq()?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.inc(rax)?;
        a.hlt()
    });
    count_debug_exceptions(&machine);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::R8), vcpu.gpr(gpr::RAX)), (3, 3));
    assert_eq!(vcpu.gpr(gpr::R9) & 1 << 14, 1 << 14, "BS");
    assert_eq!(vcpu.gpr(gpr::R10), vcpu.rip() - 1, "at HLT");
}

fn software_interrupts_are_not_stepped(options: Options) {
    let machine = machine(options, |a| {
        a.int3()?;
        a.hlt()
    });
    handler(&machine, exception::BP, |a| {
        a.and(dword_ptr(rsp + 16), !(rflags::TF as i32))?;
        a.iretq()
    });
    count_debug_exceptions(&machine);
    let mut vcpu = machine.vcpu();
    vcpu.set_rflags(rflags::FIXED | rflags::TF);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::R8), 0);
}

fn data_breakpoints_trap_after_the_access(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(at::DATA + 8))?;
        a.mov(qword_ptr(at::DATA), rax)?;
        a.mov(qword_ptr(at::DATA + 8), rax)?;
        a.inc(rbx)?;
        a.hlt()
    });
    count_debug_exceptions(&machine);
    let mut vcpu = machine.vcpu();
    // DR0: writes of 4 bytes at DATA + 12.
    vcpu.set_dr(0, at::DATA + 12);
    vcpu.set_dr(7, 0x400 | 1 << 1 | 0b1101 << 16);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::R8), vcpu.gpr(gpr::RBX)), (1, 1));
    assert_eq!(vcpu.gpr(gpr::R9) & 0xf, 1);
    assert_eq!(vcpu.gpr(gpr::R10), at::CODE + 30);
    // Switched off, the fast way is taken again.
    vcpu.set_dr(7, 0x400);
    vcpu.set_rip(at::CODE);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::R8), 1);
}

fn instruction_breakpoints_fault_before_it_and_rf_lets_it_pass(options: Options) {
    let machine = machine(options, |a| {
        a.inc(rax)?;
        a.inc(rbx)?;
        a.hlt()
    });
    handler(&machine, exception::DB, |a| {
        a.inc(r8)?;
        a.mov(r9, rbx)?;
        a.or(dword_ptr(rsp + 16), rflags::RF as i32)?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_dr(0, at::CODE + 3);
    vcpu.set_dr(7, 0x400 | 1);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::R8), vcpu.gpr(gpr::R9), vcpu.gpr(gpr::RBX)), (1, 0, 1));
    assert_eq!(vcpu.rflags() & rflags::RF, 0, "for one instruction only");
}
