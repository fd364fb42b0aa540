//! Exchange and compare-and-exchange: XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, with and without `LOCK`.
//!
//! XCHG is in [`super::mov`]; the `LOCK` forms of arithmetic are with the arithmetic.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Form, Locked, Mem, access_fault, form, linear_address, read_register,
    write_register,
};
use super::{Cpu, Exec, Feature, Insn, Int, Status, Stop};
use crate::exception::Exception;
use crate::regs::gpr::{RAX, RBX, RCX, RDX};
use crate::regs::rflags;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Xadd => pick_xadd(i),
        Mnemonic::Cmpxchg => pick_cmpxchg(i),
        Mnemonic::Cmpxchg8b => match i.has_lock_prefix() {
            true => Some(cmpxchg8b::<C, Locked>),
            false => Some(cmpxchg8b::<C, Mem>),
        },
        Mnemonic::Cmpxchg16b => Some(cmpxchg16b),
        _ => None,
    }
}

/// Where both operands are the same register it holds the sum.
fn xadd_registers<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let a = read_register::<C, T>(cpu, insn.reg);
    let (wide, b) = (a.zero_extend(), read_register::<C, T>(cpu, insn.rm).zero_extend());
    let sum = wide.wrapping_add(b);
    write_register(cpu, insn.rm, a);
    write_register(cpu, insn.reg, T::truncate(sum));
    cpu.set_status(Status::sum::<T>(wide, b, sum));
    Ok(())
}

fn xadd_memory<C: Cpu, T: Int, D: Destination<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let b = read_register::<C, T>(cpu, insn.rm).zero_extend();
    let a = D::update(cpu, insn, |a| T::truncate(a.zero_extend().wrapping_add(b)))?;
    write_register(cpu, insn.rm, a);
    let a = a.zero_extend();
    cpu.set_status(Status::sum::<T>(a, b, a.wrapping_add(b)));
    Ok(())
}

fn pick_xadd<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match (form(i, 0), i.has_lock_prefix()) {
        (Form::Register, _) => Some(xadd_registers::<C, T>),
        (_, false) => Some(xadd_memory::<C, T, Mem>),
        (_, true) => Some(xadd_memory::<C, T, Locked>),
    })
}

fn cmpxchg_registers<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let expected: T = read_register(cpu, RAX);
    let old: T = read_register(cpu, insn.reg);
    if old == expected {
        let new: T = read_register(cpu, insn.rm);
        write_register(cpu, insn.reg, new);
    } else {
        write_register(cpu, RAX, old);
    }
    set_difference(cpu, expected, old);
    Ok(())
}

/// Memory is written in any case, if only with what it held.
fn cmpxchg_memory<C: Cpu, T: Int, D: Destination<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let expected: T = read_register(cpu, RAX);
    let new: T = read_register(cpu, insn.rm);
    let old = D::update(cpu, insn, |old| if old == expected { new } else { old })?;
    if old != expected {
        write_register(cpu, RAX, old);
    }
    set_difference(cpu, expected, old);
    Ok(())
}

/// The flags of `a - b`.
#[inline(always)]
fn set_difference<C: Cpu, T: Int>(cpu: &mut C, a: T, b: T) {
    let (a, b) = (a.zero_extend(), b.zero_extend());
    cpu.set_status(Status::difference::<T>(a, b, a.wrapping_sub(b)));
}

fn pick_cmpxchg<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match (form(i, 0), i.has_lock_prefix()) {
        (Form::Register, _) => Some(cmpxchg_registers::<C, T>),
        (_, false) => Some(cmpxchg_memory::<C, T, Mem>),
        (_, true) => Some(cmpxchg_memory::<C, T, Locked>),
    })
}

/// Sets ZF alone.
fn set_zf<C: Cpu>(cpu: &mut C, zf: bool) {
    let flags = cpu.status().bits() & !rflags::ZF;
    cpu.set_status(Status::from_bits(flags | u64::from(zf) << 6));
}

fn cmpxchg8b<C: Cpu, D: Destination<u64>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let pair = |cpu: &C, high, low| -> u64 { cpu.gpr(high) << 32 | cpu.gpr(low) & 0xffff_ffff };
    let expected = pair(cpu, RDX, RAX);
    let new = pair(cpu, RCX, RBX);
    let old = D::update(cpu, insn, |old| if old == expected { new } else { old })?;
    if old != expected {
        write_register(cpu, RAX, old as u32);
        write_register(cpu, RDX, (old >> 32) as u32);
    }
    set_zf(cpu, old == expected);
    Ok(())
}

fn cmpxchg16b<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Cmpxchg16b) {
        return Err(cpu.fault(Exception::ud()));
    }
    let pair = |cpu: &C, high, low| u128::from(cpu.gpr(high)) << 64 | u128::from(cpu.gpr(low));
    let expected = pair(cpu, RDX, RAX);
    let new = pair(cpu, RCX, RBX);
    let linear = linear_address(cpu, insn, 16, true)?;
    if linear & 15 != 0 {
        return Err(cpu.fault(Exception::gp(0)));
    }
    let lock = insn.has(Insn::LOCK);
    let old = match cpu.compare_exchange_16(linear, lock, expected, new) {
        Ok(old) => old,
        Err(stop) => return Err(access_fault(cpu, insn.segment(), linear, 16, stop)),
    };
    if old != expected {
        cpu.set_gpr(RAX, old as u64);
        cpu.set_gpr(RDX, (old >> 64) as u64);
    }
    set_zf(cpu, old == expected);
    Ok(())
}
