//! FXSAVE, FXRSTOR, LDMXCSR, STMXCSR and EMMS, and what of them XSAVE and AVX's forms share.
//!
//! See: AMD APM vol. 2, 11.4.4; vol. 4 (LDMXCSR); vol. 5 (FXSAVE, FXRSTOR).

use arch_x86::emulate::{Cpu, Exec, Insn, Stop};
use arch_x86::exception::Exception;
use arch_x86::regs::{FxArea, efer};
use iced_x86::{Code, Instruction};

use super::{check, image, memory};

/// The bits of MXCSR that may be set. (AMD's misaligned mode, bit 17, is not offered.)
pub const MXCSR_MASK: u32 = 0xffff;

/// Picks the function.
pub fn lower<C: Cpu>(i: &Instruction) -> Option<Exec<C>> {
    Some(match i.code() {
        Code::Fxsave_m512byte => fxsave::<C, false>,
        Code::Fxsave64_m512byte => fxsave::<C, true>,
        Code::Fxrstor_m512byte => fxrstor::<C, false>,
        Code::Fxrstor64_m512byte => fxrstor::<C, true>,
        Code::Ldmxcsr_m32 => ldmxcsr,
        Code::Stmxcsr_m32 => stmxcsr,
        Code::Emms => emms,
        _ => return None,
    })
}

/// How much of the area an instruction accesses: what lies behind the last register is left alone,
/// outside of 64-bit mode also XMM8–15, with EFER.FFXSR all XMM registers.
fn accessed<C: Cpu>(cpu: &C) -> usize {
    match (cpu.mode64(), cpu.cpl()) {
        (true, 0) if cpu.efer() & efer::FFXSR != 0 => 160,
        (true, _) => 416,
        (false, _) => 288,
    }
}

/// The registers as FXSAVE stores them; `W`: with addresses of 64 bits.
pub fn image<C: Cpu, const W: bool>(cpu: &C) -> FxArea {
    let mut area = *cpu.fxsave();
    if !W {
        // The selectors, and what is reserved behind them.
        area.0[12..16].fill(0);
        area.0[20..24].fill(0);
    }
    area.0[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    area
}

fn fxsave<C: Cpu, const W: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let area = image::<C, W>(cpu);
    let size = accessed(cpu);
    memory::store_area(cpu, insn, &area.0[..size], area.0.len(), 16)
}

fn fxrstor<C: Cpu, const W: bool>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::x87(cpu)?;
    let mut area = FxArea([0; 512]);
    let size = accessed(cpu);
    // All of it has to be there.
    memory::load_area(cpu, insn, &mut area.0, 16)?;
    if area.mxcsr() & !MXCSR_MASK != 0 {
        return Err(cpu.fault(Exception::gp(0)));
    }
    load_x87::<C, W>(cpu, &area);
    let fx = cpu.fxsave_mut();
    fx.set_mxcsr(area.mxcsr());
    let registers = 160..size;
    fx.0[registers.clone()].copy_from_slice(&area.0[registers]);
    Ok(())
}

/// Loads the x87 part of `area`; `W`: with addresses of 64 bits.
pub fn load_x87<C: Cpu, const W: bool>(cpu: &mut C, area: &FxArea) {
    let fx = cpu.fxsave_mut();
    image::set_control_and_status(fx, image::fcw(area), image::fsw(area));
    image::set_tags(fx, image::tags(area));
    image::set_fop(fx, image::fop(area));
    let pointer = |value: u64| if W { value } else { value & 0xffff_ffff };
    image::set_fip(fx, pointer(image::fip(area)));
    image::set_fdp(fx, pointer(image::fdp(area)));
    for i in 0..8 {
        let (significand, exponent) = image::st(area, i);
        image::set_st(fx, i, significand, exponent);
    }
}

fn ldmxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    load_mxcsr(cpu, insn)
}

/// LDMXCSR, once it may execute.
pub fn load_mxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value = memory::load(cpu, insn, 4, false)? as u32;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.fault(Exception::gp(0)));
    }
    cpu.fxsave_mut().set_mxcsr(value);
    Ok(())
}

fn stmxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check::sse(cpu)?;
    store_mxcsr(cpu, insn)
}

/// STMXCSR, once it may execute.
pub fn store_mxcsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let value = cpu.fxsave().mxcsr();
    memory::store(cpu, insn, 4, value.into())
}

fn emms<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check::mmx(cpu)?;
    let fx = cpu.fxsave_mut();
    image::set_top(fx, 0);
    image::set_tags(fx, 0);
    Ok(())
}
