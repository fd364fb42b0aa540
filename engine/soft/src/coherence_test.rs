//! Decoded code follows what is written: by the guest, by the host, by page tables.

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr};
use iced_x86::code_asm::*;
use std::sync::atomic::AtomicU32;

use crate::Options;
use crate::test_machine::{Machine, assemble, at, machine, pte, run_to_halt};
use crate::test_ways::in_every_way;

in_every_way! {
    a_write_to_another_page_of_code_is_seen,
    a_write_to_the_next_instruction_is_seen,
    a_loop_that_patches_itself_computes_on,
    data_beside_code_stays_cheap_and_correct,
    a_write_through_another_mapping_is_seen,
    string_stores_over_code_are_seen,
    the_hosts_writes_are_seen_with_a_fresh_entry,
    a_remapped_page_runs_its_new_code_after_invlpg,
    an_instruction_across_pages_runs_and_follows_both,
    a_fault_in_the_second_page_of_an_instruction_is_that_pages,
    a_full_cache_is_dropped_and_all_goes_on,
    full_memory_for_translations_is_dropped_and_all_goes_on,
    a_stale_entry_may_use_stale_code,
    of_writes_that_are_told_those_to_code_are_compared,
}

/// Writes `mov eax, value; ret` at `gpa`.
fn write_function(machine: &Machine, gpa: u64, value: u32) {
    machine.write(gpa, &[&[0xb8], &value.to_le_bytes()[..], &[0xc3]].concat());
}

fn a_write_to_another_page_of_code_is_seen(options: Options) {
    let function = at::USER_CODE;
    let machine = machine(options, |a| {
        a.call(function)?;
        a.mov(ebx, eax)?;
        a.mov(dword_ptr(function + 1), 2)?;
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 1);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 2));
}

fn a_write_to_the_next_instruction_is_seen(options: Options) {
    // The immediate of `mov eax, 1` is overwritten by the instruction before it.
    let code = |target: u64| {
        assemble(at::CODE, |a| {
            a.nop()?;
            a.mov(dword_ptr(target), 7)?;
            a.mov(eax, 1)?;
            a.inc(ebx)?;
            a.hlt()
        })
    };
    let target = at::CODE + 1 + 11 + 1;
    let machine = Machine::with(options, &code(target));
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RAX), vcpu.gpr(gpr::RBX)), (7, 1));
}

fn a_loop_that_patches_itself_computes_on(options: Options) {
    // Adds the immediate, which it increments each time: 1 + 2 + … + 100.
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 100)?;
        a.set_label(&mut top)?;
        a.add(eax, 0x0100_0000)?;
        a.inc(dword_ptr(at::CODE + 5 + 1))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    machine.write(at::CODE + 6, &1_u32.to_le_bytes());
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 5050);
    assert!(vcpu.statistics().decoded < 1000);
}

fn data_beside_code_stays_cheap_and_correct(options: Options) {
    // A counter in the page of the loop that counts.
    let counter = at::CODE + 0x800;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.set_label(&mut top)?;
        a.inc(qword_ptr(counter))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(machine.read_u64(counter), 1000);
    let statistics = vcpu.statistics();
    assert!(statistics.decoded < 20, "nothing is decoded again: {statistics:?}");
    assert!(statistics.tlb_fills < 5, "nor walked again: {statistics:?}");
}

fn a_write_through_another_mapping_is_seen(options: Options) {
    let function = at::USER_CODE;
    let machine = machine(options, |a| {
        a.mov(rsi, at::UPPER + function + 1)?;
        a.mov(dword_ptr(rsi), 1)?;
        a.call(function)?;
        a.mov(ebx, eax)?;
        a.mov(dword_ptr(rsi), 2)?;
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 9);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 2));
}

fn string_stores_over_code_are_seen(options: Options) {
    let function = at::USER_CODE;
    let machine = machine(options, |a| {
        a.call(function)?;
        a.mov(ebx, eax)?;
        a.mov(esi, at::DATA as u32)?;
        a.mov(edi, function as u32)?;
        a.mov(ecx, 128)?;
        a.rep().movsb()?;
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 1);
    write_function(&machine, at::DATA, 2);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 2));
}

fn the_hosts_writes_are_seen_with_a_fresh_entry(options: Options) {
    let function = at::USER_CODE;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.call(function)?;
        a.hlt()?;
        a.jmp(top)
    });
    write_function(&machine, function, 1);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 1);
    write_function(&machine, function, 2);
    let decoded = vcpu.statistics().decoded;
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 2);
    // What has not changed is not decoded again.
    let before = vcpu.statistics().decoded;
    assert!(before - decoded <= 4);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.statistics().decoded, before);
}

fn a_remapped_page_runs_its_new_code_after_invlpg(options: Options) {
    let function = at::USER_CODE;
    let entry = at::PT + (function >> 12) * 8;
    let machine = machine(options, |a| {
        a.call(function)?;
        a.mov(ebx, eax)?;
        a.mov(rsi, at::DATA | pte::RIGHTS)?;
        a.mov(qword_ptr(entry), rsi)?;
        a.invlpg(byte_ptr(function))?;
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 1);
    write_function(&machine, at::DATA, 2);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RAX)), (1, 2));
}

fn an_instruction_across_pages_runs_and_follows_both(options: Options) {
    // mov eax, imm32 with three of its bytes in the second page.
    let function = at::USER_CODE + 0x1000 - 2;
    let machine = machine(options, |a| {
        a.call(function)?;
        a.mov(ebx, eax)?;
        a.mov(byte_ptr(function + 4), 5)?;
        a.call(function)?;
        a.mov(edx, eax)?;
        a.mov(byte_ptr(function + 1), 6)?;
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 0);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    let got = [gpr::RBX, gpr::RDX, gpr::RAX].map(|n| vcpu.gpr(n));
    assert_eq!(got, [0, 5 << 24, 5 << 24 | 6]);
}

fn a_fault_in_the_second_page_of_an_instruction_is_that_pages(options: Options) {
    let function = at::USER_CODE + 0x1000 - 2;
    let second = at::USER_CODE + 0x1000;
    let machine = machine(options, |a| {
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 0x42);
    let entry = at::PT + (second >> 12) * 8;
    machine.write_u64(entry, 0);
    let handler = assemble(at::HANDLERS + 14 * 256, |a| {
        a.pop(rdx)?;
        a.mov(rbx, cr2)?;
        a.mov(rcx, qword_ptr(rsp))?;
        a.mov(rsi, second | pte::RIGHTS)?;
        a.mov(qword_ptr(entry), rsi)?;
        a.iretq()
    });
    machine.handle(14, &handler);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 0x42);
    assert_eq!((vcpu.gpr(gpr::RBX), vcpu.gpr(gpr::RCX)), (second, function));
    assert_eq!(vcpu.gpr(gpr::RDX), 0x10, "a fetch");
}

fn a_full_cache_is_dropped_and_all_goes_on(options: Options) {
    let machine = machine(options, |a| {
        // Calls a function in each of 20 pages, twice.
        for _ in 0..2 {
            for n in 0..20_u64 {
                a.call(at::LARGE + n * 0x1000)?;
                a.add(ebx, eax)?;
            }
        }
        a.hlt()
    });
    for n in 0..20 {
        write_function(&machine, at::LARGE + n * 0x1000, n as u32);
    }
    let mut vcpu = machine.vcpu_with(Options { code_instructions: 64, code_pages: 8, ..options });
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 2 * 190);
    assert!(vcpu.statistics().code_drops > 2);
}

fn full_memory_for_translations_is_dropped_and_all_goes_on(options: Options) {
    // Calls functions of 60 additions to memory in three rounds, as many times in a row as it takes for each to be
    // translated; the translations of a few fill the least memory there is for them.
    const FUNCTIONS: u64 = 40;
    let calls = 1 + options.patience.min(1);
    let machine = machine(options, |a| {
        for n in (0..FUNCTIONS).cycle().take(FUNCTIONS as usize * 3) {
            for _ in 0..calls {
                a.call(at::LARGE + n * 0x1000)?;
            }
        }
        a.hlt()
    });
    for function in (0..FUNCTIONS).map(|n| at::LARGE + n * 0x1000) {
        let code = assemble(function, |a| {
            for _ in 0..60 {
                a.add(qword_ptr(at::DATA), 1)?;
            }
            a.ret()
        });
        machine.write(function, &code);
    }
    let least = options.translated.min(1);
    let mut vcpu = machine.vcpu_with(Options { translated: least, ..options });
    run_to_halt(&mut vcpu);
    assert_eq!(machine.read_u64(at::DATA), FUNCTIONS * 3 * 60 * u64::from(calls));
    let drops = vcpu.statistics().code_drops;
    assert!(if least == 0 { drops == 0 } else { drops > 3 }, "{drops}");
}

fn a_stale_entry_may_use_stale_code(options: Options) {
    // Not a promise, but what makes exits cheap: without `fresh` nothing is compared.
    let function = at::USER_CODE;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.call(function)?;
        a.hlt()?;
        a.jmp(top)
    });
    write_function(&machine, function, 1);
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    let lookups = vcpu.statistics().block_lookups;
    vcpu.set_rip(at::CODE);
    let out = vcpu.enter(&Entry::default(), &AtomicU32::new(0));
    assert_eq!(out, Intercept::Halt { len: 1 });
    assert_eq!(vcpu.statistics().block_lookups, lookups);
}

fn of_writes_that_are_told_those_to_code_are_compared(options: Options) {
    let (function, data) = (at::USER_CODE, at::DATA);
    let machine = machine(Options { writes_are_told: true, ..options }, |a| {
        a.call(function)?;
        a.hlt()
    });
    write_function(&machine, function, 1);
    let mut vcpu = machine.vcpu();
    let mut run = |fresh| {
        vcpu.set_rip(at::CODE);
        let out = vcpu.enter(&Entry { fresh, ..Entry::default() }, &AtomicU32::new(0));
        assert_eq!(out, Intercept::Halt { len: 1 });
        (vcpu.gpr(gpr::RAX), vcpu.statistics().block_lookups)
    };
    let (first, lookups) = run(true);
    assert_eq!(first, 1);
    write_function(&machine, function, 2);
    machine.write_u64(data, 3);
    machine.engine.wrote(data, 8);
    // Not a promise, but what makes exits cheap: of the function nobody has said anything.
    assert_eq!(run(true), (1, lookups));
    machine.engine.wrote(function - 100, 106);
    assert_eq!(run(false).0, 1);
    assert_eq!(run(true).0, 2);
    write_function(&machine, function, 4);
    machine.engine.wrote(function, 6);
    assert_eq!(run(true).0, 4);
}
