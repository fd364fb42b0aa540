//! BMI, MOVBE, CRC32 and ADX, on registers and memory of all kinds, against what plain Rust makes of them.

use std::arch::x86_64::__cpuid;

use arch_x86::emulate::Feature;
use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::Instruction;
use iced_x86::code_asm::registers::gpr64;
use iced_x86::code_asm::{CodeAssembler, qword_ptr, r12, r13, r14};

use crate::jit::sabotage;
use crate::status_bits::status_bits;
use crate::test_bits::{FEATURES, Form, Rm, State, offer, vcpu};
use crate::test_code::Random;
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::test_ways::{in_every_way, jit};
use crate::{Options, SoftVcpu};

in_every_way! {
    registers_of_all_kinds_are_operands,
    memory_is_an_operand,
    memory_across_the_end_of_a_page_is_an_operand,
    a_fault_leaves_all_as_it_was,
    what_is_not_offered_is_no_instruction,
}

/// Registers that are themselves, RSP, and those that are elsewhere while translated code is executed; RDX is MULX's
/// factor.
const KINDS: [u8; 8] = [gpr::RAX, gpr::RDX, gpr::RSP, gpr::RBP, 8, 9, 11, 15];
/// Where programs are, one behind the other, in pages of 2 MiB.
const PROGRAMS: u64 = at::LARGE;
/// A page of data, and its end.
const PAGE: u64 = at::DATA;
const END: u64 = PAGE + 0x1000;

/// How flags are made before the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// They are what the block is entered with.
    Nothing,
    /// CMC: they can't be made again.
    Complement,
    /// CMP of R14 and R13: they may be lost, and are made again.
    Compare,
    /// An access by the instruction's base, which shares the look-up.
    Access,
}

const BEFORE: [Before; 3] = [Before::Nothing, Before::Complement, Before::Compare];

impl Before {
    fn execute(self, state: &mut State) {
        match self {
            Self::Nothing | Self::Access => {}
            Self::Complement => state.rflags ^= rflags::CF,
            Self::Compare => {
                let (a, b) = (state.gprs[14], state.gprs[13]);
                let (result, carry) = a.overflowing_sub(b);
                let overflow = ((a ^ b) & (a ^ result)) >> 63 != 0;
                let flags = [
                    (rflags::CF, carry),
                    (rflags::PF, (result as u8).count_ones().is_multiple_of(2)),
                    (rflags::AF, (a ^ b ^ result) & 0x10 != 0),
                    (rflags::ZF, result == 0),
                    (rflags::SF, result >> 63 != 0),
                    (rflags::OF, overflow),
                ];
                let set = flags.iter().filter(|(_, on)| *on).fold(0, |all, (flag, _)| all | flag);
                state.rflags = state.rflags & !rflags::STATUS | set;
            }
        }
    }
}

/// A program: what is before the instruction, that, and HLT.
struct Case {
    before: Before,
    instruction: Instruction,
    rip: u64,
    /// Where the instruction is.
    at: u64,
    /// Where HLT is.
    end: u64,
}

impl Case {
    /// Puts it behind the last one; `None` if there is no such instruction.
    fn new(
        machine: &Machine,
        next: &mut u64,
        before: Before,
        instruction: Instruction,
    ) -> Option<Self> {
        let rip = *next;
        let base = instruction.memory_base();
        let below = instruction.memory_displacement64() as i32 - 8;
        let first = assemble(rip, |a| match before {
            Before::Nothing => Ok(()),
            Before::Complement => a.cmc(),
            Before::Compare => a.cmp(r14, r13),
            Before::Access => {
                a.mov(r12, qword_ptr(gpr64::get_gpr64(base).expect("a base") + below))
            }
        });
        let at = rip + first.len() as u64;
        let mut a = CodeAssembler::new(64).expect("64-bit");
        a.add_instruction(instruction).ok()?;
        let second = a.assemble(at).ok()?;
        let end = at + second.len() as u64;
        machine.write(rip, &[&first[..], &second, &[0xf4]].concat());
        *next = end + 8;
        assert!(*next < PROGRAMS + (8 << 20));
        Some(Self { before, instruction, rip, at, end })
    }

    /// The flags that are undefined, and may not be as on AMD's processors.
    fn free(&self) -> u64 {
        if is_amd() { 0 } else { status_bits(self.instruction.rflags_undefined()) }
    }

    fn enter(&self, vcpu: &mut SoftVcpu, state: &State) {
        vcpu.set_rip(self.rip);
        (0..16).for_each(|n| vcpu.set_gpr(n, state.gprs[usize::from(n)]));
        vcpu.set_rflags(state.rflags);
        run_to_halt(vcpu);
    }

    /// Runs it, and compares what it does.
    fn check(&self, vcpu: &mut SoftVcpu, state: &State, memory: Option<(&Machine, u64)>) {
        let mut expected = state.clone();
        self.before.execute(&mut expected);
        if let Some((machine, address)) = memory {
            machine.write_u64(address, state.memory);
            if self.before == Before::Access {
                expected.gprs[12] = machine.read_u64(address - 8);
            }
        }
        expected.execute(&self.instruction);
        self.enter(vcpu, state);
        let gprs = std::array::from_fn(|n| vcpu.gpr(n as u8));
        let memory = memory.map_or(state.memory, |(machine, address)| machine.read_u64(address));
        let mut found = State { gprs, rflags: vcpu.rflags(), memory };
        for state in [&mut found, &mut expected] {
            state.rflags &= rflags::STATUS & !self.free();
        }
        assert_eq!(vcpu.rip(), self.end + 1);
        assert_eq!(found, expected, "{:?} {} from {state:x?}", self.before, self.instruction);
    }
}

/// Whether the host's processor is one of AMD's, or of a kin's.
fn is_amd() -> bool {
    // "Auth" and "Hygo".
    matches!(__cpuid(0).ebx, 0x6874_7541 | 0x6f67_7948)
}

/// Anything, and often what is special.
fn state(random: &mut Random) -> State {
    let mut value = || match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.below(0x4000),
        _ => random.bits(),
    };
    let gprs = std::array::from_fn(|_| value());
    let memory = value();
    State { gprs, rflags: rflags::FIXED | random.bits() & rflags::STATUS, memory }
}

/// The registers that matter for a form: for `reg` and VEX.vvvv.
fn registers(form: &Form) -> Vec<(u8, u8)> {
    let all = |has: bool| if has { &KINDS[..] } else { &KINDS[..1] };
    let pairs = all(form.has_reg()).iter().map(|reg| (*reg, all(form.has_vvvv())));
    pairs.flat_map(|(reg, others)| others.iter().map(move |vvvv| (reg, *vvvv))).collect()
}

fn registers_of_all_kinds_are_operands(options: Options) {
    let machine = Machine::with(options, &[]);
    let mut vcpu = vcpu(&machine);
    let (mut random, mut next) = (Random(1), PROGRAMS);
    for form in Form::all().iter().filter(|form| !form.is_memory()) {
        let high = [0, 1, 2, 3].map(Rm::High);
        let high = if form.has_byte() { &high[..] } else { &[] };
        let all: Vec<Rm> = KINDS.map(Rm::Register).iter().chain(high).copied().collect();
        for (n, (reg, vvvv)) in registers(form).into_iter().enumerate() {
            for (m, rm) in all.iter().enumerate() {
                let instruction = form.instruction(reg, vvvv, *rm, random.bits() as u8);
                let before = BEFORE[(n + m) % BEFORE.len()];
                let case = Case::new(&machine, &mut next, before, instruction);
                // AH to BH are no operands beside REX.
                let Some(case) = case else {
                    assert!(matches!(rm, Rm::High(_)), "{instruction}");
                    continue;
                };
                (0..3).for_each(|_| case.check(&mut vcpu, &state(&mut random), None));
            }
        }
    }
}

/// All forms with registers of all kinds, and a memory operand that may be made of one of them.
fn for_all_operands(mut visit: impl FnMut(&Form, [u8; 2], u8)) {
    for form in Form::all().iter().filter(|form| form.size() != 0) {
        for (reg, vvvv) in registers(form) {
            for base in [gpr::RBX, reg, vvvv, gpr::RSP, 10] {
                visit(form, [reg, vvvv], base);
            }
        }
    }
}

fn memory_is_an_operand(options: Options) {
    let machine = Machine::with(options, &[]);
    let mut vcpu = vcpu(&machine);
    let (mut random, mut next) = (Random(2), PROGRAMS);
    let ways = [Before::Nothing, Before::Complement, Before::Compare, Before::Access];
    let mut n = 0;
    for_all_operands(|form, [reg, vvvv], base| {
        n += 1;
        let before = ways[n % ways.len()];
        let rm = Rm::Memory(base, [0, 0x40, -0x800][n % 3]);
        let instruction = form.instruction(reg, vvvv, rm, random.bits() as u8);
        let case = Case::new(&machine, &mut next, before, instruction).expect("an instruction");
        for _ in 0..3 {
            let address = PAGE + 8 + random.below(0x1000 - 16);
            let mut state = state(&mut random);
            state.gprs[usize::from(base)] =
                address.wrapping_sub(instruction.memory_displacement64());
            case.check(&mut vcpu, &state, Some((&machine, address)));
        }
    });
}

fn memory_across_the_end_of_a_page_is_an_operand(options: Options) {
    let machine = Machine::with(options, &[]);
    let mut vcpu = vcpu(&machine);
    let (mut random, mut next) = (Random(3), PROGRAMS);
    for (n, form) in Form::all().iter().filter(|form| form.size() != 0).enumerate() {
        for (reg, vvvv) in [(gpr::RAX, gpr::RBX), (9, 15), (11, 11), (gpr::RSP, 10)] {
            for before in [Before::Complement, Before::Compare, Before::Access] {
                let rm = Rm::Memory(gpr::RSI, 0x20);
                let instruction = form.instruction(reg, vvvv, rm, n as u8);
                let case = Case::new(&machine, &mut next, before, instruction).expect("one");
                for address in END - 8..=END {
                    let mut state = state(&mut random);
                    state.gprs[usize::from(gpr::RSI)] = address - 0x20;
                    case.check(&mut vcpu, &state, Some((&machine, address)));
                }
            }
        }
    }
}

fn a_fault_leaves_all_as_it_was(options: Options) {
    let machine = Machine::with(options, &[]);
    machine.handle(14, &[0xf4]);
    machine.write_u64(at::PT + (END >> 12) * 8, 0);
    let mut vcpu = vcpu(&machine);
    let (mut random, mut next) = (Random(4), PROGRAMS);
    let mut n = 0;
    for_all_operands(|form, [reg, vvvv], base| {
        n += 1;
        let before = BEFORE[n % BEFORE.len()];
        let instruction = form.instruction(reg, vvvv, Rm::Memory(base, 0x10), n as u8);
        // The handler needs a stack.
        if base == gpr::RSP {
            return;
        }
        let case = Case::new(&machine, &mut next, before, instruction).expect("an instruction");
        for address in [END, END + 8, END + 1 - form.size() as u64] {
            let mut state = state(&mut random);
            state.gprs[usize::from(base)] = address - 0x10;
            state.gprs[usize::from(gpr::RSP)] = at::STACK;
            case.enter(&mut vcpu, &state);
            before.execute(&mut state);
            let frame = vcpu.gpr(gpr::RSP);
            assert_eq!(machine.read_u64(frame + 8), case.at, "{instruction}");
            assert_eq!(
                machine.read_u64(frame + 24) & rflags::STATUS,
                state.rflags & rflags::STATUS
            );
            assert_eq!(machine.read_u64(frame + 32), at::STACK);
            assert_eq!(vcpu.cr2(), address.max(END));
            state.gprs[usize::from(gpr::RSP)] = frame;
            let found: [u64; 16] = std::array::from_fn(|n| vcpu.gpr(n as u8));
            assert_eq!(found, state.gprs, "{before:?} {instruction}");
        }
    });
}

fn what_is_not_offered_is_no_instruction(options: Options) {
    for feature in FEATURES {
        let machine = Machine::with(options, &[]);
        machine.handle(6, &[0xf4]);
        let mut vcpu = machine.vcpu();
        offer(&mut vcpu, FEATURES.into_iter().filter(|other| *other != feature));
        let (mut random, mut next) = (Random(5), PROGRAMS);
        for form in Form::all() {
            let rm = if form.is_memory() { Rm::Memory(gpr::RBX, 0) } else { Rm::Register(9) };
            let instruction = form.instruction(gpr::RSI, 10, rm, 3);
            let case = Case::new(&machine, &mut next, Before::Compare, instruction).expect("one");
            for _ in 0..3 {
                let mut state = state(&mut random);
                state.gprs[usize::from(gpr::RBX)] = PAGE;
                state.gprs[usize::from(gpr::RSP)] = at::STACK;
                if form.feature != feature {
                    let memory = form.is_memory().then_some((&machine, PAGE));
                    case.check(&mut vcpu, &state, memory);
                    continue;
                }
                case.enter(&mut vcpu, &state);
                Before::Compare.execute(&mut state);
                let frame = vcpu.gpr(gpr::RSP);
                assert_eq!(machine.read_u64(frame), case.at);
                assert_eq!(
                    machine.read_u64(frame + 16) & rflags::STATUS,
                    state.rflags & rflags::STATUS
                );
                assert_eq!(vcpu.gpr(gpr::RSI), state.gprs[usize::from(gpr::RSI)]);
            }
        }
    }
}

/// The JIT is told of another instruction than the interpreter: what is executed is the JIT's.
#[test]
fn all_of_them_are_translated() {
    let has = |feature| match feature {
        Feature::Movbe => is_x86_feature_detected!("movbe"),
        Feature::Sse42 => is_x86_feature_detected!("sse4.2"),
        Feature::Adx => is_x86_feature_detected!("adx"),
        Feature::Bmi1 => is_x86_feature_detected!("bmi1"),
        _ => is_x86_feature_detected!("bmi2"),
    };
    let mut random = Random(8);
    for form in Form::all().iter().filter(|form| has(form.feature)) {
        for rm in [Rm::Register(8), Rm::Register(10), Rm::Memory(gpr::RBX, 0)] {
            if form.is_memory() && matches!(rm, Rm::Register(_)) {
                continue;
            }
            let [told, other] = [gpr::RSI, gpr::RDI].map(|n| form.instruction(n, n, rm, 9));
            let bytes = |i| assemble(0, |a| a.add_instruction(i));
            sabotage::replace(&bytes(told), &bytes(other));
            let machine = Machine::with(jit(), &[]);
            let mut vcpu = vcpu(&machine);
            let case = Case::new(&machine, &mut { PROGRAMS }, Before::Nothing, told);
            let case = Case { instruction: other, ..case.expect("an instruction") };
            let mut state = state(&mut random);
            state.gprs[usize::from(gpr::RBX)] = PAGE;
            let memory = matches!(rm, Rm::Memory(..)).then_some((&machine, PAGE));
            // Once for the TLB: an access that misses it is the interpreter's.
            case.enter(&mut vcpu, &state);
            case.check(&mut vcpu, &state, memory);
        }
    }
}
