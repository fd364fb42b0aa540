//! Random functions that call short ones, which are translated along with the call: wherever those lie, whatever they do
//! with the stack and with code, they do what they do when they are interpreted.

use std::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry};
use arch_x86::exception;
use arch_x86::regs::Regs;
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, pte};
use crate::test_ways::{interpreter, traced, uncounted};
use crate::traces_random_test::{
    Assembled, CONSTANT, COUNTER, Conditional, END, HALVES, Outcome, START, VALUES, entry_of,
    is_handler, one_of, outcome, part, protect, set_level, set_registers,
};

/// The page of the caller, and the ones around it; where it starts, and ends.
const PAGE: u64 = at::USER_CODE + 0x1000;
const PAGES: [u64; 3] = [PAGE - 0x1000, PAGE, PAGE + 0x1000];
const CALLER: u64 = 0x400;
const CALLER_END: u64 = 0xe00;
/// Where functions may start: below the caller, behind it, in other pages, and over a page's end.
const PLACES: [(usize, u64); 9] = [
    (0, 0x100),
    (0, 0x700),
    (0, 0xfc0),
    (1, 0x80),
    (1, 0x200),
    (1, 0xe00),
    (1, 0xf00),
    (2, 0x80),
    (2, 0x800),
];
/// `add rax, imm32`, which is behind each call.
const BEHIND: [u8; 2] = [0x48, 0x05];
const SIZE_BEHIND: i32 = 6;

fn behind_call(a: &mut CodeAssembler) -> Assembled {
    a.db(&[&BEHIND[..], &CONSTANT.to_le_bytes()].concat())
}

fn call(a: &mut CodeAssembler, function: u64) -> Assembled {
    a.call(function)?;
    behind_call(a)
}

/// A short function, which may call one of `others`.
fn function(a: &mut CodeAssembler, random: &mut Random, others: &[u64]) -> Assembled {
    let (d, s) = (one_of(random, &VALUES), one_of(random, &VALUES));
    match random.below(16) {
        0 => {}
        1 | 2 => part(a, random, false)?,
        3 => {
            part(a, random, false)?;
            part(a, random, false)?;
        }
        4 => {
            a.push(s)?;
            part(a, random, false)?;
            a.pop(d)?;
        }
        5 => {
            let mut over = a.create_label();
            a.test(one_of(random, &HALVES), 1 << random.below(4))?;
            a.jump_if(random, over)?;
            part(a, random, false)?;
            a.set_label(&mut over)?;
            a.nop()?;
        }
        // Flags that the caller has made.
        6 => a.set_condition(random, bl)?,
        7 => a.adc(d, s)?,
        8 => {
            let mut over = a.create_label();
            a.jump_if(random, over)?;
            a.cmp(d, s)?;
            a.set_label(&mut over)?;
            a.nop()?;
        }
        // It returns elsewhere, now and then.
        9 => {
            let mut over = a.create_label();
            a.test(one_of(random, &HALVES), 1 << random.below(2))?;
            a.jump_if(random, over)?;
            a.add(qword_ptr(rsp), SIZE_BEHIND)?;
            a.set_label(&mut over)?;
            a.nop()?;
        }
        10 => {
            a.pop(rdx)?;
            return a.jmp(rdx);
        }
        11 => {
            a.pop(r14)?;
            a.push(r14)?;
        }
        // It changes what is behind the call.
        12 => {
            a.mov(rdx, qword_ptr(rsp))?;
            a.mov(dword_ptr(rdx + BEHIND.len() as i32), one_of(random, &HALVES))?;
        }
        13 if !others.is_empty() => call(a, one_of(random, others))?,
        14 => a.mov(d, qword_ptr(START + 0x1000 * random.below(4)))?,
        _ => match random.below(8) {
            // No canonical address: the return faults.
            0 => a.xor(byte_ptr(rsp + 7), 0x40)?,
            1 => return a.ret_1(0),
            _ => a.cmp(d, s)?,
        },
    }
    a.ret()
}

/// Blocks that call functions, or jump ahead, as often as [`COUNTER`] says.
fn caller(a: &mut CodeAssembler, random: &mut Random, functions: &[u64]) -> Assembled {
    let mut top = a.create_label();
    a.set_label(&mut top)?;
    a.nop()?;
    let count = 2 + random.below(5) as usize;
    let mut labels: Vec<_> = (0..=count).map(|_| a.create_label()).collect();
    for n in 0..count {
        a.set_label(&mut labels[n])?;
        a.nop()?;
        for _ in 0..random.below(3) {
            part(a, random, false)?;
        }
        let later = labels[n + 1 + random.below((count - n) as u64) as usize];
        let function = one_of(random, functions);
        match random.below(10) {
            0 => a.jump_if(random, later)?,
            1 => a.jmp(later)?,
            2 => {
                a.mov(rdx, function)?;
                a.call(rdx)?;
                behind_call(a)?;
            }
            kind => {
                if kind < 6 {
                    a.cmp(one_of(random, &VALUES), one_of(random, &VALUES))?;
                }
                call(a, function)?;
                if kind % 2 == 0 {
                    a.jump_if(random, later)?;
                }
            }
        }
    }
    a.set_label(&mut labels[count])?;
    a.sub(dword_ptr(COUNTER), 1)?;
    a.jnz(top)?;
    a.hlt()
}

/// All code of a seed, with where it is from `base` on, the caller first.
fn code_of(random: &mut Random, base: u64) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut functions = Vec::new();
    for (page, place) in PLACES {
        let start = PAGES[page] + place + random.below(if place == 0xfc0 { 0x3f } else { 0x20 });
        let code = assemble(base + start, |a| function(a, random, &functions));
        assert!(code.len() < 0x60, "there is room before the next one");
        functions.push(base + start);
        all.push((start, code));
    }
    let start = PAGE + CALLER;
    let code = assemble(base + start, |a| caller(a, random, &functions));
    assert!(CALLER + (code.len() as u64) < CALLER_END);
    all.insert(0, (start, code));
    all
}

/// Executes the code of a seed several times.
fn run_random(options: Options, seed: u64) -> Vec<Outcome> {
    let mut random = Random(seed);
    let cpl = if random.below(4) == 0 { 3 } else { 0 };
    let base = if cpl == 0 && random.below(3) != 0 { at::UPPER } else { 0 };
    let code = code_of(&mut random, base);
    let machine = Machine::with(options, &[]);
    let mut constants = Vec::new();
    for (start, code) in &code {
        machine.write(*start, code);
        let words = (*start..).zip(code.windows(4));
        constants.extend(words.filter(|word| word.1 == CONSTANT.to_le_bytes()).map(|word| word.0));
    }
    for vector in [exception::DE, exception::DB, exception::UD, exception::DF, exception::GP, 14] {
        machine.handle(vector, &[0xf4]);
    }
    protect(&machine, Some(PAGE));
    for place in (START..END).step_by(8) {
        machine.write_u64(place, random.bits());
    }
    let mut vcpu = machine.vcpu();
    let rounds = 4 + random.below(8);
    let outcomes = (0..rounds).map(|_| {
        for page in (START..END).step_by(0x1000) {
            let is_there = random.below(16) != 0;
            machine.write_u64(entry_of(page), if is_there { page | pte::RIGHTS } else { 0 });
        }
        machine.write_u64(COUNTER, 1 + random.below(8));
        let patches = random.below(4) == 0 && !constants.is_empty();
        if patches {
            let constant = one_of(&mut random, &constants);
            machine.write(constant, &(random.bits() as u32).to_le_bytes());
        }
        vcpu.flush_tlb();
        set_level(&mut vcpu, cpl);
        set_registers(&mut vcpu, &mut random);
        vcpu.set_rip(base + code[0].0);
        let entry = Entry { fresh: patches || random.below(3) == 0, ..Entry::default() };
        let intercept = vcpu.enter(&entry, &AtomicU32::new(0));
        outcome(&machine, &vcpu, intercept)
    });
    let outcomes = outcomes.collect();
    machine.clear();
    outcomes
}

#[test]
fn random_calls_do_what_they_do_when_they_are_interpreted() {
    let number =
        |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (first, cases): (u64, u64) = (number("UNIBODY_SEED", 1), number("UNIBODY_CASES", 400));
    let (mut halted, mut all) = (0, 0);
    for seed in first..first + cases {
        let expected = run_random(interpreter(), seed);
        all += expected.len();
        halted += expected.iter().filter(|outcome| !is_handler(outcome.2)).count();
        for options in [uncounted(), traced(), Options { patience: 3, ..traced() }] {
            let found = run_random(options, seed);
            let patience = options.patience;
            for (round, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = "UNIBODY_SEED";
                assert_eq!(found, expected, "{what}={seed}, patience {patience}, round {round}");
            }
        }
    }
    println!("{halted} of {all} entries did not fault");
    // They are worth something only if many come to their end, and many do not.
    assert!(cases < 100 || (all / 4..all * 9 / 10).contains(&halted), "{halted} of {all}");
}
