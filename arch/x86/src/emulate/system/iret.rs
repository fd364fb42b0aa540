//! IRET, and what far RET shares with it: the checks of the code and stack
//! segments that control returns to.
//!
//! A return to a previous task (NT) is [`super::task`]'s.
//! See: AMD APM vol. 2, 8.8, 8.9.6; vol. 3, IRET.

use super::flags::{changeable, check_virtual_8086, replace};
use super::frame::{Frame, set_stack_pointer};
use super::segment::{self, drop_inner_segments, fetch, is_null, load_stack, rpl};
use super::{check_target, gp, np, selector_error, task};
use crate::emulate::{Cpu, Insn, Stop};
use crate::regs::{Attr, Regs, Seg, Segment, cr0, rflags};

/// IRET; `extra` is the operand size.
pub(super) fn iret<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let size = insn.extra;
    if cpu.cr0() & cr0::PE == 0 {
        real_mode(cpu, size, segment::real_mode)?;
    } else if cpu.rflags() & rflags::VM != 0 {
        check_virtual_8086(cpu)?;
        real_mode(cpu, size, |_, _, selector| segment::virtual_8086(selector))?;
    } else {
        protected_mode(cpu, size)?;
    }
    cpu.set_nmi_blocked(false);
    Ok(())
}

/// Real and virtual-8086 mode, where `load` makes CS.
fn real_mode<C: Cpu>(
    cpu: &mut C,
    size: u8,
    load: impl FnOnce(&C, Seg, u16) -> Segment,
) -> Result<(), Stop> {
    let mut frame = Frame::current(cpu);
    let rip = frame.pop(cpu, size)?;
    let selector = frame.pop(cpu, size)? as u16;
    let flags = frame.pop(cpu, size)?;
    let code = load(cpu, Seg::Cs, selector);
    check_target(cpu, &code, rip, 0)?;
    frame.commit(cpu);
    // In virtual-8086 mode the level is 3: IOPL stays, and IF may change as IOPL is 3.
    let mask = changeable(cpu, size);
    replace(cpu, flags, mask);
    cpu.set_segment(Seg::Cs, code);
    cpu.set_rip(rip);
    Ok(())
}

fn protected_mode<C: Cpu>(cpu: &mut C, size: u8) -> Result<(), Stop> {
    if cpu.rflags() & rflags::NT != 0 {
        return if cpu.long_mode() { Err(gp(cpu, 0)) } else { task::go_back(cpu) };
    }
    let mut frame = Frame::current(cpu);
    let rip = frame.pop(cpu, size)?;
    let selector = frame.pop(cpu, size)? as u16;
    let flags = frame.pop(cpu, size)?;
    let to_virtual_8086 =
        flags & rflags::VM != 0 && size == 4 && cpu.cpl() == 0 && !cpu.long_mode();
    if to_virtual_8086 {
        return enter_virtual_8086(cpu, frame, rip, selector, flags);
    }
    let code = return_code(cpu, selector)?;
    let cpl = rpl(selector);
    let outer = cpl > cpu.cpl();
    // 64-bit mode always pops a stack pointer.
    let stack = if outer || cpu.mode64() {
        let pointer = frame.pop(cpu, size)?;
        let selector = frame.pop(cpu, size)? as u16;
        let segment = load_stack(cpu, selector, cpl, is_64_bit(cpu, &code))?;
        Some((pointer, segment))
    } else {
        None
    };
    check_target(cpu, &code, rip, 0)?;

    let mut mask = changeable(cpu, size);
    if cpu.cpl() == 0 && size != 2 {
        mask |= rflags::VIF | rflags::VIP;
    }
    replace(cpu, flags, mask);
    match stack {
        Some((pointer, segment)) => switch_stack(cpu, &code, segment, pointer),
        None => frame.commit(cpu),
    }
    finish(cpu, code, cpl, outer, rip);
    Ok(())
}

/// From level 0 to virtual-8086 mode. See: Intel SDM vol. 3, 21.2.5.
fn enter_virtual_8086<C: Cpu>(
    cpu: &mut C,
    mut frame: Frame,
    rip: u64,
    selector: u16,
    flags: u64,
) -> Result<(), Stop> {
    let pointer = frame.pop(cpu, 4)?;
    let mut segments = [(Seg::Ss, 0); 5];
    for (slot, seg) in segments.iter_mut().zip([Seg::Ss, Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs]) {
        *slot = (seg, frame.pop(cpu, 4)? as u16);
    }
    let code = segment::virtual_8086(selector);
    check_target(cpu, &code, rip & 0xffff, 0)?;
    let mask = changeable(cpu, 4) | rflags::VM | rflags::VIF | rflags::VIP;
    replace(cpu, flags, mask);
    for (seg, selector) in segments {
        cpu.set_segment(seg, segment::virtual_8086(selector));
    }
    cpu.set_segment(Seg::Cs, code);
    cpu.set_cpl(3);
    set_stack_pointer(cpu, pointer, 0xffff_ffff);
    cpu.set_rip(rip & 0xffff);
    Ok(())
}

/// Whether `code` runs in 64-bit mode.
pub(super) fn is_64_bit(cpu: &impl Regs, code: &Segment) -> bool {
    cpu.long_mode() && code.attr.has(Attr::L)
}

/// The code segment that a return goes to. See: AMD APM vol. 2, 4.11.
pub(super) fn return_code<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Segment, Stop> {
    if is_null(selector) {
        return Err(gp(cpu, 0));
    }
    let error = selector_error(selector);
    let Some(mut code) = fetch(cpu, selector)? else { return Err(gp(cpu, error)) };
    let attr = code.attr();
    let to = rpl(selector);
    let allowed = if code.is_conforming() { attr.dpl() <= to } else { attr.dpl() == to };
    let bad_mode = cpu.long_mode() && attr.has(Attr::L | Attr::DB);
    if !code.is_code() || to < cpu.cpl() || !allowed || bad_mode {
        return Err(gp(cpu, error));
    }
    if !attr.has(Attr::P) {
        return Err(np(cpu, error));
    }
    code.mark_accessed(cpu)?;
    Ok(code.segment(selector))
}

/// Loads the stack that a return pops, at the width that it has for `code`.
pub(super) fn switch_stack(cpu: &mut impl Regs, code: &Segment, stack: Segment, pointer: u64) {
    let mask = if is_64_bit(cpu, code) {
        u64::MAX
    } else if stack.attr.has(Attr::DB) {
        0xffff_ffff
    } else {
        0xffff
    };
    set_stack_pointer(cpu, pointer, mask);
    cpu.set_segment(Seg::Ss, stack);
}

/// Goes back to `code`.
pub(super) fn finish<C: Cpu>(cpu: &mut C, code: Segment, cpl: u8, outer: bool, rip: u64) {
    cpu.set_segment(Seg::Cs, code);
    cpu.set_cpl(cpl);
    cpu.set_rip(rip);
    if outer {
        drop_inner_segments(cpu, cpl);
    }
}
