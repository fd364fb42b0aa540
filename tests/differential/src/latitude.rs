//! What the architecture leaves to the processor: [`Free`], what of an outcome is not compared;
//! [`is_loose`] and [`other_fault_first`], cases and outcomes that are not compared at all.
//!
//! Where AMD's and Intel's processors differ the engine does as AMD's do with integer instructions, and as Intel's
//! do with the others (`amd`); what the other's do otherwise is free.

mod amd;
mod vector;

use std::ops::Range;

use arch_x86::emulate::decode::MAX_LENGTH;
use arch_x86::regs::{gpr, rflags};
use iced_x86::{FlowControl, Instruction, Mnemonic, Register, RflagsBits};

use crate::case::{Case, End, Outcome};
use crate::vendor::is_amd;

/// The flags that PUSHF, LAHF and their kin read, whatever the tables say.
const ALL_FLAGS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// The upper half of a register.
const UPPER: u64 = !0 << 32;

/// What of a case's outcome is the processor's choice: set bits are not compared.
#[derive(Clone, Debug, Default)]
pub struct Free {
    /// Of RFLAGS.
    pub rflags: u64,
    /// Of the general-purpose registers.
    pub gprs: [u64; 16],
    /// Of the x87 status word.
    pub fsw: u16,
    /// Of the x87 tags.
    pub tags: u8,
    /// Of MXCSR.
    pub mxcsr: u32,
    /// All of the x87 and vector registers.
    pub vectors: bool,
    /// Bytes of the image.
    pub memory: Vec<Range<usize>>,
}

impl Free {
    /// What is free after `case`, which ended natively as `native`.
    #[must_use]
    pub fn of(case: &Case, native: &Outcome) -> Free {
        let mut free = Free::default();
        vector::add(&mut free, case, native);
        let mut undefined = Undefined::default();
        for instruction in case.instructions() {
            undefined.execute(&instruction);
            // A fault may have ended the block before what defines them again.
            free.rflags |= undefined.mask();
            if is_amd() {
                continue;
            }
            if is_repeated(&instruction) && is_comparison(&instruction) && !ended(native) {
                // If a later round faults: AMD's processors show the flags of the one before,
                // Intel's those from before the instruction.
                free.rflags |= rflags::STATUS;
            }
            if is_repeated(&instruction) && matches!(native.end, End::Exception { vector: 1, .. }) {
                // Set by Intel's processors in a trap between two rounds.
                free.rflags |= rflags::RF;
            }
            if has_short_pointers(&instruction) {
                for register in [gpr::RSI, gpr::RDI, gpr::RCX] {
                    free.gprs[usize::from(register)] |= UPPER;
                }
            }
        }
        free
    }
}

/// The flags that an instruction reads.
#[must_use]
pub fn reads(instruction: &Instruction) -> u32 {
    match instruction.mnemonic() {
        Mnemonic::Pushf | Mnemonic::Pushfq | Mnemonic::Lahf => ALL_FLAGS,
        _ => instruction.rflags_read(),
    }
}

/// The flags that an instruction leaves undefined.
fn undefines(instruction: &Instruction) -> u32 {
    let mut flags = instruction.rflags_undefined();
    if matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr) {
        // Also by a multiple of the width, which the tables take for no rotation at all:
        // Intel's processors leave it, AMD's compute it.
        flags |= RflagsBits::OF;
    }
    flags
}

/// The flags whose value is not defined at some point of a block.
#[derive(Default)]
pub struct Undefined {
    /// As [`RflagsBits`].
    pub flags: u32,
    branched: bool,
}

impl Undefined {
    /// Behind `instruction`.
    pub fn execute(&mut self, instruction: &Instruction) {
        self.branched |= instruction.flow_control() != FlowControl::Next;
        // These may leave the flags as they are.
        let conditional = self.branched
            || instruction.is_string_instruction()
            || matches!(
                instruction.mnemonic(),
                Mnemonic::Shl
                    | Mnemonic::Sal
                    | Mnemonic::Shr
                    | Mnemonic::Sar
                    | Mnemonic::Rol
                    | Mnemonic::Ror
                    | Mnemonic::Rcl
                    | Mnemonic::Rcr
                    | Mnemonic::Shld
                    | Mnemonic::Shrd
            );
        if !conditional {
            let defined = instruction.rflags_written()
                | instruction.rflags_cleared()
                | instruction.rflags_set();
            self.flags &= !defined;
        }
        self.flags |= undefines(instruction);
    }

    /// As bits of RFLAGS.
    #[must_use]
    pub fn mask(&self) -> u64 {
        [
            (RflagsBits::CF, 0),
            (RflagsBits::PF, 2),
            (RflagsBits::AF, 4),
            (RflagsBits::ZF, 6),
            (RflagsBits::SF, 7),
            (RflagsBits::OF, 11),
        ]
        .into_iter()
        .filter(|(flag, _)| self.flags & flag != 0)
        .fold(0, |mask, (_, bit)| mask | 1 << bit)
    }
}

/// Whether the block came to its end, a breakpoint.
fn ended(outcome: &Outcome) -> bool {
    matches!(outcome.end, End::Exception { vector: 3, .. })
}

/// Whether the instruction that faulted has all the bytes that one may have, or more.
fn too_long(outcome: &Outcome, case: &Case) -> bool {
    let mut instructions = case.instructions().zip(&case.code);
    instructions
        .any(|(instruction, bytes)| instruction.ip() == outcome.rip && bytes.len() >= MAX_LENGTH)
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

fn is_comparison(instruction: &Instruction) -> bool {
    use Mnemonic::{Scasb, Scasd, Scasq, Scasw};
    is_cmps(instruction) || matches!(instruction.mnemonic(), Scasb | Scasw | Scasd | Scasq)
}

/// CMPS reads two operands: Intel's processors and some of AMD's (Zen 4) read the second first.
fn is_cmps(instruction: &Instruction) -> bool {
    use Mnemonic::{Cmpsb, Cmpsd, Cmpsq, Cmpsw};
    instruction.is_string_instruction()
        && matches!(instruction.mnemonic(), Cmpsb | Cmpsw | Cmpsd | Cmpsq)
}

/// A repeated string instruction with 32-bit pointers: with a count of zero Intel's processors
/// clear the upper halves of some of its registers, AMD's leave them alone.
fn has_short_pointers(instruction: &Instruction) -> bool {
    is_repeated(instruction)
        && instruction.is_string_instruction()
        && (0..instruction.op_count()).any(|n| {
            use iced_x86::OpKind::{MemoryESEDI, MemorySegESI};
            matches!(instruction.op_kind(n), MemoryESEDI | MemorySegESI)
        })
}

/// Whether the engine found nothing at an address at which this process may have something: its program,
/// or what lies below its stack. Rarely a random address is one.
#[must_use]
pub fn is_the_process(native: &Outcome, engine: &Outcome) -> bool {
    let absent = matches!(engine.end, End::Exception { vector: 14, .. });
    absent && native.end != engine.end && (1 << 46..1 << 47).contains(&engine.cr2)
}

/// Whether the engine faulted on bytes that the host does not read: of what POP to FS or GS takes from the
/// stack Intel's processors read the selector only.
#[must_use]
pub fn reads_less(engine: &Outcome, case: &Case) -> bool {
    let fault = matches!(engine.end, End::Exception { vector: 12 | 14 | 17, .. });
    let pops_segment = |i: Instruction| {
        i.ip() == engine.rip
            && i.mnemonic() == Mnemonic::Pop
            && i.op0_register().is_segment_register()
    };
    !is_amd() && fault && case.instructions().any(pops_segment)
}

/// Whether an instruction has two faults, and host and engine see different ones, where which comes
/// first is the processor's choice:
/// - of ENTER's several accesses one is misaligned, another one to an absent page;
/// - what is no instruction is too long as well, or continues in an absent page;
/// - an offset is not canonical, but is with the base of FS or GS added: some AMD
///   processors raise #GP;
/// - both of CMPS's operands fault;
/// - an operand that continues behind the last canonical address is misaligned;
/// - the target of CALL is not canonical: Intel's processors push before they look at it.
#[must_use]
pub fn other_fault_first(native: &Outcome, engine: &Outcome, case: &Case) -> bool {
    if vector::other_fault_first(native, engine, case)
        || is_amd() && amd::other_fault_first(native, engine, case)
    {
        return true;
    }
    let vector = |outcome: &Outcome| match outcome.end {
        End::Exception { vector, .. } => Some(vector),
        _ => None,
    };
    let faulted = case.instructions().find(|instruction| instruction.ip() == native.rip);
    let (first, other) = (vector(native), vector(engine));
    if let Some(faulted) = faulted {
        let is_choice = match (first, other) {
            (Some(13 | 14 | 17), Some(13 | 14 | 17)) if is_cmps(&faulted) => true,
            (Some(13), Some(13)) => !is_amd() && faulted.mnemonic() == Mnemonic::Call,
            (Some(17), Some(12 | 13)) => !is_amd(),
            _ => false,
        };
        if is_choice {
            return true;
        }
    }
    match (first, other) {
        (Some(17), Some(14)) => case.instructions().any(|i| i.mnemonic() == Mnemonic::Enter),
        (Some(6), Some(13)) | (Some(13), Some(6)) if too_long(native, case) => true,
        (Some(6), Some(14)) | (Some(14), Some(6)) => case.instructions().any(|i| i.is_invalid()),
        (Some(13), Some(_)) => {
            case.instructions().any(|i| matches!(i.segment_prefix(), Register::FS | Register::GS))
        }
        _ => false,
    }
}

/// Whether what a case does is not defined: a repeat prefix on LOOP, a jump to between bytes, a
/// double shift of 16 bits by more than that, a use of registers that are [`Free`], or of undefined
/// flags in the next round of a loop.
#[must_use]
pub fn is_loose(case: &Case) -> bool {
    use Mnemonic::{Loop, Loope, Loopne};
    let repeated_loop = case.instructions().zip(&case.code).any(|(instruction, bytes)| {
        // Before the opcode and the distance: prefixes.
        matches!(instruction.mnemonic(), Loop | Loope | Loopne)
            && bytes.iter().rev().skip(2).any(|byte| matches!(byte, 0xf2 | 0xf3))
    });
    let free_register_used = !is_amd()
        && case.code.len() > 1
        && case.instructions().any(|instruction| has_short_pointers(&instruction));
    repeated_loop
        || free_register_used
        || loops_on_undefined_flags(case)
        || shifts_too_far(case)
        || jumps_between(case)
        || vector::is_loose(case)
}

/// Whether a branch leads back, or may, and some instruction leaves a flag undefined that some other reads.
fn loops_on_undefined_flags(case: &Case) -> bool {
    let back = |i: &Instruction| match i.flow_control() {
        FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall => true,
        _ => (case.rip..=i.ip()).contains(&i.near_branch_target()),
    };
    let undefined = case.instructions().fold(0, |all, i| all | undefines(&i));
    let read = case.instructions().fold(0, |all, i| all | reads(&i));
    undefined & read != 0 && case.instructions().any(|i| back(&i))
}

/// A double shift of a 16-bit operand by more than 16: the result is undefined, and other on each
/// processor. See: Intel SDM vol. 2, SHLD.
fn shifts_too_far(case: &Case) -> bool {
    !is_amd()
        && case.instructions().any(|i| {
            let short = i.op_count() > 1 && i.op1_register().size() == 2;
            let double = matches!(i.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd);
            let far = match i.op2_kind() {
                iced_x86::OpKind::Register => {
                    case.code.len() > 1 || case.gprs[usize::from(gpr::RCX)] & 31 > 16
                }
                _ => i.immediate8() & 31 > 16,
            };
            double && short && far
        })
}

/// Whether a branch leads to between the bytes of an instruction: what is there then is not
/// what was meant to be tested.
fn jumps_between(case: &Case) -> bool {
    let starts: Vec<u64> = case.instructions().map(|instruction| instruction.ip()).collect();
    let Some(last) = case.instructions().last() else { return false };
    let block = case.instructions().next().map_or(0, |first| first.ip())..last.next_ip();
    case.instructions().any(|instruction| {
        let target = instruction.near_branch_target();
        block.contains(&target) && !starts.contains(&target)
    })
}
