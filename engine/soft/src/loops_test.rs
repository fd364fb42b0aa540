//! Loops, which translated code goes round without looking accesses up each time: they do what they do when they are
//! interpreted, wherever their accesses lie, fault, or meet code.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_bits;
use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, machine, run_to_halt};
use crate::test_ways::{in_every_way, interpreter, jit, traced, uncounted};
use crate::{Options, SoftVcpu};

in_every_way! {
    a_copy_over_pages_is_whole,
    a_loop_that_writes_to_itself_sees_it,
    a_loop_on_a_page_that_is_remapped_sees_that_the_next_time,
}

/// Part of a random loop.
type Part = fn(&mut CodeAssembler, i32) -> Result<(), IcedError>;

/// What a loop may have in it; the number is a displacement. Nothing leaves flags undefined but AF.
const PARTS: [Part; 31] = [
    |a, d| a.mov(rax, qword_ptr(rsi + d)),
    |a, d| a.add(rbx, qword_ptr(rsi + d)),
    |a, d| a.mov(qword_ptr(rdi + d), rbx),
    |a, d| a.add(dword_ptr(rdi + d), eax),
    |a, d| a.xor(byte_ptr(rsi + d), 0x5a),
    |a, d| a.movzx(edx, word_ptr(rdi + d)),
    |a, d| a.sub(rdx, qword_ptr(rdi + d)),
    |a, d| a.movdqu(xmm0, xmmword_ptr(rsi + d)),
    |a, d| a.movdqu(xmmword_ptr(rdi + d), xmm1),
    |a, _| a.paddq(xmm1, xmm0),
    |a, d| a.movdqa(xmm2, xmmword_ptr(rsi + d * 16)),
    |a, d| a.paddb(xmm1, xmmword_ptr(rdi + d * 16)),
    |a, d| a.mov(rax, qword_ptr(rsi + rbp * 2 + d)),
    |a, d| a.add(qword_ptr(rdi + rbp + d), 3),
    |a, _| a.neg(rbx),
    |a, _| a.add(eax, 0x1234_5678),
    |a, d| a.lea(rax, qword_ptr(rbx + rdx * 4 + d)),
    |a, _| a.rol(rbx, 1),
    |a, d| a.mov(r10, qword_ptr(rsi + d)),
    |a, _| a.add(r11, r10),
    |a, _| a.bswap(rdx),
    |a, _| a.lock().inc(dword_ptr(at::DATA + 0x40)),
    |a, _| a.cmovs(rax, rbx),
    |a, d| a.prefetcht0(byte_ptr(rsi + d)),
    |a, d| a.crc32(rax, qword_ptr(rsi + d)),
    |a, d| a.crc32(r11d, byte_ptr(rdi + d)),
    |a, d| a.movbe(dword_ptr(rdi + d), ebx),
    |a, d| a.mulx(r11, r10, qword_ptr(rsi + d)),
    |a, d| a.adcx(rbx, qword_ptr(rsi + d)),
    |a, d| a.sarx(r15, qword_ptr(rdi + d), rax),
    |a, _| a.pdep(rdx, r10, rbx),
];

/// What moves a loop's registers on.
const MOVES: [Part; 10] = [
    |a, d| a.add(rsi, d * 8),
    |a, d| a.add(rdi, d * 8),
    |a, d| a.sub(rsi, d * 16),
    |a, d| a.sub(rdi, d * 16),
    |a, d| a.lea(rsi, qword_ptr(rsi + d)),
    |a, _| a.add(rdi, 64),
    |a, _| a.inc(rsi),
    |a, _| a.dec(rdi),
    |a, d| a.add(rbp, d),
    |a, _| a.mov(rbp, 24u64),
];

/// A loop's last instructions, which go on at a label.
type End = fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>;

/// How it goes on or ends; the counter is RCX, and R12 its end.
const ENDS: [End; 6] = [
    |a, top| {
        a.sub(rcx, 1)?;
        a.jnz(top)
    },
    |a, top| {
        a.sub(ecx, 1)?;
        a.ja(top)
    },
    |a, top| {
        a.dec(ecx)?;
        a.jnz(top)
    },
    |a, top| {
        a.add(r12, 1)?;
        a.cmp(r12, rcx)?;
        a.jb(top)
    },
    |a, top| {
        a.add(r12, 1)?;
        a.cmp(rcx, r12)?;
        a.jg(top)
    },
    |a, top| {
        a.add(r12, 1)?;
        a.mov(r13, rcx)?;
        a.sub(r13, r12)?;
        a.jne(top)
    },
];

/// Where the loops' data are: pages of 4 KiB.
const START: u64 = at::DATA;
const END: u64 = at::DATA + 0x2_4000;

/// The loop of a seed.
fn loop_of(random: &mut Random) -> Vec<u8> {
    assemble(at::CODE, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        for _ in 0..1 + random.below(6) {
            let part = PARTS[random.below(PARTS.len() as u64) as usize];
            part(a, random.below(8) as i32 * 4)?;
            if random.below(3) == 0 {
                MOVES[random.below(MOVES.len() as u64) as usize](a, random.below(9) as i32)?;
            }
        }
        let way = MOVES[random.below(8) as usize];
        way(a, 1 + random.below(5) as i32)?;
        ENDS[random.below(ENDS.len() as u64) as usize](a, top)?;
        a.hlt()
    })
}

/// Registers, RIP, RFLAGS, vectors, a sum of all data, an exception's frame, and CR2.
type Outcome = ([u64; 16], u64, u64, [u128; 3], u64, [u64; 6], u64);

/// What came of it. AF is undefined after some instructions.
fn outcome(machine: &Machine, vcpu: &SoftVcpu) -> Outcome {
    let registers: [u64; 16] = std::array::from_fn(|n| vcpu.gpr(n as u8));
    let vectors: [u128; 3] = std::array::from_fn(|n| vcpu.fxsave().xmm(n as u8));
    let sum = (START..END)
        .step_by(8)
        .map(|at| machine.read_u64(at))
        .fold(0u64, |sum, word| sum.rotate_left(5) ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let frame: [u64; 6] = std::array::from_fn(|n| machine.read_u64(at::STACK - 48 + n as u64 * 8));
    (registers, vcpu.rip(), vcpu.rflags() & !rflags::AF, vectors, sum, frame, vcpu.cr2())
}

/// Runs the loop of a seed three times, from different places, with a page missing the second time.
fn run_random(options: Options, seed: u64) -> [Outcome; 3] {
    let mut random = Random(seed);
    let machine = Machine::with(options, &loop_of(&mut random));
    // Page faults, and operands that are not aligned.
    machine.handle(14, &[0xf4]);
    machine.handle(13, &[0xf4]);
    for place in (START..END).step_by(8) {
        machine.write_u64(place, random.bits());
    }
    let mut vcpu = test_bits::vcpu(&machine);
    let outcomes = [0u64, 1, 2].map(|round| {
        let missing = at::PT + ((START + 0x1000 * (4 + random.below(28))) >> 12) * 8;
        let entry = machine.read_u64(missing);
        if round == 1 {
            machine.write_u64(missing, 0);
        }
        for n in 0..16 {
            vcpu.set_gpr(n, random.bits());
        }
        let place =
            |random: &mut Random| (START + 0xc000 + random.below(0xc000)) & !(random.below(2) * 15);
        vcpu.set_gpr(gpr::RSP, at::STACK);
        vcpu.set_gpr(gpr::RSI, place(&mut random));
        vcpu.set_gpr(gpr::RDI, place(&mut random));
        vcpu.set_gpr(gpr::RBP, random.below(64));
        vcpu.set_gpr(gpr::RCX, 1 + random.below(700));
        vcpu.set_gpr(12, 0);
        vcpu.set_rip(at::CODE);
        vcpu.set_rflags(rflags::FIXED | random.bits() & rflags::STATUS);
        run_to_halt(&mut vcpu);
        if round == 1 {
            machine.write_u64(missing, entry);
        }
        outcome(&machine, &vcpu)
    });
    machine.clear();
    outcomes
}

#[test]
fn random_loops_do_what_they_do_when_they_are_interpreted() {
    let first: u64 =
        std::env::var("UNIBODY_SEED").map_or(1, |text| text.parse().expect("a number"));
    let cases: u64 =
        std::env::var("UNIBODY_CASES").map_or(600, |text| text.parse().expect("a number"));
    for seed in first..first + cases {
        let expected = run_random(interpreter(), seed);
        for options in [uncounted(), traced(), jit()] {
            let found = run_random(options, seed);
            assert_eq!(found, expected, "UNIBODY_SEED={seed}, {options:?}");
        }
    }
}

fn a_copy_over_pages_is_whole(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.movdqu(xmm0, xmmword_ptr(rsi))?;
        a.movdqu(xmm1, xmmword_ptr(rsi + 16))?;
        a.add(rsi, 32)?;
        a.movups(xmmword_ptr(rdi), xmm0)?;
        a.movups(xmmword_ptr(rdi + 16), xmm1)?;
        a.add(rdi, 32)?;
        a.cmp(rdi, rdx)?;
        a.jb(top)?;
        a.hlt()
    });
    let (from, to, size) = (START + 8, START + 0x1_0000 - 24, 0x8000);
    for n in (0..size).step_by(8) {
        machine.write_u64(from + n, n * 0x1_0001 + 1);
    }
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RSI, from);
    vcpu.set_gpr(gpr::RDI, to);
    vcpu.set_gpr(gpr::RDX, to + size);
    run_to_halt(&mut vcpu);
    for n in (0..size).step_by(8) {
        assert_eq!(machine.read_u64(to + n), n * 0x1_0001 + 1, "{n:#x}");
    }
    assert_eq!((vcpu.gpr(gpr::RSI), vcpu.gpr(gpr::RDI)), (from + size, to + size));
}

/// The loop stores upwards, until it meets its own code and writes a HLT there.
fn a_loop_that_writes_to_itself_sees_it(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(rcx, 1)?;
        a.mov(byte_ptr(rdi), al)?;
        a.add(rdi, 1)?;
        a.cmp(rdi, rdx)?;
        a.jne(top)?;
        a.ud2()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0xf4);
    vcpu.set_gpr(gpr::RCX, 0);
    vcpu.set_gpr(gpr::RDI, at::CODE - 0x2800);
    vcpu.set_gpr(gpr::RDX, 0);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.rip(), at::CODE + 1);
    assert_eq!((vcpu.gpr(gpr::RCX), vcpu.gpr(gpr::RDI)), (0x2801, at::CODE + 1));
}

fn a_loop_on_a_page_that_is_remapped_sees_that_the_next_time(options: Options) {
    let machine = machine(options, |a| {
        let (mut again, mut top) = (a.create_label(), a.create_label());
        a.set_label(&mut again)?;
        a.mov(rsi, at::DATA)?;
        a.mov(ecx, 100)?;
        a.set_label(&mut top)?;
        a.add(rax, qword_ptr(rsi))?;
        a.sub(ecx, 1)?;
        a.jnz(top)?;
        // The other page, the second time.
        a.mov(qword_ptr(at::PT + (at::DATA >> 12) * 8), rbx)?;
        a.invlpg(byte_ptr(rsi))?;
        a.sub(edx, 1)?;
        a.jnz(again)?;
        a.hlt()
    });
    machine.write_u64(at::DATA, 1);
    machine.write_u64(at::DATA + 0x1000, 1000);
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(gpr::RAX, 0);
    vcpu.set_gpr(gpr::RBX, (at::DATA + 0x1000) | crate::test_machine::pte::RIGHTS);
    vcpu.set_gpr(gpr::RDX, 2);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RAX), 100 + 100 * 1000);
}

#[test]
fn a_loop_that_never_ends_is_left_when_it_is_asked_to_be() {
    for options in [uncounted(), traced(), jit()] {
        let machine = machine(options, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.add(qword_ptr(rsi), 1)?;
            a.test(rsi, rsi)?;
            a.jnz(top)
        });
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(gpr::RSI, at::DATA);
        let request = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let start = Instant::now();
                while machine.read_u64(at::DATA) < 5000 {
                    assert!(start.elapsed() < Duration::from_secs(60), "it does not run");
                    std::thread::yield_now();
                }
                request.store(1, Ordering::SeqCst);
                arch_x86::engine::Engine::kick(&machine.engine, 0);
            });
            let intercept = vcpu.enter(&Entry { fresh: true, ..Entry::default() }, &request);
            assert_eq!(intercept, Intercept::Interrupted);
        });
        assert!((at::CODE..at::CODE + 9).contains(&vcpu.rip()), "{:#x}", vcpu.rip());
    }
}

#[test]
fn a_loop_of_one_block_is_a_translation_of_its_own() {
    let machine = machine(Options { patience: 2, ..traced() }, |a| {
        let (mut outer, mut inner) = (a.create_label(), a.create_label());
        a.mov(ebp, 9)?;
        a.set_label(&mut outer)?;
        a.mov(ecx, 2)?;
        a.set_label(&mut inner)?;
        a.add(rax, 1)?;
        a.sub(ecx, 1)?;
        a.jnz(inner)?;
        a.add(rdx, 1)?;
        a.sub(ebp, 1)?;
        a.jnz(outer)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    assert_eq!([gpr::RAX, gpr::RDX].map(|n| vcpu.gpr(n)), [18, 9]);
    assert_eq!(vcpu.statistics().translated, 3, "what is behind it is another one");
}
