//! Traces: blocks that are translated together do what they do when they are interpreted, wherever they are left.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::Options;
use crate::run_test::handler;
use crate::test_machine::{Machine, assemble, at, machine, run, run_to_halt};
use crate::test_ways::{in_every_way, traced};

in_every_way! {
    a_write_to_a_later_block_is_seen_at_once,
    a_write_to_a_block_in_the_middle_is_seen_the_next_time,
    a_patch_of_any_block_is_seen_with_a_fresh_entry,
    a_branch_that_is_turned_around_leads_elsewhere,
    flags_are_right_in_the_frame_of_a_fault_in_any_block,
    flags_that_are_looked_at_behind_a_branch_are_those_before_it,
    flags_outlive_many_instructions,
    a_call_of_a_trace_by_a_trace_returns_into_it,
    the_interrupt_window_opens_behind_a_branch_after_sti,
    vector_registers_that_are_off_fault_where_they_are_used,
}

type Assembled = Result<(), IcedError>;

/// Where data are, and a page that may be missing.
const DATA: u64 = at::DATA;
const MISSING: u64 = at::DATA + 0x1000;

/// Three blocks that follow each other `rounds` times: RAX, RCX and RDX count them.
fn three_blocks(a: &mut CodeAssembler, rounds: u32) -> Assembled {
    let (mut top, mut out) = (a.create_label(), a.create_label());
    a.mov(ebp, rounds)?;
    a.set_label(&mut top)?;
    a.add(rax, 1)?;
    a.test(ebp, ebp)?;
    a.jz(out)?;
    a.add(rcx, 1)?;
    a.cmp(ebp, -1)?;
    a.je(out)?;
    a.add(rdx, 1)?;
    a.sub(ebp, 1)?;
    a.jnz(top)?;
    a.hlt()?;
    a.set_label(&mut out)?;
    a.ud2()
}

#[test]
fn blocks_that_follow_each_other_are_one_translation() {
    let machine = machine(traced(), |a| three_blocks(a, 20));
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!([gpr::RAX, gpr::RCX, gpr::RDX].map(|n| vcpu.gpr(n)), [20; 3]);
    let statistics = vcpu.statistics();
    // The first round starts before the loop: the first block comes again in the third, with the others.
    assert!(statistics.translated <= 3, "{statistics:?}");
    assert!(statistics.translated_instructions >= 9, "{statistics:?}");
}

/// The first of three blocks writes a constant of the last, which is added up: 1 + 2 + … + 100.
fn a_write_to_a_later_block_is_seen_at_once(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut out) = (a.create_label(), a.create_label());
        let mut constant = a.create_label();
        a.mov(ebp, 1)?;
        a.lea(rsi, qword_ptr(constant))?;
        a.set_label(&mut top)?;
        a.cmp(ebp, 200)?;
        // The constant of `add rax, imm32`.
        a.mov(dword_ptr(rsi + 2), ebp)?;
        a.ja(out)?;
        a.add(rdx, 1)?;
        a.jc(out)?;
        a.set_label(&mut constant)?;
        a.add(rax, 0x1234_5678)?;
        a.add(ebp, 1)?;
        a.cmp(ebp, 100)?;
        a.jbe(top)?;
        a.hlt()?;
        a.set_label(&mut out)?;
        a.ud2()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0);
    vcpu.set_gpr(gpr::RDX, 0);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RAX), vcpu.gpr(gpr::RDX)), (5050, 100));
}

/// The last of three blocks, which has granules of its own, writes a constant of the one in the middle, now and then.
fn a_write_to_a_block_in_the_middle_is_seen_the_next_time(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut out, mut rest) = (a.create_label(), a.create_label(), a.create_label());
        let mut constant = a.create_label();
        a.mov(ebp, 64)?;
        a.lea(rsi, qword_ptr(constant))?;
        a.set_label(&mut top)?;
        a.test(ebp, ebp)?;
        a.jz(out)?;
        a.nops_with_size(96)?;
        a.set_label(&mut constant)?;
        a.add(rax, 0x100)?;
        a.js(out)?;
        a.nops_with_size(96)?;
        // Each eighth round.
        a.mov(ecx, ebp)?;
        a.and(ecx, 7)?;
        a.jnz(rest)?;
        a.add(dword_ptr(rsi + 2), 0x1_0000)?;
        a.set_label(&mut rest)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.hlt()?;
        a.set_label(&mut out)?;
        a.ud2()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0);
    run_to_halt(&mut vcpu);
    // 64 rounds; the eight writes come behind the rounds 1, 9, …, 57.
    let added: u64 = (0..8).map(|n| 0x1_0000 * (63 - n * 8)).sum();
    assert_eq!(vcpu.gpr(gpr::RAX), 64 * 0x100 + added);
}

/// Five blocks in granules of their own, each with a constant that the host changes between entries.
fn a_patch_of_any_block_is_seen_with_a_fresh_entry(options: Options) {
    const BLOCKS: usize = 5;
    let code = assemble(at::CODE, |a| {
        let mut out = a.create_label();
        for _ in 0..BLOCKS {
            a.nops_with_size(112)?;
            a.add(rax, 0x1000_0000)?;
            a.jc(out)?;
        }
        a.nop()?;
        a.set_label(&mut out)?;
        a.hlt()
    });
    let machine = Machine::with(options, &code);
    let places: Vec<_> = (0..code.len() - 4)
        .filter(|n| code[*n..n + 4] == 0x1000_0000_u32.to_le_bytes())
        .map(|n| at::CODE + n as u64)
        .collect();
    assert_eq!(places.len(), BLOCKS);
    let mut constants = [0x1000_0000_u32; BLOCKS];
    let mut vcpu = machine.vcpu();
    for round in 0..60 {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RAX, 0);
        run_to_halt(&mut vcpu);
        let sum = constants.iter().map(|value| u64::from(*value)).sum::<u64>();
        assert_eq!(vcpu.gpr(gpr::RAX), sum, "round {round}");
        // A block stays what it is for a while, so that there are traces again.
        if round % 4 == 3 {
            let n = round / 4 % places.len();
            constants[n] = round as u32 * 0x1001;
            machine.write(places[n], &constants[n].to_le_bytes());
        }
    }
}

/// The first block turns the branch at the end of the second one around, each fourth time.
fn a_branch_that_is_turned_around_leads_elsewhere(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut other, mut end, mut same) =
            (a.create_label(), a.create_label(), a.create_label(), a.create_label());
        let mut branch = a.create_label();
        a.mov(ebp, 64)?;
        a.lea(rsi, qword_ptr(branch))?;
        a.set_label(&mut top)?;
        a.test(ebp, 3)?;
        a.jnz(same)?;
        // JZ to JNZ, and back.
        a.xor(byte_ptr(rsi), 1)?;
        a.set_label(&mut same)?;
        a.add(rax, 1)?;
        a.cmp(ebp, ebp)?;
        a.set_label(&mut branch)?;
        a.jz(other)?;
        a.add(rcx, 1)?;
        a.jmp(end)?;
        a.set_label(&mut other)?;
        a.add(rdx, 1)?;
        a.set_label(&mut end)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    [gpr::RAX, gpr::RCX, gpr::RDX].into_iter().for_each(|n| vcpu.set_gpr(n, 0));
    run_to_halt(&mut vcpu);
    assert_eq!([gpr::RAX, gpr::RCX, gpr::RDX].map(|n| vcpu.gpr(n)), [64, 32, 32]);
}

/// Flags that the first, second or third block makes, and nothing looks at but a fault: in the frame of one that
/// comes in each of the blocks behind it.
fn flags_are_right_in_the_frame_of_a_fault_in_any_block(options: Options) {
    let producers: [fn(&mut CodeAssembler) -> Assembled; 6] = [
        |a| a.add(rax, rcx),
        |a| a.sub(rax, rcx),
        |a| a.cmp(rax, rcx),
        |a| a.cmp(eax, 5),
        |a| a.inc(eax),
        |a| a.add(r10, r11),
    ];
    for producer in producers {
        for faulting in 0..4 {
            let machine = machine(options, |a| {
                let mut out = a.create_label();
                a.mov(rdi, qword_ptr(rbx))?;
                a.jrcxz(out)?;
                producer(a)?;
                a.mov(rdi, qword_ptr(r12))?;
                a.jz(out)?;
                a.mov(qword_ptr(r13), r8)?;
                a.jz(out)?;
                a.mov(rdx, qword_ptr(r14))?;
                a.lea(rax, qword_ptr(rax + 1))?;
                a.push(rdx)?;
                a.mov(rdx, qword_ptr(r9))?;
                a.add(r8, 1)?;
                a.set_label(&mut out)?;
                a.hlt()
            });
            handler(&machine, exception::PF, |a| {
                a.mov(rsi, qword_ptr(rsp + 24))?;
                a.mov(rdi, cr2)?;
                a.hlt()
            });
            machine.write_u64(at::PT + (MISSING >> 12) * 8, 0);
            let mut vcpu = machine.vcpu();
            let bases = [12, 13, 14, 9];
            for round in 0..5 {
                vcpu.set_rip(at::CODE);
                vcpu.set_gpr(gpr::RSP, at::STACK);
                vcpu.set_rflags(rflags::FIXED);
                vcpu.set_gpr(gpr::RBX, DATA);
                bases.into_iter().for_each(|n| vcpu.set_gpr(n, DATA + u64::from(n) * 8));
                if round == 4 {
                    vcpu.set_gpr(bases[faulting], MISSING + 8);
                }
                vcpu.set_gpr(gpr::RSI, 0);
                vcpu.set_gpr(gpr::RAX, 0x7fff_ffff_ffff_fff1);
                vcpu.set_gpr(10, 0x7fff_ffff_ffff_fff1);
                vcpu.set_gpr(gpr::RCX, 0x7fff_ffff_ffff_ff13);
                vcpu.set_gpr(11, 0x7fff_ffff_ffff_ff13);
                run_to_halt(&mut vcpu);
                let rip = vcpu.rip();
                assert_eq!(rip > at::HANDLERS, round == 4, "{rip:#x}");
            }
            assert_eq!(vcpu.gpr(gpr::RDI), MISSING + 8);
            let one = assemble(at::CODE, |a| {
                producer(a)?;
                a.hlt()
            });
            let alone = Machine::with(crate::test_ways::interpreter(), &one);
            let mut expected = alone.vcpu();
            for n in [gpr::RAX, 10] {
                expected.set_gpr(n, 0x7fff_ffff_ffff_fff1);
            }
            for n in [gpr::RCX, 11] {
                expected.set_gpr(n, 0x7fff_ffff_ffff_ff13);
            }
            run_to_halt(&mut expected);
            let (found, expected) = (vcpu.gpr(gpr::RSI), expected.rflags());
            assert_eq!(found & rflags::STATUS, expected & rflags::STATUS, "block {faulting}");
        }
    }
}

/// Flags are looked at three blocks behind where they are made, with accesses in between.
fn flags_that_are_looked_at_behind_a_branch_are_those_before_it(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut out) = (a.create_label(), a.create_label());
        let (mut small, mut next) = (a.create_label(), a.create_label());
        a.mov(ebp, 50)?;
        a.set_label(&mut top)?;
        a.cmp(ebp, 20)?;
        a.mov(rdi, qword_ptr(rbx))?;
        a.jo(out)?;
        a.mov(qword_ptr(rbx + 8), rdi)?;
        a.jb(small)?;
        a.mov(r10, qword_ptr(rbx + 16))?;
        a.setbe(al)?;
        a.movzx(eax, al)?;
        // One that was 20.
        a.mov(rdi, qword_ptr(rbx))?;
        a.lea(rcx, qword_ptr(rcx + rax))?;
        a.adc(rdx, 1)?;
        a.jmp(next)?;
        a.set_label(&mut small)?;
        a.mov(rdi, qword_ptr(rbx))?;
        a.adc(r8, 0)?;
        a.set_label(&mut next)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.hlt()?;
        a.set_label(&mut out)?;
        a.ud2()
    });
    let mut vcpu = machine.vcpu();
    let results = [gpr::RCX, gpr::RDX, gpr::R8];
    results.into_iter().for_each(|n| vcpu.set_gpr(n, 0));
    vcpu.set_gpr(gpr::RBX, DATA);
    run_to_halt(&mut vcpu);
    assert_eq!(results.map(|n| vcpu.gpr(n)), [1, 31, 19]);
}

/// More of them than are looked at for one that overwrites flags; behind that the flags' operands change.
fn flags_outlive_many_instructions(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut out) = (a.create_label(), a.create_label());
        a.mov(ebp, 20)?;
        a.set_label(&mut top)?;
        a.mov(eax, ebp)?;
        a.sub(rax, 10)?;
        for _ in 0..15 {
            a.mov(rdi, qword_ptr(rbx))?;
            a.mov(rsi, qword_ptr(r12 + 8))?;
        }
        a.mov(eax, 7)?;
        a.jo(out)?;
        a.adc(rdx, qword_ptr(rbx))?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.set_label(&mut out)?;
        a.hlt()
    });
    machine.write_u64(DATA, 0x100);
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RDX, 0);
    vcpu.set_gpr(gpr::RBX, DATA);
    vcpu.set_gpr(12, DATA);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBP), vcpu.gpr(gpr::RDX)), (0, 20 * 0x100 + 9));
}

/// Both the caller and the callee have several blocks.
fn a_call_of_a_trace_by_a_trace_returns_into_it(options: Options) {
    let machine = machine(options, |a| {
        let (mut top, mut out) = (a.create_label(), a.create_label());
        let (mut function, mut even, mut end) =
            (a.create_label(), a.create_label(), a.create_label());
        a.mov(ebp, 100)?;
        a.set_label(&mut top)?;
        a.test(ebp, ebp)?;
        a.js(out)?;
        a.call(function)?;
        a.jc(out)?;
        a.add(rcx, rax)?;
        a.call(function)?;
        a.add(rcx, rax)?;
        a.sub(ebp, 1)?;
        a.jnz(top)?;
        a.set_label(&mut out)?;
        a.hlt()?;
        a.set_label(&mut function)?;
        a.push(rbx)?;
        a.mov(ebx, ebp)?;
        a.test(ebx, 1)?;
        a.jz(even)?;
        a.add(ebx, 1000)?;
        a.jmp(end)?;
        a.set_label(&mut even)?;
        a.add(ebx, 1)?;
        a.set_label(&mut end)?;
        a.mov(rax, rbx)?;
        a.pop(rbx)?;
        a.ret()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RCX, 0);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RBP), vcpu.gpr(gpr::RSP)), (0, at::STACK));
    assert_eq!(vcpu.gpr(gpr::RCX), 2 * (5050 + 50 * 1000 + 50));
}

fn the_interrupt_window_opens_behind_a_branch_after_sti(options: Options) {
    let machine = machine(options, |a| {
        let (mut out, mut next) = (a.create_label(), a.create_label());
        a.cli()?;
        a.cmp(rax, rcx)?;
        a.jz(out)?;
        a.sti()?;
        a.jnz(next)?;
        a.ud2()?;
        a.set_label(&mut next)?;
        a.add(rdx, 1)?;
        a.set_label(&mut out)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for round in 0..5 {
        vcpu.set_rip(at::CODE);
        vcpu.set_rflags(rflags::FIXED);
        vcpu.set_gpr(gpr::RAX, 1);
        vcpu.set_gpr(gpr::RCX, 2);
        vcpu.set_gpr(gpr::RDX, 0);
        if round < 4 {
            run_to_halt(&mut vcpu);
            assert_eq!(vcpu.gpr(gpr::RDX), 1);
            continue;
        }
        let entry = Entry { fresh: true, interrupt_window: true, ..Entry::default() };
        assert_eq!(vcpu.enter(&entry, &AtomicU32::new(0)), Intercept::InterruptWindow);
        assert_eq!((vcpu.rip(), vcpu.gpr(gpr::RDX)), (at::CODE + 11, 0));
        let flags = rflags::CF | rflags::PF | rflags::SF | rflags::AF;
        assert_eq!(vcpu.rflags(), rflags::FIXED | rflags::IF | flags);
    }
}

/// #NM in the third block, once CR0.TS is set; the blocks before it are executed.
fn vector_registers_that_are_off_fault_where_they_are_used(options: Options) {
    let machine = machine(options, |a| {
        let mut out = a.create_label();
        a.add(rax, 1)?;
        a.jz(out)?;
        a.add(qword_ptr(DATA), 1)?;
        a.cmp(rax, rcx)?;
        a.jz(out)?;
        a.mov(rdx, qword_ptr(DATA + 8))?;
        a.paddq(xmm0, xmmword_ptr(DATA + 16))?;
        a.add(rax, 1)?;
        a.set_label(&mut out)?;
        a.hlt()
    });
    handler(&machine, exception::NM, |a| {
        a.mov(rsi, qword_ptr(rsp))?;
        a.mov(rdi, qword_ptr(rsp + 16))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for round in 0..6 {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RAX, 1);
        vcpu.set_gpr(gpr::RCX, 3);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        let task_switched = if round > 3 { arch_x86::regs::cr0::TS } else { 0 };
        vcpu.set_cr0(vcpu.cr0() & !arch_x86::regs::cr0::TS | task_switched);
        run_to_halt(&mut vcpu);
        assert_eq!(machine.read_u64(DATA), round + 1);
        assert_eq!(vcpu.gpr(gpr::RAX), if round > 3 { 2 } else { 3 });
    }
    assert_eq!(
        vcpu.gpr(gpr::RDI) & rflags::STATUS,
        rflags::CF | rflags::AF | rflags::SF | rflags::PF
    );
    let rip = vcpu.gpr(gpr::RSI);
    let bytes = machine.read_u64(rip).to_le_bytes();
    assert_eq!(bytes[..3], [0x66, 0x0f, 0xd4], "PADDQ");
}

#[test]
fn a_trace_that_goes_round_is_left_when_it_is_asked_to_be() {
    let machine = machine(traced(), |a| {
        let (mut top, mut out) = (a.create_label(), a.create_label());
        a.set_label(&mut top)?;
        a.add(qword_ptr(rsi), 1)?;
        a.test(rsi, rsi)?;
        a.jz(out)?;
        a.add(rax, 1)?;
        a.test(rsi, rsi)?;
        a.jnz(top)?;
        a.set_label(&mut out)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RSI, DATA);
    let request = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while machine.read_u64(DATA) < 5000 {
                assert!(start.elapsed() < Duration::from_secs(60), "it does not run");
                std::thread::yield_now();
            }
            request.store(1, Ordering::SeqCst);
            machine.engine.kick(0);
        });
        let intercept = vcpu.enter(&Entry { fresh: true, ..Entry::default() }, &request);
        assert_eq!(intercept, Intercept::Interrupted);
    });
    assert_eq!(vcpu.rip(), at::CODE, "RAX and memory agree there");
    assert_eq!(vcpu.gpr(gpr::RAX), machine.read_u64(DATA));
    // It goes on from there.
    vcpu.set_gpr(gpr::RSI, 0);
    assert_eq!(run(&mut vcpu), Intercept::Halt { len: 1 });
}
