//! The stack's page, which translated code keeps: it is dropped whenever the TLB drops it.

use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_machine::{at, machine, pte, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    a_stack_that_is_remapped_is_the_new_page_after_invlpg,
    a_stack_that_is_remapped_is_the_new_page_after_cr3,
    code_on_the_stack_is_what_was_pushed_last,
    a_page_that_rsp_may_not_write_is_read,
}

/// A page of the stack's own, and the entry that maps it.
const TOP: u64 = at::DATA + 0x3800;
const ENTRY: u64 = at::PT + (TOP >> 12) * 8;
/// What it is mapped to later.
const OTHER: u64 = at::DATA + 0x5000;

/// Pushes 1 and 2, has `flush` drop the page, which was remapped, and pushes 3.
fn remap(options: Options, flush: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
    let machine = machine(options, |a| {
        a.mov(ebp, 3)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rsp, TOP)?;
        a.push(1)?;
        a.call(at::USER_CODE)?;
        a.push(2)?;
        a.mov(rsi, OTHER | pte::RIGHTS)?;
        a.mov(qword_ptr(ENTRY), rsi)?;
        flush(a)?;
        a.push(3)?;
        a.mov(rdi, qword_ptr(rsp))?;
        // Back to the first page.
        a.mov(rsi, (TOP & !0xfff) | pte::RIGHTS)?;
        a.mov(qword_ptr(ENTRY), rsi)?;
        flush(a)?;
        a.pop(rbx)?;
        a.pop(rcx)?;
        a.pop(rdx)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.hlt()
    });
    machine.write(at::USER_CODE, &[0xc3]);
    machine.write_u64(TOP - 24, 9);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RDI), 3);
    assert_eq!([gpr::RBX, gpr::RCX, gpr::RDX].map(|n| vcpu.gpr(n)), [9, 2, 1]);
    assert_eq!(machine.read_u64(OTHER + TOP % 0x1000 - 24), 3);
    assert_eq!(machine.read_u64(TOP - 24), 9);
}

fn a_stack_that_is_remapped_is_the_new_page_after_invlpg(options: Options) {
    remap(options, |a| a.invlpg(byte_ptr(rsp)));
}

fn a_stack_that_is_remapped_is_the_new_page_after_cr3(options: Options) {
    remap(options, |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    });
}

/// `mov eax, 1; ret` is pushed and called, and then with other numbers.
fn code_on_the_stack_is_what_was_pushed_last(options: Options) {
    let machine = machine(options, |a| {
        a.mov(ebp, 20)?;
        a.mov(rbx, 0x0000_c300_0000_01b8u64)?;
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.push(rbx)?;
        a.call(rsp)?;
        a.add(rdi, rax)?;
        a.pop(rcx)?;
        a.add(rbx, 0x100)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RDI, 0);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RDI), (1..=20).sum::<u64>());
}

/// Reading by RSP where only reading is allowed, after the page could be written.
fn a_page_that_rsp_may_not_write_is_read(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rbp, rsp)?;
        a.mov(rsp, TOP)?;
        a.push(7)?;
        a.mov(qword_ptr(ENTRY), rsi)?;
        a.invlpg(byte_ptr(rsp))?;
        a.mov(rax, qword_ptr(rsp))?;
        a.pop(rbx)?;
        // The fault is to find another stack.
        a.lea(rdx, qword_ptr(rsp - 8))?;
        a.mov(rsp, rbp)?;
        a.mov(qword_ptr(rdx), rax)?;
        a.hlt()
    });
    machine.handle(14, &[0x0f, 0x20, 0xd1, 0xf4]); // mov rcx, cr2; hlt
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RSI, (TOP & !0xfff) | pte::PRESENT);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RAX), vcpu.gpr(gpr::RBX)), (7, 7));
    assert_eq!(vcpu.gpr(gpr::RCX), TOP - 8);
}
