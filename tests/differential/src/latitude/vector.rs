//! What is left to the processor of x87 and vector instructions.

use std::ops::Range;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
};

use super::Free;
use crate::case::{Case, Outcome};
use crate::layout::image_offset;

/// Fields of what instructions store, as offsets there: the address, opcode and operand address of the
/// last x87 instruction, which the engine does not keep, and AMD's processors only of one that
/// raised an exception; and the mask of MXCSR's bits, which is each processor's own.
fn fields(code: Code) -> &'static [Range<u64>] {
    match code {
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => &[6..24, 28..32],
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => &[6..14],
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => &[12..28],
        _ => match code.mnemonic() {
            Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64 => &[6..24, 28..32],
            _ => &[],
        },
    }
}

/// Whether an instruction loads what one with [`fields`] has stored, field by field.
fn restores(instruction: &Instruction) -> bool {
    use Mnemonic::{Fldenv, Frstor, Fxrstor, Fxrstor64, Xrstor, Xrstor64};
    matches!(instruction.mnemonic(), Fldenv | Frstor | Fxrstor | Fxrstor64 | Xrstor | Xrstor64)
}

/// Adds to `free` what is so after `case`.
pub(super) fn add(free: &mut Free, case: &Case, _native: &Outcome) {
    for (_, range) in stored(case).unwrap_or_default() {
        // Byte by byte: pages that lie behind one another need not in the image.
        for linear in range {
            free.memory.extend(image_offset(linear).map(|at| at..at + 1));
        }
    }
}

/// Whether what a case does is not defined: it uses [`fields`] that were stored, or it is not
/// known where they are.
pub(super) fn is_loose(case: &Case) -> bool {
    stored(case).is_none()
}

/// The linear addresses of [`fields`] that a case stores, with the address that the instruction
/// names; `None` if it uses them, or may.
fn stored(case: &Case) -> Option<Vec<(u64, Range<u64>)>> {
    let mut all = Vec::new();
    if case.instructions().all(|instruction| fields(instruction.code()).is_empty()) {
        return Some(all);
    }
    let mut written = [false; 16];
    let mut factory = InstructionInfoFactory::new();
    for instruction in case.instructions() {
        let address = address(case, &instruction, &written);
        if !all.is_empty() {
            let leaves = instruction.flow_control() != FlowControl::Next;
            let strings = instruction.is_string_instruction();
            if leaves || strings {
                return None;
            }
            if reads_memory(&mut factory, &instruction) {
                let start = address?;
                let end = start.wrapping_add(640);
                let meets = |(base, range): &(u64, Range<u64>)| {
                    range.start < end
                        && start < range.end
                        && !(restores(&instruction) && *base == start)
                };
                if all.iter().any(meets) {
                    return None;
                }
            }
        }
        for field in fields(instruction.code()) {
            let start = address?;
            all.push((start, start.wrapping_add(field.start)..start.wrapping_add(field.end)));
        }
        for used in factory.info(&instruction).used_registers() {
            let full = used.register().full_register();
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            if full.is_gpr() && writes {
                written[full.number()] = true;
            }
        }
    }
    Some(all)
}

fn reads_memory(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    factory.info(instruction).used_memory().iter().any(|used| {
        matches!(
            used.access(),
            OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    })
}

/// The linear address of the instruction's memory operand, if the registers that it consists of have
/// their initial values.
fn address(case: &Case, instruction: &Instruction, written: &[bool; 16]) -> Option<u64> {
    let operand = (0..instruction.op_count())
        .find(|n| instruction.op_kind(*n) == iced_x86::OpKind::Memory)?;
    instruction.virtual_address(operand, 0, |register, _, _| match register {
        Register::FS => Some(case.bases[0]),
        Register::GS => Some(case.bases[1]),
        _ if register.is_segment_register() => Some(0),
        Register::None => Some(0),
        _ if register.is_gpr() => {
            let number = register.full_register().number();
            let value = case.gprs[number];
            let value = if register.size() == 4 { value & 0xffff_ffff } else { value };
            (!written[number]).then_some(value)
        }
        _ => None,
    })
}
