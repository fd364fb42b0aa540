//! Random functions of several blocks, which are executed again and again with other operands: whenever their blocks
//! are translated, and with which others, they do what they do when they are interpreted.

use std::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Attr, Regs, Seg, Segment, gpr, rflags};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, FlowControl, IcedError};

use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, pte, selector};
use crate::test_ways::{interpreter, traced, uncounted};
use crate::{Options, SoftVcpu};

pub type Assembled = Result<(), IcedError>;

/// Registers that point to data, those that hold anything, and their lower halves.
const BASES: [AsmRegister64; 8] = [rsi, rdi, rbp, r12, r9, r10, r11, r15];
pub const VALUES: [AsmRegister64; 11] = [rax, rcx, rdx, rbx, r8, r13, r14, r9, r10, r11, r15];
pub const HALVES: [AsmRegister32; 11] =
    [eax, ecx, edx, ebx, r8d, r13d, r14d, r9d, r10d, r11d, r15d];
const BYTES: [AsmRegister8; 6] = [al, cl, dl, bl, r8b, r10b];
const VECTORS: [AsmRegisterXmm; 3] = [xmm0, xmm1, xmm2];

/// Where the data are: pages of 4 KiB, some of which are missing.
pub const START: u64 = at::DATA;
pub const END: u64 = START + 0x1_0000;
/// How many times the function is yet to go round.
pub const COUNTER: u64 = at::DATA - 0x1000;
/// Flags that POPF may change here.
const SOME_FLAGS: i32 = (rflags::CF | rflags::ZF | rflags::SF | rflags::OF | rflags::PF) as i32;
/// How a constant looks that is written to.
pub const CONSTANT: u32 = 0x5eed_5eed;

pub fn one_of<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[random.below(all.len() as u64) as usize]
}

/// An operand in memory, most often near another one.
fn place(random: &mut Random) -> AsmMemoryOperand {
    let base = if random.below(2) == 0 { rsi } else { one_of(random, &BASES) };
    let near = random.below(8) as i32 * 8;
    match random.below(10) {
        0 => base + rcx * 8 + near,
        1 => rsp - near - 8,
        2 => base + 0xff0 + near,
        _ => base + near,
    }
}

/// An instruction, or some. Nothing leaves flags undefined that are looked at, but AF; unless code is overwritten.
pub fn part(a: &mut CodeAssembler, random: &mut Random, is_overwritten: bool) -> Assembled {
    let (d, s) = (one_of(random, &VALUES), one_of(random, &VALUES));
    let (e, t) = (one_of(random, &HALVES), one_of(random, &HALVES));
    let (b, m) = (one_of(random, &BYTES), place(random));
    let value = one_of(random, &[0, 1, -1, 7, 0x80, 0x7fff_ffff, -0x8000_0000]);
    match random.below(40) {
        0..=6 => flags_maker(a, random, [d, s], [e, t], value),
        7 => a.inc(d),
        8 => a.dec(e),
        9 => a.adc(d, s),
        10 => a.sbb(e, value),
        11 => a.set_condition(random, b),
        12 => a.move_if(random, d, s),
        13 => a.lea(d, m),
        14 => a.shl(d, 1),
        15 | 16 if is_overwritten => a.rol(d, 1),
        15 => {
            a.shr(d, cl)?;
            a.setb(b)?;
            a.or(d, d)
        }
        16 => {
            a.imul_2(d, s)?;
            a.seto(b)?;
            a.test(e, e)
        }
        17 => {
            a.pushfq()?;
            a.and(dword_ptr(rsp), !(rflags::AF as i32))?;
            a.pop(d)
        }
        18 => {
            a.pushfq()?;
            a.and(dword_ptr(rsp), !(rflags::AF as i32))?;
            a.xor(qword_ptr(rsp), random.bits() as i32 & SOME_FLAGS)?;
            a.popfq()
        }
        19 => {
            a.push(s)?;
            a.push(value)?;
            a.pop(d)?;
            a.pop(one_of(random, &BASES[..4]))
        }
        20 => {
            a.lahf()?;
            a.and(ah, 0xef_u32 as i32)
        }
        // Often enough the count is a small number, and what points to data does.
        21 => a.movzx(ecx, byte_ptr(m)),
        22 => {
            let (to, from) = (one_of(random, &BASES), one_of(random, &BASES[..4]));
            a.lea(to, from + value % 0x100)
        }
        23 => a.bswap(d),
        24 => a.mov(d, qword_ptr(m)),
        25 => a.mov(qword_ptr(m), s),
        26 => a.add(dword_ptr(m), t),
        27 => a.sub(d, qword_ptr(m)),
        28 => a.cmp(byte_ptr(m), value as i8 as i32),
        29 => a.test(dword_ptr(m), t),
        30 => a.adc(qword_ptr(m), s),
        31 => a.inc(dword_ptr(m)),
        // What the interpreter executes in between; and what is translated in a way of its own.
        32 => a.mov(byte_ptr(rsi + value % 0x40), ah),
        33 => {
            a.push(s)?;
            a.pop(qword_ptr(m))
        }
        34 => match random.below(4) {
            0 => a.movsb(),
            1 => a.stosd(),
            2 => a.lodsq(),
            _ => a.scasb(),
        },
        35 => a.xchg(qword_ptr(m), s),
        36 => {
            // Flags are lost before accesses that share a look-up, between which they are looked at.
            let base = one_of(random, &BASES[..4]);
            flags_maker(a, random, [d, s], [e, t], value)?;
            a.mov(qword_ptr(base + 8), s)?;
            a.set_condition(random, b)?;
            a.adc(rbx, 0)?;
            a.mov(rdx, qword_ptr(base + 24))
        }
        _ => vector(a, random, m),
    }
}

/// One whose flags can be made again, most often.
fn flags_maker(
    a: &mut CodeAssembler,
    random: &mut Random,
    [d, s]: [AsmRegister64; 2],
    [e, t]: [AsmRegister32; 2],
    value: i32,
) -> Assembled {
    match random.below(18) {
        0 => a.add(d, s),
        1 => a.add(e, t),
        2 => a.add(d, value),
        3 => a.sub(d, s),
        4 => a.sub(e, value),
        5 | 6 => a.cmp(d, s),
        7 | 8 => a.cmp(e, value),
        9 => a.test(d, s),
        10 => a.test(e, value),
        11 => a.and(d, s),
        12 => a.or(e, value),
        13 => a.xor(d, s),
        14 => a.xor(e, e),
        15 | 16 => a.add(d, d),
        _ => a.neg(d),
    }
}

fn vector(a: &mut CodeAssembler, random: &mut Random, m: AsmMemoryOperand) -> Assembled {
    let (x, y) = (one_of(random, &VECTORS), one_of(random, &VECTORS));
    match random.below(7) {
        0 => a.movdqu(x, xmmword_ptr(m)),
        1 => a.movdqu(xmmword_ptr(m), x),
        2 => a.paddd(x, y),
        3 => a.pxor(x, xmmword_ptr(m)),
        4 => a.movq(x, one_of(random, &VALUES)),
        5 => a.movq(one_of(random, &VALUES), x),
        _ => a.movaps(x, xmmword_ptr(m)),
    }
}

/// Instructions with some condition.
pub trait Conditional {
    fn set_condition(&mut self, random: &mut Random, to: AsmRegister8) -> Assembled;
    fn move_if(&mut self, random: &mut Random, d: AsmRegister64, s: AsmRegister64) -> Assembled;
    fn jump_if(&mut self, random: &mut Random, to: CodeLabel) -> Assembled;
}

impl Conditional for CodeAssembler {
    fn set_condition(&mut self, random: &mut Random, to: AsmRegister8) -> Assembled {
        match random.below(6) {
            0 => self.setb(to),
            1 => self.setz(to),
            2 => self.seto(to),
            3 => self.setle(to),
            4 => self.setp(to),
            _ => self.sets(to),
        }
    }

    fn move_if(&mut self, random: &mut Random, d: AsmRegister64, s: AsmRegister64) -> Assembled {
        match random.below(5) {
            0 => self.cmovb(d, s),
            1 => self.cmovne(d, s),
            2 => self.cmovno(d, s),
            3 => self.cmovg(d, s),
            _ => self.cmovns(d, s),
        }
    }

    fn jump_if(&mut self, random: &mut Random, to: CodeLabel) -> Assembled {
        match random.below(12) {
            0 => self.jz(to),
            1 => self.jnz(to),
            2 => self.jb(to),
            3 => self.jae(to),
            4 => self.jbe(to),
            5 => self.ja(to),
            6 => self.js(to),
            7 => self.jns(to),
            8 => self.jl(to),
            9 => self.jg(to),
            10 => self.jo(to),
            _ => self.jp(to),
        }
    }
}

/// Blocks one behind the other, each of which ends with a branch to a later one; gives the last one's label, which is
/// yet to be set. A block may call a function, and, if code is to be overwritten, write to a constant of another block.
fn blocks(
    a: &mut CodeAssembler,
    random: &mut Random,
    functions: &[CodeLabel],
    is_overwritten: bool,
) -> Result<CodeLabel, IcedError> {
    let count = 2 + random.below(6) as usize;
    let mut labels: Vec<_> = (0..=count).map(|_| a.create_label()).collect();
    let mut constants: Vec<_> = (0..count).map(|_| a.create_label()).collect();
    for n in 0..count {
        a.set_label(&mut labels[n])?;
        for _ in 0..1 + random.below(5) {
            part(a, random, is_overwritten)?;
        }
        if is_overwritten {
            a.set_label(&mut constants[n])?;
            a.add(one_of(random, &VALUES[1..]), CONSTANT as i32)?;
            if random.below(4) == 0 {
                a.lea(rdx, qword_ptr(one_of(random, &constants)))?;
                a.mov(dword_ptr(rdx + 3), one_of(random, &HALVES))?;
            }
        }
        let target = labels[n + 1 + random.below((count - n) as u64) as usize];
        match random.below(8) {
            0 => a.jmp(target)?,
            1 => a.nop()?,
            2 if !functions.is_empty() => a.call(one_of(random, functions))?,
            3 => {
                a.cmp(one_of(random, &VALUES), one_of(random, &VALUES))?;
                a.jump_if(random, target)?;
            }
            4 => {
                a.test(one_of(random, &HALVES), 1 << random.below(8))?;
                a.jump_if(random, target)?;
            }
            _ => a.jump_if(random, target)?,
        }
    }
    Ok(labels[count])
}

/// A function that goes round as often as [`COUNTER`] says.
fn function_of(random: &mut Random, start: u64, is_overwritten: bool) -> Vec<u8> {
    assemble(start, |a| {
        let mut top = a.create_label();
        let mut functions = [a.create_label(), a.create_label()];
        a.set_label(&mut top)?;
        a.nop()?;
        let mut end = blocks(a, random, &functions, is_overwritten)?;
        a.set_label(&mut end)?;
        a.sub(dword_ptr(COUNTER), 1)?;
        a.jnz(top)?;
        a.hlt()?;
        for function in &mut functions {
            a.set_label(function)?;
            a.nop()?;
            let mut end = blocks(a, random, &[], is_overwritten)?;
            a.set_label(&mut end)?;
            a.ret()?;
        }
        Ok(())
    })
}

/// Where a function's constants and conditional branches are.
fn patchable(start: u64, code: &[u8]) -> [Vec<u64>; 2] {
    let [mut constants, mut branches] = [vec![], vec![]];
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let i = decoder.decode();
        if i.flow_control() == FlowControl::ConditionalBranch {
            let is_near = i.len() > 2;
            branches.push(i.ip() + u64::from(is_near));
        } else if code[..(i.next_ip() - start) as usize].ends_with(&CONSTANT.to_le_bytes()) {
            constants.push(i.next_ip() - 4);
        }
    }
    [constants, branches]
}

/// How an entry ended; registers, RIP, RFLAGS, vectors, a sum of all data, what is on the stack, and CR2.
pub type Outcome = (Intercept, [u64; 16], u64, u64, [u128; 3], u64, [u64; 6], u64);

/// What came of it. AF is undefined after some instructions.
pub fn outcome(machine: &Machine, vcpu: &SoftVcpu, intercept: Intercept) -> Outcome {
    let registers: [u64; 16] = std::array::from_fn(|n| vcpu.gpr(n as u8));
    let vectors: [u128; 3] = std::array::from_fn(|n| vcpu.fxsave().xmm(n as u8));
    // RFLAGS is the third word of a frame, or the fourth.
    let top = vcpu.gpr(gpr::RSP);
    let is_stack = |stack: u64| (stack - 0x1000..stack - 32).contains(&top);
    let is_frame = is_handler(vcpu.rip()) && [at::STACK, at::STACK0].into_iter().any(is_stack);
    let frame = is_frame.then_some(top);
    for place in frame.into_iter().flat_map(|frame| [frame + 16, frame + 24]) {
        machine.write_u64(place, machine.read_u64(place) & !rflags::AF);
    }
    let sum = (START..END)
        .chain(at::STACK - 0x400..at::STACK)
        .step_by(8)
        .map(|at| machine.read_u64(at))
        .fold(0u64, |sum, word| sum.rotate_left(5) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let stack = frame.unwrap_or(at::STACK - 48);
    let stack: [u64; 6] = std::array::from_fn(|n| machine.read_u64(stack + n as u64 * 8));
    let flags = vcpu.rflags() & !rflags::AF;
    (intercept, registers, vcpu.rip(), flags, vectors, sum, stack, vcpu.cr2())
}

/// Whether the handler of an exception is at RIP.
pub fn is_handler(rip: u64) -> bool {
    (at::HANDLERS..START).contains(&rip)
}

pub fn entry_of(page: u64) -> u64 {
    at::PT + (page >> 12) * 8
}

/// Lets only data, stacks and the function be written, that if it is to be.
pub fn protect(machine: &Machine, function: Option<u64>) {
    let is_written = |page: u64| {
        let stacks = [at::STACK - 0x1000, at::STACK0 - 0x1000];
        (START..END).contains(&page)
            || stacks.contains(&page)
            || page == COUNTER
            || function.is_some_and(|start| (start & !0xfff..start + 0x1000).contains(&page))
    };
    for page in (0..512).map(|n| n << 12).filter(|page| !is_written(*page)) {
        machine.write_u64(entry_of(page), page | pte::PRESENT | pte::USER);
    }
    for n in 1..16 {
        machine.write_u64(at::PD + n * 8, n << 21 | pte::PRESENT | pte::USER | pte::LARGE);
    }
}

/// At level 0, or 3.
pub fn set_level(vcpu: &mut SoftVcpu, cpl: u8) {
    let flat = |selector, attr| Segment { base: 0, limit: !0, selector, attr: Attr(attr) };
    let (code, data) = match cpl {
        0 => (flat(selector::CODE, 0xa9b), flat(selector::DATA, 0xc93)),
        _ => (flat(selector::USER_CODE, 0xafb), flat(selector::USER_DATA, 0xcf3)),
    };
    vcpu.set_segment(Seg::Cs, code);
    vcpu.set_segment(Seg::Ss, data);
    vcpu.set_cpl(cpl);
}

/// What the registers are for a round: most point to data.
pub fn set_registers(vcpu: &mut SoftVcpu, random: &mut Random) {
    for n in 0..16 {
        let bits = random.bits();
        let value = one_of(random, &[bits, bits, bits % 16, bits | 0xffff_ffff_ffff_fff0]);
        vcpu.set_gpr(n, value);
    }
    for n in [gpr::RSI, gpr::RDI, gpr::RBP, 12, 9, 10, 11, 15] {
        let place = START + random.below(END - START);
        vcpu.set_gpr(
            n,
            match random.below(24) {
                0 => random.bits(),
                1 => place | 0xff8,
                2 => place,
                _ => place & !15,
            },
        );
    }
    vcpu.set_gpr(gpr::RCX, random.below(70));
    vcpu.set_gpr(gpr::RSP, at::STACK - 0x100);
    vcpu.set_rflags(rflags::FIXED | random.bits() & rflags::STATUS);
}

/// Executes the function of a seed several times; and how many blocks and instructions were translated.
fn run_random(options: Options, seed: u64) -> (Vec<Outcome>, [u64; 2]) {
    let mut random = Random(seed);
    let start = at::USER_CODE + random.below(0xc00);
    let is_overwritten = random.below(3) == 0;
    let code = function_of(&mut random, start, is_overwritten);
    let [constants, branches] = patchable(start, &code);
    let machine = Machine::with(options, &[]);
    machine.write(start, &code);
    for vector in [exception::DE, exception::DB, exception::UD, exception::DF, exception::GP, 14] {
        machine.handle(vector, &[0xf4]);
    }
    protect(&machine, is_overwritten.then_some(start));
    for place in (START..END).step_by(8) {
        machine.write_u64(place, random.bits());
    }
    let mut vcpu = machine.vcpu();
    let cpl = if random.below(4) == 0 { 3 } else { 0 };
    let rounds = 4 + random.below(8);
    let outcomes = (0..rounds).map(|_| {
        for page in (START..END).step_by(0x1000) {
            let rights = one_of(
                &mut random,
                &[[pte::RIGHTS; 12].as_slice(), &[0, pte::PRESENT | pte::USER]].concat(),
            );
            machine.write_u64(entry_of(page), page | rights);
        }
        machine.write_u64(COUNTER, 1 + random.below(6));
        // What the host patches stays for some rounds.
        if random.below(4) == 0 {
            let branch = one_of(&mut random, &branches);
            machine.write(branch, &[machine.read_u64(branch) as u8 ^ 1]);
        }
        if random.below(4) == 0 && !constants.is_empty() {
            let constant = one_of(&mut random, &constants);
            machine.write(constant, &(random.bits() as u32).to_le_bytes());
        }
        vcpu.flush_tlb();
        set_level(&mut vcpu, cpl);
        set_registers(&mut vcpu, &mut random);
        vcpu.set_rip(start);
        let entry = Entry { fresh: true, ..Entry::default() };
        let intercept = vcpu.enter(&entry, &AtomicU32::new(0));
        outcome(&machine, &vcpu, intercept)
    });
    let outcomes = outcomes.collect();
    machine.clear();
    let statistics = vcpu.statistics();
    (outcomes, [statistics.translated, statistics.translated_instructions])
}

#[test]
fn random_functions_do_what_they_do_when_they_are_interpreted() {
    let number =
        |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (first, cases): (u64, u64) = (number("UNIBODY_SEED", 1), number("UNIBODY_CASES", 400));
    let patient = Options { patience: 3, ..traced() };
    let (mut halted, mut all, mut translated) = (0, 0, [0; 2]);
    for seed in first..first + cases {
        let (expected, _) = run_random(interpreter(), seed);
        all += expected.len();
        halted += expected.iter().filter(|outcome| outcome.2 < at::HANDLERS).count();
        for options in [traced(), patient, uncounted()] {
            let (found, counts) = run_random(options, seed);
            translated = [0, 1].map(|n| translated[n] + counts[n]);
            for (round, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let patience = options.patience;
                assert_eq!(
                    found, expected,
                    "UNIBODY_SEED={seed}, patience {patience}, round {round}"
                );
            }
        }
    }
    println!("{halted} of {all} entries did not fault; translated: {translated:?}");
    // They are worth something only if many come to their end, and many do not.
    assert!(cases < 100 || (all / 4..all * 3 / 4).contains(&halted), "{halted} of {all}");
}
