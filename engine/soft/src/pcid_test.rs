//! Address spaces side by side: what a PCID had is found again, and nobody else's.

use arch_x86::exception;
use arch_x86::regs::{Regs, SysReg, cr4, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::address_spaces::SPACES;
use crate::test_machine::{Machine, assemble, at, machine, pte, run_to_halt, selector};
use crate::test_ways::in_every_way;
use crate::{Options, SoftVcpu};

in_every_way! {
    a_pcid_keeps_what_it_had,
    a_switch_that_flushes_drops_what_the_pcid_had,
    invlpg_drops_the_current_pcids_page,
    invlpg_drops_global_pages_of_all_pcids,
    invpcid_drops_pages_of_other_pcids,
    invpcid_drops_the_current_pcids_pages,
    a_change_of_cr4_drops_all_pcids_pages,
    without_pcids_each_switch_flushes,
    code_at_one_address_is_each_pcids_own,
    users_code_at_one_address_is_found_again,
    code_that_is_written_in_one_pcid_is_seen_in_others,
    a_pages_first_code_withholds_writes_in_all_pcids,
    more_pcids_than_there_is_room_for_are_kept_apart,
    supervisor_accesses_with_smap_lifted_are_the_pcids,
    rights_are_each_pcids_own,
    the_hosts_writes_to_code_are_seen_in_all_pcids,
}

type Assembled = Result<(), IcedError>;

const KEEP: u64 = 1 << 63;
/// A user's page, the only one in which the address spaces differ. All others are the supervisor's.
const PAGE: u64 = at::DATA;
/// The tables of PCID 0; the others' follow.
const TABLES: u64 = 0x10_0000;
/// A descriptor for INVPCID.
const DESCRIPTOR: u64 = 0x9_8000;
const SUPERVISOR: u64 = pte::PRESENT | pte::WRITABLE;

fn pml4(pcid: u64) -> u64 {
    TABLES + pcid * 0x4000
}

/// Where a PCID has the entry of [`PAGE`].
fn entry(pcid: u64) -> u64 {
    pml4(pcid) + 0x3000 + (PAGE >> 12) * 8
}

/// What CR3 is to be for a PCID.
fn space(pcid: u64) -> u64 {
    pml4(pcid) | pcid
}

/// The frame that is a PCID's [`PAGE`].
fn frame(pcid: u64) -> u64 {
    PAGE + pcid * 0x1000
}

/// Writes `mov eax, value; ret`.
fn write_function(machine: &Machine, gpa: u64, value: u8) {
    machine.write(gpa, &[0xb8, value, 0, 0, 0, 0xc3]);
}

/// Makes tables for PCIDs 0 to `count` - 1. In each [`PAGE`] is a function that gives 100 and its number.
fn make_spaces(machine: &Machine, count: u64) {
    for pcid in 0..count {
        let at = pml4(pcid);
        for level in 0..3 {
            machine.write_u64(at + level * 0x1000, (at + (level + 1) * 0x1000) | pte::RIGHTS);
        }
        for n in 0..512 {
            machine.write_u64(at + 0x3000 + n * 8, n << 12 | SUPERVISOR);
        }
        machine.write_u64(entry(pcid), frame(pcid) | pte::RIGHTS);
        write_function(machine, frame(pcid), 100 + pcid as u8);
    }
}

/// A vCPU in PCID 0 of several. Its accesses are those of a supervisor that lifts SMAP: they use the
/// address space's own table.
fn vcpu(machine: &Machine, count: u64) -> SoftVcpu {
    make_spaces(machine, count);
    let mut vcpu = machine.vcpu();
    vcpu.set_cr3(pml4(0));
    vcpu.set_cr4(vcpu.cr4() | cr4::PCIDE | cr4::SMAP);
    vcpu.set_rflags(rflags::FIXED | rflags::AC);
    vcpu
}

fn run_in_spaces(
    options: Options,
    count: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> SoftVcpu {
    let machine = machine(options, program);
    let mut vcpu = vcpu(&machine, count);
    run_to_halt(&mut vcpu);
    vcpu
}

fn switch(a: &mut CodeAssembler, to: u64) -> Assembled {
    a.mov(rdx, to)?;
    a.mov(cr3, rdx)
}

/// Stores a number, through RSI.
fn store(a: &mut CodeAssembler, address: u64, value: u64) -> Assembled {
    a.mov(rsi, value)?;
    a.mov(qword_ptr(address), rsi)
}

fn invpcid(a: &mut CodeAssembler, kind: u64, pcid: u64) -> Assembled {
    store(a, DESCRIPTOR, pcid)?;
    store(a, DESCRIPTOR + 8, PAGE)?;
    a.mov(rdi, kind)?;
    a.invpcid(rdi, xmmword_ptr(DESCRIPTOR))
}

/// Toggles CR4.PGE twice.
fn toggle_pge(a: &mut CodeAssembler) -> Assembled {
    for _ in 0..2 {
        a.mov(rdi, iced_x86::code_asm::cr4)?;
        a.xor(rdi, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdi)?;
    }
    Ok(())
}

/// What PCID 1 then has in [`PAGE`], as data and as code. It has used it before; frame 2 was mapped there instead
/// from PCID 0, which then did `between`. The switch back is `back`, and `after` follows it.
fn seen(
    options: Options,
    flags: u64,
    back: u64,
    between: impl FnOnce(&mut CodeAssembler) -> Assembled,
    after: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> (u64, u64) {
    let vcpu = run_in_spaces(options, 3, |a| {
        store(a, entry(1), frame(1) | pte::RIGHTS | flags)?;
        switch(a, space(1))?;
        a.movzx(rbx, byte_ptr(PAGE + 1))?;
        a.call(PAGE)?;
        switch(a, space(0) | KEEP)?;
        store(a, entry(1), frame(2) | pte::RIGHTS | flags)?;
        between(a)?;
        switch(a, back)?;
        after(a)?;
        a.movzx(rbx, byte_ptr(PAGE + 1))?;
        a.call(PAGE)?;
        a.hlt()
    });
    assert_eq!(vcpu.cr3(), space(1));
    (vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX))
}

const OLD: (u64, u64) = (101, 101);
const NEW: (u64, u64) = (102, 102);

fn nothing(_: &mut CodeAssembler) -> Assembled {
    Ok(())
}

fn invlpg(a: &mut CodeAssembler) -> Assembled {
    a.invlpg(byte_ptr(PAGE + 0x123))
}

fn a_pcid_keeps_what_it_had(options: Options) {
    // No promise, but what PCIDs are for.
    assert_eq!(seen(options, 0, space(1) | KEEP, nothing, nothing), OLD);
    assert_eq!(seen(options, 0, space(1) | KEEP, invlpg, nothing), OLD);
    assert_eq!(seen(options, 0, space(1) | KEEP, |a| switch(a, space(0)), nothing), OLD);
}

fn a_switch_that_flushes_drops_what_the_pcid_had(options: Options) {
    assert_eq!(seen(options, 0, space(1), nothing, nothing), NEW);
    assert_eq!(seen(options, 0, space(1) | KEEP, nothing, |a| switch(a, space(1))), NEW);
}

fn invlpg_drops_the_current_pcids_page(options: Options) {
    for flags in [0, pte::GLOBAL] {
        assert_eq!(seen(options, flags, space(1) | KEEP, nothing, invlpg), NEW);
    }
}

fn invlpg_drops_global_pages_of_all_pcids(options: Options) {
    assert_eq!(seen(options, pte::GLOBAL, space(1) | KEEP, invlpg, nothing), NEW);
}

fn invpcid_drops_pages_of_other_pcids(options: Options) {
    let after = |flags, kind, pcid| {
        seen(options, flags, space(1) | KEEP, |a| invpcid(a, kind, pcid), nothing)
    };
    for kind in [0, 1] {
        assert_eq!(after(0, kind, 1), NEW, "{kind}");
        assert_eq!(after(0, kind, 0), OLD, "{kind}, of another");
        assert_eq!(after(0, kind, 77), OLD, "{kind}, of one that is not used");
    }
    assert_eq!(after(0, 2, 0), NEW);
    assert_eq!(after(0, 3, 0), NEW);
    assert_eq!(after(pte::GLOBAL, 2, 0), NEW);
}

fn invpcid_drops_the_current_pcids_pages(options: Options) {
    for kind in 0..=3 {
        let after = |a: &mut CodeAssembler| invpcid(a, kind, 1);
        assert_eq!(seen(options, 0, space(1) | KEEP, nothing, after), NEW, "{kind}");
    }
}

fn a_change_of_cr4_drops_all_pcids_pages(options: Options) {
    for flags in [0, pte::GLOBAL] {
        assert_eq!(seen(options, flags, space(1) | KEEP, toggle_pge, nothing), NEW);
    }
}

fn without_pcids_each_switch_flushes(options: Options) {
    let machine = machine(options, |a| {
        for _ in 0..3 {
            for tables in [pml4(0), pml4(1)] {
                switch(a, tables)?;
                a.movzx(ecx, byte_ptr(PAGE + 1))?;
                a.call(PAGE)?;
                a.add(rbx, rax)?;
                a.add(rbx, rcx)?;
            }
        }
        a.hlt()
    });
    let mut vcpu = vcpu(&machine, 2);
    vcpu.set_cr4(vcpu.cr4() & !cr4::PCIDE);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 3 * 2 * (100 + 101));
}

/// In each of several PCIDs, without a flush: RBX becomes greater by what [`PAGE`] holds, and what it gives.
fn sum_in_each(a: &mut CodeAssembler, pcids: impl Iterator<Item = u64>) -> Assembled {
    for pcid in pcids {
        switch(a, space(pcid) | KEEP)?;
        a.movzx(ecx, byte_ptr(PAGE + 1))?;
        a.call(PAGE)?;
        a.add(rbx, rax)?;
        a.add(rbx, rcx)?;
    }
    Ok(())
}

fn code_at_one_address_is_each_pcids_own(options: Options) {
    let vcpu = run_in_spaces(options, 2, |a| {
        let mut top = a.create_label();
        a.mov(r12d, 300)?;
        a.set_label(&mut top)?;
        sum_in_each(a, 0..2)?;
        a.dec(r12d)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(vcpu.gpr(gpr::RBX), 300 * 2 * (100 + 101));
    let statistics = vcpu.statistics();
    assert!(statistics.tlb_fills < 20, "nothing is walked again: {statistics:?}");
}

fn more_pcids_than_there_is_room_for_are_kept_apart(options: Options) {
    let count = SPACES as u64 + 3;
    let vcpu = run_in_spaces(options, count, |a| {
        let mut top = a.create_label();
        a.mov(r12d, 5)?;
        a.set_label(&mut top)?;
        sum_in_each(a, 0..count)?;
        sum_in_each(a, (0..count).rev())?;
        a.dec(r12d)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(vcpu.gpr(gpr::RBX), (0..count).map(|pcid| 5 * 2 * 2 * (100 + pcid)).sum());
}

fn users_code_at_one_address_is_found_again(options: Options) {
    // The kernel goes from one process to the other at each system call.
    const ROUNDS: u32 = 500;
    let kernel = at::UPPER + at::CODE + 0x100;
    let machine = machine(options, |a| {
        a.mov(rcx, PAGE)?;
        a.mov(r11d, rflags::FIXED as u32)?;
        a.sysretq()
    });
    let code = assemble(kernel, |a| {
        let mut done = a.create_label();
        a.dec(r12d)?;
        a.jz(done)?;
        a.mov(rdx, cr3)?;
        a.mov(rsi, space(0) ^ space(1) | KEEP)?;
        a.xor(rdx, rsi)?;
        a.mov(cr3, rdx)?;
        a.sysretq()?;
        a.set_label(&mut done)?;
        a.hlt()
    });
    machine.write(kernel - at::UPPER, &code);
    let mut vcpu = vcpu(&machine, 2);
    for pcid in 0..2 {
        machine.write_u64(pml4(pcid) + 511 * 8, (pml4(pcid) + 0x1000) | pte::RIGHTS);
        let kernels = pml4(pcid) + 0x3000 + (at::CODE >> 12) * 8;
        machine.write_u64(kernels, at::CODE | SUPERVISOR | pte::GLOBAL);
        let user = assemble(PAGE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.mov(eax, 1 + pcid as u32)?;
            a.add(rbx, rax)?;
            a.add(qword_ptr(PAGE + 0x800), 1)?;
            a.syscall()?;
            a.jmp(top)
        });
        machine.write(frame(pcid), &user);
    }
    vcpu.set_rflags(rflags::FIXED);
    vcpu.set_gpr(gpr::R12, ROUNDS.into());
    vcpu.set_sysreg(SysReg::Lstar, kernel);
    let selectors = u64::from(selector::CODE) << 32 | u64::from(selector::DATA | 3) << 48;
    vcpu.set_sysreg(SysReg::Star, selectors);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), u64::from(ROUNDS) / 2 * (1 + 2));
    for pcid in 0..2 {
        assert_eq!(machine.read_u64(frame(pcid) + 0x800), u64::from(ROUNDS) / 2);
    }
    let statistics = vcpu.statistics();
    assert!(statistics.tlb_fills < 10, "nothing is walked again: {statistics:?}");
    assert!(statistics.block_lookups < 60, "nor is code looked up: {statistics:?}");
}

fn code_that_is_written_in_one_pcid_is_seen_in_others(options: Options) {
    let vcpu = run_in_spaces(options, 3, |a| {
        let mut top = a.create_label();
        for pcid in 0..2 {
            store(a, entry(pcid), frame(2) | pte::RIGHTS)?;
        }
        a.mov(r12d, 100)?;
        a.set_label(&mut top)?;
        switch(a, space(0) | KEEP)?;
        a.mov(dword_ptr(frame(2) + 1), r12d)?;
        a.call(PAGE)?;
        a.add(rbx, rax)?;
        switch(a, space(1) | KEEP)?;
        a.call(PAGE)?;
        a.add(rbx, rax)?;
        a.add(dword_ptr(PAGE + 1), 1000)?;
        switch(a, space(0) | KEEP)?;
        a.call(PAGE)?;
        a.add(rbx, rax)?;
        a.dec(r12d)?;
        a.jnz(top)?;
        a.hlt()
    });
    assert_eq!(vcpu.gpr(gpr::RBX), 3 * 5050 + 100 * 1000);
}

fn a_pages_first_code_withholds_writes_in_all_pcids(options: Options) {
    let vcpu = run_in_spaces(options, 3, |a| {
        store(a, entry(0), frame(2) | pte::RIGHTS)?;
        switch(a, space(1) | KEEP)?;
        a.mov(byte_ptr(frame(2) + 1), 6)?;
        switch(a, space(0) | KEEP)?;
        a.call(PAGE)?;
        a.mov(rbx, rax)?;
        switch(a, space(1) | KEEP)?;
        a.mov(byte_ptr(frame(2) + 1), 7)?;
        switch(a, space(0) | KEEP)?;
        a.call(PAGE)?;
        a.hlt()
    });
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (6, 7));
}

fn supervisor_accesses_with_smap_lifted_are_the_pcids(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(r12d, 100)?;
        a.set_label(&mut top)?;
        for pcid in 0..2 {
            switch(a, space(pcid) | KEEP)?;
            a.stac()?;
            a.movzx(ecx, byte_ptr(PAGE + 1))?;
            a.inc(qword_ptr(PAGE + 0x800))?;
            a.clac()?;
            a.add(qword_ptr(DESCRIPTOR), rcx)?;
        }
        a.dec(r12d)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = vcpu(&machine, 2);
    vcpu.set_rflags(rflags::FIXED);
    run_to_halt(&mut vcpu);
    assert_eq!(machine.read_u64(DESCRIPTOR), 100 * (100 + 101));
    let counts = [0, 1].map(|pcid| machine.read_u64(frame(pcid) + 0x800));
    assert_eq!(counts, [100, 100]);
}

fn rights_are_each_pcids_own(options: Options) {
    let machine = machine(options, |a| {
        a.mov(dword_ptr(PAGE + 0x800), 1)?;
        switch(a, space(1) | KEEP)?;
        a.mov(eax, dword_ptr(PAGE + 0x800))?;
        switch(a, space(0) | KEEP)?;
        a.mov(dword_ptr(PAGE + 0x800), 2)?;
        switch(a, space(1) | KEEP)?;
        a.mov(dword_ptr(PAGE + 0x800), 3)?;
        a.hlt()
    });
    let handler = assemble(at::HANDLERS + u64::from(exception::PF) * 256, |a| {
        a.pop(rbx)?;
        a.hlt()
    });
    machine.handle(exception::PF, &handler);
    let mut vcpu = vcpu(&machine, 2);
    machine.write_u64(entry(1), frame(0) | pte::PRESENT | pte::USER);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 0b11, "present, write, supervisor");
    assert_eq!((vcpu.cr2(), machine.read_u64(frame(0) + 0x800)), (PAGE + 0x800, 2));
}

fn the_hosts_writes_to_code_are_seen_in_all_pcids(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        sum_in_each(a, 0..2)?;
        a.hlt()?;
        a.jmp(top)
    });
    let mut vcpu = vcpu(&machine, 2);
    for n in 0..4 {
        for pcid in 0..2 {
            write_function(&machine, frame(pcid), n * 10 + pcid as u8);
        }
        vcpu.set_gpr(gpr::RBX, 0);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RBX), 2 * (2 * u64::from(n) * 10 + 1));
    }
}
