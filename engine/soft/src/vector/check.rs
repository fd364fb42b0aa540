//! Whether the guest lets x87, MMX and SSE instructions execute.
//!
//! See: AMD APM vol. 2, 11.2 (enabling media instructions); Intel SDM vol. 3, 2.5
//! (CR0, table 2-2) and 13.1.

use arch_x86::emulate::{Cpu, Stop};
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{SysReg, cr0, cr4, xcr0};

use super::image;

/// SSE: #UD with CR0.EM or without CR4.OSFXSR, #NM with CR0.TS.
#[inline(always)]
pub fn sse<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr0() & (cr0::EM | cr0::TS) == 0 && cpu.cr4() & cr4::OSFXSR != 0 {
        return Ok(());
    }
    Err(refuse_sse(cpu))
}

#[cold]
#[inline(never)]
fn refuse_sse<C: Cpu>(cpu: &mut C) -> Stop {
    let undefined = cpu.cr0() & cr0::EM != 0 || cpu.cr4() & cr4::OSFXSR == 0;
    cpu.fault(if undefined { Exception::ud() } else { Exception::plain(exception::NM) })
}

/// AVX: #UD without CR4.OSXSAVE or if XCR0 does not have it on, #NM with CR0.TS. CR0.EM does not
/// matter. Outside protected mode there is no VEX prefix. See: Intel SDM vol. 2, 2.4.
#[inline(always)]
pub fn avx<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    const ON: u64 = xcr0::SSE | xcr0::AVX;
    let on = cpu.cr4() & cr4::OSXSAVE != 0 && cpu.sysreg(SysReg::Xcr0) & ON == ON;
    if on && cpu.cr0() & cr0::TS == 0 && cpu.protected() {
        return Ok(());
    }
    Err(refuse_avx(cpu, on))
}

#[cold]
#[inline(never)]
fn refuse_avx<C: Cpu>(cpu: &mut C, on: bool) -> Stop {
    let defined = on && cpu.protected();
    cpu.fault(if defined { Exception::plain(exception::NM) } else { Exception::ud() })
}

/// XSAVE and its kin: #UD without CR4.OSXSAVE, #NM with CR0.TS.
pub fn xsave<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr4() & cr4::OSXSAVE == 0 {
        return Err(cpu.fault(Exception::ud()));
    }
    if cpu.cr0() & cr0::TS != 0 {
        return Err(cpu.fault(Exception::plain(exception::NM)));
    }
    Ok(())
}

/// MMX: #UD with CR0.EM, #NM with CR0.TS, #MF with an x87 exception pending.
pub fn mmx<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr0() & cr0::EM != 0 {
        return Err(cpu.fault(Exception::ud()));
    }
    x87_waiting(cpu)
}

/// x87 instructions that do not wait, FXSAVE and FXRSTOR: #NM with CR0.EM or CR0.TS.
pub fn x87<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr0() & (cr0::EM | cr0::TS) != 0 {
        return Err(cpu.fault(Exception::plain(exception::NM)));
    }
    Ok(())
}

/// All other x87 instructions: also #MF with an exception pending.
pub fn x87_waiting<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    x87(cpu)?;
    no_pending(cpu)
}

/// FWAIT: #NM with both CR0.MP and CR0.TS, #MF with an exception pending.
pub fn wait<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr0() & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(cpu.fault(Exception::plain(exception::NM)));
    }
    no_pending(cpu)
}

/// Deviation: with CR0.NE clear the processor would assert FERR# for the interrupt controller to
/// raise IRQ 13; here it is #MF then, too, as under hardware virtualization.
fn no_pending<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if image::pending(cpu.fxsave()) {
        return Err(cpu.fault(Exception::plain(exception::MF)));
    }
    Ok(())
}
