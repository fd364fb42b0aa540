//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR.
//!
//! Of the components there are three: x87, SSE, and the upper halves of the YMM registers
//! ([`arch_x86::xstate`]). XSAVEOPT leaves out what is as after a reset, but does not track what was
//! modified since it was restored. XSAVES and XRSTORS are not offered.
//! See: Intel SDM vol. 1, 13.6 to 13.10; AMD APM vol. 4.

use arch_x86::emulate::{Access, Cpu, Exec, Insn, Stop, operand};
use arch_x86::exception::Exception;
use arch_x86::regs::{FxArea, SysReg, YmmHigh, gpr, xcr0};
use arch_x86::xstate::{self, AVX_OFFSET, AVX_SIZE, LEGACY_SIZE};
use iced_x86::{Code, Instruction};

use super::state::{self, MXCSR_MASK};
use super::{check, memory};

/// MXCSR after a reset.
const MXCSR_RESET: u32 = 0x1f80;
/// XCOMP_BV: the area has the compacted form.
const COMPACTED: u64 = 1 << 63;

/// How an instruction saves.
mod how {
    /// All that is asked for.
    pub const ALL: u8 = 0;
    /// What is in use.
    pub const OPTIMIZED: u8 = 1;
    /// What is in use, in the compacted form.
    pub const COMPACTED: u8 = 2;
}

/// Picks the function.
pub fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Xsave_mem => save::<C, { how::ALL }, false>,
        Code::Xsave64_mem => save::<C, { how::ALL }, true>,
        Code::Xsaveopt_mem => save::<C, { how::OPTIMIZED }, false>,
        Code::Xsaveopt64_mem => save::<C, { how::OPTIMIZED }, true>,
        Code::Xsavec_mem => save::<C, { how::COMPACTED }, false>,
        Code::Xsavec64_mem => save::<C, { how::COMPACTED }, true>,
        Code::Xrstor_mem => restore::<C, false>,
        Code::Xrstor64_mem => restore::<C, true>,
        _ => return None,
    })
}

/// The components that EDX:EAX asks for and XCR0 has.
fn requested<C: Cpu>(cpu: &C) -> u64 {
    let asked = cpu.gpr(gpr::RDX) << 32 | cpu.gpr(gpr::RAX) & 0xffff_ffff;
    asked & cpu.sysreg(SysReg::Xcr0)
}

/// How many XMM and YMM registers there are.
fn registers<C: Cpu>(cpu: &C) -> usize {
    if cpu.mode64() { 16 } else { 8 }
}

/// The area: where it is, and access to its parts, which have been checked to be there.
struct Area<'a, C> {
    cpu: &'a mut C,
    linear: u64,
    insn: &'a Insn,
}

impl<C: Cpu> Area<'_, C> {
    fn failed(&mut self, stop: Stop) -> Stop {
        operand::access_fault(self.cpu, self.insn.segment(), self.linear, 64, stop)
    }

    fn at(&self, offset: usize) -> u64 {
        self.linear.wrapping_add(offset as u64)
    }

    fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), Stop> {
        let at = self.at(offset);
        let read = self.cpu.load_bytes(at, bytes, Access::Operand);
        read.map_err(|stop| self.failed(stop))
    }

    fn read_word(&mut self, offset: usize) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Stop> {
        let at = self.at(offset);
        let written = self.cpu.store_bytes(at, bytes, Access::Operand);
        written.map_err(|stop| self.failed(stop))
    }

    fn probe(&mut self, offset: usize, size: usize) -> Result<(), Stop> {
        let at = self.at(offset);
        let probed = self.cpu.probe_write(at, size, Access::Operand);
        probed.map_err(|stop| self.failed(stop))
    }
}

fn area<'a, C: Cpu>(
    cpu: &'a mut C,
    insn: &'a Insn,
    size: usize,
    write: bool,
) -> Result<Area<'a, C>, Stop> {
    check::xsave(cpu)?;
    let linear = memory::address_of_area(cpu, insn, size, 64, write)?;
    Ok(Area { cpu, linear, insn })
}

fn save<C: Cpu, const HOW: u8, const W: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let requested = requested(cpu);
    let compacted = HOW == how::COMPACTED;
    let (size, registers) = (xstate::size(requested), registers(cpu));
    let mut in_use = xstate::in_use(cpu) & requested;
    let mut area = area(cpu, insn, size, true)?;
    let image = state::image::<C, W>(area.cpu);
    if compacted && requested & xcr0::SSE != 0 && image.mxcsr() != MXCSR_RESET {
        in_use |= xcr0::SSE;
    }
    let saved = if HOW == how::ALL { requested } else { in_use };
    // MXCSR is AVX's as well but in the compacted form.
    let mxcsr = if compacted { saved & xcr0::SSE } else { requested & (xcr0::SSE | xcr0::AVX) };
    // Only what is written has to be there.
    for (written, offset, size) in [
        (saved & xcr0::X87, 0, 160),
        (mxcsr, 24, 8),
        (saved & xcr0::SSE, 160, 16 * registers),
        (1, LEGACY_SIZE, 16),
        (saved & xcr0::AVX, AVX_OFFSET, 16 * registers),
    ] {
        if written != 0 {
            area.probe(offset, size)?;
        }
    }
    if saved & xcr0::X87 != 0 {
        area.write(0, &image.0[..24])?;
        area.write(32, &image.0[32..160])?;
    }
    if mxcsr != 0 {
        area.write(24, &image.0[24..32])?;
    }
    if saved & xcr0::SSE != 0 {
        area.write(160, &image.0[160..160 + 16 * registers])?;
    }
    if saved & xcr0::AVX != 0 {
        let high = area.cpu.ymm_high().0.map(u128::to_le_bytes);
        area.write(AVX_OFFSET, high[..registers].as_flattened())?;
    }
    let mut components = in_use;
    if !compacted {
        components |= area.read_word(LEGACY_SIZE)? & !requested;
    } else {
        area.write(LEGACY_SIZE + 8, &(requested | COMPACTED).to_le_bytes())?;
    }
    area.write(LEGACY_SIZE, &components.to_le_bytes())
}

fn restore<C: Cpu, const W: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let requested = requested(cpu);
    let registers = registers(cpu);
    let mut area = area(cpu, insn, AVX_OFFSET, false)?;
    let mut header = [0; xstate::HEADER_SIZE];
    area.read(LEGACY_SIZE, &mut header)?;
    let Some((present, compacted)) = components(&header, area.cpu.sysreg(SysReg::Xcr0)) else {
        return Err(area.cpu.fault(Exception::gp(0)));
    };
    let loaded = requested & present;
    let mut image = FxArea([0; LEGACY_SIZE]);
    if loaded & xcr0::X87 != 0 {
        area.read(0, &mut image.0[..24])?;
        area.read(32, &mut image.0[32..160])?;
    }
    let mxcsr = if compacted { loaded & xcr0::SSE } else { requested & (xcr0::SSE | xcr0::AVX) };
    if mxcsr != 0 {
        area.read(24, &mut image.0[24..28])?;
    }
    if loaded & xcr0::SSE != 0 {
        area.read(160, &mut image.0[160..160 + 16 * registers])?;
    }
    if mxcsr != 0 && image.mxcsr() & !MXCSR_MASK != 0 {
        return Err(area.cpu.fault(Exception::gp(0)));
    }
    let mut high = [[0; 16]; 16];
    if loaded & xcr0::AVX != 0 {
        area.read(AVX_OFFSET, high[..registers].as_flattened_mut())?;
    }
    let reset = FxArea::at_reset();
    if requested & xcr0::X87 != 0 {
        let from = if loaded & xcr0::X87 != 0 { &image } else { &reset };
        state::load_x87::<C, W>(cpu, from);
    }
    if mxcsr != 0 {
        cpu.fxsave_mut().set_mxcsr(image.mxcsr());
    } else if compacted && requested & xcr0::SSE != 0 {
        cpu.fxsave_mut().set_mxcsr(MXCSR_RESET);
    }
    if requested & xcr0::SSE != 0 {
        let from = if loaded & xcr0::SSE != 0 { &image } else { &reset };
        let all = 160..160 + 16 * registers;
        cpu.fxsave_mut().0[all.clone()].copy_from_slice(&from.0[all]);
    }
    if requested & xcr0::AVX != 0 {
        let YmmHigh(now) = cpu.ymm_high_mut();
        for (now, saved) in now.iter_mut().zip(high).take(registers) {
            *now = u128::from_le_bytes(saved);
        }
    }
    Ok(())
}

/// Which components the header says are there, and whether the area has the compacted form; `None`
/// if the header is malformed.
fn components(header: &[u8; xstate::HEADER_SIZE], xcr0: u64) -> Option<(u64, bool)> {
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (present, form) = (word(0), word(8));
    let compacted = form & COMPACTED != 0;
    let fine = if compacted {
        form & !COMPACTED & !xcr0 == 0
            && present & !form == 0
            && header[16..].iter().all(|byte| *byte == 0)
    } else {
        present & !xcr0 == 0 && header[8..24].iter().all(|byte| *byte == 0)
    };
    fine.then_some((present, compacted))
}

const _: () = assert!(AVX_SIZE == 16 * 16);
