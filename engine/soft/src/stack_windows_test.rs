//! Pushes and pops that share a look-up, with what else names RSP in between: random sequences of them do what they do
//! when they are interpreted, also where a page ends in the middle, and the next one is missing.

use core::sync::atomic::AtomicU32;

use arch_x86::engine::{EngineVcpu, Entry, Intercept};
use arch_x86::exception;
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::code_asm::*;

use crate::run_test::handler;
use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, machine, pte, run, run_to_halt};
use crate::test_ways::{in_every_way, interpreter, jit, traced, uncounted};
use crate::traces_random_test::{Assembled, HALVES, VALUES, entry_of, one_of, set_level};
use crate::{Options, SoftVcpu};

in_every_way! {
    what_names_rsp_between_pushes_sees_them,
    a_push_that_faults_leaves_those_before_it,
    a_return_finds_its_address_behind_what_is_popped,
}

/// The end of a page of data: the stack is around it.
const END: u64 = at::DATA + 0x1000;
/// What of it is looked at.
const AROUND: u64 = 0x180;
/// Where exceptions have their frames.
const FRAMES: u64 = at::STACK0 + 0x1000;

fn what_names_rsp_between_pushes_sees_them(options: Options) {
    let machine = machine(options, |a| {
        a.push(rax)?;
        a.push(rcx)?;
        a.mov(rbp, rsp)?;
        a.push(rsp)?;
        a.mov(qword_ptr(rsp - 8), rsp)?;
        a.pop(rdx)?;
        a.push(1)?;
        a.lea(rsi, qword_ptr(rsp + 8))?;
        a.push(rsi)?;
        a.mov(edi, esp)?;
        a.push(rbp)?;
        a.mov(r8, qword_ptr(rsp + 16))?;
        a.pop(rsp)?;
        a.pop(r12)?;
        a.cmp(rsp, rbp)?;
        a.pop(r13)?;
        a.seta(bl)?;
        a.push(rbp)?;
        a.mov(rbp, rsp)?;
        a.push(r12)?;
        a.leave()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for top in [END, END - 0x100, END + 8, END + 16, END + 24, END + 0x80] {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RSP, top);
        vcpu.set_gpr(gpr::RAX, 0xa);
        vcpu.set_gpr(gpr::RCX, 0xc);
        vcpu.set_gpr(gpr::RBX, 0);
        run_to_halt(&mut vcpu);
        let names = [gpr::RBP, gpr::RDX, gpr::RSI, gpr::RDI, gpr::R8, 12, 13, gpr::RBX, gpr::RSP];
        let expected = [top - 16, top - 16, top - 16, top - 32, 1, 0xc, 0xa, 1, top];
        assert_eq!(names.map(|n| vcpu.gpr(n)), expected, "{top:#x}");
    }
}

fn a_push_that_faults_leaves_those_before_it(options: Options) {
    let machine = machine(options, |a| {
        a.push(rax)?;
        a.push(2)?;
        a.mov(rcx, rsp)?;
        a.push(rcx)?;
        a.push(4)?;
        a.hlt()
    });
    let mut vcpu = with_frames(&machine);
    machine.write_u64(entry_of(END - 8), 0);
    for before in 0..4 {
        vcpu.set_rip(at::CODE);
        vcpu.set_gpr(gpr::RAX, 1);
        vcpu.set_gpr(gpr::RSP, END + before * 8);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.cr2(), END - 8);
        let frame = vcpu.gpr(gpr::RSP);
        assert_eq!(machine.read_u64(frame + 32), END, "RSP");
        let rip = at::CODE + [0, 1, 6, 7][before as usize];
        assert_eq!(machine.read_u64(frame + 8), rip);
        let pushed = [1, 2, END + before * 8 - 16];
        for (n, value) in (1..=before).zip(pushed) {
            assert_eq!(machine.read_u64(END + (before - n) * 8), value);
        }
    }
}

fn a_return_finds_its_address_behind_what_is_popped(options: Options) {
    const BEHIND: u64 = at::CODE + 0x100;
    /// What is around the address is one, too, where code is known.
    const DECOY: u64 = at::CODE + 0x200;
    let machine = machine(options, |a| {
        a.cmp(rsi, rdi)?;
        a.pop(rbx)?;
        a.pop(rbp)?;
        a.mov(rdx, rbp)?;
        a.ret()
    });
    machine.write(
        BEHIND,
        &assemble(BEHIND, |a| {
            a.setc(al)?;
            a.hlt()
        }),
    );
    machine.write(DECOY, &assemble(DECOY, |a| a.hlt()));
    let mut vcpu = with_frames(&machine);
    let entry = machine.read_u64(entry_of(END));
    for n in (0..AROUND).step_by(8) {
        machine.write_u64(END + 64 - n, DECOY);
    }
    // So that what is known stays known.
    let run_on = |vcpu: &mut SoftVcpu, rip: u64| {
        vcpu.set_rip(rip);
        let intercept = vcpu.enter(&Entry::default(), &AtomicU32::new(0));
        assert_eq!(intercept, Intercept::Halt { len: 1 });
    };
    // Words before the page's end: of a page that is there, and of one that is not.
    for (before, is_there) in (0..5).flat_map(|n| [(n, true), (n, false), (n, true)]) {
        let top = END - before * 8;
        machine.write_u64(top + 16, BEHIND);
        machine.write_u64(entry_of(END), if is_there { entry } else { 0 });
        vcpu.flush_tlb();
        for below in (0..6).map(|n| n % 2) {
            (0..2).for_each(|_| run_on(&mut vcpu, DECOY));
            let start = [(gpr::RSP, top), (gpr::RSI, 1 - below), (gpr::RDI, 1)];
            for (register, value) in start.into_iter().chain([0, 2, 3, 5].map(|n| (n, 0))) {
                vcpu.set_gpr(register, value);
            }
            run_on(&mut vcpu, at::CODE);
            let done = if is_there { 3 } else { before.min(3) };
            let popped = [gpr::RBX, gpr::RBP, gpr::RDX].map(|n| vcpu.gpr(n));
            let all = [DECOY; 3];
            let expected = [[0; 3], [DECOY, 0, 0], all, all];
            assert_eq!(popped, expected[done as usize], "{before} {is_there}");
            if done == 3 {
                assert_eq!(vcpu.rip(), BEHIND + 3, "{before}");
                assert_eq!((vcpu.gpr(gpr::RAX), vcpu.gpr(gpr::RSP)), (below, top + 24));
                continue;
            }
            let frame = vcpu.gpr(gpr::RSP);
            let rip = at::CODE + [3, 4, 8][done as usize];
            let [_, at_fault, _, flags, pointer] =
                [0, 8, 16, 24, 32].map(|n| machine.read_u64(frame + n));
            assert_eq!((at_fault, pointer, vcpu.cr2()), (rip, top + done * 8, END));
            assert_eq!(flags & rflags::CF, below, "{before}");
        }
        machine.write_u64(top + 16, DECOY);
    }
}

/// A vCPU whose exceptions find a stack of their own.
fn with_frames(machine: &Machine) -> SoftVcpu {
    machine.write_u64(at::TSS + 36, FRAMES);
    for vector in [exception::PF, exception::GP, exception::UD] {
        handler(machine, vector, |a| a.hlt());
        // The gate's IST.
        machine.write(at::IDT + u64::from(vector) * 16 + 4, &[1]);
    }
    machine.vcpu()
}

/// An instruction of the stack, or one that names RSP, or uses it.
fn instruction(a: &mut CodeAssembler, random: &mut Random) -> Assembled {
    let (d, s, e) = (one_of(random, &VALUES), one_of(random, &VALUES), one_of(random, &HALVES));
    let near = random.below(8) as i32 * 8 - 24;
    match random.below(40) {
        0..=6 => a.push(s),
        7..=11 => a.pop(d),
        12 => a.push(random.bits() as i32 >> 8),
        13 => a.mov(rbp, rsp),
        14 => a.mov(e, esp),
        15 => a.lea(d, qword_ptr(rsp + near)),
        16 => a.push(rsp),
        17 => {
            a.push(rsp)?;
            a.pop(rsp)
        }
        18 => {
            a.lea(d, qword_ptr(rsp + near))?;
            a.push(d)?;
            a.pop(rsp)
        }
        19 => a.mov(qword_ptr(rsp + near), rsp),
        20 | 21 => a.mov(qword_ptr(rsp + near), s),
        22 | 23 => a.mov(d, qword_ptr(rsp + near)),
        24 => {
            a.lea(d, qword_ptr(rsp + near))?;
            a.xchg(d, rsp)
        }
        25 => {
            a.push(rbp)?;
            a.mov(rbp, rsp)
        }
        26 => {
            a.lea(rbp, qword_ptr(rsp + near))?;
            a.push(s)?;
            a.leave()
        }
        27 => a.add(rsp, 8),
        28 => a.sub(rsp, 8),
        29 => a.cmp(rsp, rbp),
        30 => a.add(d, rsp),
        31 => a.adc(dword_ptr(rsp + near), e),
        32 => a.cmovb(d, rsp),
        33 => a.movq(xmm0, rsp),
        34 => {
            a.movq(xmm0, s)?;
            a.movdqu(xmmword_ptr(rsp + near), xmm0)
        }
        35 => a.push(qword_ptr(rsp + near)),
        36 => a.pop(qword_ptr(rsp + near)),
        37 => a.push(ax),
        38 => a.add(d, s),
        _ => a.lea(rsp, qword_ptr(rsp + near)),
    }
}

/// Registers, RIP, RFLAGS, CR2, the stack, the frame.
type Outcome = (Vec<u64>, u64, u64, u64, Vec<u64>, Vec<u64>);

/// What executes the sequences of all seeds, one after the other.
struct Executor {
    machine: Machine,
    vcpu: SoftVcpu,
}

impl Executor {
    fn new(options: Options) -> Self {
        let machine = Machine::with(options, &[]);
        let vcpu = with_frames(&machine);
        Self { machine, vcpu }
    }

    /// Executes that of a seed, from several places around the page's end.
    fn execute(&mut self, seed: u64) -> Vec<Outcome> {
        let mut random = Random(seed);
        let code = assemble(at::CODE, |a| {
            for _ in 0..3 + random.below(10) {
                instruction(a, &mut random)?;
            }
            a.hlt()
        });
        self.machine.write(at::CODE, &code);
        let cpl = if random.below(4) == 0 { 3 } else { 0 };
        (0..6).map(|_| self.once(&mut random, cpl)).collect()
    }

    fn once(&mut self, random: &mut Random, cpl: u8) -> Outcome {
        let Self { machine, vcpu } = self;
        let stack = || (END - AROUND..END + AROUND).step_by(8);
        stack().for_each(|place| machine.write_u64(place, random.bits()));
        (FRAMES - 48..FRAMES).step_by(8).for_each(|place| machine.write_u64(place, 0));
        let missing = one_of(random, &[0, 0, END - 8, END]);
        for page in [END - 0x1000, END] {
            let rights = if page == missing & !0xfff { 0 } else { page | pte::RIGHTS };
            machine.write_u64(entry_of(page), rights);
        }
        vcpu.flush_tlb();
        set_level(vcpu, cpl);
        (0..16).for_each(|n| vcpu.set_gpr(n, random.bits()));
        let odd = if random.below(8) == 0 { random.below(8) } else { 0 };
        vcpu.set_gpr(gpr::RSP, END - 64 + random.below(16) * 8 + odd);
        vcpu.set_gpr(gpr::RBP, END - 64 + random.below(16) * 8);
        vcpu.set_rflags(rflags::FIXED | random.bits() & rflags::STATUS);
        vcpu.set_rip(at::CODE);
        // A program that may not halt has a handler do it.
        assert_eq!(run(vcpu), Intercept::Halt { len: 1 }, "at {:#x}", vcpu.rip());
        let read = |place| machine.read_u64(place);
        (
            (0..16).map(|n| vcpu.gpr(n)).collect(),
            vcpu.rip(),
            vcpu.rflags(),
            vcpu.cr2(),
            stack().map(read).collect(),
            (FRAMES - 48..FRAMES).step_by(8).map(read).collect(),
        )
    }
}

#[test]
fn random_sequences_do_what_they_do_when_they_are_interpreted() {
    let number =
        |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (first, cases): (u64, u64) = (number("UNIBODY_SEED", 1), number("UNIBODY_CASES", 2000));
    let mut reference = Executor::new(interpreter());
    let others = [jit(), uncounted(), traced(), Options { patience: 3, ..traced() }];
    let mut others = others.map(|options| (options, Executor::new(options)));
    let (mut faults, mut all) = (0, 0);
    for seed in first..first + cases {
        let expected = reference.execute(seed);
        all += expected.len();
        faults += expected.iter().filter(|outcome| outcome.1 >= at::HANDLERS).count();
        for (options, other) in &mut others {
            let found = other.execute(seed);
            for (round, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found, expected, "UNIBODY_SEED={seed}, {options:?}, round {round}");
            }
        }
    }
    println!("{faults} of {all} faulted");
    assert!(cases < 100 || (all / 8..all * 5 / 8).contains(&faults), "{faults} of {all}");
}
