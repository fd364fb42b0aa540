//! String instructions: MOVS, STOS, LODS, CMPS, SCAS, alone and repeated.
//!
//! A repeated one does a bounded part of its work in one execution, up to about a page, and
//! leaves RIP at itself while work remains, so that interrupts can be taken
//! in between. On a fault RCX, RSI and RDI stand at the element that faulted. INS and OUTS are
//! [`super::system`]'s.

use iced_x86::{Instruction, Mnemonic};

use super::decode::by_size;
use super::operand::{
    access_fault, checked_linear, linear, read_register, read_sized, truncate_to, write_register,
    write_sized,
};
use super::{Access, Cpu, Exec, Insn, Int, Status, Stop};
use crate::regs::gpr::{RAX, RCX, RDI, RSI};
use crate::regs::{Seg, rflags};

/// Bytes that one execution handles at most.
const BATCH: u64 = 4096;
/// Size of a page.
const PAGE: u64 = 4096;
/// Bytes below which the bulk routines are not worth their set-up.
const BULK_FROM: u64 = 32;

/// Picks the semantics of an instruction of this file.
pub(super) fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    match i.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => pick::<C, Movs>(i),
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => pick::<C, Stos>(i),
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => pick::<C, Lods>(i),
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => pick::<C, Cmps>(i),
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => pick::<C, Scas>(i),
        _ => None,
    }
}

/// MOVSD and CMPSD are also vector instructions, hence the question for the kind.
fn pick<C: Cpu, O: Element>(i: &Instruction) -> Option<Exec<C>> {
    if !i.is_string_instruction() {
        return None;
    }
    let repeats = i.has_rep_prefix() || i.has_repne_prefix();
    by_size!(i.memory_size().size(), T => Some(match repeats {
        true => repeated::<C, T, O>,
        false => single::<C, T, O>,
    }))
}

/// What is done to one element.
trait Element {
    /// Whether RSI moves.
    const SOURCE: bool;
    /// Whether RDI moves.
    const DESTINATION: bool;
    /// Whether flags are set, and end the repetition.
    const COMPARES: bool = false;

    /// Handles the element at offsets `at`. The status counts if [`COMPARES`](Self::COMPARES).
    fn once<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn, at: Offsets) -> Result<Status, Stop>;

    /// Handles some of the next `count` elements upwards at once; 0 if that is not possible.
    fn bulk<C: Cpu, T: Int>(_: &mut C, _: &Insn, _: Offsets, _count: u64) -> Result<u64, Stop> {
        Ok(0)
    }
}

/// RSI and RDI at the address size.
#[derive(Clone, Copy)]
struct Offsets {
    source: u64,
    destination: u64,
}

impl Offsets {
    #[inline(always)]
    fn new<C: Cpu>(cpu: &C, insn: &Insn) -> Self {
        Self {
            source: read_sized(cpu, RSI, insn.address_size),
            destination: read_sized(cpu, RDI, insn.address_size),
        }
    }
}

/// Reads the element at `seg:offset`.
#[inline(always)]
fn load<C: Cpu, T: Int>(cpu: &mut C, seg: Seg, offset: u64) -> Result<T, Stop> {
    let linear = linear(cpu, seg, offset, T::SIZE.into(), false)?;
    match cpu.load(linear, Access::Operand) {
        Ok(value) => Ok(value),
        Err(stop) => Err(access_fault(cpu, seg, linear, T::SIZE, stop)),
    }
}

/// Writes the element at `ES:offset`.
#[inline(always)]
fn store<C: Cpu, T: Int>(cpu: &mut C, offset: u64, value: T) -> Result<(), Stop> {
    let linear = linear(cpu, Seg::Es, offset, T::SIZE.into(), true)?;
    cpu.store(linear, value, Access::Operand)
}

/// MOVS.
enum Movs {}
/// STOS.
enum Stos {}
/// LODS.
enum Lods {}
/// CMPS.
enum Cmps {}
/// SCAS.
enum Scas {}

impl Element for Movs {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn once<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn, at: Offsets) -> Result<Status, Stop> {
        let value: T = load(cpu, insn.segment(), at.source)?;
        store(cpu, at.destination, value)?;
        Ok(Status::default())
    }

    fn bulk<C: Cpu, T: Int>(
        cpu: &mut C,
        insn: &Insn,
        at: Offsets,
        count: u64,
    ) -> Result<u64, Stop> {
        let wanted = count * u64::from(T::SIZE);
        let Some((from, room)) = page_room(cpu, insn, insn.segment(), at.source, wanted, false)
        else {
            return Ok(0);
        };
        let Some((to, room)) = page_room(cpu, insn, Seg::Es, at.destination, room, true) else {
            return Ok(0);
        };
        // A copy onto bytes just ahead repeats them: not more than the distance in one go.
        let ahead = to.wrapping_sub(from);
        let room = if ahead == 0 { room } else { room.min(ahead) };
        let bytes = room & !u64::from(T::SIZE - 1);
        if bytes < BULK_FROM {
            return Ok(0);
        }
        let done = cpu.copy_within_pages(from, to, bytes as usize, T::SIZE)?;
        Ok(done as u64 / u64::from(T::SIZE))
    }
}

impl Element for Stos {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn once<C: Cpu, T: Int>(cpu: &mut C, _: &Insn, at: Offsets) -> Result<Status, Stop> {
        let value: T = read_register(cpu, RAX);
        store(cpu, at.destination, value)?;
        Ok(Status::default())
    }

    fn bulk<C: Cpu, T: Int>(
        cpu: &mut C,
        insn: &Insn,
        at: Offsets,
        count: u64,
    ) -> Result<u64, Stop> {
        let wanted = count * u64::from(T::SIZE);
        let Some((to, room)) = page_room(cpu, insn, Seg::Es, at.destination, wanted, true) else {
            return Ok(0);
        };
        let bytes = room & !u64::from(T::SIZE - 1);
        if bytes < BULK_FROM {
            return Ok(0);
        }
        let pattern = read_register::<C, T>(cpu, RAX).zero_extend();
        let done = cpu.fill_within_page(to, bytes as usize, pattern, T::SIZE)?;
        Ok(done as u64 / u64::from(T::SIZE))
    }
}

impl Element for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;

    #[inline(always)]
    fn once<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn, at: Offsets) -> Result<Status, Stop> {
        let value: T = load(cpu, insn.segment(), at.source)?;
        write_register(cpu, RAX, value);
        Ok(Status::default())
    }
}

/// The flags of `a - b`.
#[inline(always)]
fn compared<T: Int>(a: T, b: T) -> Status {
    let (a, b) = (a.zero_extend(), b.zero_extend());
    Status::difference::<T>(a, b, a.wrapping_sub(b))
}

impl Element for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn once<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn, at: Offsets) -> Result<Status, Stop> {
        let a: T = load(cpu, insn.segment(), at.source)?;
        let b: T = load(cpu, Seg::Es, at.destination)?;
        Ok(compared(a, b))
    }
}

impl Element for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const COMPARES: bool = true;

    #[inline(always)]
    fn once<C: Cpu, T: Int>(cpu: &mut C, _: &Insn, at: Offsets) -> Result<Status, Stop> {
        let b: T = load(cpu, Seg::Es, at.destination)?;
        Ok(compared(read_register(cpu, RAX), b))
    }
}

/// The linear address of `seg:offset`, and how many of `wanted` bytes from it are within its page, the
/// segment and the address size; `None` if that cannot be said.
fn page_room<C: Cpu>(
    cpu: &C,
    insn: &Insn,
    seg: Seg,
    offset: u64,
    wanted: u64,
    write: bool,
) -> Option<(u64, u64)> {
    let linear = checked_linear(cpu, seg, offset, 1, write)?;
    let mut room = wanted.min(PAGE - linear % PAGE);
    if insn.address_size < 8 {
        room = room.min((1 << (8 * insn.address_size)) - offset);
    }
    checked_linear(cpu, seg, offset, room as u32, write)?;
    Some((linear, room))
}

/// Moves RSI and RDI by `bytes`, as far as `O` uses them.
#[inline(always)]
fn advance<C: Cpu, O: Element>(cpu: &mut C, insn: &Insn, at: Offsets, bytes: u64) {
    if O::SOURCE {
        write_sized(cpu, RSI, insn.address_size, at.source.wrapping_add(bytes));
    }
    if O::DESTINATION {
        write_sized(cpu, RDI, insn.address_size, at.destination.wrapping_add(bytes));
    }
}

fn single<C: Cpu, T: Int, O: Element>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let size = u64::from(T::SIZE);
    let down = cpu.rflags() & rflags::DF != 0;
    let at = Offsets::new(cpu, insn);
    let status = O::once::<C, T>(cpu, insn, at)?;
    advance::<C, O>(cpu, insn, at, if down { size.wrapping_neg() } else { size });
    if O::COMPARES {
        cpu.set_status(status);
    }
    Ok(())
}

/// Sets the flags of the last element, if there was one and they count.
#[inline(always)]
fn set_compared<C: Cpu, O: Element>(cpu: &mut C, compared: Option<Status>) {
    if let (true, Some(status)) = (O::COMPARES, compared) {
        cpu.set_status(status);
    }
}

/// A fault leaves the flags of the element before, as AMD's processors do. (Intel's have those from
/// before the instruction, which the guest cannot tell from an interrupt's work in between.)
fn repeated<C: Cpu, T: Int, O: Element>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let size = u64::from(T::SIZE);
    let flags = cpu.rflags();
    let down = flags & rflags::DF != 0;
    let step = if down { size.wrapping_neg() } else { size };
    let mut count = read_sized(cpu, RCX, insn.address_size);
    // A step is one element. See: AMD APM vol. 2, 13.1.4.
    let mut budget = if flags & rflags::TF != 0 { 1 } else { BATCH / size };
    let mut compared = None;
    while count != 0 && budget != 0 {
        let at = Offsets::new(cpu, insn);
        let part = count.min(budget);
        let mut done = 0;
        if !O::COMPARES && !down && part * size >= BULK_FROM {
            done = O::bulk::<C, T>(cpu, insn, at, part)?;
        }
        if done == 0 {
            match O::once::<C, T>(cpu, insn, at) {
                Ok(status) => compared = Some(status),
                Err(stop) => {
                    set_compared::<C, O>(cpu, compared);
                    return Err(stop);
                }
            }
            done = 1;
        }
        advance::<C, O>(cpu, insn, at, step.wrapping_mul(done));
        count -= done;
        budget -= done;
        write_sized(cpu, RCX, insn.address_size, count);
        if O::COMPARES && compared.is_some_and(|status| status.zf() != insn.has(Insn::REP)) {
            count = 0;
        }
    }
    set_compared::<C, O>(cpu, compared);
    if count != 0 {
        let start = cpu.rip().wrapping_sub(insn.len.into());
        cpu.set_rip(truncate_to(if cpu.mode64() { 8 } else { 4 }, start));
    }
    Ok(())
}
