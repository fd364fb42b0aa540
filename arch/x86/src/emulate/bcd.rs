//! What 64-bit mode has dropped: AAA, AAS, AAM, AAD, DAA, DAS, SALC, BOUND.
//!
//! INTO, the far-pointer loads and ARPL are [`super::system`]'s.

use iced_x86::{Code, Instruction, Mnemonic};

use super::operand::{HIGH_BYTE, access_fault, linear_address, read_register, write_register};
use super::{Access, Cpu, Exec, Insn, Int, Status, Stop};
use crate::exception::{BR, DE, Exception};
use crate::regs::gpr::RAX;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Aaa => Some(ascii_adjust::<C, false>),
        Mnemonic::Aas => Some(ascii_adjust::<C, true>),
        Mnemonic::Aam => Some(aam),
        Mnemonic::Aad => Some(aad),
        Mnemonic::Daa => Some(decimal_adjust::<C, false>),
        Mnemonic::Das => Some(decimal_adjust::<C, true>),
        Mnemonic::Salc => Some(salc),
        Mnemonic::Bound => Some(match i.code() {
            Code::Bound_r16_m1616 => bound::<C, u16>,
            _ => bound::<C, u32>,
        }),
        _ => None,
    }
}

/// AAA, and with `SUBTRACT` AAS. See: AMD APM vol. 3, AAA and AAS. The flags that it leaves undefined
/// are those of the addition to AL.
fn ascii_adjust<C: Cpu, const SUBTRACT: bool>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let ax: u16 = read_register(cpu, RAX);
    let adjust = ax & 0xf > 9 || cpu.status().af();
    let by = if adjust { 6 } else { 0 };
    let (low, status) = adjusted::<SUBTRACT>(ax as u8, by);
    let result = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    write_register(cpu, RAX, result & 0xff0f);
    cpu.set_status(Status::new(low, adjust, status.of(), adjust));
    Ok(())
}

/// DAA, and with `SUBTRACT` DAS. See: AMD APM vol. 3, DAA and DAS.
fn decimal_adjust<C: Cpu, const SUBTRACT: bool>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let al: u8 = read_register(cpu, RAX);
    let status = cpu.status();
    let low = al & 0xf > 9 || status.af();
    let high = al > 0x99 || status.cf();
    // DAS also borrows when it takes 6 from less than 6.
    let carry = high || SUBTRACT && low && al < 6;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let (result, status) = adjusted::<SUBTRACT>(al, by);
    write_register(cpu, RAX, result);
    cpu.set_status(Status::new(result, carry, status.of(), low));
    Ok(())
}

/// `value` with `by` added or subtracted, and the flags of that.
fn adjusted<const SUBTRACT: bool>(value: u8, by: u8) -> (u8, Status) {
    let (a, b) = (u64::from(value), u64::from(by));
    let (result, status) = match SUBTRACT {
        true => (a.wrapping_sub(b), Status::difference::<u8>(a, b, a.wrapping_sub(b))),
        false => (a.wrapping_add(b), Status::sum::<u8>(a, b, a.wrapping_add(b))),
    };
    (result as u8, status)
}

fn aam<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let al: u8 = read_register(cpu, RAX);
    let base = insn.imm as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.fault(Exception::plain(DE)));
    };
    write_register(cpu, RAX, u16::from(high) << 8 | u16::from(low));
    cpu.set_status(Status::logic(low));
    Ok(())
}

fn aad<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let low: u8 = read_register(cpu, RAX);
    let high: u8 = read_register(cpu, RAX | HIGH_BYTE);
    let (result, status) = adjusted::<false>(low, high.wrapping_mul(insn.imm as u8));
    write_register(cpu, RAX, u16::from(result));
    cpu.set_status(status);
    Ok(())
}

/// Not documented: AL becomes all copies of CF.
fn salc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let value = if cpu.status().cf() { 0xff } else { 0u8 };
    write_register(cpu, RAX, value);
    Ok(())
}

fn bound<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let index: T = read_register(cpu, insn.reg);
    let linear = linear_address(cpu, insn, T::SIZE * 2, false)?;
    let mut limit = |at: u64| -> Result<i64, Stop> {
        let at = linear.wrapping_add(at);
        match cpu.load::<T>(at, Access::Operand) {
            Ok(value) => Ok(value.sign_extend() as i64),
            Err(stop) => Err(access_fault(cpu, insn.segment(), at, T::SIZE, stop)),
        }
    };
    let bounds = limit(0)?..=limit(T::SIZE.into())?;
    if bounds.contains(&(index.sign_extend() as i64)) {
        Ok(())
    } else {
        Err(cpu.fault(Exception::plain(BR)))
    }
}
