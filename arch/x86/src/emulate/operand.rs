//! Operands: registers by size, effective addresses, segment checks, and the
//! operand forms that instructions are monomorphised on.
//!
//! The forms are types without values: [`Reg`], [`Rm`], [`Extra`] (registers by the field of
//! [`Insn`] that names them), [`Imm`], [`Mem`], and [`Locked`] (memory under a
//! `LOCK` prefix). An instruction `fn add<C, T, D: Destination<T>, S: Source<T>>`
//! thus has no decision left to make when it runs.
//!
//! Neighbours: [`mod@super::decode`] fills in [`Insn`], [`super::stack`] has the stack.

use iced_x86::{Instruction, OpKind};

use super::{Access, Cpu, Insn, Int, Stop};
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg, cr4};

/// Bit of a byte register's number that says it is AH, CH, DH or BH.
pub const HIGH_BYTE: u8 = 1 << 4;

/// Reads a register at the size of `T`; `n` is as in [`Insn::reg`].
#[inline(always)]
pub fn read_register<C: Cpu, T: Int>(cpu: &C, n: u8) -> T {
    if T::SIZE == 1 {
        T::truncate(cpu.gpr(n & 15) >> (n >> 1 & 8))
    } else {
        T::truncate(cpu.gpr(n))
    }
}

/// Writes a register at the size of `T`: 32 bits clear the upper half, 8 and 16
/// keep the other bits.
#[inline(always)]
pub fn write_register<C: Cpu, T: Int>(cpu: &mut C, n: u8, value: T) {
    let value = value.zero_extend();
    match T::SIZE {
        1 => {
            let shift = n >> 1 & 8;
            let rest = cpu.gpr(n & 15) & !(0xff << shift);
            cpu.set_gpr(n & 15, rest | value << shift);
        }
        2 => {
            let rest = cpu.gpr(n) & !0xffff;
            cpu.set_gpr(n, rest | value);
        }
        _ => cpu.set_gpr(n, value),
    }
}

/// The low `size` bytes of `value`; `size` is 2, 4 or 8.
#[inline(always)]
#[must_use]
pub const fn truncate_to(size: u8, value: u64) -> u64 {
    match size {
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Reads a register at an address size (2, 4 or 8).
#[inline(always)]
pub fn read_sized<C: Cpu>(cpu: &C, n: u8, size: u8) -> u64 {
    truncate_to(size, cpu.gpr(n))
}

/// Writes a register at an address size (2, 4 or 8), as an instruction of that size would.
#[inline(always)]
pub fn write_sized<C: Cpu>(cpu: &mut C, n: u8, size: u8, value: u64) {
    match size {
        2 => write_register(cpu, n, value as u16),
        4 => write_register(cpu, n, value as u32),
        _ => cpu.set_gpr(n, value),
    }
}

/// Whether a linear address is canonical: sign-extended from 48 bits, or from 57 with
/// five levels of paging. See: AMD APM vol. 2, 1.1.3.
#[inline(always)]
#[must_use]
pub fn canonical(regs: &impl Regs, linear: u64) -> bool {
    (linear << 16) as i64 >> 16 == linear as i64 || canonical_of_five_levels(regs, linear)
}

#[cold]
#[inline(never)]
fn canonical_of_five_levels(regs: &impl Regs, linear: u64) -> bool {
    regs.cr4() & cr4::LA57 != 0 && (linear << 7) as i64 >> 7 == linear as i64
}

/// The sum of an address's parts, not yet truncated to the address size.
#[inline(always)]
fn address_sum<C: Cpu>(cpu: &C, insn: &Insn) -> u64 {
    cpu.address_register(insn.base)
        .wrapping_add(cpu.address_register(insn.index) << (insn.scale & 3))
        .wrapping_add(insn.disp)
}

/// The effective address of the memory operand: its offset in its segment.
#[inline(always)]
pub fn effective_address<C: Cpu>(cpu: &C, insn: &Insn) -> u64 {
    truncate_to(insn.address_size, address_sum(cpu, insn))
}

/// [`effective_address`] where the address size is known to be 8.
#[inline(always)]
pub fn effective_address_64<C: Cpu>(cpu: &C, insn: &Insn) -> u64 {
    address_sum(cpu, insn)
}

/// The linear address of the memory operand, checked for an access of `size`
/// bytes (`write`: or for writing). In 64-bit mode whether it is canonical is left to the access:
/// see [`access_fault`].
#[inline(always)]
pub fn linear_address<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: u8,
    write: bool,
) -> Result<u64, Stop> {
    let sum = address_sum(cpu, insn);
    if insn.prefixes & Insn::FLAT != 0 {
        return Ok(sum);
    }
    segmented_operand(cpu, insn, sum, size, write)
}

#[inline(never)]
fn segmented_operand<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    sum: u64,
    size: u8,
    write: bool,
) -> Result<u64, Stop> {
    linear(cpu, insn.segment(), truncate_to(insn.address_size, sum), size.into(), write)
}

/// The linear address of `offset` in `seg`, with the current mode's checks for an access of
/// `size` bytes (at least 1). In 64-bit mode whether it is canonical is left to the access.
///
/// # Errors
/// If a check fails: the fault is recorded.
pub fn linear<C: Cpu>(
    cpu: &mut C,
    seg: Seg,
    offset: u64,
    size: u32,
    write: bool,
) -> Result<u64, Stop> {
    match checked_linear(cpu, seg, offset, size, write) {
        Some(linear) => Ok(linear),
        None => Err(cpu.fault(segment_fault(seg))),
    }
}

/// As [`linear()`], without a fault.
///
/// See: AMD APM vol. 2, 4.7 and 4.12. An access that wraps around at 4 GiB is not
/// split: it faults, if at all, on the limit.
pub fn checked_linear<C: Cpu>(
    cpu: &C,
    seg: Seg,
    offset: u64,
    size: u32,
    write: bool,
) -> Option<u64> {
    if cpu.mode64() {
        return Some(cpu.linear64(seg, offset));
    }
    let segment = cpu.segment(seg);
    let mut expand_down = false;
    if cpu.protected() {
        let attr = segment.attr;
        let code = attr.has(Attr::CODE);
        let allowed = if write { !code && attr.has(Attr::RW) } else { !code || attr.has(Attr::RW) };
        if !attr.has(Attr::P) || !allowed {
            return None;
        }
        expand_down = !code && attr.has(Attr::CONFORMING);
    }
    let last = offset.wrapping_add(u64::from(size)).wrapping_sub(1);
    let limit = u64::from(segment.limit);
    let within = if expand_down {
        let top = if segment.attr.has(Attr::DB) { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    if !within || last < offset {
        return None;
    }
    Some(segment.base.wrapping_add(offset) & 0xffff_ffff)
}

/// The fault of a bad address in `seg`.
#[must_use]
pub const fn segment_fault(seg: Seg) -> Exception {
    match seg {
        Seg::Ss => Exception::ss(0),
        _ => Exception::gp(0),
    }
}

/// Corrects the fault that an access raised: a non-canonical address is #GP to the CPU, which sees
/// only linear addresses, but #SS through the stack segment.
/// See: AMD APM vol. 2, 8.2.13.
#[cold]
#[inline(never)]
pub fn access_fault<C: Cpu>(cpu: &mut C, seg: Seg, linear: u64, size: u8, stop: Stop) -> Stop {
    let last = linear.wrapping_add(u64::from(size)).wrapping_sub(1);
    if stop == Stop::Fault && seg == Seg::Ss && !(canonical(cpu, linear) && canonical(cpu, last)) {
        return cpu.fault(Exception::ss(0));
    }
    stop
}

/// An operand that can be read.
pub trait Source<T: Int> {
    /// Reads it.
    fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<T, Stop>;
}

/// An operand that can be written.
pub trait Destination<T: Int>: Source<T> {
    /// Writes it.
    fn write<C: Cpu>(cpu: &mut C, insn: &Insn, value: T) -> Result<(), Stop>;
    /// Reads, changes and writes it, and gives what was read. `change` may be called more than
    /// once; the last call counts.
    fn update<C: Cpu>(cpu: &mut C, insn: &Insn, change: impl FnMut(T) -> T) -> Result<T, Stop>;
}

/// The register that [`Insn::reg`] names.
pub enum Reg {}
/// The register that [`Insn::rm`] names.
pub enum Rm {}
/// The register that [`Insn::extra`] names.
pub enum Extra {}
/// The immediate, sign-extended from 32 bits.
pub enum Imm {}
/// The 64-bit immediate of `MOV r64, imm64`.
pub enum Imm64 {}
/// The memory operand.
pub enum Mem {}
/// The memory operand, changed atomically.
pub enum Locked {}

macro_rules! register {
    ($form:ty, $field:ident) => {
        impl<T: Int> Source<T> for $form {
            #[inline(always)]
            fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<T, Stop> {
                Ok(read_register(cpu, insn.$field))
            }
        }

        impl<T: Int> Destination<T> for $form {
            #[inline(always)]
            fn write<C: Cpu>(cpu: &mut C, insn: &Insn, value: T) -> Result<(), Stop> {
                write_register(cpu, insn.$field, value);
                Ok(())
            }
            #[inline(always)]
            fn update<C: Cpu>(
                cpu: &mut C,
                insn: &Insn,
                mut change: impl FnMut(T) -> T,
            ) -> Result<T, Stop> {
                let old = read_register(cpu, insn.$field);
                write_register(cpu, insn.$field, change(old));
                Ok(old)
            }
        }
    };
}
register!(Reg, reg);
register!(Rm, rm);
register!(Extra, extra);

impl<T: Int> Source<T> for Imm {
    #[inline(always)]
    fn read<C: Cpu>(_: &mut C, insn: &Insn) -> Result<T, Stop> {
        Ok(T::truncate(insn.immediate()))
    }
}

impl<T: Int> Source<T> for Imm64 {
    #[inline(always)]
    fn read<C: Cpu>(_: &mut C, insn: &Insn) -> Result<T, Stop> {
        Ok(T::truncate(insn.disp))
    }
}

macro_rules! memory {
    ($form:ty, $lock:literal) => {
        impl<T: Int> Source<T> for $form {
            #[inline(always)]
            fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<T, Stop> {
                let linear = linear_address(cpu, insn, T::SIZE, false)?;
                match cpu.load(linear, Access::Operand) {
                    Ok(value) => Ok(value),
                    Err(stop) => Err(access_fault(cpu, insn.segment(), linear, T::SIZE, stop)),
                }
            }
        }

        impl<T: Int> Destination<T> for $form {
            #[inline(always)]
            fn write<C: Cpu>(cpu: &mut C, insn: &Insn, value: T) -> Result<(), Stop> {
                let linear = linear_address(cpu, insn, T::SIZE, true)?;
                match cpu.store(linear, value, Access::Operand) {
                    Ok(()) => Ok(()),
                    Err(stop) => Err(access_fault(cpu, insn.segment(), linear, T::SIZE, stop)),
                }
            }
            #[inline(always)]
            fn update<C: Cpu>(
                cpu: &mut C,
                insn: &Insn,
                change: impl FnMut(T) -> T,
            ) -> Result<T, Stop> {
                let linear = linear_address(cpu, insn, T::SIZE, true)?;
                match cpu.update(linear, $lock, change) {
                    Ok(old) => Ok(old),
                    Err(stop) => Err(access_fault(cpu, insn.segment(), linear, T::SIZE, stop)),
                }
            }
        }
    };
}
memory!(Mem, false);
memory!(Locked, true);

/// The form of an operand, as decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A general-purpose register.
    Register,
    /// Memory addressed by ModRM or an absolute offset.
    Memory,
    /// An immediate.
    Immediate,
    /// A segment register.
    Segment,
    /// Anything else.
    Other,
}

/// The form of operand `n`.
pub(super) fn form(i: &Instruction, n: u32) -> Form {
    match i.op_kind(n) {
        OpKind::Register if i.op_register(n).is_gpr() => Form::Register,
        OpKind::Register if i.op_register(n).is_segment_register() => Form::Segment,
        OpKind::Memory => Form::Memory,
        OpKind::Immediate8
        | OpKind::Immediate8_2nd
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Form::Immediate,
        _ => Form::Other,
    }
}

/// Expands to `$body` with `$F` the form of a destination that is a register ([`Reg`]), memory
/// or, with `LOCK`, [`Locked`]; leaves the function with `None` for another.
macro_rules! by_destination {
    ($i:expr, $F:ident => $body:expr) => {
        match (form($i, 0), $i.has_lock_prefix()) {
            (Form::Register, false) => {
                type $F = Reg;
                $body
            }
            (Form::Memory, false) => {
                type $F = Mem;
                $body
            }
            (Form::Memory, true) => {
                type $F = Locked;
                $body
            }
            _ => return None,
        }
    };
}
pub(super) use by_destination;

/// Expands to `$body` with `$F` the form of operand 1 that is register ([`Rm`]) or memory; leaves
/// the function with `None` for another.
macro_rules! by_source {
    ($i:expr, $F:ident => $body:expr) => {
        match form($i, 1) {
            Form::Register => {
                type $F = Rm;
                $body
            }
            Form::Memory => {
                type $F = Mem;
                $body
            }
            _ => return None,
        }
    };
}
pub(super) use by_source;
