//! The stack: [`Stack`], [`push`] and [`pop`] for everything that uses it, and
//! the instructions PUSH, POP, PUSHA, POPA, ENTER, LEAVE, near CALL and RET.
//!
//! PUSHF, POPF, `POP sreg` and far transfers are [`super::system`]'s.

use iced_x86::{Code, Instruction, Mnemonic};

use super::decode::{Mode, by_size};
use super::operand::{
    Destination, Form, Imm, Mem, Reg, Source, access_fault, form, linear, read_register,
    read_sized, truncate_to, write_register, write_sized,
};
use super::width::{Legacy, Long, Width};
use super::{Access, Cpu, Exec, Insn, Int, Stop};
use crate::regs::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::regs::{Attr, Seg};

/// A stack pointer on the move: RSP itself changes with [`Stack::commit`], so
/// that an instruction that makes several accesses can fault at any of them.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    pointer: u64,
    /// Size of the stack pointer in bytes.
    size: u8,
}

impl Stack {
    /// The current stack, at RSP, ESP or SP as the mode and SS say.
    #[inline]
    pub fn new<C: Cpu>(cpu: &C) -> Self {
        let size = stack_size(cpu);
        Self { pointer: read_sized(cpu, RSP, size), size }
    }

    /// The current stack as it would be with `pointer`.
    #[inline]
    pub fn at<C: Cpu>(cpu: &C, pointer: u64) -> Self {
        let size = stack_size(cpu);
        Self { pointer: truncate_to(size, pointer), size }
    }

    /// The stack pointer.
    #[must_use]
    pub const fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Releases (or, if negative, reserves) `bytes`.
    pub fn skip(&mut self, bytes: u64) {
        self.pointer = truncate_to(self.size, self.pointer.wrapping_add(bytes));
    }

    /// Writes `value` below the pointer and moves the pointer there.
    ///
    /// # Errors
    /// If the write faults; the pointer has not moved.
    #[inline]
    pub fn push<C: Cpu, T: Int>(&mut self, cpu: &mut C, value: T) -> Result<(), Stop> {
        let below = self.pointer.wrapping_sub(T::SIZE.into());
        let pointer = truncate_to(self.size, below);
        let linear = linear(cpu, Seg::Ss, pointer, T::SIZE.into(), true)?;
        if let Err(stop) = cpu.store(linear, value, Access::Operand) {
            return Err(access_fault(cpu, Seg::Ss, linear, T::SIZE, stop));
        }
        self.pointer = pointer;
        Ok(())
    }

    /// Reads the value at the pointer, and moves the pointer behind it.
    ///
    /// # Errors
    /// If the read faults; the pointer has not moved.
    #[inline]
    pub fn pop<C: Cpu, T: Int>(&mut self, cpu: &mut C) -> Result<T, Stop> {
        let linear = linear(cpu, Seg::Ss, self.pointer, T::SIZE.into(), false)?;
        let value = match cpu.load(linear, Access::Operand) {
            Ok(value) => value,
            Err(stop) => return Err(access_fault(cpu, Seg::Ss, linear, T::SIZE, stop)),
        };
        self.skip(T::SIZE.into());
        Ok(value)
    }

    /// Pushes the low `size` bytes (2, 4 or 8) of `value`.
    ///
    /// # Errors
    /// As [`Stack::push`].
    pub fn push_sized<C: Cpu>(&mut self, cpu: &mut C, value: u64, size: u8) -> Result<(), Stop> {
        match size {
            2 => self.push(cpu, value as u16),
            4 => self.push(cpu, value as u32),
            _ => self.push(cpu, value),
        }
    }

    /// Pops `size` bytes (2, 4 or 8), zero-extended.
    ///
    /// # Errors
    /// As [`Stack::pop`].
    pub fn pop_sized<C: Cpu>(&mut self, cpu: &mut C, size: u8) -> Result<u64, Stop> {
        match size {
            2 => self.pop::<C, u16>(cpu).map(u64::from),
            4 => self.pop::<C, u32>(cpu).map(u64::from),
            _ => self.pop::<C, u64>(cpu),
        }
    }

    /// Sets RSP, ESP or SP to the pointer.
    #[inline]
    pub fn commit<C: Cpu>(self, cpu: &mut C) {
        write_sized(cpu, RSP, self.size, self.pointer);
    }
}

/// Size of the stack pointer in bytes. See: AMD APM vol. 2, 4.7.3 and 4.8.
pub fn stack_size<C: Cpu>(cpu: &C) -> u8 {
    if cpu.mode64() {
        8
    } else if cpu.segment(Seg::Ss).attr.has(Attr::DB) {
        4
    } else {
        2
    }
}

/// Pushes one value, in any mode.
///
/// # Errors
/// If the write faults; nothing has changed.
pub fn push<C: Cpu, T: Int>(cpu: &mut C, value: T) -> Result<(), Stop> {
    let mut stack = Stack::new(cpu);
    stack.push(cpu, value)?;
    stack.commit(cpu);
    Ok(())
}

/// Pops one value, in any mode.
///
/// # Errors
/// If the read faults; nothing has changed.
pub fn pop<C: Cpu, T: Int>(cpu: &mut C) -> Result<T, Stop> {
    let mut stack = Stack::new(cpu);
    let value = stack.pop(cpu)?;
    stack.commit(cpu);
    Ok(value)
}

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction, mode: Mode) -> Option<Exec<C>> {
    if mode == Mode::Bits64 { pick::<C, Long>(i) } else { pick::<C, Legacy>(i) }
}

fn pick<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Push => pick_push::<C, W>(i),
        Mnemonic::Pop => pick_pop::<C, W>(i),
        Mnemonic::Call => pick_call::<C, W>(i),
        Mnemonic::Ret => pick_ret::<C, W>(i),
        Mnemonic::Enter => Some(match i.code() {
            Code::Enterw_imm16_imm8 => enter::<C, u16>,
            Code::Enterd_imm16_imm8 => enter::<C, u32>,
            _ => enter::<C, u64>,
        }),
        Mnemonic::Leave => Some(match i.code() {
            Code::Leavew => leave::<C, u16>,
            Code::Leaved => leave::<C, u32>,
            _ => leave::<C, u64>,
        }),
        Mnemonic::Pusha => Some(pusha::<C, u16>),
        Mnemonic::Pushad => Some(pusha::<C, u32>),
        Mnemonic::Popa => Some(popa::<C, u16>),
        Mnemonic::Popad => Some(popa::<C, u32>),
        _ => None,
    }
}

/// How many bytes the stack pointer moves.
fn moves(i: &Instruction) -> u32 {
    i.stack_pointer_increment().unsigned_abs()
}

fn push_operand<C: Cpu, T: Int, S: Source<T>, W: Width>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let value = S::read(cpu, insn)?;
    W::push(cpu, value)
}

/// PUSH of a segment register, zero-extended to the operand's size.
fn push_selector<C: Cpu, T: Int, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let selector = cpu.segment(Seg::ALL[usize::from(insn.reg & 7)]).selector;
    W::push(cpu, T::truncate(selector.into()))
}

fn pick_push<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide moves(i), T => match form(i, 0) {
        Form::Register => Some(push_operand::<C, T, Reg, W>),
        Form::Memory => Some(push_operand::<C, T, Mem, W>),
        Form::Immediate => Some(push_operand::<C, T, Imm, W>),
        Form::Segment => Some(push_selector::<C, T, W>),
        Form::Other => None,
    })
}

fn pop_register<C: Cpu, T: Int, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value: T = W::pop(cpu)?;
    write_register(cpu, insn.reg, value);
    Ok(())
}

/// The address is computed with the stack pointer as it is after the pop.
/// See: AMD APM vol. 3, POP.
fn pop_memory<C: Cpu, T: Int, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let pointer = cpu.gpr(RSP);
    let value: T = W::pop(cpu)?;
    let written = Mem::write(cpu, insn, value);
    if written.is_err() {
        cpu.set_gpr(RSP, pointer);
    }
    written
}

fn pick_pop<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide moves(i), T => match form(i, 0) {
        Form::Register => Some(pop_register::<C, T, W>),
        Form::Memory => Some(pop_memory::<C, T, W>),
        _ => None,
    })
}

fn call<C: Cpu, T: Int, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    call_to::<C, T, W>(cpu, insn.disp)
}

fn call_indirect<C: Cpu, T: Int, S: Source<T>, W: Width>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let target = S::read(cpu, insn)?;
    call_to::<C, T, W>(cpu, target.zero_extend())
}

#[inline(always)]
fn call_to<C: Cpu, T: Int, W: Width>(cpu: &mut C, target: u64) -> Result<(), Stop> {
    if W::check_target(cpu, target).is_err() {
        // The faults of the push come first, but nothing is written.
        W::probe_push(cpu, T::SIZE)?;
        return W::check_target(cpu, target);
    }
    let back = cpu.rip();
    W::push(cpu, T::truncate(back))?;
    cpu.set_rip(target);
    Ok(())
}

fn pick_call<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    if i.is_call_near() {
        return by_size!(wide moves(i), T => Some(call::<C, T, W>));
    }
    if !i.is_call_near_indirect() {
        return None;
    }
    by_size!(wide moves(i), T => match form(i, 0) {
        Form::Register => Some(call_indirect::<C, T, Reg, W>),
        Form::Memory => Some(call_indirect::<C, T, Mem, W>),
        _ => None,
    })
}

fn ret<C: Cpu, T: Int, W: Width>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let pointer = cpu.gpr(RSP);
    let target = W::pop::<C, T>(cpu)?.zero_extend();
    if let Err(stop) = W::check_target(cpu, target) {
        cpu.set_gpr(RSP, pointer);
        return Err(stop);
    }
    cpu.set_rip(target);
    Ok(())
}

/// RET with a number of further bytes to release.
fn ret_and_release<C: Cpu, T: Int, W: Width>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let mut stack = Stack::new(cpu);
    let target = stack.pop::<C, T>(cpu)?.zero_extend();
    W::check_target(cpu, target)?;
    stack.skip(insn.immediate() & 0xffff);
    stack.commit(cpu);
    cpu.set_rip(target);
    Ok(())
}

fn pick_ret<C: Cpu, W: Width>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Retnw => ret::<C, u16, W>,
        Code::Retnd => ret::<C, u32, W>,
        Code::Retnq => ret::<C, u64, W>,
        Code::Retnw_imm16 => ret_and_release::<C, u16, W>,
        Code::Retnd_imm16 => ret_and_release::<C, u32, W>,
        Code::Retnq_imm16 => ret_and_release::<C, u64, W>,
        _ => return None,
    })
}

/// Writes the frame pointer at the size of the stack pointer, keeping the rest as an
/// instruction of that size would.
fn enter<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let size = stack_size(cpu);
    let mut stack = Stack::new(cpu);
    stack.push(cpu, read_register::<C, T>(cpu, RBP))?;
    let frame = stack.pointer();
    // The frame pointers of the enclosing procedures.
    let level = insn.extra & 31;
    let mut outer = Stack::at(cpu, cpu.gpr(RBP));
    for _ in 1..level {
        outer.skip(u64::from(T::SIZE).wrapping_neg());
        let mut reader = outer;
        let pointer: T = reader.pop(cpu)?;
        stack.push(cpu, pointer)?;
    }
    if level > 0 {
        stack.push(cpu, T::truncate(frame))?;
    }
    stack.skip((insn.immediate() & 0xffff).wrapping_neg());
    // Faults as a write at the final stack pointer would. See: Intel SDM vol. 2, ENTER.
    let end = linear(cpu, Seg::Ss, stack.pointer(), T::SIZE.into(), true)?;
    if let Err(stop) = cpu.probe_write(end, T::SIZE.into(), Access::Operand) {
        return Err(access_fault(cpu, Seg::Ss, end, T::SIZE, stop));
    }
    stack.commit(cpu);
    write_sized(cpu, RBP, size.min(T::SIZE), frame);
    Ok(())
}

fn leave<C: Cpu, T: Int>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let mut stack = Stack::at(cpu, cpu.gpr(RBP));
    let frame: T = stack.pop(cpu)?;
    stack.commit(cpu);
    write_register(cpu, RBP, frame);
    Ok(())
}

/// The order in which PUSHA pushes.
const ALL: [u8; 8] = [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI];

fn pusha<C: Cpu, T: Int>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let mut stack = Stack::new(cpu);
    for register in ALL {
        stack.push(cpu, read_register::<C, T>(cpu, register))?;
    }
    stack.commit(cpu);
    Ok(())
}

/// The value for the stack pointer is skipped.
fn popa<C: Cpu, T: Int>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    let mut stack = Stack::new(cpu);
    let mut values = [T::truncate(0); 8];
    for value in values.iter_mut().rev() {
        *value = stack.pop(cpu)?;
    }
    stack.commit(cpu);
    for (register, value) in ALL.into_iter().zip(values) {
        if register != RSP {
            write_register(cpu, register, value);
        }
    }
    Ok(())
}
