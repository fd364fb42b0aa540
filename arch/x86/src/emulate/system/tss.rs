//! What the processor reads from the task state segment: stacks of inner
//! levels, and the I/O permission bitmap. Whole tasks are [`super::task`]'s.
//!
//! See: AMD APM vol. 2, 12.2.4, 12.2.5.

use super::frame::Frame;
use super::segment::{fetch, is_null, kind, rpl};
use super::{gp, selector_error};
use crate::emulate::{Access, Cpu, Int, Stop};
use crate::exception::{Exception, TS};
use crate::regs::{Attr, Seg, rflags};

/// Reads a field of the TSS; `ext` is the error code's EXT bit.
fn field<C: Cpu, T: Int>(cpu: &mut C, offset: u32, ext: u32) -> Result<T, Stop> {
    let tr = cpu.segment(Seg::Tr);
    if offset + u32::from(T::SIZE) - 1 > tr.limit {
        return Err(invalid(cpu, tr.selector, ext));
    }
    cpu.load(tr.base.wrapping_add(u64::from(offset)), Access::System)
}

/// #TS with `selector`.
pub(super) fn invalid<C: Cpu>(cpu: &mut C, selector: u16, ext: u32) -> Stop {
    cpu.fault(Exception::with_error(TS, selector_error(selector) | ext))
}

/// RSP of inner level `cpl` in the TSS of long mode.
pub(super) fn long_stack_pointer<C: Cpu>(cpu: &mut C, cpl: u8, ext: u32) -> Result<u64, Stop> {
    field(cpu, 4 + 8 * u32::from(cpl), ext)
}

/// The interrupt stack table's entry `n`, from 1.
pub(super) fn interrupt_stack<C: Cpu>(cpu: &mut C, n: u8, ext: u32) -> Result<u64, Stop> {
    field(cpu, 0x1c + 8 * u32::from(n), ext)
}

/// SS:ESP of inner level `cpl` in a TSS of protected mode, checked.
pub(super) fn inner_stack<C: Cpu>(cpu: &mut C, cpl: u8, ext: u32) -> Result<Frame, Stop> {
    let level = u32::from(cpl);
    let (pointer, selector) = if cpu.segment(Seg::Tr).attr.kind() & 8 != 0 {
        let pointer = field::<C, u32>(cpu, 4 + 8 * level, ext)?;
        (u64::from(pointer), field::<C, u16>(cpu, 8 + 8 * level, ext)?)
    } else {
        let pointer = field::<C, u16>(cpu, 2 + 4 * level, ext)?;
        (u64::from(pointer), field::<C, u16>(cpu, 4 + 4 * level, ext)?)
    };
    if is_null(selector) {
        return Err(cpu.fault(Exception::with_error(TS, ext)));
    }
    let Some(mut found) = fetch(cpu, selector)? else { return Err(invalid(cpu, selector, ext)) };
    if rpl(selector) != cpl || found.attr().dpl() != cpl || !found.is_writable_data() {
        return Err(invalid(cpu, selector, ext));
    }
    let error = selector_error(selector) | ext;
    if !found.attr().has(Attr::P) {
        return Err(cpu.fault(Exception::ss(error)));
    }
    found.mark_accessed(cpu)?;
    Ok(Frame::legacy(found.segment(selector), pointer, Access::System, error))
}

/// Whether the I/O instruction may touch `size` ports from `port` on: by IOPL, or by the
/// bitmap. See: AMD APM vol. 2, 12.2.4.
pub(super) fn check_io<C: Cpu>(cpu: &mut C, port: u16, size: u8) -> Result<(), Stop> {
    let flags = cpu.rflags();
    let by_level = u64::from(cpu.cpl()) <= (flags & rflags::IOPL) >> 12;
    if by_level && flags & rflags::VM == 0 {
        return Ok(());
    }
    let tr = cpu.segment(Seg::Tr);
    if !tr.attr.has(Attr::P) || tr.attr.kind() & !kind::BUSY != kind::TSS || tr.limit < 0x67 {
        return Err(gp(cpu, 0));
    }
    let map = cpu.load::<u16>(tr.base.wrapping_add(0x66), Access::System)?;
    // Two bytes are read whatever the port: the map ends with a byte of ones.
    let offset = u32::from(map) + u32::from(port >> 3);
    if offset + 1 > tr.limit {
        return Err(gp(cpu, 0));
    }
    let bits = cpu.load::<u16>(tr.base.wrapping_add(u64::from(offset)), Access::System)?;
    let wanted = (1 << size) - 1;
    if bits >> (port & 7) & wanted != 0 {
        return Err(gp(cpu, 0));
    }
    Ok(())
}
