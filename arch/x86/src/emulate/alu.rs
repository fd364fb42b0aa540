//! Addition, subtraction and logic: ADD, OR, ADC, SBB, AND, SUB, XOR, CMP,
//! TEST, INC, DEC, NOT, NEG, ADCX, ADOX.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Form, Imm, Locked, Mem, Reg, Rm, Source, by_destination, by_source, form,
};
use super::{Cpu, Exec, Feature, Insn, Int, Status, Stop};
use crate::exception::Exception;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Add => pick_binary::<C, Add>(i),
        Mnemonic::Or => pick_binary::<C, Or>(i),
        Mnemonic::Adc => pick_binary::<C, Adc>(i),
        Mnemonic::Sbb => pick_binary::<C, Sbb>(i),
        Mnemonic::And => pick_binary::<C, And>(i),
        Mnemonic::Sub => pick_binary::<C, Sub>(i),
        Mnemonic::Xor => pick_binary::<C, Xor>(i),
        Mnemonic::Cmp => pick_compare::<C, Sub>(i),
        Mnemonic::Test => pick_compare::<C, And>(i),
        Mnemonic::Inc => pick_unary::<C, Inc>(i),
        Mnemonic::Dec => pick_unary::<C, Dec>(i),
        Mnemonic::Not => pick_unary::<C, Not>(i),
        Mnemonic::Neg => pick_unary::<C, Neg>(i),
        Mnemonic::Adcx => pick_adx::<C, false>(i),
        Mnemonic::Adox => pick_adx::<C, true>(i),
        _ => None,
    }
}

/// An operation on two operands.
trait Binary {
    /// Its result and flags.
    fn apply<T: Int>(a: T, b: T, status: Status) -> (T, Status);
}

macro_rules! arithmetic {
    ($(#[$doc:meta] $name:ident = $flags:ident($a:ident, $b:ident, $carry:ident) $value:expr;)*) => {$(
        #[$doc]
        enum $name {}
        impl Binary for $name {
            #[inline(always)]
            fn apply<T: Int>(a: T, b: T, status: Status) -> (T, Status) {
                let ($a, $b) = (a.zero_extend(), b.zero_extend());
                let $carry = status.carries >> 63;
                let result = $value;
                (T::truncate(result), Status::$flags::<T>($a, $b, result))
            }
        }
    )*};
}
arithmetic! {
    /// ADD.
    Add = sum(a, b, _carry) a.wrapping_add(b);
    /// ADC.
    Adc = sum(a, b, carry) a.wrapping_add(b).wrapping_add(carry);
    /// SUB and CMP.
    Sub = difference(a, b, _carry) a.wrapping_sub(b);
    /// SBB.
    Sbb = difference(a, b, carry) a.wrapping_sub(b).wrapping_sub(carry);
}

macro_rules! logic {
    ($(#[$doc:meta] $name:ident = $operator:tt;)*) => {$(
        #[$doc]
        enum $name {}
        impl Binary for $name {
            #[inline(always)]
            fn apply<T: Int>(a: T, b: T, _: Status) -> (T, Status) {
                let result = T::truncate(a.zero_extend() $operator b.zero_extend());
                (result, Status::logic(result))
            }
        }
    )*};
}
logic! {
    /// AND and TEST.
    And = &;
    /// OR.
    Or = |;
    /// XOR.
    Xor = ^;
}

fn binary<C: Cpu, T: Int, O: Binary, D: Destination<T>, S: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let b = S::read(cpu, insn)?;
    let before = cpu.status();
    let mut after = before;
    D::update(cpu, insn, |a| {
        let (result, status) = O::apply(a, b, before);
        after = status;
        result
    })?;
    cpu.set_status(after);
    Ok(())
}

fn compare<C: Cpu, T: Int, O: Binary, D: Source<T>, S: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let a = D::read(cpu, insn)?;
    let b = S::read(cpu, insn)?;
    let (_, status) = O::apply(a, b, cpu.status());
    cpu.set_status(status);
    Ok(())
}

fn pick_binary<C: Cpu, O: Binary>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => {
        Some(match (form(i, 0), form(i, 1), i.has_lock_prefix()) {
            (Form::Register, Form::Register, false) => binary::<C, T, O, Reg, Rm>,
            (Form::Register, Form::Immediate, false) => binary::<C, T, O, Reg, Imm>,
            (Form::Register, Form::Memory, false) => binary::<C, T, O, Reg, Mem>,
            (Form::Memory, Form::Register, false) => binary::<C, T, O, Mem, Rm>,
            (Form::Memory, Form::Immediate, false) => binary::<C, T, O, Mem, Imm>,
            (Form::Memory, Form::Register, true) => binary::<C, T, O, Locked, Rm>,
            (Form::Memory, Form::Immediate, true) => binary::<C, T, O, Locked, Imm>,
            _ => return None,
        })
    })
}

fn pick_compare<C: Cpu, O: Binary>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => {
        Some(match (form(i, 0), form(i, 1)) {
            (Form::Register, Form::Register) => compare::<C, T, O, Reg, Rm>,
            (Form::Register, Form::Immediate) => compare::<C, T, O, Reg, Imm>,
            (Form::Register, Form::Memory) => compare::<C, T, O, Reg, Mem>,
            (Form::Memory, Form::Register) => compare::<C, T, O, Mem, Rm>,
            (Form::Memory, Form::Immediate) => compare::<C, T, O, Mem, Imm>,
            _ => return None,
        })
    })
}

/// An operation on one operand.
trait Unary {
    /// Its result and flags.
    fn apply<T: Int>(a: T, status: Status) -> (T, Status);
}

/// INC.
enum Inc {}
/// DEC.
enum Dec {}
/// NOT.
enum Not {}
/// NEG.
enum Neg {}

impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Int>(a: T, status: Status) -> (T, Status) {
        let (result, after) = Add::apply(a, T::truncate(1), status);
        (result, after.with_cf(status.cf()))
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Int>(a: T, status: Status) -> (T, Status) {
        let (result, after) = Sub::apply(a, T::truncate(1), status);
        (result, after.with_cf(status.cf()))
    }
}

impl Unary for Not {
    #[inline(always)]
    fn apply<T: Int>(a: T, status: Status) -> (T, Status) {
        (T::truncate(!a.zero_extend()), status)
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Int>(a: T, status: Status) -> (T, Status) {
        Sub::apply(T::truncate(0), a, status)
    }
}

fn unary<C: Cpu, T: Int, O: Unary, D: Destination<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let before = cpu.status();
    let mut after = before;
    D::update(cpu, insn, |a| {
        let (result, status) = O::apply(a, before);
        after = status;
        result
    })?;
    cpu.set_status(after);
    Ok(())
}

fn pick_unary<C: Cpu, O: Unary>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 0), T => by_destination!(i, D => Some(unary::<C, T, O, D>)))
}

/// ADCX, and with `OVERFLOW` ADOX: addition that reads and writes one flag only.
fn adx<C: Cpu, T: Int, S: Source<T>, const OVERFLOW: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    if !cpu.offers(Feature::Adx) {
        return Err(cpu.fault(Exception::ud()));
    }
    let b = S::read(cpu, insn)?.zero_extend();
    let a: T = Reg::read(cpu, insn)?;
    let status = cpu.status();
    let carry = if OVERFLOW { status.of() } else { status.cf() };
    let sum = u128::from(a.zero_extend()) + u128::from(b) + u128::from(carry);
    let carry = sum >> T::BITS != 0;
    Reg::write(cpu, insn, T::truncate(sum as u64))?;
    cpu.set_status(match OVERFLOW {
        false => status.with_cf(carry),
        true => status.with_cf_of(status.cf(), carry),
    });
    Ok(())
}

fn pick_adx<C: Cpu, const OVERFLOW: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, S => Some(adx::<C, T, S, OVERFLOW>)))
}
