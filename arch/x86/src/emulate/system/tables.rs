//! The descriptor-table registers: LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR.
//!
//! See: AMD APM vol. 2, 4.6; vol. 3, the instructions.

use super::segment::{self, Descriptor, fetch_any, is_null, kind};
use super::{check_privileged, check_umip, gp, load_part, np, selector_error, ud};
use crate::emulate::operand::{Destination, Source, access_fault, canonical, linear_address};
use crate::emulate::{Access, Cpu, Insn, Int, Stop};
use crate::regs::{Attr, Seg, Table};

/// Reads the operand of LGDT and LIDT: a limit and a base; `extra` is the operand size.
fn read_table<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<Table, Stop> {
    check_privileged(cpu)?;
    let size = if insn.extra == 8 { 8 } else { 4 };
    let linear = linear_address(cpu, insn, size + 2, false)?;
    let limit = load_part(cpu, insn, linear, 2)? as u16;
    let base = load_part(cpu, insn, linear.wrapping_add(2), size)?;
    let base = if insn.extra == 2 { base & 0x00ff_ffff } else { base };
    if size == 8 && !canonical(cpu, base) {
        return Err(gp(cpu, 0));
    }
    Ok(Table { base, limit })
}

/// Writes the operand of SGDT and SIDT; with 16-bit operands too it has 32 bits of base.
fn write_table<C: Cpu>(cpu: &mut C, insn: &Insn, table: Table) -> Result<(), Stop> {
    check_umip(cpu)?;
    let size = if insn.extra == 8 { 8 } else { 4 };
    let linear = linear_address(cpu, insn, size + 2, true)?;
    let mut bytes = [0; 10];
    let (limit, base) = bytes.split_at_mut(2);
    limit.copy_from_slice(&table.limit.to_le_bytes());
    base.copy_from_slice(&table.base.to_le_bytes());
    let bytes = bytes.get(..usize::from(size) + 2).unwrap_or(&[]);
    cpu.store_bytes(linear, bytes, Access::Operand)
        .map_err(|stop| access_fault(cpu, insn.segment(), linear, size + 2, stop))
}

pub(super) fn lgdt<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let table = read_table(cpu, insn)?;
    cpu.set_gdtr(table);
    Ok(())
}

pub(super) fn lidt<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let table = read_table(cpu, insn)?;
    cpu.set_idtr(table);
    Ok(())
}

pub(super) fn sgdt<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let table = cpu.gdtr();
    write_table(cpu, insn, table)
}

pub(super) fn sidt<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let table = cpu.idtr();
    write_table(cpu, insn, table)
}

/// The system descriptor of one of `kinds` for LLDT and LTR, in the GDT.
fn system_descriptor<C: Cpu>(
    cpu: &mut C,
    selector: u16,
    kinds: &[u16],
) -> Result<Descriptor, Stop> {
    let error = selector_error(selector);
    if selector & 4 != 0 {
        return Err(gp(cpu, error));
    }
    let Some(found) = fetch_any(cpu, selector)? else { return Err(gp(cpu, error)) };
    let right = found.system_kind().is_some_and(|kind| kinds.contains(&kind));
    // The type in the upper half of a 16-byte descriptor is 0.
    let malformed = found.high >> 40 & 0x1f != 0 || !canonical(cpu, found.base());
    if !right || malformed {
        return Err(gp(cpu, error));
    }
    if !found.attr().has(Attr::P) {
        return Err(np(cpu, error));
    }
    Ok(found)
}

/// LLDT and LTR need protected mode and level 0.
fn check_load<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if !cpu.protected() {
        return Err(ud(cpu));
    }
    check_privileged(cpu)
}

pub(super) fn lldt<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_load(cpu)?;
    let selector = S::read(cpu, insn)?;
    if is_null(selector) {
        cpu.set_segment(Seg::Ldtr, segment::null(selector));
        return Ok(());
    }
    let found = system_descriptor(cpu, selector, &[kind::LDT])?;
    cpu.set_segment(Seg::Ldtr, found.segment(selector));
    Ok(())
}

pub(super) fn ltr<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_load(cpu)?;
    let selector = S::read(cpu, insn)?;
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let kinds: &[u16] = if cpu.long_mode() { &[kind::TSS] } else { &[kind::TSS, kind::TSS16] };
    let mut found = system_descriptor(cpu, selector, kinds)?;
    found.mark_busy(cpu)?;
    cpu.set_segment(Seg::Tr, found.segment(selector));
    Ok(())
}

fn store_selector<C: Cpu, T: Int, D: Destination<T>>(
    cpu: &mut C,
    insn: &Insn,
    seg: Seg,
) -> Result<(), Stop> {
    if !cpu.protected() {
        return Err(ud(cpu));
    }
    check_umip(cpu)?;
    let selector = cpu.segment(seg).selector;
    D::write(cpu, insn, T::truncate(selector.into()))
}

pub(super) fn sldt<C: Cpu, T: Int, D: Destination<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    store_selector::<C, T, D>(cpu, insn, Seg::Ldtr)
}

pub(super) fn str<C: Cpu, T: Int, D: Destination<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    store_selector::<C, T, D>(cpu, insn, Seg::Tr)
}
