//! What AMD's processors do otherwise with x87 and vector instructions than Intel's, as which the engine does it.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};

use super::vector::faulted;
use crate::case::{Case, Outcome};

/// The same as `super::other_fault_first`:
/// - where alignment is checked, AMD's check the operands of vector instructions, too;
/// - SHA's instructions take misaligned operands, and MXCSR a bit for more of that, which is not offered to guests;
/// - of a misaligned operand in an absent page either is reported;
/// - a gather that faults leaves the mask's other elements as they were, where Intel's processors have widened their
///   signs;
/// - a store of an x87 register, and VCVTPS2PH, fault before the exceptions of the numbers are looked at.
pub(super) fn other_fault_first(native: &Outcome, engine: &Outcome, case: &Case) -> bool {
    if let Some((instruction, 13)) = faulted(case, engine)
        && (instruction.cpuid_features().contains(&CpuidFeature::SHA) || loads_mxcsr(&instruction))
    {
        return true;
    }
    let Some((instruction, vector)) = faulted(case, native) else { return false };
    let other = faulted(case, engine).filter(|(other, _)| other.ip() == instruction.ip());
    let is_gather = instruction.is_vsib();
    let is_store = is_store_of_number(&instruction);
    match (vector, other.map(|(_, vector)| vector)) {
        (17, _) if is_vector(&instruction) => true,
        (13, Some(14)) | (14, Some(13)) => is_vector(&instruction),
        (12..=14 | 17, _) => is_gather || is_store,
        _ => false,
    }
}

fn loads_mxcsr(instruction: &Instruction) -> bool {
    use Mnemonic::{Fxrstor, Fxrstor64, Ldmxcsr, Vldmxcsr, Xrstor, Xrstor64};
    matches!(instruction.mnemonic(), Fxrstor | Fxrstor64 | Ldmxcsr | Vldmxcsr | Xrstor | Xrstor64)
}

fn is_vector(instruction: &Instruction) -> bool {
    let is_register = |n: u32| instruction.op_kind(n) == OpKind::Register;
    let mut registers = (0..instruction.op_count()).filter(|n| is_register(*n));
    registers.any(|n| instruction.op_register(n).is_vector_register())
}

/// A number is converted and stored.
fn is_store_of_number(instruction: &Instruction) -> bool {
    use Mnemonic::{Fbstp, Fist, Fistp, Fisttp, Fst, Fstp, Vcvtps2ph};
    matches!(instruction.mnemonic(), Fbstp | Fist | Fistp | Fisttp | Fst | Fstp | Vcvtps2ph)
        && instruction.op0_kind() == OpKind::Memory
}
