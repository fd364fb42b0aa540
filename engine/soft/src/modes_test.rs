//! The same code under all modes: it does the same.

use arch_x86::regs::{Regs, gpr, rflags};

use crate::test_code::{Code, Random};
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::test_ways::{interpreter, jit};
use crate::{Modes, Options, SoftVcpu};

/// All modes, and some together.
const MODES: [&str; 12] = [
    "step",
    "nochain",
    "irq=2",
    "irq=7",
    "flush=always",
    "flush=5",
    "tlb=tiny",
    "tlb=1",
    "flags=poison",
    "step,nochain,flush=always,tlb=tiny",
    "step,irq=3,tlb=2",
    "flush=3,tlb=3",
];

/// Across the end of a page.
const FUNCTIONS: u64 = at::USER_CODE + 0x1000 - 0x500;
const FUNCTIONS_END: u64 = at::USER_CODE + 0x2000;

/// What came of it. AF is undefined after many instructions.
fn outcome(machine: &Machine, vcpu: &SoftVcpu) -> impl PartialEq + std::fmt::Debug {
    let registers: [u64; 16] = std::array::from_fn(|n| vcpu.gpr(n as u8));
    let flags = vcpu.rflags() & !rflags::AF;
    let data = (0..0x200).step_by(8).map(|n| machine.read_u64(at::DATA + n));
    let code = (FUNCTIONS..FUNCTIONS_END).step_by(8).map(|at| machine.read_u64(at));
    let memory = data.chain(code).collect::<Vec<_>>();
    (registers, vcpu.rip(), flags, vcpu.instructions(), *vcpu.fxsave(), memory)
}

fn modes(text: &str) -> Modes {
    text.parse().expect("they are modes")
}

/// The usual ways first, then each mode interpreted and translated.
fn all_ways() -> Vec<(String, Options)> {
    let mut ways =
        vec![("interpreted".to_string(), interpreter()), ("translated".to_string(), jit())];
    for text in MODES {
        for (name, options) in [("interpreted", interpreter()), ("translated", jit())] {
            ways.push((format!("{text}, {name}"), Options { modes: modes(text), ..options }));
        }
    }
    ways
}

#[test]
fn code_that_is_rewritten_does_the_same_under_all_modes() {
    for program in 1..=12 {
        let mut random = Random(program);
        // Functions write to others' constants, and to their own.
        let code = Code::new(&mut random, FUNCTIONS, true);
        let main = code.calls(&mut random);
        let mut all: Vec<_> = all_ways()
            .into_iter()
            .map(|(name, options)| {
                let machine = Machine::with(options, &main);
                let mut vcpu = machine.vcpu();
                vcpu.set_gpr(gpr::RBP, at::DATA + 0x80);
                (name, machine, vcpu)
            })
            .collect();
        let mut patches = code.all(&mut random);
        for round in 0..8 {
            let registers: [u64; 16] = std::array::from_fn(|_| random.bits());
            let mut expected = None;
            for (name, machine, vcpu) in &mut all {
                for (at, bytes) in &patches {
                    machine.write(*at, bytes);
                }
                vcpu.set_rip(at::CODE);
                for n in (0..16).filter(|n| !matches!(*n, gpr::RSP | gpr::RBP)) {
                    vcpu.set_gpr(n, registers[usize::from(n)]);
                }
                run_to_halt(vcpu);
                let outcome = outcome(machine, vcpu);
                match &expected {
                    None => expected = Some(outcome),
                    Some(expected) => assert_eq!(expected, &outcome, "{name}, {program}, {round}"),
                }
            }
            patches = (0..random.below(6)).map(|_| code.any(&mut random)).collect();
        }
    }
}

/// A loop of four blocks over sixteen pages, a thousand times.
fn over_pages(text: &str) -> SoftVcpu {
    let machine = Machine::with(
        Options { modes: modes(text), ..jit() },
        &assemble(at::CODE, |a| {
            use iced_x86::code_asm::*;
            let (mut top, mut next) = (a.create_label(), a.create_label());
            a.mov(ecx, 1000)?;
            a.set_label(&mut top)?;
            a.mov(edx, ecx)?;
            a.and(edx, 15)?;
            a.shl(edx, 12)?;
            a.add(qword_ptr(rdx + at::LARGE), rcx)?;
            a.jmp(next)?;
            a.set_label(&mut next)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            a.hlt()
        }),
    );
    let mut vcpu = machine.vcpu();
    run_to_halt(&mut vcpu);
    let sums: u64 = (0..16).map(|page| machine.read_u64(at::LARGE + page * 0x1000)).sum();
    assert_eq!(sums, 1000 * 1001 / 2, "{text}");
    vcpu
}

#[test]
fn each_mode_does_what_it_is_for() {
    let usual = over_pages("").statistics();
    // Each page once, and the block as a whole.
    assert!(usual.tlb_fills < 40, "{usual:?}");
    assert!(over_pages("tlb=tiny").statistics().tlb_fills > 900);
    assert!(over_pages("flush=always").statistics().tlb_fills > 900);
    assert!(over_pages("flush=always").statistics().itlb_fills > 1900);
    let every_third = over_pages("flush=6").statistics().itlb_fills;
    assert!((300..500).contains(&every_third), "{every_third}");
    let step = over_pages("step").statistics();
    assert!(step.translated > usual.translated + 3, "{step:?}");
    assert_eq!(step.instructions, usual.instructions);
    assert_eq!(over_pages("flags=poison").statistics().translated, 0);
}

#[test]
fn undefined_flags_are_random_and_defined_ones_are_not() {
    let machine = Machine::with(
        Options { modes: modes("flags=poison"), ..interpreter() },
        &assemble(at::CODE, |a| {
            use iced_x86::code_asm::*;
            a.mov(eax, 3)?;
            a.mov(edx, 5)?;
            // CF and OF are defined, the others are not.
            a.mul(edx)?;
            a.pushfq()?;
            a.pop(rbx)?;
            // With a count of 0 all stay.
            a.xor(ecx, ecx)?;
            a.stc()?;
            a.shl(eax, cl)?;
            a.pushfq()?;
            a.pop(rcx)?;
            a.hlt()
        }),
    );
    let mut vcpu = machine.vcpu();
    let defined = rflags::CF | rflags::OF;
    let mut seen = 0;
    for _ in 0..64 {
        vcpu.set_rip(at::CODE);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RAX), 15);
        assert_eq!(vcpu.gpr(gpr::RBX) & defined, 0);
        let kept = rflags::STATUS & !rflags::AF;
        assert_eq!(vcpu.gpr(gpr::RCX) & kept, rflags::CF | rflags::ZF | rflags::PF);
        seen |= vcpu.gpr(gpr::RBX) & rflags::STATUS;
    }
    assert_eq!(seen, rflags::STATUS & !defined);
}
