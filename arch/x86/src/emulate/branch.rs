//! Near branches without the stack: Jcc, JMP, LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ.
//!
//! Near CALL and RET are in [`super::stack`], far branches [`super::system`]'s.

use iced_x86::{Code, Instruction, Mnemonic};

use super::condition::{by_condition, holds};
use super::decode::{Mode, by_size, operand_size};
use super::operand::{Form, Mem, Reg, Source, form, read_sized, truncate_to, write_sized};
use super::width::{Legacy, Long, Width};
use super::{Cpu, Exec, Insn, Int, Stop};
use crate::regs::gpr::RCX;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction, mode: Mode) -> Option<Exec<C>> {
    if mode == Mode::Bits64 { pick::<C, Long>(i) } else { pick::<C, Legacy>(i) }
}

fn pick<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    if i.is_jcc_short_or_near() {
        return by_condition!(i, CC => Some(jcc::<C, W, CC>));
    }
    match i.mnemonic() {
        Mnemonic::Jmp => pick_jmp::<C, W>(i),
        Mnemonic::Jcxz => Some(jcxz::<C, W, 2>),
        Mnemonic::Jecxz => Some(jcxz::<C, W, 4>),
        Mnemonic::Jrcxz => Some(jcxz::<C, W, 8>),
        Mnemonic::Loop => pick_loop::<C, W, ALWAYS>(i),
        Mnemonic::Loope => pick_loop::<C, W, WHILE_ZERO>(i),
        Mnemonic::Loopne => pick_loop::<C, W, WHILE_NOT_ZERO>(i),
        _ => None,
    }
}

#[inline(always)]
fn jump<C: Cpu, W: Width>(cpu: &mut C, target: u64) -> Result<(), Stop> {
    W::check_target(cpu, target)?;
    cpu.set_rip(target);
    Ok(())
}

fn jcc<C: Cpu, W: Width, const CC: u8>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if holds::<CC>(cpu.status()) { jump::<C, W>(cpu, insn.disp) } else { Ok(()) }
}

fn jmp<C: Cpu, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    jump::<C, W>(cpu, insn.disp)
}

fn jmp_indirect<C: Cpu, T: Int, S: Source<T>, W: Width>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let target = S::read(cpu, insn)?;
    jump::<C, W>(cpu, target.zero_extend())
}

fn pick_jmp<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    if i.is_jmp_short_or_near() {
        return Some(jmp::<C, W>);
    }
    if !i.is_jmp_near_indirect() {
        return None;
    }
    by_size!(wide operand_size(i, 0), T => match form(i, 0) {
        Form::Register => Some(jmp_indirect::<C, T, Reg, W>),
        Form::Memory => Some(jmp_indirect::<C, T, Mem, W>),
        _ => None,
    })
}

fn jcxz<C: Cpu, W: Width, const SIZE: u8>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if read_sized(cpu, RCX, SIZE) == 0 { jump::<C, W>(cpu, insn.disp) } else { Ok(()) }
}

/// LOOP's conditions besides the count.
const ALWAYS: u8 = 0;
const WHILE_ZERO: u8 = 1;
const WHILE_NOT_ZERO: u8 = 2;

fn count_and_jump<C: Cpu, W: Width, const SIZE: u8, const WHILE: u8>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let count = read_sized(cpu, RCX, SIZE).wrapping_sub(1);
    let goes_on = match WHILE {
        WHILE_ZERO => cpu.status().zf(),
        WHILE_NOT_ZERO => !cpu.status().zf(),
        _ => true,
    };
    let last = truncate_to(SIZE, count) == 0;
    if goes_on && !last {
        jump::<C, W>(cpu, insn.disp)?;
    }
    write_sized(cpu, RCX, SIZE, count);
    Ok(())
}

fn pick_loop<C: Cpu, W: Width, const WHILE: u8>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => count_and_jump::<C, W, 2, WHILE>,
        Code::Loop_rel8_16_ECX
        | Code::Loop_rel8_32_ECX
        | Code::Loop_rel8_64_ECX
        | Code::Loope_rel8_16_ECX
        | Code::Loope_rel8_32_ECX
        | Code::Loope_rel8_64_ECX
        | Code::Loopne_rel8_16_ECX
        | Code::Loopne_rel8_32_ECX
        | Code::Loopne_rel8_64_ECX => count_and_jump::<C, W, 4, WHILE>,
        _ => count_and_jump::<C, W, 8, WHILE>,
    })
}
