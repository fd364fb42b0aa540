//! Bits: BT, BTS, BTR, BTC, BSF, BSR, TZCNT, LZCNT, POPCNT, BMI1, BMI2's PDEP, PEXT and BZHI, CRC32.
//!
//! Where the manuals leave a flag undefined, what AMD's processors (Zen) do.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{by_size, operand_size};
use super::operand::{
    Destination, Extra, Form, Imm, Locked, Mem, Reg, Rm, Source, access_fault, by_source,
    effective_address, form, linear, read_register, truncate_to,
};
use super::{Access, Cpu, Exec, Feature, Insn, Int, Status, Stop};
use crate::exception::Exception;
use crate::regs::rflags;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Bt => pick_test::<C, Test>(i),
        Mnemonic::Bts => pick_test::<C, Set>(i),
        Mnemonic::Btr => pick_test::<C, Reset>(i),
        Mnemonic::Btc => pick_test::<C, Complement>(i),
        Mnemonic::Bsf => pick_scan::<C, false>(i),
        Mnemonic::Bsr => pick_scan::<C, true>(i),
        Mnemonic::Tzcnt => pick_zeros::<C, false>(i),
        Mnemonic::Lzcnt => pick_zeros::<C, true>(i),
        Mnemonic::Popcnt => {
            by_size!(wide operand_size(i, 0), T => by_source!(i, S => Some(popcnt::<C, T, S>)))
        }
        Mnemonic::Andn => pick_third::<C, Andn>(i),
        Mnemonic::Pdep => pick_third::<C, Pdep>(i),
        Mnemonic::Pext => pick_third::<C, Pext>(i),
        Mnemonic::Bextr => pick_second::<C, Bextr>(i),
        Mnemonic::Bzhi => pick_second::<C, Bzhi>(i),
        Mnemonic::Blsi => pick_lowest::<C, Blsi>(i),
        Mnemonic::Blsr => pick_lowest::<C, Blsr>(i),
        Mnemonic::Blsmsk => pick_lowest::<C, Blsmsk>(i),
        Mnemonic::Crc32 => pick_crc(i),
        _ => None,
    }
}

/// #UD unless CPUID offers `feature`.
#[inline(always)]
fn require<C: Cpu>(cpu: &mut C, feature: Feature) -> Result<(), Stop> {
    if cpu.offers(feature) { Ok(()) } else { Err(cpu.fault(Exception::ud())) }
}

/// What BT and its kin do to the bit.
trait Change {
    const READS_ONLY: bool = false;
    fn apply(value: u64, bit: u64) -> u64;
}

/// BT.
enum Test {}
/// BTS.
enum Set {}
/// BTR.
enum Reset {}
/// BTC.
enum Complement {}

impl Change for Test {
    const READS_ONLY: bool = true;
    #[inline(always)]
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}
impl Change for Set {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}
impl Change for Reset {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}
impl Change for Complement {
    #[inline(always)]
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// A bit of a register, or with an immediate of memory: its number is taken modulo the operand's size.
fn test<C: Cpu, T: Int, O: Change, D: Destination<T>, S: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let number = S::read(cpu, insn)?.zero_extend() & u64::from(T::BITS - 1);
    let change = |value: T| T::truncate(O::apply(value.zero_extend(), 1 << number));
    let old = if O::READS_ONLY { D::read(cpu, insn)? } else { D::update(cpu, insn, change)? };
    set_cf(cpu, old.zero_extend() >> number & 1 != 0);
    Ok(())
}

/// A bit of memory with its number in a register: a signed offset of any size from the address.
fn test_string<C: Cpu, T: Int, O: Change, const LOCK: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let number = read_register::<C, T>(cpu, insn.rm).sign_extend() as i64;
    let words = number >> T::BITS.trailing_zeros();
    let bytes = (words as u64).wrapping_mul(T::SIZE.into());
    let number = number as u64 & u64::from(T::BITS - 1);
    let offset = effective_address(cpu, insn).wrapping_add(bytes);
    let offset = truncate_to(insn.address_size, offset);
    let linear = linear(cpu, insn.segment(), offset, T::SIZE.into(), !O::READS_ONLY)?;
    let change = |value: T| T::truncate(O::apply(value.zero_extend(), 1 << number));
    let old: Result<T, Stop> = match O::READS_ONLY {
        true => cpu.load(linear, Access::Operand),
        false => cpu.update(linear, LOCK, change),
    };
    match old {
        Ok(old) => set_cf(cpu, old.zero_extend() >> number & 1 != 0),
        Err(stop) => return Err(access_fault(cpu, insn.segment(), linear, T::SIZE, stop)),
    }
    Ok(())
}

#[inline(always)]
fn set_cf<C: Cpu>(cpu: &mut C, cf: bool) {
    let status = cpu.status();
    cpu.set_status(status.with_cf(cf));
}

fn pick_test<C: Cpu, O: Change>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => {
        Some(match (form(i, 0), form(i, 1), i.has_lock_prefix()) {
            (Form::Register, Form::Register, false) => test::<C, T, O, Reg, Rm>,
            (Form::Register, Form::Immediate, false) => test::<C, T, O, Reg, Imm>,
            (Form::Memory, Form::Immediate, false) => test::<C, T, O, Mem, Imm>,
            (Form::Memory, Form::Immediate, true) => test::<C, T, O, Locked, Imm>,
            (Form::Memory, Form::Register, false) => test_string::<C, T, O, false>,
            (Form::Memory, Form::Register, true) => test_string::<C, T, O, true>,
            _ => return None,
        })
    })
}

/// Flags of a count: PF is clear whatever the count.
#[inline(always)]
fn count_status(count: u32) -> Status {
    let odd = !count.count_ones() & 1;
    Status { result: count.into(), carries: u64::from(odd) << 8 }
}

/// BSF, and with `REVERSE` BSR. A source of zero leaves the destination alone.
#[inline(always)]
fn scan_value<C: Cpu, T: Int, const REVERSE: bool>(
    cpu: &mut C,
    insn: &Insn,
    value: u64,
) -> Result<(), Stop> {
    if value != 0 {
        let number = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
        Reg::write(cpu, insn, T::truncate(number.into()))?;
        // Not ZF, and the number's parity.
        let even = !number.count_ones() & 1;
        cpu.set_status(Status::from_bits(u64::from(even) << 2));
        return Ok(());
    }
    cpu.set_status(Status::from_bits(rflags::ZF | rflags::PF));
    Ok(())
}

fn scan<C: Cpu, T: Int, S: Source<T>, const REVERSE: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let value = S::read(cpu, insn)?.zero_extend();
    scan_value::<C, T, REVERSE>(cpu, insn, value)
}

fn pick_scan<C: Cpu, const REVERSE: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, S => Some(scan::<C, T, S, REVERSE>)))
}

/// TZCNT, and with `LEADING` LZCNT: where they are not offered, BSF and BSR.
fn zeros<C: Cpu, T: Int, S: Source<T>, const LEADING: bool>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    let value = S::read(cpu, insn)?.zero_extend();
    if !cpu.offers(if LEADING { Feature::Lzcnt } else { Feature::Bmi1 }) {
        return scan_value::<C, T, LEADING>(cpu, insn, value);
    }
    let count = match LEADING {
        true => value.leading_zeros() - (64 - T::BITS),
        false => value.trailing_zeros().min(T::BITS),
    };
    Reg::write(cpu, insn, T::truncate(count.into()))?;
    let of = cpu.status().of();
    cpu.set_status(count_status(count).with_cf_of(count == T::BITS, of));
    Ok(())
}

fn pick_zeros<C: Cpu, const LEADING: bool>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, S => Some(zeros::<C, T, S, LEADING>)))
}

fn popcnt<C: Cpu, T: Int, S: Source<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    require(cpu, Feature::Popcnt)?;
    let value = S::read(cpu, insn)?.zero_extend();
    Reg::write(cpu, insn, T::truncate(value.count_ones().into()))?;
    cpu.set_status(Status::from_bits(u64::from(value == 0) << 6));
    Ok(())
}

/// An operation of BMI1 or BMI2 on two sources.
trait Extract {
    const FEATURE: Feature;
    /// BEXTR's flags: SF is clear, AF set.
    const FIELD: bool = false;
    /// The result and CF; without, all flags stay.
    fn apply<T: Int>(a: u64, b: u64) -> (u64, Option<bool>);
}

/// ANDN.
enum Andn {}
/// PDEP.
enum Pdep {}
/// PEXT.
enum Pext {}
/// BEXTR.
enum Bextr {}
/// BZHI.
enum Bzhi {}

impl Extract for Andn {
    const FEATURE: Feature = Feature::Bmi1;
    #[inline(always)]
    fn apply<T: Int>(a: u64, b: u64) -> (u64, Option<bool>) {
        (!a & b, Some(false))
    }
}

impl Extract for Pdep {
    const FEATURE: Feature = Feature::Bmi2;
    #[inline]
    fn apply<T: Int>(mut a: u64, mut mask: u64) -> (u64, Option<bool>) {
        let mut result = 0;
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            if a & 1 != 0 {
                result |= lowest;
            }
            a >>= 1;
            mask ^= lowest;
        }
        (result, None)
    }
}

impl Extract for Pext {
    const FEATURE: Feature = Feature::Bmi2;
    #[inline]
    fn apply<T: Int>(a: u64, mut mask: u64) -> (u64, Option<bool>) {
        let mut result = 0;
        let mut to = 1u64;
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            if a & lowest != 0 {
                result |= to;
            }
            to <<= 1;
            mask ^= lowest;
        }
        (result, None)
    }
}

impl Extract for Bextr {
    const FEATURE: Feature = Feature::Bmi1;
    const FIELD: bool = true;
    #[inline(always)]
    fn apply<T: Int>(a: u64, control: u64) -> (u64, Option<bool>) {
        let (start, length) = (control as u8, (control >> 8) as u8);
        let shifted = a.checked_shr(start.into()).unwrap_or(0);
        let mask = 1u64.checked_shl(length.into()).map_or(u64::MAX, |bit| bit - 1);
        (shifted & mask, Some(false))
    }
}

impl Extract for Bzhi {
    const FEATURE: Feature = Feature::Bmi2;
    #[inline(always)]
    fn apply<T: Int>(a: u64, control: u64) -> (u64, Option<bool>) {
        let from = u32::from(control as u8);
        if from < T::BITS { (a & ((1 << from) - 1), Some(false)) } else { (a, Some(true)) }
    }
}

fn extract<C: Cpu, T: Int, O: Extract, A: Source<T>, B: Source<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    require(cpu, O::FEATURE)?;
    let a = A::read(cpu, insn)?.zero_extend();
    let b = B::read(cpu, insn)?.zero_extend();
    let (result, cf) = O::apply::<T>(a, b);
    let result = T::truncate(result);
    Reg::write(cpu, insn, result)?;
    if let Some(cf) = cf {
        let mut status = Status::new(result, cf, false, O::FIELD);
        if O::FIELD {
            // Bit 16 turns SF around.
            status.carries |= u64::from(status.sf()) << 16;
        }
        cpu.set_status(status);
    }
    Ok(())
}

/// The third operand may be memory.
fn pick_third<C: Cpu, O: Extract>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => match form(i, 2) {
        Form::Register => Some(extract::<C, T, O, Rm, Extra>),
        _ => Some(extract::<C, T, O, Rm, Mem>),
    })
}

/// The second operand may be memory.
fn pick_second<C: Cpu, O: Extract>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => {
        by_source!(i, S => Some(extract::<C, T, O, S, Extra>))
    })
}

/// An operation on the lowest set bit.
trait Lowest {
    /// The result of `a` and `a - 1`; CF is set if `a == 0`, or for BLSI if not.
    fn apply(a: u64, less: u64) -> u64;
    const CF_IF_ZERO: bool = true;
}

/// BLSI.
enum Blsi {}
/// BLSR.
enum Blsr {}
/// BLSMSK.
enum Blsmsk {}

impl Lowest for Blsi {
    const CF_IF_ZERO: bool = false;
    #[inline(always)]
    fn apply(a: u64, less: u64) -> u64 {
        a & !less
    }
}
impl Lowest for Blsr {
    #[inline(always)]
    fn apply(a: u64, less: u64) -> u64 {
        a & less
    }
}
impl Lowest for Blsmsk {
    #[inline(always)]
    fn apply(a: u64, less: u64) -> u64 {
        a ^ less
    }
}

fn lowest<C: Cpu, T: Int, O: Lowest, S: Source<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    require(cpu, Feature::Bmi1)?;
    let a = S::read(cpu, insn)?.zero_extend();
    let result = T::truncate(O::apply(a, a.wrapping_sub(1)));
    Reg::write(cpu, insn, result)?;
    cpu.set_status(Status::new(result, (a == 0) == O::CF_IF_ZERO, false, false));
    Ok(())
}

fn pick_lowest<C: Cpu, O: Lowest>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(wide operand_size(i, 0), T => by_source!(i, S => Some(lowest::<C, T, O, S>)))
}

/// The polynomial of CRC32C, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The remainders of all bytes.
static REMAINDERS: [u32; 256] = remainders();

const fn remainders() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 != 0 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
}

/// CRC32's destination is always cleared above 32 bits.
fn crc<C: Cpu, T: Int, S: Source<T>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    require(cpu, Feature::Sse42)?;
    let value = S::read(cpu, insn)?.zero_extend();
    let mut rest: u32 = Reg::read(cpu, insn)?;
    for byte in value.to_le_bytes().into_iter().take(T::SIZE.into()) {
        rest = rest >> 8 ^ REMAINDERS[usize::from(rest as u8 ^ byte)];
    }
    Reg::write(cpu, insn, rest)
}

fn pick_crc<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    by_size!(operand_size(i, 1), T => by_source!(i, S => Some(crc::<C, T, S>)))
}
