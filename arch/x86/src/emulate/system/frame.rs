//! A stack frame that is being pushed or popped: [`Frame`].
//!
//! Transfers of control push and pop several values, often on a stack that SS:RSP
//! does not name yet, and may fault at each of them. A frame changes memory
//! only; the registers change when it is committed.

use super::{load_sized, store_sized};
use crate::emulate::operand::canonical;
use crate::emulate::{Access, Cpu, Stop};
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg, Segment, gpr};

/// A stack with a pointer of its own.
pub(super) struct Frame {
    segment: Segment,
    pointer: u64,
    /// 0xffff, 0xffff_ffff or all ones.
    mask: u64,
    long: bool,
    access: Access,
    /// The error code of a stack fault.
    error: u32,
}

impl Frame {
    /// The current stack.
    pub fn current(cpu: &impl Regs) -> Self {
        let pointer = cpu.gpr(gpr::RSP);
        if cpu.mode64() {
            return Self::long(pointer, Access::Operand, 0);
        }
        Self::legacy(cpu.segment(Seg::Ss), pointer, Access::Operand, 0)
    }

    /// A stack of 64-bit mode.
    pub fn long(pointer: u64, access: Access, error: u32) -> Self {
        Self { segment: Segment::default(), pointer, mask: u64::MAX, long: true, access, error }
    }

    /// A stack in a segment with a limit.
    pub fn legacy(segment: Segment, pointer: u64, access: Access, error: u32) -> Self {
        let mask = if segment.attr.has(Attr::DB) { 0xffff_ffff } else { 0xffff };
        Self { segment, pointer, mask, long: false, access, error }
    }

    /// With another error code for stack faults.
    pub fn with_error(self, error: u32) -> Self {
        Self { error, ..self }
    }

    /// Pushes the low `size` bytes (2, 4 or 8) of `value`.
    pub fn push<C: Cpu>(&mut self, cpu: &mut C, value: u64, size: u8) -> Result<(), Stop> {
        let pointer = self.pointer.wrapping_sub(u64::from(size));
        let linear = self.linear(cpu, pointer, size)?;
        store_sized(cpu, linear, value, size, self.access)?;
        self.pointer = pointer;
        Ok(())
    }

    /// Pops `size` bytes (2, 4 or 8).
    pub fn pop<C: Cpu>(&mut self, cpu: &mut C, size: u8) -> Result<u64, Stop> {
        let linear = self.linear(cpu, self.pointer, size)?;
        let value = load_sized(cpu, linear, size, self.access)?;
        self.pointer = self.pointer.wrapping_add(u64::from(size));
        Ok(value)
    }

    /// Reads what lies `offset` bytes above the pointer.
    pub fn peek<C: Cpu>(&self, cpu: &mut C, offset: u64, size: u8) -> Result<u64, Stop> {
        let linear = self.linear(cpu, self.pointer.wrapping_add(offset), size)?;
        load_sized(cpu, linear, size, self.access)
    }

    /// Drops `bytes`.
    pub fn skip(&mut self, bytes: u64) {
        self.pointer = self.pointer.wrapping_add(bytes);
    }

    /// The linear address of `size` bytes at `pointer`, checked.
    fn linear<C: Cpu>(&self, cpu: &mut C, pointer: u64, size: u8) -> Result<u64, Stop> {
        let offset = pointer & self.mask;
        let last = offset.wrapping_add(u64::from(size) - 1);
        let within = if self.long {
            canonical(cpu, offset) && canonical(cpu, last)
        } else {
            let attr = self.segment.attr;
            let limit = u64::from(self.segment.limit);
            if attr.kind() & (Attr::CODE | Attr::CONFORMING) == Attr::CONFORMING {
                offset > limit && last <= self.mask
            } else {
                last <= limit
            }
        };
        if !within {
            return Err(cpu.fault(Exception::ss(self.error)));
        }
        let linear = self.segment.base.wrapping_add(offset);
        Ok(if self.long { linear } else { linear & 0xffff_ffff })
    }

    /// Makes the frame's pointer RSP.
    pub fn commit(&self, cpu: &mut impl Regs) {
        set_stack_pointer(cpu, self.pointer, self.mask);
    }

    /// The stack segment, of a frame that [`Frame::legacy`] made.
    pub fn segment(&self) -> Segment {
        self.segment
    }
}

/// Sets RSP at the width of the stack: a 16-bit one keeps the other bits.
pub(super) fn set_stack_pointer(cpu: &mut impl Regs, pointer: u64, mask: u64) {
    let kept = if mask == 0xffff { cpu.gpr(gpr::RSP) & !mask } else { 0 };
    cpu.set_gpr(gpr::RSP, kept | pointer & mask);
}
