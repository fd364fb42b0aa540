//! Instructions that the run loop answers (CPUID, RDMSR, WRMSR, HLT, hypercalls), and
//! small ones on time, identity and caches.
//!
//! See: AMD APM vol. 3, the instructions.

use super::{check_privileged, gp, ud};
use crate::emulate::operand::{linear, write_register};
use crate::emulate::{Access, Cpu, Feature, Insn, Int, Stop};
use crate::engine::Intercept;
use crate::regs::{SysReg, cr4, gpr};

pub(super) fn cpuid<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    Err(cpu.intercept(Intercept::Cpuid { len: insn.len }))
}

pub(super) fn rdmsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    Err(cpu.intercept(Intercept::ReadMsr { len: insn.len }))
}

pub(super) fn wrmsr<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    Err(cpu.intercept(Intercept::WriteMsr { len: insn.len }))
}

pub(super) fn hlt<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    Err(cpu.intercept(Intercept::Halt { len: insn.len }))
}

/// VMCALL and VMMCALL, at any level: who answers decides what a user may ask for.
pub(super) fn hypercall<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    Err(cpu.intercept(Intercept::Hypercall { len: insn.len }))
}

/// INVD, WBINVD, WBNOINVD: guest memory is coherent without them.
pub(super) fn cache<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)
}

/// CR4.TSD keeps the time from all but level 0.
fn check_time<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr4() & cr4::TSD != 0 { check_privileged(cpu) } else { Ok(()) }
}

fn set_pair<C: Cpu>(cpu: &mut C, value: u64) {
    cpu.set_gpr(gpr::RAX, value & 0xffff_ffff);
    cpu.set_gpr(gpr::RDX, value >> 32);
}

pub(super) fn rdtsc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_time(cpu)?;
    let now = cpu.tsc();
    set_pair(cpu, now);
    Ok(())
}

pub(super) fn rdtscp<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Rdtscp) {
        return Err(ud(cpu));
    }
    rdtsc(cpu, insn)?;
    cpu.set_gpr(gpr::RCX, cpu.sysreg(SysReg::TscAux) & 0xffff_ffff);
    Ok(())
}

pub(super) fn rdpid<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Rdpid) {
        return Err(ud(cpu));
    }
    write_register(cpu, insn.reg, cpu.sysreg(SysReg::TscAux) as u32);
    Ok(())
}

/// RDPMC: there are no performance counters.
pub(super) fn rdpmc<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    Err(gp(cpu, 0))
}

pub(super) fn serialize<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Serialize) {
        return Err(ud(cpu));
    }
    cpu.serialize();
    Ok(())
}

fn check_monitor<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if !cpu.offers(Feature::Monitor) || cpu.cpl() != 0 {
        return Err(ud(cpu));
    }
    if cpu.gpr(gpr::RCX) as u32 != 0 {
        return Err(gp(cpu, 0));
    }
    Ok(())
}

/// MONITOR: touches the address, as a load does, and arms nothing.
pub(super) fn monitor<C: Cpu, A: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_monitor(cpu)?;
    let offset = A::truncate(cpu.gpr(gpr::RAX)).zero_extend();
    let linear = linear(cpu, insn.segment(), offset, 1, false)?;
    cpu.load::<u8>(linear, Access::Operand).map(|_| ())
}

/// MWAIT: wakes up at once, as it may.
pub(super) fn mwait<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_monitor(cpu)
}
