//! Shifts and rotations: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD, and BMI2's SHLX,
//! SHRX, SARX, RORX.
//!
//! Where the manuals leave a flag undefined, what AMD's processors (Zen) do.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{Destination, Extra, Form, Imm, Mem, Reg, Rm, Source, by_source, form};
use super::{Cpu, Exec, Feature, Insn, Int, Status, Stop};
use crate::exception::Exception;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => pick_shift::<C, Shl>(i),
        Mnemonic::Shr => pick_shift::<C, Shr>(i),
        Mnemonic::Sar => pick_shift::<C, Sar>(i),
        Mnemonic::Rol => pick_shift::<C, Rol>(i),
        Mnemonic::Ror => pick_shift::<C, Ror>(i),
        Mnemonic::Rcl => pick_shift::<C, Rcl>(i),
        Mnemonic::Rcr => pick_shift::<C, Rcr>(i),
        Mnemonic::Shld => pick_double::<C, false>(i),
        Mnemonic::Shrd => pick_double::<C, true>(i),
        Mnemonic::Shlx => pick_flagless::<C, Shl>(i),
        Mnemonic::Shrx => pick_flagless::<C, Shr>(i),
        Mnemonic::Sarx => pick_flagless::<C, Sar>(i),
        Mnemonic::Rorx => pick_flagless::<C, Ror>(i),
        _ => None,
    }
}

/// The bits of a count that matter.
const fn count_mask<T: Int>() -> u32 {
    if T::SIZE == 8 { 63 } else { 31 }
}

/// Bit `n` of `value`.
#[inline(always)]
const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// A shift by `count`, which is masked but not zero.
trait Shift {
    fn apply<T: Int>(a: T, count: u32, status: Status) -> (T, Status);
}

/// SHL.
enum Shl {}
/// SHR.
enum Shr {}
/// SAR.
enum Sar {}
/// ROL.
enum Rol {}
/// ROR.
enum Ror {}
/// RCL.
enum Rcl {}
/// RCR.
enum Rcr {}

impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, _: Status) -> (T, Status) {
        let a = a.zero_extend();
        let result = a << count;
        let cf = if T::SIZE == 8 { bit(a, 64 - count) } else { bit(result, T::BITS) };
        let of = bit(result, T::BITS - 1) ^ cf;
        let result = T::truncate(result);
        (result, Status::new(result, cf, of, true))
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, _: Status) -> (T, Status) {
        let a = a.zero_extend();
        let result = a >> count;
        let of = bit(result, T::BITS - 2);
        let cf = bit(a, count - 1);
        let result = T::truncate(result);
        (result, Status::new(result, cf, of, true))
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, _: Status) -> (T, Status) {
        let a = a.sign_extend() as i64;
        let result = T::truncate((a >> count) as u64);
        let cf = bit((a >> (count - 1)) as u64, 0);
        (result, Status::new(result, cf, false, true))
    }
}

impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, status: Status) -> (T, Status) {
        let result = rotate_left(a, count);
        let bits = result.zero_extend();
        let cf = bit(bits, 0);
        (result, status.with_cf_of(cf, bit(bits, T::BITS - 1) ^ cf))
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, status: Status) -> (T, Status) {
        let result = rotate_left(a, count.wrapping_neg());
        let bits = result.zero_extend();
        let cf = bit(bits, T::BITS - 1);
        (result, status.with_cf_of(cf, cf ^ bit(bits, T::BITS - 2)))
    }
}

/// Rotates by `count` modulo the operand's size.
#[inline(always)]
fn rotate_left<T: Int>(a: T, count: u32) -> T {
    let a = a.zero_extend();
    let count = count & (T::BITS - 1);
    // In two steps: a shift by 64 would be one by 0.
    T::truncate(a << count | a >> 1 >> (T::BITS - 1 - count))
}

impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, status: Status) -> (T, Status) {
        let a = a.zero_extend();
        let count = count % (T::BITS + 1);
        let mut cf = status.cf();
        let mut result = a;
        if count != 0 {
            result = a << count | u64::from(cf) << (count - 1) | a >> 1 >> (T::BITS - count);
            cf = bit(a, T::BITS - count);
        }
        let of = bit(result, T::BITS - 1) ^ cf;
        (T::truncate(result), status.with_cf_of(cf, of))
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, status: Status) -> (T, Status) {
        let a = a.zero_extend();
        let count = count % (T::BITS + 1);
        let mut cf = status.cf();
        let mut result = a;
        if count != 0 {
            let left = T::BITS - count;
            result = a >> count | u64::from(cf) << left | a << 1 << left;
            cf = bit(a, count - 1);
        }
        let of = bit(result, T::BITS - 1) ^ bit(result, T::BITS - 2);
        (T::truncate(result), status.with_cf_of(cf, of))
    }
}

/// With a count of 0 flags stay, but the destination is written (which clears a 32-bit register's
/// upper half).
fn shift<C: Cpu, T: Int, O: Shift, D: Destination<T>, S: Source<u8>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let count = u32::from(S::read(cpu, insn)?) & count_mask::<T>();
    let before = cpu.status();
    let mut after = before;
    D::update(cpu, insn, |a| {
        if count == 0 {
            return a;
        }
        let (result, status) = O::apply(a, count, before);
        after = status;
        result
    })?;
    cpu.set_status(after);
    Ok(())
}

/// The count is an immediate, or CL as a second register operand.
fn pick_shift<C: Cpu, O: Shift>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => match (form(i, 0), form(i, 1)) {
        (Form::Register, Form::Immediate) => Some(shift::<C, T, O, Reg, Imm>),
        (Form::Register, Form::Register) => Some(shift::<C, T, O, Reg, Rm>),
        (Form::Memory, Form::Immediate) => Some(shift::<C, T, O, Mem, Imm>),
        (Form::Memory, Form::Register) => Some(shift::<C, T, O, Mem, Rm>),
        _ => None,
    })
}

/// SHLD, and with `RIGHT` SHRD.
fn double<C: Cpu, T: Int, D: Destination<T>, S: Source<u8>, const RIGHT: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let count = u32::from(S::read(cpu, insn)?) & count_mask::<T>();
    let b = Rm::read(cpu, insn)?;
    let before = cpu.status();
    let mut after = before;
    D::update(cpu, insn, |a| {
        if count == 0 {
            return a;
        }
        let (result, status) =
            if RIGHT { double_right(a, b, count) } else { double_left(a, b, count) };
        after = status;
        result
    })?;
    cpu.set_status(after);
    Ok(())
}

/// `a` with `b` behind it, and for 16-bit operands `b` again, which a count above 16 reaches (and then
/// clears CF, and here OF).
#[inline(always)]
fn double_left<T: Int>(a: T, b: T, count: u32) -> (T, Status) {
    let (a, b) = (u128::from(a.zero_extend()), u128::from(b.zero_extend()));
    let (wide, below) = match T::BITS {
        16 => (a << 32 | b << 16 | b, 32),
        _ => (a << T::BITS | b, T::BITS),
    };
    // The last bit shifted out, then the result, stand above `below` bits.
    let shifted = wide >> (below - count);
    let within = count <= T::BITS;
    let cf = within && wide >> (below + T::BITS - count) & 1 != 0;
    let result = T::truncate(shifted as u64);
    let of = count < T::BITS && bit(result.zero_extend(), T::BITS - 1) ^ cf;
    (result, Status::new(result, cf, of, true))
}

/// `a` with `b` before it, and for 16-bit operands `b` again.
#[inline(always)]
fn double_right<T: Int>(a: T, b: T, count: u32) -> (T, Status) {
    let (a, b) = (u128::from(a.zero_extend()), u128::from(b.zero_extend()));
    let again = if T::BITS == 16 { b << 32 } else { 0 };
    let shifted = (again | b << T::BITS | a) >> (count - 1);
    let cf = count <= T::BITS && shifted & 1 != 0;
    let result = T::truncate((shifted >> 1) as u64);
    let bits = result.zero_extend();
    let of = bit(bits, T::BITS - 1) ^ bit(bits, T::BITS - 2);
    (result, Status::new(result, cf, of, true))
}

fn pick_double<C: Cpu, const RIGHT: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => match (form(i, 0), form(i, 2)) {
        (Form::Register, Form::Immediate) => Some(double::<C, T, Reg, Imm, RIGHT>),
        (Form::Register, Form::Register) => Some(double::<C, T, Reg, Extra, RIGHT>),
        (Form::Memory, Form::Immediate) => Some(double::<C, T, Mem, Imm, RIGHT>),
        (Form::Memory, Form::Register) => Some(double::<C, T, Mem, Extra, RIGHT>),
        _ => None,
    })
}

/// SHLX, SHRX, SARX, RORX: into another register, flags unchanged.
fn flagless<C: Cpu, T: Int, O: Shift, V: Source<T>, S: Source<u8>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    if !cpu.offers(Feature::Bmi2) {
        return Err(cpu.fault(Exception::ud()));
    }
    let value = V::read(cpu, insn)?;
    let count = u32::from(S::read(cpu, insn)?) & count_mask::<T>();
    let result = if count == 0 { value } else { O::apply(value, count, Status::default()).0 };
    Reg::write(cpu, insn, result)
}

fn pick_flagless<C: Cpu, O: Shift>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, V => match form(i, 2) {
        Form::Register => Some(flagless::<C, T, O, V, Extra>),
        _ => Some(flagless::<C, T, O, V, Imm>),
    }))
}
