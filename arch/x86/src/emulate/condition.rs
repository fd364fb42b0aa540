//! Conditions, and what works on flags alone: CMOVcc, SETcc, CLC, STC, CMC, CLD, STD, LAHF, SAHF.

use iced_x86::{ConditionCode, EncodingKind, Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Form, HIGH_BYTE, Mem, Reg, Rm, Source, by_source, form, read_register,
    write_register,
};
use super::{Cpu, Exec, Insn, Int, Status, Stop};
use crate::regs::gpr::RAX;
use crate::regs::rflags;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Clc => return Some(clc),
        Mnemonic::Stc => return Some(stc),
        Mnemonic::Cmc => return Some(cmc),
        Mnemonic::Cld => return Some(set_direction::<C, false>),
        Mnemonic::Std => return Some(set_direction::<C, true>),
        Mnemonic::Lahf => return Some(lahf),
        Mnemonic::Sahf => return Some(sahf),
        _ => {}
    }
    if i.condition_code() == ConditionCode::None || i.encoding() != EncodingKind::Legacy {
        return None;
    }
    match i.op_count() {
        1 => by_condition!(i, CC => match form(i, 0) {
            Form::Register => Some(set::<C, Reg, CC>),
            Form::Memory => Some(set::<C, Mem, CC>),
            _ => None,
        }),
        2 => by_size!(wide operand_size(i, 0), T => {
            by_condition!(i, CC => by_source!(i, S => Some(cmov::<C, T, S, CC>)))
        }),
        _ => None,
    }
}

/// Whether the condition with encoding `CC` holds. See: AMD APM vol. 3, table 1-10 (and appendix A).
#[inline(always)]
pub(super) fn holds<const CC: u8>(status: Status) -> bool {
    let positive = match CC >> 1 {
        0 => status.of(),
        1 => status.cf(),
        2 => status.zf(),
        3 => status.cf() | status.zf(),
        4 => status.sf(),
        5 => status.pf(),
        6 => status.sf() ^ status.of(),
        _ => status.zf() | (status.sf() ^ status.of()),
    };
    positive ^ (CC & 1 != 0)
}

/// Expands to `$body` with the constant `$CC` the encoding of the condition of instruction `$i`;
/// leaves the function with `None` if it has none.
macro_rules! by_condition {
    ($i:expr, $CC:ident => $body:expr) => {
        by_condition!(($i.condition_code() as u8).wrapping_sub(1); $CC => $body;
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($code:expr; $CC:ident => $body:expr; $($n:literal)*) => {
        match $code {
            $($n => {
                const $CC: u8 = $n;
                $body
            })*
            _ => return None,
        }
    };
}
pub(super) use by_condition;

fn set<C: Cpu, D: Destination<u8>, const CC: u8>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value = holds::<CC>(cpu.status());
    D::write(cpu, insn, value.into())
}

/// Reads its source, and with 32 bits clears the upper half, in any case.
fn cmov<C: Cpu, T: Int, S: Source<T>, const CC: u8>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let new = S::read(cpu, insn)?;
    let old: T = read_register(cpu, insn.reg);
    let value = if holds::<CC>(cpu.status()) { new } else { old };
    write_register(cpu, insn.reg, value);
    Ok(())
}

fn clc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let status = cpu.status();
    cpu.set_status(status.with_cf(false));
    Ok(())
}

fn stc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let status = cpu.status();
    cpu.set_status(status.with_cf(true));
    Ok(())
}

fn cmc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let status = cpu.status();
    cpu.set_status(status.with_cf(!status.cf()));
    Ok(())
}

/// CLD and STD.
fn set_direction<C: Cpu, const DOWN: bool>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let flags = cpu.rflags() & !rflags::DF;
    cpu.set_rflags(if DOWN { flags | rflags::DF } else { flags });
    Ok(())
}

/// AH's flags: all but OF. See: AMD APM vol. 3, LAHF.
const AH_FLAGS: u64 = rflags::STATUS & !rflags::OF;

fn lahf<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let flags = cpu.status().bits() & AH_FLAGS | rflags::FIXED;
    write_register(cpu, RAX | HIGH_BYTE, flags as u8);
    Ok(())
}

fn sahf<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let flags: u8 = read_register(cpu, RAX | HIGH_BYTE);
    let of = cpu.status().bits() & rflags::OF;
    cpu.set_status(Status::from_bits(u64::from(flags) & AH_FLAGS | of));
    Ok(())
}
