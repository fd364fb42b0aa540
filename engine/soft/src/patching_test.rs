//! Random code that is rewritten again and again, by itself, by others, and by the host.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use arch_x86::engine::{Engine, EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_code::{Code, Random};
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::test_ways::{in_every_way, interpreter, jit, traced};
use crate::{Options, SoftVcpu};

in_every_way! { a_vcpu_sees_one_version_per_fresh_entry }

/// Across the end of a page.
const FUNCTIONS: u64 = at::USER_CODE + 0x1000 - 0x500;
const FUNCTIONS_END: u64 = at::USER_CODE + 0x2000;
/// Longer than any test should take.
const LIMIT: Duration = Duration::from_secs(60);

/// The seed, which `UNIBODY_SEED` says if it is set.
fn seed(usual: u64) -> u64 {
    let asked = std::env::var("UNIBODY_SEED").ok();
    let seed = asked.map_or(usual, |text| text.parse().expect("UNIBODY_SEED is a number"));
    println!("UNIBODY_SEED={seed}");
    seed
}

/// What an entry came to. AF is undefined after many instructions.
fn outcome(machine: &Machine, vcpu: &SoftVcpu) -> impl PartialEq + std::fmt::Debug + use<> {
    let registers: [u64; 16] = std::array::from_fn(|n| vcpu.gpr(n as u8));
    let flags = vcpu.rflags() & !rflags::AF;
    let data = (0..0x200).step_by(8).map(|n| machine.read_u64(at::DATA + n));
    let code = (FUNCTIONS..FUNCTIONS_END).step_by(8).map(|at| machine.read_u64(at));
    let memory = data.chain(code).collect::<Vec<_>>();
    (registers, vcpu.rip(), flags, *vcpu.fxsave(), memory)
}

#[test]
fn patched_code_does_as_when_it_is_interpreted() {
    let seed = seed(1);
    let tiny = |options| Options { code_instructions: 200, ..options };
    let ways = [interpreter(), jit(), tiny(jit()), traced(), tiny(traced())];
    let mut drops = 0;
    for program in seed..seed + 30 {
        let mut random = Random(program);
        let code = Code::new(&mut random, FUNCTIONS, true);
        let main = code.calls(&mut random);
        let mut all = ways.map(|options| {
            let machine = Machine::with(options, &main);
            let mut vcpu = machine.vcpu();
            vcpu.set_gpr(gpr::RBP, at::DATA + 0x80);
            (machine, vcpu)
        });
        let mut patches = code.all(&mut random);
        for round in 0..30 {
            let registers: [u64; 16] = std::array::from_fn(|_| random.bits());
            let outcomes = all.each_mut().map(|(machine, vcpu)| {
                for (at, bytes) in &patches {
                    machine.write(*at, bytes);
                }
                vcpu.set_rip(at::CODE);
                for n in (0..16).filter(|n| !matches!(*n, gpr::RSP | gpr::RBP)) {
                    vcpu.set_gpr(n, registers[usize::from(n)]);
                }
                run_to_halt(vcpu);
                outcome(machine, vcpu)
            });
            let counts = all.each_ref().map(|(_, vcpu)| vcpu.instructions());
            assert_eq!(counts[1..3], [counts[0]; 2], "UNIBODY_SEED={program}, round {round}");
            for (way, outcome) in outcomes.iter().enumerate() {
                let expected = &outcomes[0];
                assert_eq!(outcome, expected, "{way}, UNIBODY_SEED={program}, round {round}");
            }
            patches = (0..random.below(6)).map(|_| code.any(&mut random)).collect();
        }
        let [_, _, (_, vcpu), ..] = &all;
        drops += vcpu.statistics().code_drops;
        assert!(vcpu.statistics().translated > 100);
    }
    assert!(drops > 1000, "{drops}");
}

/// Where two vCPUs tell each other how far they are.
const PATCHED: u64 = at::DATA + 0x2000;
const EXECUTED: u64 = at::DATA + 0x2040;
/// The instructions that are to be written.
const TABLE: u64 = at::LARGE;
/// What each vCPU's registers were after each round.
const LOGS: [u64; 2] = [at::LARGE + 0x10_0000, at::LARGE + 0x11_0000];
const LOG_SIZE: u64 = 0x80;
/// The programs of the two.
const PROGRAMS: [u64; 2] = [at::LARGE + 0x20_0000, at::LARGE + 0x30_0000];
const ROUNDS: u32 = 50;
const PATCHES: u64 = 4;

/// Waits until `place` holds `value`; comes out in between.
fn wait_for(a: &mut CodeAssembler, place: u64, value: u32) -> Result<(), IcedError> {
    let (mut top, mut done) = (a.create_label(), a.create_label());
    a.set_label(&mut top)?;
    a.cmp(dword_ptr(place), value)?;
    a.je(done)?;
    a.out(0x80, al)?;
    a.jmp(top)?;
    a.set_label(&mut done)?;
    a.nop()
}

/// Calls all functions, and keeps what came of it.
fn execute(a: &mut CodeAssembler, code: &Code, round: u32, log: u64) -> Result<(), IcedError> {
    // The same flags and registers on both sides.
    a.mov(eax, round)?;
    a.test(eax, eax)?;
    for function in &code.functions {
        a.call(*function)?;
    }
    let kept = [rax, rcx, rdx, rbx, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    for (n, register) in (0..).zip(kept) {
        a.mov(qword_ptr(log + u64::from(round) * LOG_SIZE + n * 8), register)?;
    }
    Ok(())
}

/// The vCPU that writes code, and tells the other one.
fn patching(a: &mut CodeAssembler, code: &Code, slots: &[u64]) -> Result<(), IcedError> {
    for (round, slots) in (1..=ROUNDS).zip(slots.chunks(PATCHES as usize)) {
        for (n, slot) in (0..).zip(slots) {
            a.mov(rax, qword_ptr(TABLE + (u64::from(round - 1) * PATCHES + n) * 8))?;
            a.mov(qword_ptr(*slot), rax)?;
        }
        a.mov(dword_ptr(PATCHED), round)?;
        execute(a, code, round, LOGS[0])?;
        wait_for(a, EXECUTED, round)?;
    }
    a.hlt()
}

/// The vCPU that waits for that, and executes the same after a serializing instruction.
fn following(a: &mut CodeAssembler, code: &Code) -> Result<(), IcedError> {
    for round in 1..=ROUNDS {
        wait_for(a, PATCHED, round)?;
        if round % 2 == 0 {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)?;
        } else {
            // Comes out.
            a.cpuid()?;
        }
        execute(a, code, round, LOGS[1])?;
        a.mov(dword_ptr(EXECUTED), round)?;
    }
    a.hlt()
}

/// Runs until HLT: over CPUID, which enters afresh, and over OUT, which does not and lets others run.
fn run_to_end(vcpu: &mut SoftVcpu, request: &AtomicU32) -> Intercept {
    let mut fresh = true;
    loop {
        let len = match vcpu.enter(&Entry { fresh, ..Entry::default() }, request) {
            Intercept::Cpuid { len } => {
                fresh = true;
                len
            }
            Intercept::Out { len, .. } => {
                std::thread::yield_now();
                fresh = false;
                len
            }
            other => return other,
        };
        vcpu.set_rip(vcpu.rip() + u64::from(len));
    }
}

/// Runs the two programs; gives their logs.
fn logs(options: Options, seed: u64) -> [Vec<u64>; 2] {
    let mut random = Random(seed);
    let code = Code::aligned(&mut random, FUNCTIONS);
    let machine = Machine::with(options, &[]);
    for (at, bytes) in code.all(&mut random) {
        machine.write(at, &bytes);
    }
    let mut slots = Vec::new();
    for n in 0..u64::from(ROUNDS) * PATCHES {
        let (slot, bytes) = code.any(&mut random);
        machine.write(TABLE + n * 8, &bytes);
        slots.push(slot);
    }
    machine.write(PROGRAMS[0], &assemble(PROGRAMS[0], |a| patching(a, &code, &slots)));
    machine.write(PROGRAMS[1], &assemble(PROGRAMS[1], |a| following(a, &code)));
    let registers: [u64; 16] = std::array::from_fn(|_| random.bits());
    let request = AtomicU32::new(0);
    let (send, ended) = mpsc::channel();
    std::thread::scope(|scope| {
        for (n, rip) in (0..).zip(PROGRAMS) {
            let mut vcpu = machine.vcpu();
            vcpu.set_rip(rip);
            for (register, value) in (0..).zip(registers) {
                vcpu.set_gpr(register, value);
            }
            vcpu.set_gpr(gpr::RSP, at::STACK - n * 0x1000);
            vcpu.set_gpr(gpr::RBP, at::DATA + n * 0x1000 + 0x80);
            let (send, request) = (send.clone(), &request);
            scope.spawn(move || send.send(run_to_end(&mut vcpu, request)));
        }
        let both = [ended.recv_timeout(LIMIT), ended.recv_timeout(LIMIT)];
        request.store(1, Ordering::SeqCst);
        machine.engine.kick(0);
        assert_eq!(both, [Ok(Intercept::Halt { len: 1 }); 2], "UNIBODY_SEED={seed}");
    });
    let size = (u64::from(ROUNDS) + 1) * LOG_SIZE;
    LOGS.map(|log| (0..size).step_by(8).map(|at| machine.read_u64(log + at)).collect())
}

#[test]
fn another_vcpu_s_patches_are_seen_after_a_serializing_instruction() {
    let seed = seed(1);
    for seed in seed..seed + 3 {
        let [expected, other] = logs(interpreter(), seed);
        assert!(expected.iter().filter(|value| **value != 0).count() > ROUNDS as usize);
        assert_eq!(expected, other, "interpreted, UNIBODY_SEED={seed}");
        for options in [jit(), traced()] {
            let translated = logs(options, seed);
            assert_eq!([&expected, &expected], translated.each_ref(), "UNIBODY_SEED={seed}");
        }
    }
}

fn a_vcpu_sees_one_version_per_fresh_entry(options: Options) {
    // Calls a function that gives a constant, of which RCX keeps whether they were all the same.
    const IMMEDIATE: u64 = at::USER_CODE + 8;
    let machine = Machine::with(
        options,
        &assemble(at::CODE, |a| {
            let (mut top, mut again) = (a.create_label(), a.create_label());
            a.set_label(&mut again)?;
            a.xor(ecx, ecx)?;
            a.call(IMMEDIATE - 2)?;
            a.mov(rbx, rax)?;
            a.mov(edx, 20)?;
            a.set_label(&mut top)?;
            a.call(IMMEDIATE - 2)?;
            a.xor(rax, rbx)?;
            a.or(rcx, rax)?;
            a.dec(edx)?;
            a.jnz(top)?;
            a.hlt()?;
            a.jmp(again)
        }),
    );
    let version = |n: u64| n * 0x0001_0001_0001_0001;
    machine.write(IMMEDIATE - 2, &assemble(IMMEDIATE - 2, |a| a.mov(rax, u64::MAX)));
    machine.write(IMMEDIATE + 8, &[0xc3]);
    machine.write_at_once(IMMEDIATE, version(0));
    let (written, entries) = (AtomicU64::new(0), AtomicU64::new(0));
    let last = 4_000;
    let start = Instant::now();
    let mut vcpu = machine.vcpu();
    std::thread::scope(|scope| {
        let (machine, written, entries) = (&machine, &written, &entries);
        scope.spawn(move || {
            for n in 1..=last {
                machine.write_at_once(IMMEDIATE, version(n));
                written.store(n, Ordering::SeqCst);
                let seen = entries.load(Ordering::SeqCst);
                // In between the vCPU enters now and then.
                while n % 4 == 0 && n < last && entries.load(Ordering::SeqCst) == seen {
                    assert!(start.elapsed() < LIMIT);
                    std::thread::yield_now();
                }
            }
        });
        loop {
            let before = written.load(Ordering::SeqCst);
            run_to_halt(&mut vcpu);
            let after = written.load(Ordering::SeqCst) + 1;
            entries.fetch_add(1, Ordering::SeqCst);
            let seen = vcpu.gpr(gpr::RBX);
            assert_eq!(vcpu.gpr(gpr::RCX), 0, "one version per entry");
            let n = seen & 0xffff;
            assert_eq!(seen, version(n), "whole");
            assert!((before..=after).contains(&n), "{before} {n} {after}");
            if before == last {
                return;
            }
            assert!(start.elapsed() < LIMIT);
        }
    });
}
