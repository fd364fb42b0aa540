//! What is left to the processor of x87 and vector instructions.

use std::ops::Range;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::Free;
use crate::case::{Case, End, Outcome};
use crate::layout::image_offset;
use crate::vector::{Vector, fsw, mxcsr};
use crate::vendor::is_amd;

/// As long as any memory operand is.
const LONGEST: u64 = 1024;

/// Fields of what instructions store, by the offsets where they start and end: the address, opcode and operand address of the
/// last x87 instruction, which the engine does not keep, and AMD's processors only of one that
/// raised an exception; and the mask of MXCSR's bits, which is each processor's own.
fn fields(code: Code) -> &'static [(u64, u64)] {
    match code {
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => &[(6, 24), (28, 32)],
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => &[(6, 14)],
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => &[(12, 28)],
        _ => match code.mnemonic() {
            Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64 => &[(6, 24), (28, 32)],
            _ => &[],
        },
    }
}

/// Whether an instruction loads what one with [`fields`] has stored, field by field.
fn restores(instruction: &Instruction) -> bool {
    use Mnemonic::{Fldenv, Frstor, Fxrstor, Fxrstor64, Xrstor, Xrstor64};
    matches!(instruction.mnemonic(), Fldenv | Frstor | Fxrstor | Fxrstor64 | Xrstor | Xrstor64)
}

/// Whether `instruction` reads those fields of what `saver` has stored at the same address, and nothing else
/// of it, as what they are.
fn is_inverse(saver: Code, instruction: &Instruction) -> bool {
    use Mnemonic::{Fxrstor, Fxrstor64, Xrstor, Xrstor64};
    match saver {
        Code::Fnstenv_m14byte => instruction.code() == Code::Fldenv_m14byte,
        Code::Fnstenv_m28byte => instruction.code() == Code::Fldenv_m28byte,
        Code::Fnsave_m94byte => instruction.code() == Code::Frstor_m94byte,
        Code::Fnsave_m108byte => instruction.code() == Code::Frstor_m108byte,
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => {
            matches!(instruction.mnemonic(), Fxrstor | Fxrstor64)
        }
        _ => matches!(instruction.mnemonic(), Xrstor | Xrstor64),
    }
}

/// Whether a memory operand is accessed piece by piece, so that it is the processor's choice which of its
/// faults comes first, and what is written before: state, and numbers of ten bytes.
fn in_pieces(instruction: &Instruction) -> bool {
    let size = instruction.code().op_code().memory_size().size();
    size == 10 || !fields(instruction.code()).is_empty() || restores(instruction)
}

fn is_masked_move(instruction: &Instruction) -> bool {
    use Mnemonic::{Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
    matches!(instruction.mnemonic(), Vmaskmovpd | Vmaskmovps | Vpmaskmovd | Vpmaskmovq)
}

fn is_xsave(instruction: &Instruction) -> bool {
    use Mnemonic::{Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64};
    matches!(
        instruction.mnemonic(),
        Xrstor | Xrstor64 | Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64
    )
}

fn is_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_mm())
}

/// The instruction that raised the exception with which a case ended, and the vector.
pub(super) fn faulted(case: &Case, outcome: &Outcome) -> Option<(Instruction, u8)> {
    let End::Exception { vector, .. } = outcome.end else { return None };
    let is_fault = matches!(vector, 12 | 13 | 14 | 17 | 19);
    let mut all = case.instructions().filter(|instruction| instruction.ip() == outcome.rip);
    all.next().filter(|_| is_fault).map(|instruction| (instruction, vector))
}

/// Adds to `free` what is so after `case`:
/// - [`fields`];
/// - what XSAVE says of components that have their initial values, and whether its optimised forms save
///   them: processors know when registers were written, not whether they are zero;
/// - what an instruction that faults has written of an operand that it accesses in pieces;
/// - MXCSR.PE after an unmasked overflow or underflow, and the flags after any exception of DPPS and DPPD,
///   deviations that `engine_soft::vector` names;
/// - what XRSTOR has loaded when it raises #GP for what is in its area: on Intel's processors (a Cascade Lake) components
///   that come before MXCSR;
/// - TOP and the tags after a fault of an MMX instruction: Intel's processors have changed them
///   already.
pub(super) fn add(free: &mut Free, case: &Case, native: &Outcome) {
    let mut ranges: Vec<_> =
        stored(case).unwrap_or_default().into_iter().map(|(_, _, range)| range).collect();
    if may_be_initial(case, native) {
        for (saver, start, _) in stored(case).unwrap_or_default() {
            use Mnemonic::{Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64};
            let header = start.wrapping_add(512);
            match saver.mnemonic() {
                Xsave | Xsave64 => ranges.push(header..header.wrapping_add(8)),
                Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 => {
                    ranges.push(start..start.wrapping_add(LONGEST));
                }
                _ => {}
            }
        }
    }
    if let Some((instruction, vector)) = faulted(case, native) {
        let csr = native.vector.fx.mxcsr();
        let unmasked = csr & !(csr >> mxcsr::MASK_SHIFT);
        let range = mxcsr::OVERFLOW | mxcsr::UNDERFLOW;
        let sums = {
            use Mnemonic::{Dppd, Dpps, Vdppd, Vdpps};
            matches!(instruction.mnemonic(), Dppd | Dpps | Vdppd | Vdpps)
        };
        if vector == 19 && sums {
            free.mxcsr |= mxcsr::FLAGS;
        } else if vector == 19 && unmasked & range != 0 {
            free.mxcsr |= mxcsr::PRECISION;
        }
        if in_pieces(&instruction) {
            let start = address(case, &instruction, &[false; 16]).unwrap_or(native.cr2);
            ranges.push(start..start.saturating_add(LONGEST));
            ranges.push(native.cr2.saturating_sub(LONGEST)..native.cr2);
        }
        if matches!(instruction.mnemonic(), Mnemonic::Xrstor | Mnemonic::Xrstor64) {
            free.vectors = vector == 13 && !is_amd();
        }
        if is_mmx(&instruction) {
            free.fsw |= fsw::TOP;
            free.tags = 0xff;
        }
    }
    // Byte by byte: pages that lie behind one another need not in the image.
    for linear in ranges.into_iter().flatten() {
        free.memory.extend(image_offset(linear).map(|at| at..at + 1));
    }
}

/// The same as `super::other_fault_first`:
/// - of an operand that is accessed [`in_pieces`] several fault, or the pieces continue at 0 where an
///   address of 32 bits ends;
/// - which fault of the elements of a masked move that lie in two pages is reported;
/// - a gather with TF that faults may trap before instead, once it has got some elements;
/// - of XSAVE's area Intel's processors also access components that are not there;
/// - Intel's processors also find faults of bytes that MASKMOVQ and MASKMOVDQU do not store.
pub(super) fn other_fault_first(native: &Outcome, engine: &Outcome, case: &Case) -> bool {
    let trapped = matches!(native.end, End::Exception { vector: 1, .. });
    if trapped
        && case.instructions().any(|i| i.ip() == native.rip && i.op_count() == 3 && i.is_vsib())
    {
        return true;
    }
    let Some((instruction, vector)) = faulted(case, native) else { return false };
    if matches!(
        instruction.mnemonic(),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
    ) {
        return vector != 19;
    }
    let both = faulted(case, engine).is_some_and(|(other, _)| other.ip() == instruction.ip());
    if is_masked_move(&instruction) {
        return both;
    }
    if is_xsave(&instruction) && vector == 14 {
        return true;
    }
    if !in_pieces(&instruction) {
        return false;
    }
    let short = instruction.memory_base().size() == 4
        || instruction.memory_index().size() == 4
        || instruction.memory_displ_size() == 4;
    let differ = native.end != engine.end || native.cr2 != engine.cr2;
    both && differ || vector == 14 && short && native.cr2 < LONGEST
}

/// Whether a component of XSAVE's may have had its initial values when a case saved it.
fn may_be_initial(case: &Case, native: &Outcome) -> bool {
    use Mnemonic::{Fninit, Fnsave, Fxrstor, Fxrstor64, Vzeroall, Vzeroupper, Xrstor, Xrstor64};
    let (vector, initial) = (&native.vector, Vector::default());
    let x87 = |vector: &Vector| {
        let all: Vec<u128> = (0..8).map(|n| vector.st(n)).collect();
        (vector.fcw(), vector.fsw(), vector.tags(), all)
    };
    vector.upper == initial.upper
        || (0..16).all(|n| vector.xmm(n) == 0)
        || x87(vector) == x87(&initial)
        || case.instructions().any(|i| {
            matches!(
                i.mnemonic(),
                Fninit | Fnsave | Fxrstor | Fxrstor64 | Vzeroall | Vzeroupper | Xrstor | Xrstor64
            )
        })
}

/// Whether what a case does is not defined: it uses [`fields`] that were stored, or it is not
/// known where they are; or an operand in pieces, or of a masked move (on a Zen 4), may have some before and some behind the end of
/// addresses of 32 bits, where each processor wraps other pieces around.
pub(super) fn is_loose(case: &Case) -> bool {
    let mut written = [false; 16];
    let mut factory = InstructionInfoFactory::new();
    let wraps = case.instructions().any(|instruction| {
        let wraps = (in_pieces(&instruction) || is_masked_move(&instruction))
            && may_wrap(case, &instruction, &written);
        note_written(&mut factory, &instruction, &mut written);
        wraps
    });
    wraps || stored(case).is_none()
}

/// Whether a memory operand with an address of 32 bits lies, or may lie, across their end.
fn may_wrap(case: &Case, instruction: &Instruction, written: &[bool; 16]) -> bool {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if !base.is_gpr32() && !index.is_gpr32() && instruction.memory_displ_size() != 4 {
        return false;
    }
    let flat = Case { bases: [0; 2], ..case.clone() };
    let offset = address(&flat, instruction, written).map(|address| address & 0xffff_ffff);
    offset.is_none_or(|offset| offset > 0xffff_ffff - LONGEST)
}

/// Notes which general-purpose registers an instruction may write.
fn note_written(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    written: &mut [bool; 16],
) {
    for used in factory.info(instruction).used_registers() {
        let full = used.register().full_register();
        let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        if full.is_gpr() && writes {
            written[full.number()] = true;
        }
    }
}

/// [`fields`] that were stored: by which instruction, where its operand lies, and where they do.
type Stored = (Code, u64, Range<u64>);

/// The [`fields`] that a case stores; `None` if it uses them, or may.
fn stored(case: &Case) -> Option<Vec<Stored>> {
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
                let end = start.wrapping_add(LONGEST);
                let meets = |(saver, base, range): &Stored| {
                    let inverse = *base == start && is_inverse(*saver, &instruction);
                    range.start < end && start < range.end && !inverse
                };
                if all.iter().any(meets) {
                    return None;
                }
            }
        }
        for (first, end) in fields(instruction.code()) {
            let start = address?;
            let range = start.wrapping_add(*first)..start.wrapping_add(*end);
            all.push((instruction.code(), start, range));
        }
        note_written(&mut factory, &instruction, &mut written);
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
    let operand =
        (0..instruction.op_count()).find(|n| instruction.op_kind(*n) == OpKind::Memory)?;
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
