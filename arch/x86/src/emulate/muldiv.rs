//! Multiplication and division: MUL, IMUL, MULX, DIV, IDIV.
//!
//! Where the manuals leave a flag undefined, what AMD's processors (Zen) do.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Extra, Form, HIGH_BYTE, Imm, Mem, Reg, Rm, Source, by_source, form, read_register,
    write_register,
};
use super::{Cpu, Exec, Feature, Insn, Int, Status, Stop};
use crate::exception::{DE, Exception};
use crate::regs::gpr::{RAX, RDX};
use crate::regs::rflags;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Mul => pick_wide::<C, false>(i),
        Mnemonic::Imul if i.op_count() == 1 => pick_wide::<C, true>(i),
        Mnemonic::Imul => pick_imul(i),
        Mnemonic::Mulx => pick_mulx(i),
        Mnemonic::Div => pick_divide::<C, false>(i),
        Mnemonic::Idiv => pick_divide::<C, true>(i),
        _ => None,
    }
}

/// The product's low and high half, and whether the high half matters.
#[inline(always)]
fn multiply<T: Int, const SIGNED: bool>(a: T, b: T) -> (T, T, bool) {
    if SIGNED {
        let product = i128::from(a.sign_extend() as i64) * i128::from(b.sign_extend() as i64);
        let low = T::truncate(product as u64);
        let overflow = product != i128::from(low.sign_extend() as i64);
        (low, T::truncate((product >> T::BITS) as u64), overflow)
    } else {
        let product = u128::from(a.zero_extend()) * u128::from(b.zero_extend());
        let high = T::truncate((product >> T::BITS) as u64);
        (T::truncate(product as u64), high, high.zero_extend() != 0)
    }
}

/// The register of the upper half of a product or dividend: AH, DX, EDX, RDX.
const fn upper<T: Int>() -> u8 {
    if T::SIZE == 1 { RAX | HIGH_BYTE } else { RDX }
}

/// MUL and IMUL with one operand.
fn wide<C: Cpu, T: Int, S: Source<T>, const SIGNED: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let b = S::read(cpu, insn)?;
    let (low, high, overflow) = multiply::<T, SIGNED>(read_register(cpu, RAX), b);
    write_register(cpu, RAX, low);
    write_register(cpu, upper::<T>(), high);
    let status = cpu.status();
    cpu.set_status(status.with_cf_of(overflow, overflow));
    Ok(())
}

fn pick_wide<C: Cpu, const SIGNED: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match form(i, 0) {
        Form::Register => Some(wide::<C, T, Reg, SIGNED>),
        _ => Some(wide::<C, T, Mem, SIGNED>),
    })
}

/// IMUL with two or three operands.
fn imul<C: Cpu, T: Int, A: Source<T>, B: Source<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let a = A::read(cpu, insn)?;
    let b = B::read(cpu, insn)?;
    let (low, _, overflow) = multiply::<T, true>(a, b);
    Reg::write(cpu, insn, low)?;
    let status = cpu.status();
    cpu.set_status(status.with_cf_of(overflow, overflow));
    Ok(())
}

fn pick_imul<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, S => match i.op_count() {
        2 => Some(imul::<C, T, Reg, S>),
        _ => Some(imul::<C, T, S, Imm>),
    }))
}

/// The high half's register is written last: both may be the same.
fn mulx<C: Cpu, T: Int, S: Source<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Bmi2) {
        return Err(cpu.fault(Exception::ud()));
    }
    let b = S::read(cpu, insn)?;
    let (low, high, _) = multiply::<T, false>(read_register(cpu, RDX), b);
    Rm::write(cpu, insn, low)?;
    Reg::write(cpu, insn, high)
}

fn pick_mulx<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => match form(i, 2) {
        Form::Register => Some(mulx::<C, T, Extra>),
        _ => Some(mulx::<C, T, Mem>),
    })
}

/// Quotient and remainder of `high:low / divisor`; `None` if the quotient does not fit.
#[inline(always)]
fn divide_unsigned<T: Int>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    let (high, low, divisor) = (high.zero_extend(), low.zero_extend(), divisor.zero_extend());
    if high >= divisor {
        return None;
    }
    if T::SIZE == 8 {
        if high == 0 {
            return Some((T::truncate(low / divisor), T::truncate(low % divisor)));
        }
        let dividend = u128::from(high) << 64 | u128::from(low);
        let divisor = u128::from(divisor);
        return Some((
            T::truncate((dividend / divisor) as u64),
            T::truncate((dividend % divisor) as u64),
        ));
    }
    let dividend = high << T::BITS | low;
    Some((T::truncate(dividend / divisor), T::truncate(dividend % divisor)))
}

/// The same, signed.
#[inline(always)]
fn divide_signed<T: Int>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    let divisor = divisor.sign_extend() as i64;
    let (quotient, remainder) = if T::SIZE == 8 && high.sign_extend() != sign_of(low) {
        let dividend = u128::from(high.zero_extend()) << 64 | u128::from(low.zero_extend());
        let dividend = dividend as i128;
        let divisor = i128::from(divisor);
        let quotient = i64::try_from(dividend.checked_div(divisor)?).ok()?;
        (quotient, dividend.checked_rem(divisor)? as i64)
    } else {
        let dividend = match T::SIZE {
            8 => low.zero_extend(),
            _ => high.sign_extend() << T::BITS | low.zero_extend(),
        } as i64;
        (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?)
    };
    let result = T::truncate(quotient as u64);
    if result.sign_extend() as i64 != quotient {
        return None;
    }
    Some((result, T::truncate(remainder as u64)))
}

/// All ones if `value` is negative.
#[inline(always)]
fn sign_of<T: Int>(value: T) -> u64 {
    (value.sign_extend() as i64 >> 63) as u64
}

/// DIV, and with `SIGNED` IDIV.
fn divide<C: Cpu, T: Int, S: Source<T>, const SIGNED: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let divisor = S::read(cpu, insn)?;
    let low = read_register(cpu, RAX);
    let high = read_register(cpu, upper::<T>());
    let result = match SIGNED {
        true => divide_signed(high, low, divisor),
        false => divide_unsigned(high, low, divisor),
    };
    let Some((quotient, remainder)) = result else {
        return Err(cpu.fault(Exception::plain(DE)));
    };
    write_register(cpu, RAX, quotient);
    write_register(cpu, upper::<T>(), remainder);
    // CF and OF stay, AF is set, the others are clear.
    let kept = cpu.status().bits() & (rflags::CF | rflags::OF);
    cpu.set_status(Status::from_bits(kept | rflags::AF));
    Ok(())
}

fn pick_divide<C: Cpu, const SIGNED: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match form(i, 0) {
        Form::Register => Some(divide::<C, T, Reg, SIGNED>),
        _ => Some(divide::<C, T, Mem, SIGNED>),
    })
}
