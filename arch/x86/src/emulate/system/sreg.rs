//! Moves to and from segment registers: MOV, PUSH, POP, LDS and its kin.
//!
//! See: AMD APM vol. 3, MOV, POP, LxS.

use super::{read_far_pointer, segment_operand};
use crate::emulate::operand::{Destination, Source, write_register};
use crate::emulate::stack::Stack;
use crate::emulate::{Cpu, Insn, Int, Stop};
use crate::regs::{Regs, Seg};

use super::segment::load;

/// MOV from a segment register (`extra`).
pub(super) fn read<C: Cpu, T: Int, D: Destination<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let selector = cpu.segment(segment_operand(insn)).selector;
    D::write(cpu, insn, T::truncate(selector.into()))
}

/// MOV to a segment register (`extra`).
pub(super) fn write<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = S::read(cpu, insn)?;
    let seg = segment_operand(insn);
    let value = load(cpu, seg, selector)?;
    cpu.set_segment(seg, value);
    shadow(cpu, seg);
    Ok(())
}

/// A load of SS holds interrupts until after the next instruction, which loads RSP.
/// See: AMD APM vol. 3, MOV (segment registers).
fn shadow(cpu: &mut impl Regs, seg: Seg) {
    if seg == Seg::Ss {
        cpu.set_interrupt_shadow(true);
    }
}

/// PUSH of a segment register (`extra`); `operand_size` is the size.
pub(super) fn push<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = cpu.segment(segment_operand(insn)).selector;
    let mut stack = Stack::new(cpu);
    stack.push_sized(cpu, selector.into(), insn.operand_size)?;
    stack.commit(cpu);
    Ok(())
}

/// POP of a segment register (`extra`); `operand_size` is the size.
pub(super) fn pop<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let mut stack = Stack::new(cpu);
    let selector = stack.pop_sized(cpu, insn.operand_size)? as u16;
    let seg = segment_operand(insn);
    let value = load(cpu, seg, selector)?;
    // RSP at the width of the old stack.
    stack.commit(cpu);
    cpu.set_segment(seg, value);
    shadow(cpu, seg);
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS: a far pointer into a segment register (`extra`) and a register.
pub(super) fn load_pointer<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let (selector, offset) = read_far_pointer(cpu, insn, T::SIZE)?;
    let seg = segment_operand(insn);
    let value = load(cpu, seg, selector)?;
    cpu.set_segment(seg, value);
    write_register(cpu, insn.reg, T::truncate(offset));
    Ok(())
}
