//! Fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS; and the
//! instructions on the bases of FS and GS.
//!
//! By vendor ([`Feature::LegacySyscall`], [`Feature::LongSysenter`]): SYSCALL exists outside
//! 64-bit mode on AMD's processors only, where SYSRET does not look at its target, so that a
//! non-canonical one faults at level 3; SYSENTER exists in long mode on all others.
//!
//! Deviation: SYSRET loads SS's attributes, which AMD's leave alone.
//! See: AMD APM vol. 2, 6.1; vol. 3, SYSCALL, SYSRET; Intel SDM vol. 2, SYSENTER, SYSEXIT.

use super::{gp, ud};
use crate::emulate::operand::canonical;
use crate::emulate::operand::{read_register, write_register};
use crate::emulate::{Cpu, Feature, Insn, Int, Stop};
use crate::regs::{Attr, Regs, Seg, Segment, SysReg, cr0, cr4, efer, gpr, rflags};

/// A flat segment as these instructions load it, without looking at a descriptor.
fn flat(selector: u16, attr: u16, dpl: u16) -> Segment {
    let attr = Attr(attr | Attr::G | Attr::P | Attr::S | Attr::RW | Attr::ACCESSED | dpl << 5);
    Segment { base: 0, limit: u32::MAX, selector, attr }
}

/// Goes to a flat code segment and the stack segment that belongs to it.
fn enter(cpu: &mut impl Regs, code: u16, stack: u16, wide: bool, cpl: u8, rip: u64) {
    let width = if wide { Attr::L } else { Attr::DB };
    cpu.set_segment(Seg::Cs, flat(code, Attr::CODE | width, cpl.into()));
    cpu.set_segment(Seg::Ss, flat(stack, Attr::DB, cpl.into()));
    cpu.set_cpl(cpl);
    cpu.set_rip(rip);
}

/// SYSCALL and SYSRET are to be enabled, and to exist in the current mode.
fn check_syscall<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    let exists = cpu.mode64() || cpu.protected() && cpu.offers(Feature::LegacySyscall);
    if cpu.efer() & efer::SCE == 0 || !exists { Err(ud(cpu)) } else { Ok(()) }
}

pub(super) fn syscall<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_syscall(cpu)?;
    let star = cpu.sysreg(SysReg::Star);
    let selector = (star >> 32) as u16 & !3;
    let (next, flags) = (cpu.rip(), cpu.rflags());
    cpu.set_gpr(gpr::RCX, next);
    if cpu.long_mode() {
        let target = if cpu.mode64() { SysReg::Lstar } else { SysReg::Cstar };
        let rip = cpu.sysreg(target);
        cpu.set_gpr(gpr::R11, flags & !rflags::RF);
        let masked = cpu.sysreg(SysReg::Sfmask) | rflags::RF;
        cpu.set_rflags(flags & !masked | rflags::FIXED);
        enter(cpu, selector, selector.wrapping_add(8), true, 0, rip);
    } else {
        cpu.set_rflags(flags & !(rflags::IF | rflags::VM | rflags::RF));
        enter(cpu, selector, selector.wrapping_add(8), false, 0, star & 0xffff_ffff);
    }
    Ok(())
}

/// SYSRET; `extra` is the operand size: 8 returns to 64-bit code.
pub(super) fn sysret<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_syscall(cpu)?;
    if cpu.cpl() != 0 {
        return Err(gp(cpu, 0));
    }
    let target = cpu.gpr(gpr::RCX);
    if insn.extra == 8 && !cpu.offers(Feature::LegacySyscall) && !canonical(cpu, target) {
        return Err(gp(cpu, 0));
    }
    let selector = (cpu.sysreg(SysReg::Star) >> 48) as u16;
    if cpu.long_mode() {
        // VM and RF cannot come back, and bits without meaning stay clear.
        let allowed = rflags::STATUS
            | rflags::TF
            | rflags::IF
            | rflags::DF
            | rflags::IOPL
            | rflags::NT
            | rflags::AC
            | rflags::VIF
            | rflags::VIP
            | rflags::ID;
        cpu.set_rflags(cpu.gpr(gpr::R11) & allowed | rflags::FIXED);
    } else {
        cpu.set_rflags(cpu.rflags() & !(rflags::VM | rflags::RF) | rflags::IF);
    }
    let stack = selector.wrapping_add(8) | 3;
    let next = cpu.gpr(gpr::RCX);
    if insn.extra == 8 {
        enter(cpu, selector.wrapping_add(16) | 3, stack, true, 3, next);
    } else {
        enter(cpu, selector | 3, stack, false, 3, next & 0xffff_ffff);
    }
    Ok(())
}

/// SYSENTER and SYSEXIT are to exist in the current mode.
fn check_sysenter<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    let missing = cpu.long_mode() && !cpu.offers(Feature::LongSysenter);
    if missing { Err(ud(cpu)) } else { Ok(()) }
}

pub(super) fn sysenter<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_sysenter(cpu)?;
    let selector = cpu.sysreg(SysReg::SysenterCs) as u16 & !3;
    if cpu.cr0() & cr0::PE == 0 || selector == 0 {
        return Err(gp(cpu, 0));
    }
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.set_rflags(cpu.rflags() & !(rflags::VM | rflags::IF | rflags::RF));
    cpu.set_gpr(gpr::RSP, cpu.sysreg(SysReg::SysenterEsp) & mask);
    let rip = cpu.sysreg(SysReg::SysenterEip) & mask;
    enter(cpu, selector, selector.wrapping_add(8), long, 0, rip);
    Ok(())
}

/// SYSEXIT; `extra` is the operand size: 8 returns to 64-bit code.
pub(super) fn sysexit<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_sysenter(cpu)?;
    let selector = cpu.sysreg(SysReg::SysenterCs) as u16 & !3;
    if !cpu.protected() || selector == 0 || cpu.cpl() != 0 {
        return Err(gp(cpu, 0));
    }
    let (rip, rsp) = (cpu.gpr(gpr::RDX), cpu.gpr(gpr::RCX));
    let wide = insn.extra == 8;
    if wide && !(canonical(cpu, rip) && canonical(cpu, rsp)) {
        return Err(gp(cpu, 0));
    }
    let (mask, above) = if wide { (u64::MAX, 32) } else { (0xffff_ffff, 16) };
    cpu.set_gpr(gpr::RSP, rsp & mask);
    let code = selector.wrapping_add(above) | 3;
    enter(cpu, code, code.wrapping_add(8), wide, 3, rip & mask);
    Ok(())
}

pub(super) fn swapgs<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    if !cpu.mode64() {
        return Err(ud(cpu));
    }
    if cpu.cpl() != 0 {
        return Err(gp(cpu, 0));
    }
    let mut gs = cpu.segment(Seg::Gs);
    let other = cpu.sysreg(SysReg::KernelGsBase);
    cpu.set_sysreg(SysReg::KernelGsBase, gs.base);
    gs.base = other;
    cpu.set_segment(Seg::Gs, gs);
    Ok(())
}

/// RDFSBASE and its kin exist in 64-bit mode, if CPUID and CR4 say so.
fn check_base<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    let on = cpu.cr4() & cr4::FSGSBASE != 0;
    if !cpu.mode64() || !on || !cpu.offers(Feature::Fsgsbase) {
        return Err(ud(cpu));
    }
    Ok(())
}

/// RDFSBASE, RDGSBASE; `extra` is the segment.
pub(super) fn read_base<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_base(cpu)?;
    let base = cpu.segment(super::segment_operand(insn)).base;
    write_register(cpu, insn.reg, T::truncate(base));
    Ok(())
}

/// WRFSBASE, WRGSBASE; `extra` is the segment.
pub(super) fn write_base<C: Cpu, T: Int>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_base(cpu)?;
    let base = read_register::<C, T>(cpu, insn.reg).zero_extend();
    if !canonical(cpu, base) {
        return Err(gp(cpu, 0));
    }
    let seg = super::segment_operand(insn);
    let old = cpu.segment(seg);
    cpu.set_segment(seg, Segment { base, ..old });
    Ok(())
}
