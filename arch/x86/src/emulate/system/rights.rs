//! Questions about selectors: LAR, LSL, VERR, VERW, ARPL. None faults on the selector.
//!
//! See: AMD APM vol. 3, the instructions; vol. 2, 4.10 for the rules of access.

use super::segment::{Descriptor, fetch_any, is_null, kind, rpl};
use super::ud;
use crate::emulate::operand::{Destination, Source, write_register};
use crate::emulate::{Cpu, Insn, Int, Status, Stop};
use crate::regs::{Attr, Regs, rflags};

fn set_zero_flag(cpu: &mut impl Regs, on: bool) {
    let rest = cpu.status().bits() & !rflags::ZF;
    cpu.set_status(Status::from_bits(rest | if on { rflags::ZF } else { 0 }));
}

/// The descriptor that `selector` names, if the current level may see it.
fn visible<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if !cpu.protected() {
        return Err(ud(cpu));
    }
    if is_null(selector) {
        return Ok(None);
    }
    let level = cpu.cpl().max(rpl(selector));
    let found = fetch_any(cpu, selector)?;
    Ok(found.filter(|d| d.is_conforming() || d.attr().dpl() >= level))
}

pub(super) fn lar<C: Cpu, T: Int, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = selector_operand::<C, S>(cpu, insn)?;
    let found = visible(cpu, selector)?;
    let long = cpu.long_mode();
    let found = found.filter(|d| match d.system_kind() {
        None => true,
        Some(kind::LDT | kind::TSS | 11 | kind::CALL_GATE) => true,
        Some(kind::TSS16 | 3 | kind::CALL_GATE_16 | kind::TASK_GATE) => !long,
        Some(_) => false,
    });
    if let Some(descriptor) = found {
        // The limit's bits between the rights are undefined to Intel, and there to AMD.
        let rights = descriptor.low >> 32 & 0x00ff_ff00;
        write_register(cpu, insn.reg, T::truncate(rights));
    }
    set_zero_flag(cpu, found.is_some());
    Ok(())
}

pub(super) fn lsl<C: Cpu, T: Int, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = selector_operand::<C, S>(cpu, insn)?;
    let found = visible(cpu, selector)?;
    let long = cpu.long_mode();
    let found = found.filter(|d| match d.system_kind() {
        None => true,
        Some(kind::LDT | kind::TSS | 11) => true,
        Some(kind::TSS16 | 3) => !long,
        Some(_) => false,
    });
    if let Some(descriptor) = found {
        write_register(cpu, insn.reg, T::truncate(descriptor.limit().into()));
    }
    set_zero_flag(cpu, found.is_some());
    Ok(())
}

/// Not in protected mode the instructions do not exist, so that is asked before the operand.
fn selector_operand<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<u16, Stop> {
    if !cpu.protected() {
        return Err(ud(cpu));
    }
    S::read(cpu, insn)
}

pub(super) fn verr<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = selector_operand::<C, S>(cpu, insn)?;
    let found = visible(cpu, selector)?;
    let readable =
        found.is_some_and(|d| d.attr().has(Attr::S) && (!d.is_code() || d.attr().has(Attr::RW)));
    set_zero_flag(cpu, readable);
    Ok(())
}

pub(super) fn verw<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = selector_operand::<C, S>(cpu, insn)?;
    let writable = visible(cpu, selector)?.is_some_and(|d| d.is_writable_data());
    set_zero_flag(cpu, writable);
    Ok(())
}

/// ARPL: raises the first operand's privilege level to the second's.
pub(super) fn arpl<C: Cpu, D: Destination<u16>, S: Source<u16>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    if !cpu.protected() {
        return Err(ud(cpu));
    }
    let level = S::read(cpu, insn)? & 3;
    let old = D::read(cpu, insn)?;
    let raise = old & 3 < level;
    if raise {
        D::write(cpu, insn, old & !3 | level)?;
    }
    set_zero_flag(cpu, raise);
    Ok(())
}
