//! Memory operands of vector instructions, of 1 to 512 bytes.
//!
//! Segments and effective addresses are `arch_x86::emulate::operand`'s.

use arch_x86::emulate::{Access, Cpu, Insn, Stop, operand};
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{cr0, rflags};

/// Size of a number of extended precision, and of a decimal one.
const EXTENDED: u8 = 10;

/// Whether 16 bytes at `linear` are in one 4 KiB page, and both halves aligned: then two accesses fault
/// as one. No operand of 16 bytes raises #AC: it is #GP or nothing.
#[inline(always)]
fn in_halves(linear: u64) -> bool {
    linear & 0xfff <= 0xff0 && linear & 7 == 0
}

/// #AC for an operand that is misaligned where that is checked. Other sizes are the access's own.
/// See: Intel SDM vol. 3, table 7-7 (alignment requirements by data type).
fn check_alignment<C: Cpu>(cpu: &mut C, linear: u64, alignment: u64) -> Result<(), Stop> {
    let checked = cpu.cpl() == 3 && cpu.cr0() & cr0::AM != 0 && cpu.rflags() & rflags::AC != 0;
    if checked && !linear.is_multiple_of(alignment) {
        return Err(cpu.fault(Exception::with_error(exception::AC, 0)));
    }
    Ok(())
}

/// The same for an area of `size` bytes that consists of words of `alignment` bytes.
pub fn check_words<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: usize,
    alignment: u64,
    write: bool,
) -> Result<(), Stop> {
    let linear = address_of_area(cpu, insn, size, 1, write)?;
    check_alignment(cpu, linear, alignment)
}

/// The linear address of the 16-byte operand. Not aligned, it is #GP whatever the segment.
#[inline(always)]
fn address_16<C: Cpu>(cpu: &mut C, insn: &Insn, aligned: bool, write: bool) -> Result<u64, Stop> {
    let linear = operand::linear_address(cpu, insn, 16, write)?;
    if aligned && linear & 15 != 0 {
        return Err(misaligned(cpu));
    }
    Ok(linear)
}

#[cold]
#[inline(never)]
fn misaligned<C: Cpu>(cpu: &mut C) -> Stop {
    cpu.fault(Exception::gp(0))
}

/// Reads the operand of 16 bytes.
#[inline(always)]
pub fn load_16<C: Cpu>(cpu: &mut C, insn: &Insn, aligned: bool) -> Result<u128, Stop> {
    let linear = address_16(cpu, insn, aligned, false)?;
    match load_16_at(cpu, linear) {
        Ok(value) => Ok(value),
        Err(stop) => Err(operand::access_fault(cpu, insn.segment(), linear, 16, stop)),
    }
}

#[inline(always)]
fn load_16_at<C: Cpu>(cpu: &mut C, linear: u64) -> Result<u128, Stop> {
    if in_halves(linear) {
        let low: u64 = cpu.load(linear, Access::Operand)?;
        let high: u64 = cpu.load(linear.wrapping_add(8), Access::Operand)?;
        return Ok(u128::from(high) << 64 | u128::from(low));
    }
    let mut bytes = [0; 16];
    cpu.load_bytes(linear, &mut bytes, Access::Operand)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Writes the operand of 16 bytes.
#[inline(always)]
pub fn store_16<C: Cpu>(cpu: &mut C, insn: &Insn, aligned: bool, value: u128) -> Result<(), Stop> {
    let linear = address_16(cpu, insn, aligned, true)?;
    match store_16_at(cpu, linear, value) {
        Ok(()) => Ok(()),
        Err(stop) => Err(operand::access_fault(cpu, insn.segment(), linear, 16, stop)),
    }
}

#[inline(always)]
fn store_16_at<C: Cpu>(cpu: &mut C, linear: u64, value: u128) -> Result<(), Stop> {
    if in_halves(linear) {
        cpu.store(linear, value as u64, Access::Operand)?;
        return cpu.store(linear.wrapping_add(8), (value >> 64) as u64, Access::Operand);
    }
    cpu.store_bytes(linear, &value.to_le_bytes(), Access::Operand)
}

/// Reads the operand of `size` bytes, at most 16.
#[inline(always)]
pub fn load<C: Cpu>(cpu: &mut C, insn: &Insn, size: u8, aligned: bool) -> Result<u128, Stop> {
    if size == 16 {
        return load_16(cpu, insn, aligned);
    }
    let linear = operand::linear_address(cpu, insn, size, false)?;
    let value = match size {
        1 => cpu.load::<u8>(linear, Access::Operand).map(u128::from),
        2 => cpu.load::<u16>(linear, Access::Operand).map(u128::from),
        4 => cpu.load::<u32>(linear, Access::Operand).map(u128::from),
        8 => cpu.load::<u64>(linear, Access::Operand).map(u128::from),
        _ => load_odd(cpu, linear, size),
    };
    value.map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, size, stop))
}

#[inline(never)]
fn load_odd<C: Cpu>(cpu: &mut C, linear: u64, size: u8) -> Result<u128, Stop> {
    if size == EXTENDED {
        check_alignment(cpu, linear, 8)?;
    }
    let mut bytes = [0; 16];
    cpu.load_bytes(linear, &mut bytes[..usize::from(size.min(16))], Access::Operand)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Writes the operand of `size` bytes, at most 16, that need not be aligned.
#[inline(always)]
pub fn store<C: Cpu>(cpu: &mut C, insn: &Insn, size: u8, value: u128) -> Result<(), Stop> {
    let linear = operand::linear_address(cpu, insn, size, true)?;
    let stored = match size {
        1 => cpu.store(linear, value as u8, Access::Operand),
        2 => cpu.store(linear, value as u16, Access::Operand),
        4 => cpu.store(linear, value as u32, Access::Operand),
        8 => cpu.store(linear, value as u64, Access::Operand),
        _ => store_odd(cpu, linear, size, value),
    };
    stored.map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, size, stop))
}

#[inline(never)]
fn store_odd<C: Cpu>(cpu: &mut C, linear: u64, size: u8, value: u128) -> Result<(), Stop> {
    if size == EXTENDED {
        check_alignment(cpu, linear, 8)?;
    }
    let bytes = value.to_le_bytes();
    cpu.store_bytes(linear, &bytes[..usize::from(size.min(16))], Access::Operand)
}

/// The linear address of the operand of `size` bytes, at most 32; aligned to that if `aligned`,
/// or else #GP.
#[inline(always)]
fn address<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: usize,
    aligned: bool,
    write: bool,
) -> Result<u64, Stop> {
    let linear = operand::linear_address(cpu, insn, size as u8, write)?;
    if aligned && linear & (size as u64 - 1) != 0 {
        return Err(misaligned(cpu));
    }
    Ok(linear)
}

/// Reads the operand of `size` bytes, at most 32, which is the upper one of two numbers then.
#[inline(always)]
pub fn load_wide<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: usize,
    aligned: bool,
) -> Result<[u128; 2], Stop> {
    if size <= 16 {
        return Ok([load(cpu, insn, size as u8, aligned)?, 0]);
    }
    let linear = address(cpu, insn, 32, aligned, false)?;
    let value = if linear & 0xfff <= 0xfe0 {
        load_16_at(cpu, linear).and_then(|low| Ok([low, load_16_at(cpu, linear.wrapping_add(16))?]))
    } else {
        let mut bytes = [[0; 16]; 2];
        cpu.load_bytes(linear, bytes.as_flattened_mut(), Access::Operand)
            .map(|()| bytes.map(u128::from_le_bytes))
    };
    value.map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 32, stop))
}

/// Writes the operand of `size` bytes, at most 32.
#[inline(always)]
pub fn store_wide<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: usize,
    aligned: bool,
    value: [u128; 2],
) -> Result<(), Stop> {
    match size {
        16 => return store_16(cpu, insn, aligned, value[0]),
        0..16 => return store(cpu, insn, size as u8, value[0]),
        _ => {}
    }
    let linear = address(cpu, insn, 32, aligned, true)?;
    let stored = if linear & 0xfff <= 0xfe0 {
        store_16_at(cpu, linear, value[0])
            .and_then(|()| store_16_at(cpu, linear.wrapping_add(16), value[1]))
    } else {
        let bytes = value.map(u128::to_le_bytes);
        cpu.store_bytes(linear, bytes.as_flattened(), Access::Operand)
    };
    stored.map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 32, stop))
}

/// What is accessed in pieces faults as a whole if its end is not canonical, before its pages do.
pub fn check_end<C: Cpu>(cpu: &mut C, insn: &Insn, linear: u64, size: u8) -> Result<(), Stop> {
    let last = linear.wrapping_add(u64::from(size)).wrapping_sub(1);
    if operand::canonical(cpu, last) {
        return Ok(());
    }
    let stop = cpu.fault(Exception::gp(0));
    Err(operand::access_fault(cpu, insn.segment(), linear, size, stop))
}

/// Reads the operand of 8 bytes of an instruction that does not check its alignment: in two pieces, of
/// sizes that have none. See: Intel SDM vol. 2, 2.4, "Exceptions Type 11".
pub fn load_unchecked<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<u64, Stop> {
    let linear = operand::linear_address(cpu, insn, 8, false)?;
    check_end(cpu, insn, linear, 8)?;
    let mut bytes = [0; 8];
    let (first, rest) = bytes.split_at_mut(1);
    cpu.load_bytes(linear, first, Access::Operand)
        .and_then(|()| cpu.load_bytes(linear.wrapping_add(1), rest, Access::Operand))
        .map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 8, stop))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The same for writing.
pub fn store_unchecked<C: Cpu>(cpu: &mut C, insn: &Insn, value: u64) -> Result<(), Stop> {
    let linear = operand::linear_address(cpu, insn, 8, true)?;
    check_end(cpu, insn, linear, 8)?;
    let next = linear.wrapping_add(1);
    let bytes = value.to_le_bytes();
    let (first, rest) = bytes.split_at(1);
    cpu.probe_write(linear, 1, Access::Operand)
        .and_then(|()| cpu.probe_write(next, 7, Access::Operand))
        .and_then(|()| cpu.store_bytes(linear, first, Access::Operand))
        .and_then(|()| cpu.store_bytes(next, rest, Access::Operand))
        .map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 8, stop))
}

/// The linear address of an operand of `size` bytes, aligned to `alignment` or else #GP.
pub fn address_of_area<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    size: usize,
    alignment: u64,
    write: bool,
) -> Result<u64, Stop> {
    let offset = operand::effective_address(cpu, insn);
    let linear = operand::linear(cpu, insn.segment(), offset, size as u32, write)?;
    if linear & (alignment - 1) != 0 {
        return Err(misaligned(cpu));
    }
    Ok(linear)
}

/// Fills `area` (at most 512 bytes) from the operand.
pub fn load_area<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    area: &mut [u8],
    alignment: u64,
) -> Result<(), Stop> {
    let linear = address_of_area(cpu, insn, area.len(), alignment, false)?;
    cpu.load_bytes(linear, area, Access::Operand)
        .map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 64, stop))
}

/// Writes `area` (at most 512 bytes) to the start of the operand, which has `size` bytes.
pub fn store_area<C: Cpu>(
    cpu: &mut C,
    insn: &Insn,
    area: &[u8],
    size: usize,
    alignment: u64,
) -> Result<(), Stop> {
    let linear = address_of_area(cpu, insn, size, alignment, true)?;
    let probed = match size == area.len() {
        true => Ok(()),
        false => cpu.probe_write(linear, size, Access::Operand),
    };
    probed
        .and_then(|()| cpu.store_bytes(linear, area, Access::Operand))
        .map_err(|stop| operand::access_fault(cpu, insn.segment(), linear, 64, stop))
}
