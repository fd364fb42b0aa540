//! RDRAND and RDSEED: the host's own random numbers.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::{Cpu, Exec, Feature, Insn, Int, Status, Stop, operand};
use crate::exception::Exception;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Rdrand => {
            by_size!(wide operand_size(i, 0), T => Some(execute::<C, T, false>))
        }
        Mnemonic::Rdseed => {
            by_size!(wide operand_size(i, 0), T => Some(execute::<C, T, true>))
        }
        _ => None,
    }
}

/// CF says whether there is a number; the other flags and, if not, the register are cleared.
fn execute<C: Cpu, T: Int, const SEED: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(if SEED { Feature::Rdseed } else { Feature::Rdrand }) {
        return Err(cpu.fault(Exception::ud()));
    }
    let number = cpu.random(SEED);
    operand::write_register(cpu, insn.reg, T::truncate(number.unwrap_or(0)));
    cpu.set_status(Status::from_bits(number.is_some().into()));
    Ok(())
}
