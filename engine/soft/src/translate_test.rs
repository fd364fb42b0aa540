//! The soft TLB keeps what it may and drops what it must; accesses of all shapes.

use arch_x86::engine::{Engine, EngineVcpu, Intercept};
use arch_x86::exception::{self, Exception};
use arch_x86::mmu::Limits;
use arch_x86::regs::{Regs, cr4, gpr};
use iced_x86::code_asm::*;
use virt::memory::Slot;

use crate::Options;
use crate::test_machine::{Machine, RAM, assemble, at, machine, pte, run, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    translations_stay_until_they_are_dropped,
    invlpg_drops_a_page_global_or_not,
    a_change_of_cr3_keeps_global_pages_only,
    clearing_pge_drops_global_pages_too,
    invpcid_of_all_contexts_drops_global_pages,
    a_change_of_pcid_does_not_show_the_other_ones_pages,
    invlpg_drops_all_of_a_large_page,
    a_write_after_a_read_sets_the_dirty_bit,
    accesses_across_pages_are_whole_or_not_at_all,
    rom_is_read_and_writes_come_out,
    an_invalidated_slot_is_gone_and_a_new_one_is_seen,
    non_canonical_addresses_are_general_protection,
    tables_outside_memory_come_out,
    addresses_are_as_wide_as_cpuid_says,
}

const ENTRY: u64 = at::PT + (at::DATA >> 12) * 8;
const OTHER: u64 = at::DATA + 0x1000;

/// A machine whose program reads [`at::DATA`] into RBX, maps `OTHER` there, does `between`, and reads
/// it into RAX. DATA holds 1, OTHER holds 2.
fn remap(
    options: Options,
    flags: u64,
    between: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Machine {
    let machine = machine(options, |a| {
        a.mov(rbx, qword_ptr(at::DATA))?;
        a.mov(rsi, OTHER | pte::RIGHTS | flags)?;
        a.mov(qword_ptr(ENTRY), rsi)?;
        between(a)?;
        a.mov(rax, qword_ptr(at::DATA))?;
        a.hlt()
    });
    machine.write_u64(at::DATA, 1);
    machine.write_u64(OTHER, 2);
    machine.write_u64(ENTRY, at::DATA | pte::RIGHTS | flags);
    machine
}

fn seen(machine: &Machine) -> (u64, u64) {
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    (vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX))
}

fn translations_stay_until_they_are_dropped(options: Options) {
    assert_eq!(seen(&remap(options, 0, |_| Ok(()))), (1, 1));
}

fn invlpg_drops_a_page_global_or_not(options: Options) {
    assert_eq!(seen(&remap(options, 0, |a| a.invlpg(byte_ptr(at::DATA + 5)))), (1, 2));
    assert_eq!(seen(&remap(options, pte::GLOBAL, |a| a.invlpg(byte_ptr(at::DATA)))), (1, 2));
}

fn a_change_of_cr3_keeps_global_pages_only(options: Options) {
    let reload = |a: &mut CodeAssembler| {
        a.mov(rdx, cr3)?;
        a.mov(cr3, rdx)
    };
    assert_eq!(seen(&remap(options, 0, reload)), (1, 2));
    assert_eq!(seen(&remap(options, pte::GLOBAL, reload)), (1, 1));
}

fn clearing_pge_drops_global_pages_too(options: Options) {
    let toggle = |a: &mut CodeAssembler| {
        a.mov(rdx, iced_x86::code_asm::cr4)?;
        a.xor(rdx, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdx)?;
        a.xor(rdx, cr4::PGE as i32)?;
        a.mov(iced_x86::code_asm::cr4, rdx)
    };
    assert_eq!(seen(&remap(options, pte::GLOBAL, toggle)), (1, 2));
}

fn invpcid_of_all_contexts_drops_global_pages(options: Options) {
    let invpcid = |kind: u64| {
        move |a: &mut CodeAssembler| {
            a.mov(rdx, kind)?;
            a.invpcid(rdx, xmmword_ptr(at::DATA + 0x2000))
        }
    };
    assert_eq!(seen(&remap(options, pte::GLOBAL, invpcid(2))), (1, 2));
    assert_eq!(seen(&remap(options, pte::GLOBAL, invpcid(3))), (1, 1));
    assert_eq!(seen(&remap(options, 0, invpcid(3))), (1, 2));
}

fn a_change_of_pcid_does_not_show_the_other_ones_pages(options: Options) {
    let machine = remap(options, 0, |a| {
        // PCID 1, without a flush (bit 63): its tables say OTHER.
        a.mov(rdx, 1_u64 << 63 | at::PML4 | 1)?;
        a.mov(cr3, rdx)
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_cr4(vcpu.cr4() | cr4::PCIDE);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 2));
    assert_eq!(vcpu.cr3(), at::PML4 | 1);
}

fn invlpg_drops_all_of_a_large_page(options: Options) {
    let entry = at::PD + (at::LARGE >> 21) * 8;
    let machine = machine(options, |a| {
        a.mov(rbx, qword_ptr(at::LARGE + 0x3000))?;
        a.mov(rsi, (at::LARGE + (2 << 20)) | pte::RIGHTS | pte::LARGE)?;
        a.mov(qword_ptr(entry), rsi)?;
        a.invlpg(byte_ptr(at::LARGE + 0x10_0000))?;
        a.mov(rax, qword_ptr(at::LARGE + 0x3000))?;
        a.hlt()
    });
    machine.write_u64(at::LARGE + 0x3000, 1);
    machine.write_u64(at::LARGE + (2 << 20) + 0x3000, 2);
    assert_eq!(seen(&machine), (1, 2));
}

fn a_write_after_a_read_sets_the_dirty_bit(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(at::DATA))?;
        a.mov(rbx, qword_ptr(ENTRY))?;
        a.mov(qword_ptr(at::DATA), rax)?;
        a.hlt()
    });
    let (before, _) = seen(&machine);
    assert_eq!(before & pte::DIRTY, 0);
    assert_eq!(machine.read_u64(ENTRY) & pte::DIRTY, pte::DIRTY);
}

fn accesses_across_pages_are_whole_or_not_at_all(options: Options) {
    let edge = at::DATA + 0x1000 - 3;
    let machine = machine(options, |a| {
        a.mov(rax, 0x1122_3344_5566_7788_u64)?;
        a.mov(qword_ptr(edge), rax)?;
        a.add(qword_ptr(edge), 1)?;
        a.lock().add(qword_ptr(edge), 1)?;
        a.mov(rbx, qword_ptr(edge))?;
        // The second page goes.
        a.mov(qword_ptr(ENTRY + 8), 0)?;
        a.invlpg(byte_ptr(OTHER))?;
        a.mov(qword_ptr(edge), -1)?;
        a.hlt()
    });
    machine.handle(
        14,
        &assemble(at::HANDLERS + 14 * 256, |a| {
            a.mov(rcx, cr2)?;
            a.hlt()
        }),
    );
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 0x1122_3344_5566_778a);
    assert_eq!(vcpu.gpr(gpr::RCX), OTHER, "the address of the part that faults");
    assert_eq!(machine.read_u64(edge), 0x1122_3344_5566_778a);
}

fn rom_is_read_and_writes_come_out(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rbx, at::LARGE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    });
    let gpa = 0xf000_0000;
    let rom = Slot {
        id: 1,
        gpa,
        size: 2 << 20,
        hva: machine.hva() + (4 << 20),
        read_only: true,
        ..Slot::default()
    };
    machine.memory.insert(rom).expect("no overlap");
    machine.write_u64(at::PD + (at::LARGE >> 21) * 8, gpa | pte::RIGHTS | pte::LARGE);
    machine.write_u64(4 << 20, 0x4242);
    let mut vcpu = machine.vcpu();
    assert_eq!(run(&mut vcpu), Intercept::NestedFault { gpa, write: true });
    assert_eq!(vcpu.gpr(gpr::RAX), 0x4242);
}

fn an_invalidated_slot_is_gone_and_a_new_one_is_seen(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(at::LARGE))?;
        a.hlt()?;
        a.jmp(top)
    });
    let gpa = 0xf000_0000;
    let slot =
        |offset| Slot { id: 1, gpa, size: 2 << 20, hva: machine.hva() + offset, ..Slot::default() };
    machine.memory.insert(slot(4 << 20)).expect("no overlap");
    machine.write_u64(at::PD + (at::LARGE >> 21) * 8, gpa | pte::RIGHTS | pte::LARGE);
    machine.write_u64(4 << 20, 1);
    machine.write_u64(6 << 20, 2);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 1);
    machine.memory.remove(1).expect("it is there");
    machine.engine.invalidate(gpa, 2 << 20);
    assert_eq!(run(&mut vcpu), Intercept::NestedFault { gpa, write: false });
    machine.memory.insert(slot(6 << 20)).expect("no overlap");
    machine.engine.invalidate(gpa, 2 << 20);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 2);
}

fn non_canonical_addresses_are_general_protection(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rbx, 1_u64 << 47)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.hlt()
    });
    machine.handle(
        13,
        &assemble(at::HANDLERS + 13 * 256, |a| {
            a.pop(rdx)?;
            a.mov(rcx, qword_ptr(rsp))?;
            a.hlt()
        }),
    );
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RDX), vcpu.gpr(gpr::RCX)), (0, at::CODE + 10));
}

fn tables_outside_memory_come_out(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(at::LARGE))?;
        a.hlt()
    });
    machine.write_u64(at::PD + (at::LARGE >> 21) * 8, (RAM + 0x5000) | pte::RIGHTS);
    let mut vcpu = machine.vcpu();
    assert_eq!(run(&mut vcpu), Intercept::NestedFault { gpa: RAM + 0x5000, write: false });
}

fn addresses_are_as_wide_as_cpuid_says(options: Options) {
    const HIGH: u64 = 1 << 45;
    let machine = machine(options, |a| {
        a.mov(rax, qword_ptr(at::DATA))?;
        a.hlt()
    });
    machine.write_u64(ENTRY, HIGH | pte::RIGHTS);
    let mut vcpu = machine.vcpu();
    vcpu.set_exception_intercepts(1 << exception::PF);
    for phys_bits in [46, 45] {
        vcpu.set_limits(Limits { phys_bits, gib_pages: true });
        vcpu.set_rip(at::CODE);
        let expected = if phys_bits == 46 {
            Intercept::NestedFault { gpa: HIGH, write: false }
        } else {
            // Present, a reserved bit.
            Intercept::Exception(Exception::pf(at::DATA, 1 | 8))
        };
        assert_eq!(run(&mut vcpu), expected, "{phys_bits}");
    }
}
