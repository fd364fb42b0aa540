//! Instructions on RFLAGS that depend on the privilege level: CLI, STI,
//! PUSHF, POPF; and CLAC, STAC.
//!
//! Virtual interrupts (CR4.VME, CR4.PVI) are not implemented and not offered.
//! See: AMD APM vol. 2, 3.1.6, 8.10; vol. 3, the instructions.

use super::{gp, ud};
use crate::emulate::stack::Stack;
use crate::emulate::{Cpu, Feature, Insn, Stop};
use crate::regs::{Regs, rflags};

/// I/O privilege level of `flags`.
const fn iopl(flags: u64) -> u8 {
    ((flags & rflags::IOPL) >> 12) as u8
}

/// Replaces the flags in `mask` by those of `value`.
pub(super) fn replace(cpu: &mut impl Regs, value: u64, mask: u64) {
    let flags = cpu.rflags() & !mask | value & mask | rflags::FIXED;
    cpu.set_rflags(flags);
}

/// The flags that POPF and IRET may change at the current level.
pub(super) fn changeable(cpu: &impl Regs, size: u8) -> u64 {
    let mut mask = rflags::STATUS
        | rflags::TF
        | rflags::DF
        | rflags::NT
        | rflags::AC
        | rflags::ID
        | rflags::RF;
    if cpu.cpl() == 0 {
        mask |= rflags::IOPL;
    }
    if cpu.cpl() <= iopl(cpu.rflags()) {
        mask |= rflags::IF;
    }
    if size == 2 { mask & 0xffff } else { mask }
}

/// In virtual-8086 mode the instruction needs IOPL 3.
pub(super) fn check_virtual_8086<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    let flags = cpu.rflags();
    if flags & rflags::VM != 0 && iopl(flags) < 3 {
        return Err(gp(cpu, 0));
    }
    Ok(())
}

/// CLI and STI need a level within IOPL (virtual-8086 mode runs at level 3).
fn check_level<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cpl() > iopl(cpu.rflags()) {
        return Err(gp(cpu, 0));
    }
    Ok(())
}

pub(super) fn cli<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_level(cpu)?;
    cpu.set_rflags(cpu.rflags() & !rflags::IF);
    Ok(())
}

/// STI: interrupts are held for one more instruction if they were disabled.
pub(super) fn sti<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_level(cpu)?;
    let flags = cpu.rflags();
    if flags & rflags::IF == 0 {
        cpu.set_rflags(flags | rflags::IF);
        cpu.set_interrupt_shadow(true);
    }
    Ok(())
}

/// PUSHF; `extra` is the size.
pub(super) fn pushf<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_virtual_8086(cpu)?;
    let mut stack = Stack::new(cpu);
    let value = cpu.rflags() & !(rflags::VM | rflags::RF);
    stack.push_sized(cpu, value, insn.extra)?;
    stack.commit(cpu);
    Ok(())
}

/// POPF; `extra` is the size. What may not be changed is silently kept; RF is cleared.
pub(super) fn popf<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_virtual_8086(cpu)?;
    let mut stack = Stack::new(cpu);
    let value = stack.pop_sized(cpu, insn.extra)?;
    stack.commit(cpu);
    let mask = changeable(cpu, insn.extra);
    replace(cpu, value & !rflags::RF, mask);
    Ok(())
}

fn set_ac<C: Cpu>(cpu: &mut C, on: bool) -> Result<(), Stop> {
    if !cpu.offers(Feature::Smap) || cpu.cpl() != 0 {
        return Err(ud(cpu));
    }
    replace(cpu, if on { rflags::AC } else { 0 }, rflags::AC);
    Ok(())
}

pub(super) fn clac<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    set_ac(cpu, false)
}

pub(super) fn stac<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    set_ac(cpu, true)
}
