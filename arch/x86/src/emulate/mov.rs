//! Moves: MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, BSWAP, LEA, XCHG, XLAT, and the sign
//! extensions of the accumulator.
//!
//! Moves to segment, control and debug registers are [`super::system`]'s.

use iced_x86::{Code, Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Form, Imm, Imm64, Locked, Mem, Reg, Rm, Source, access_fault, by_source,
    effective_address, effective_address_64, form, linear, read_register, truncate_to,
    write_register,
};
use super::{Access, Cpu, Exec, Feature, Insn, Int, Stop};
use crate::exception::Exception;
use crate::regs::Seg;
use crate::regs::gpr::{RAX, RBX, RDX};

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Mov => pick_mov(i),
        Mnemonic::Movzx => pick_extend::<C, false>(i),
        Mnemonic::Movsx | Mnemonic::Movsxd => pick_extend::<C, true>(i),
        Mnemonic::Lea => pick_lea(i),
        Mnemonic::Xchg => pick_xchg(i),
        Mnemonic::Movnti => by_size!(wide operand_size(i, 0), T => Some(mov::<C, T, Mem, Rm>)),
        Mnemonic::Movbe => pick_movbe(i),
        Mnemonic::Bswap => Some(match operand_size(i, 0) {
            8 => bswap::<C, u64>,
            4 => bswap::<C, u32>,
            _ => bswap_16,
        }),
        Mnemonic::Cbw => Some(extend_accumulator::<C, u8, u16>),
        Mnemonic::Cwde => Some(extend_accumulator::<C, u16, u32>),
        Mnemonic::Cdqe => Some(extend_accumulator::<C, u32, u64>),
        Mnemonic::Cwd => Some(sign_into_rdx::<C, u16>),
        Mnemonic::Cdq => Some(sign_into_rdx::<C, u32>),
        Mnemonic::Cqo => Some(sign_into_rdx::<C, u64>),
        Mnemonic::Xlatb => Some(xlat),
        _ => None,
    }
}

fn mov<C: Cpu, T: Int, D: Destination<T>, S: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let value = S::read(cpu, insn)?;
    D::write(cpu, insn, value)
}

fn pick_mov<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    if i.code() == Code::Mov_r64_imm64 {
        return Some(mov::<C, u64, Reg, Imm64>);
    }
    by_size!(operand_size(i, 0), T => {
        Some(match (form(i, 0), form(i, 1)) {
            (Form::Register, Form::Register) => mov::<C, T, Reg, Rm>,
            (Form::Register, Form::Immediate) => mov::<C, T, Reg, Imm>,
            (Form::Register, Form::Memory) => mov::<C, T, Reg, Mem>,
            (Form::Memory, Form::Register) => mov::<C, T, Mem, Rm>,
            (Form::Memory, Form::Immediate) => mov::<C, T, Mem, Imm>,
            (Form::Register, Form::Segment) => mov::<C, T, Reg, Selector>,
            (Form::Memory, Form::Segment) => mov::<C, u16, Mem, Selector>,
            _ => return None,
        })
    })
}

/// The segment register that [`Insn::rm`] names, zero-extended.
enum Selector {}

impl<T: Int> Source<T> for Selector {
    fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<T, Stop> {
        let seg = Seg::ALL[usize::from(insn.rm & 7)];
        Ok(T::truncate(cpu.segment(seg).selector.into()))
    }
}

/// MOVZX, and with `SIGN` MOVSX and MOVSXD.
fn extend<C: Cpu, To: Int, From: Int, S: Source<From>, const SIGN: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let value = S::read(cpu, insn)?;
    let value = if SIGN { value.sign_extend() } else { value.zero_extend() };
    Reg::write(cpu, insn, To::truncate(value))
}

fn pick_extend<C: Cpu, const SIGN: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), To => by_source!(i, S => match operand_size(i, 1) {
        1 => Some(extend::<C, To, u8, S, SIGN>),
        2 => Some(extend::<C, To, u16, S, SIGN>),
        4 => Some(extend::<C, To, u32, S, SIGN>),
        _ => None,
    }))
}

fn lea<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let address = effective_address(cpu, insn);
    Reg::write(cpu, insn, T::truncate(address))
}

/// LEA with 64-bit addressing, as nearly all are.
fn lea_64<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let address = effective_address_64(cpu, insn);
    Reg::write(cpu, insn, T::truncate(address))
}

fn pick_lea<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    let wide = i.memory_base().size() == 8 || i.memory_index().size() == 8;
    by_size!(wide operand_size_of_lea(i), T => {
        Some(if wide { lea_64::<C, T> } else { lea::<C, T> })
    })
}

fn operand_size_of_lea(i: &Instruction) -> u8 {
    i.op0_register().size() as u8
}

fn xchg_registers<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let a: T = read_register(cpu, insn.reg);
    let b: T = read_register(cpu, insn.rm);
    write_register(cpu, insn.reg, b);
    write_register(cpu, insn.rm, a);
    Ok(())
}

/// Memory is exchanged atomically with or without `LOCK`.
fn xchg_memory<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let new: T = read_register(cpu, insn.rm);
    let old = Locked::update(cpu, insn, |_| new)?;
    write_register(cpu, insn.rm, old);
    Ok(())
}

fn pick_xchg<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match form(i, 0) {
        Form::Register => Some(xchg_registers::<C, T>),
        _ => Some(xchg_memory::<C, T>),
    })
}

/// The bytes of `value` in reverse.
#[inline(always)]
fn reverse<T: Int>(value: T) -> T {
    T::truncate(value.zero_extend().swap_bytes() >> (64 - T::BITS))
}

fn movbe<C: Cpu, T: Int, D: Destination<T>, S: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    if !cpu.offers(Feature::Movbe) {
        return Err(cpu.fault(Exception::ud()));
    }
    let value = S::read(cpu, insn)?;
    D::write(cpu, insn, reverse(value))
}

fn pick_movbe<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => match form(i, 0) {
        Form::Register => Some(movbe::<C, T, Reg, Mem>),
        _ => Some(movbe::<C, T, Mem, Rm>),
    })
}

fn bswap<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value: T = read_register(cpu, insn.reg);
    write_register(cpu, insn.reg, reverse(value));
    Ok(())
}

/// Undefined; processors clear the register's low half.
fn bswap_16<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    write_register(cpu, insn.reg, 0u16);
    Ok(())
}

/// CBW, CWDE, CDQE.
fn extend_accumulator<C: Cpu, From: Int, To: Int>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let value: From = read_register(cpu, RAX);
    write_register(cpu, RAX, To::truncate(value.sign_extend()));
    Ok(())
}

/// CWD, CDQ, CQO.
fn sign_into_rdx<C: Cpu, T: Int>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let value: T = read_register(cpu, RAX);
    let sign = (value.sign_extend() as i64 >> 63) as u64;
    write_register(cpu, RDX, T::truncate(sign));
    Ok(())
}

fn xlat<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let index = cpu.gpr(RAX) & 0xff;
    let offset = truncate_to(insn.address_size, cpu.gpr(RBX).wrapping_add(index));
    let linear = linear(cpu, insn.segment(), offset, 1, false)?;
    let value: u8 = match cpu.load(linear, Access::Operand) {
        Ok(value) => value,
        Err(stop) => return Err(access_fault(cpu, insn.segment(), linear, 1, stop)),
    };
    write_register(cpu, RAX, value);
    Ok(())
}
