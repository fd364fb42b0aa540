//! Far JMP, CALL and RET, with call gates.
//!
//! Task gates and TSSs lead to [`super::task`]; in long mode they are #GP.
//! See: AMD APM vol. 2, 4.11; vol. 3, CALL (far), JMP (far), RET (far).

use super::event::{gate_offset, stack_access};
use super::frame::Frame;
use super::iret::{finish, is_64_bit, return_code, switch_stack};
use super::segment::{self, Descriptor, fetch, fetch_any, is_null, kind, load_stack, rpl};
use super::task::{self, Link};
use super::{check_target, gp, np, read_far_pointer, selector_error, tss};
use crate::emulate::{Cpu, Insn, Stop};
use crate::regs::{Attr, Seg, Segment, cr0, gpr, rflags};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

/// JMP ptr16:16, ptr16:32; `extra` is the operand size.
pub(super) fn jump<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    transfer(cpu, insn, Transfer::Jump, insn.imm as u16, insn.disp)
}

/// CALL ptr16:16, ptr16:32; `extra` is the operand size.
pub(super) fn call<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    transfer(cpu, insn, Transfer::Call, insn.imm as u16, insn.disp)
}

/// JMP m16:16, m16:32, m16:64; `extra` is the operand size.
pub(super) fn jump_indirect<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let (selector, offset) = read_far_pointer(cpu, insn, insn.extra)?;
    transfer(cpu, insn, Transfer::Jump, selector, offset)
}

/// CALL m16:16, m16:32, m16:64; `extra` is the operand size.
pub(super) fn call_indirect<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let (selector, offset) = read_far_pointer(cpu, insn, insn.extra)?;
    transfer(cpu, insn, Transfer::Call, selector, offset)
}

fn transfer<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    how: Transfer,
    selector: u16,
    offset: u64,
) -> Result<(), Stop> {
    let size = insn.extra;
    if !cpu.protected() {
        let code = if cpu.cr0() & cr0::PE == 0 {
            segment::real_mode(cpu, Seg::Cs, selector)
        } else {
            segment::virtual_8086(selector)
        };
        let cpl = cpu.cpl();
        return enter(cpu, how, size, code, cpl, offset);
    }
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let error = selector_error(selector);
    let Some(found) = fetch_any(cpu, selector)? else { return Err(gp(cpu, error)) };
    match found.system_kind() {
        None => direct(cpu, how, size, selector, found, offset),
        Some(kind::CALL_GATE) => through_gate(cpu, how, 4, selector, found),
        Some(_) if cpu.long_mode() => Err(gp(cpu, error)),
        Some(kind::CALL_GATE_16) => through_gate(cpu, how, 2, selector, found),
        Some(kind::TASK_GATE | kind::TSS | kind::TSS16) => {
            let link = if how == Transfer::Call { Link::Nested } else { Link::None };
            task::transfer(cpu, link, selector, found)
        }
        Some(_) => Err(gp(cpu, error)),
    }
}

/// To a code segment, without a change of level.
fn direct<C: Cpu>(
    cpu: &mut C,
    how: Transfer,
    size: u8,
    selector: u16,
    mut code: Descriptor,
    offset: u64,
) -> Result<(), Stop> {
    let error = selector_error(selector);
    let (attr, cpl) = (code.attr(), cpu.cpl());
    let allowed = if code.is_conforming() {
        attr.dpl() <= cpl
    } else {
        attr.dpl() == cpl && rpl(selector) <= cpl
    };
    let bad_mode = cpu.long_mode() && attr.has(Attr::L | Attr::DB);
    if !code.is_code() || !allowed || bad_mode {
        return Err(gp(cpu, error));
    }
    if !attr.has(Attr::P) {
        return Err(np(cpu, error));
    }
    code.mark_accessed(cpu)?;
    let code = code.segment(selector & !3 | u16::from(cpl));
    enter(cpu, how, size, code, cpl, offset)
}

/// The code segment that a call gate leads to, checked; and its new level.
fn gate_target<C: Cpu>(
    cpu: &mut C,
    how: Transfer,
    selector: u16,
) -> Result<(Descriptor, u8), Stop> {
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let error = selector_error(selector);
    let Some(mut code) = fetch(cpu, selector)? else { return Err(gp(cpu, error)) };
    let (attr, cpl) = (code.attr(), cpu.cpl());
    let wrong_mode = cpu.long_mode() && (!attr.has(Attr::L) || attr.has(Attr::DB));
    let inner = attr.dpl() < cpl && !code.is_conforming();
    if !code.is_code() || attr.dpl() > cpl || wrong_mode || inner && how == Transfer::Jump {
        return Err(gp(cpu, error));
    }
    if !attr.has(Attr::P) {
        return Err(np(cpu, error));
    }
    code.mark_accessed(cpu)?;
    Ok((code, if inner { attr.dpl() } else { cpl }))
}

/// Through a call gate of `size` (8 in long mode), which `selector` names.
fn through_gate<C: Cpu>(
    cpu: &mut C,
    how: Transfer,
    size: u8,
    selector: u16,
    gate: Descriptor,
) -> Result<(), Stop> {
    let error = selector_error(selector);
    // The upper half of a long gate has a type of 0.
    let malformed = gate.high >> 40 & 0x1f != 0;
    if gate.attr().dpl() < cpu.cpl().max(rpl(selector)) || malformed {
        return Err(gp(cpu, error));
    }
    if !gate.attr().has(Attr::P) {
        return Err(np(cpu, error));
    }
    let size = if cpu.long_mode() { 8 } else { size };
    let offset = match size {
        2 => gate.low & 0xffff,
        4 => gate_offset(gate.low),
        _ => gate_offset(gate.low) | gate.high << 32,
    };
    let target = (gate.low >> 16) as u16;
    let (code, cpl) = gate_target(cpu, how, target)?;
    let code = code.segment(target & !3 | u16::from(cpl));
    if cpl == cpu.cpl() {
        return enter(cpu, how, size, code, cpl, offset);
    }
    if size == 8 {
        call_inner_long(cpu, code, cpl, offset)
    } else {
        call_inner(cpu, size, code, cpl, offset, (gate.low >> 32 & 0x1f) as u8)
    }
}

/// Goes to `code` at the current level; a call pushes where it came from.
fn enter<C: Cpu>(
    cpu: &mut C,
    how: Transfer,
    size: u8,
    code: Segment,
    cpl: u8,
    offset: u64,
) -> Result<(), Stop> {
    let mut frame = Frame::current(cpu);
    if how == Transfer::Call {
        frame.push(cpu, cpu.segment(Seg::Cs).selector.into(), size)?;
        frame.push(cpu, cpu.rip(), size)?;
    }
    check_target(cpu, &code, offset, 0)?;
    if how == Transfer::Call {
        frame.commit(cpu);
    }
    finish(cpu, code, cpl, false, offset);
    Ok(())
}

/// A call to an inner level in long mode: no parameters are copied.
fn call_inner_long<C: Cpu>(cpu: &mut C, code: Segment, cpl: u8, offset: u64) -> Result<(), Stop> {
    let pointer = tss::long_stack_pointer(cpu, cpl, 0)?;
    let mut frame = Frame::long(pointer, stack_access(cpl), 0);
    frame.push(cpu, cpu.segment(Seg::Ss).selector.into(), 8)?;
    frame.push(cpu, cpu.gpr(gpr::RSP), 8)?;
    frame.push(cpu, cpu.segment(Seg::Cs).selector.into(), 8)?;
    frame.push(cpu, cpu.rip(), 8)?;
    check_target(cpu, &code, offset, 0)?;
    frame.commit(cpu);
    cpu.set_segment(Seg::Ss, segment::null_stack(cpl.into(), cpl));
    finish(cpu, code, cpl, false, offset);
    Ok(())
}

/// A call to an inner level outside long mode: `count` parameters are copied to the new stack.
fn call_inner<C: Cpu>(
    cpu: &mut C,
    size: u8,
    code: Segment,
    cpl: u8,
    offset: u64,
    count: u8,
) -> Result<(), Stop> {
    let old = Frame::current(cpu);
    let mut frame = tss::inner_stack(cpu, cpl, 0)?;
    frame.push(cpu, cpu.segment(Seg::Ss).selector.into(), size)?;
    frame.push(cpu, cpu.gpr(gpr::RSP), size)?;
    for n in (0..count).rev() {
        let parameter = old.peek(cpu, u64::from(n) * u64::from(size), size)?;
        frame.push(cpu, parameter, size)?;
    }
    frame.push(cpu, cpu.segment(Seg::Cs).selector.into(), size)?;
    frame.push(cpu, cpu.rip(), size)?;
    check_target(cpu, &code, offset, 0)?;
    frame.commit(cpu);
    cpu.set_segment(Seg::Ss, frame.segment());
    finish(cpu, code, cpl, false, offset);
    Ok(())
}

/// RETF; `extra` is the operand size, the immediate how many bytes of parameters to drop.
pub(super) fn ret<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let size = insn.extra;
    let parameters = insn.immediate() & 0xffff;
    let mut frame = Frame::current(cpu);
    let rip = frame.pop(cpu, size)?;
    let selector = frame.pop(cpu, size)? as u16;
    if !cpu.protected() {
        let virtual_8086 = cpu.rflags() & rflags::VM != 0;
        let code = if virtual_8086 {
            segment::virtual_8086(selector)
        } else {
            segment::real_mode(cpu, Seg::Cs, selector)
        };
        check_target(cpu, &code, rip, 0)?;
        frame.skip(parameters);
        frame.commit(cpu);
        cpu.set_segment(Seg::Cs, code);
        cpu.set_rip(rip);
        return Ok(());
    }
    let code = return_code(cpu, selector)?;
    let cpl = rpl(selector);
    frame.skip(parameters);
    if cpl == cpu.cpl() {
        check_target(cpu, &code, rip, 0)?;
        frame.commit(cpu);
        finish(cpu, code, cpl, false, rip);
        return Ok(());
    }
    let pointer = frame.pop(cpu, size)?;
    let stack = frame.pop(cpu, size)? as u16;
    let stack = load_stack(cpu, stack, cpl, is_64_bit(cpu, &code))?;
    check_target(cpu, &code, rip, 0)?;
    switch_stack(cpu, &code, stack, pointer.wrapping_add(parameters));
    finish(cpu, code, cpl, true, rip);
    Ok(())
}
