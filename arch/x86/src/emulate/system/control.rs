//! Control registers: MOV CR, LMSW, SMSW, CLTS, EFER's rules, and the
//! instructions on the TLB; XGETBV and XSETBV.
//!
//! Long mode is entered by setting CR0.PG while EFER.LME is set, and left by clearing it.
//! The page-directory-pointer entries of PAE paging are not checked here but when they are used
//! (see [`crate::mmu`]). See: AMD APM vol. 2, 3.1, 14.6; vol. 3, MOV CRn.

use super::{check_privileged, check_umip, cr_gpr_size, gp, load_part, ud};
use crate::emulate::operand::canonical;
use crate::emulate::operand::{Destination, Source, effective_address, linear_address};
use crate::emulate::{Cpu, Feature, Insn, Int, Stop};
use crate::engine::{Features, Intercept};
use crate::exception::Exception;
use crate::regs::{Attr, Seg, SysReg, cr0, cr4, efer, gpr, xcr0};
use crate::xstate;

/// CR3 bit 63 in a MOV: keep the new PCID's translations.
const NO_FLUSH: u64 = 1 << 63;
/// CR3 bits that hold the PCID.
const PCID: u64 = 0xfff;

/// MOV r, CRn: the number is in `rm`.
pub(super) fn read<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !matches!(insn.rm, 0 | 2..=4 | 8) {
        return Err(ud(cpu));
    }
    check_privileged(cpu)?;
    let value = match insn.rm {
        0 => cpu.cr0(),
        2 => cpu.cr2(),
        3 => cpu.cr3(),
        4 => cpu.cr4(),
        _ => return Err(cpu.intercept(Intercept::ReadCr8 { gpr: insn.reg, len: insn.len })),
    };
    cpu.set_gpr(insn.reg, value & cr_gpr_size(cpu));
    Ok(())
}

/// MOV CRn, r: the number is in `rm`.
pub(super) fn write<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !matches!(insn.rm, 0 | 2..=4 | 8) {
        return Err(ud(cpu));
    }
    check_privileged(cpu)?;
    let value = cpu.gpr(insn.reg) & cr_gpr_size(cpu);
    match insn.rm {
        0 => write_cr0(cpu, value),
        2 => {
            cpu.set_cr2(value);
            Ok(())
        }
        3 => write_cr3(cpu, value),
        4 => write_cr4(cpu, value),
        _ => Err(cpu.intercept(Intercept::WriteCr8 { gpr: insn.reg, len: insn.len })),
    }
}

/// See: AMD APM vol. 2, 3.1.1, 14.6.1.
fn write_cr0<C: Cpu>(cpu: &mut C, value: u64) -> Result<(), Stop> {
    let old = cpu.cr0();
    let has = |bit| value & bit != 0;
    let malformed =
        value >> 32 != 0 || has(cr0::PG) && !has(cr0::PE) || has(cr0::NW) && !has(cr0::CD);
    if malformed {
        return Err(gp(cpu, 0));
    }
    let mut efer = cpu.efer();
    let code = cpu.segment(Seg::Cs).attr;
    if has(cr0::PG) && old & cr0::PG == 0 {
        if efer & efer::LME != 0 {
            if cpu.cr4() & cr4::PAE == 0 || code.has(Attr::L) {
                return Err(gp(cpu, 0));
            }
            efer |= efer::LMA;
        }
    } else if !has(cr0::PG) && old & cr0::PG != 0 {
        if cpu.mode64() || cpu.cr4() & cr4::PCIDE != 0 {
            return Err(gp(cpu, 0));
        }
        efer &= !efer::LMA;
    }
    if efer != cpu.efer() {
        cpu.set_efer(efer);
    }
    cpu.set_cr0(value & cr0::DEFINED | cr0::ET);
    if !has(cr0::PE) {
        cpu.set_cpl(0);
    }
    Ok(())
}

/// Reserved are in long mode the bits beyond the processor's width; otherwise they are ignored.
/// See: AMD APM vol. 2, 5.3.2, 5.5.1.
fn write_cr3<C: Cpu>(cpu: &mut C, value: u64) -> Result<(), Stop> {
    let mut reserved = 0;
    if cpu.long_mode() {
        reserved = !0 << cpu.limits().phys_bits.clamp(32, 52);
        if cpu.cr4() & cr4::PCIDE != 0 {
            reserved &= !NO_FLUSH;
        }
    }
    if value & reserved != 0 {
        return Err(gp(cpu, 0));
    }
    cpu.set_cr3(value);
    Ok(())
}

/// The bits of CR4 that the guest may set, by what CPUID offers.
///
/// VME and PVI are never offered: see [`CR4_UNUSED`].
fn cr4_allowed(offers: impl Fn(Feature) -> bool) -> u64 {
    let mut bits = cr4::TSD
        | cr4::DE
        | cr4::PSE
        | cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::PCE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT;
    for (feature, bit) in [
        (Feature::Fsgsbase, cr4::FSGSBASE),
        (Feature::Xsave, cr4::OSXSAVE),
        (Feature::Smap, cr4::SMAP),
        (Feature::Smep, cr4::SMEP),
        (Feature::Pcid, cr4::PCIDE),
        (Feature::La57, cr4::LA57),
        (Feature::Umip, cr4::UMIP),
    ] {
        if offers(feature) {
            bits |= bit;
        }
    }
    bits
}

/// Bits of CR4 that a VMM may set, as Linux's KVM lets it whatever CPUID offers, and the guest may then leave on. They have no effect.
/// See: Linux, arch/x86/include/asm/kvm_host.h, `CR4_RESERVED_BITS`.
const CR4_UNUSED: u64 = cr4::VME | cr4::PVI;

/// See: AMD APM vol. 2, 3.1.3, 5.5.1.
fn write_cr4<C: Cpu>(cpu: &mut C, value: u64) -> Result<(), Stop> {
    let changed = cpu.cr4() ^ value;
    let long = cpu.long_mode();
    let pcids_on = changed & value & cr4::PCIDE != 0;
    let unused = cpu.cr4() & CR4_UNUSED;
    let malformed = value & !(cr4_allowed(|feature| cpu.offers(feature)) | unused) != 0
        || long && (value & cr4::PAE == 0 || changed & cr4::LA57 != 0)
        || pcids_on && (!long || cpu.cr3() & PCID != 0);
    if malformed {
        return Err(gp(cpu, 0));
    }
    cpu.set_cr4(value);
    Ok(())
}

/// The control registers, when they are set all at once from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the registers' own")]
pub struct ControlRegisters {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// CS says 64-bit mode.
    pub code64: bool,
}

impl ControlRegisters {
    /// Whether a processor that offers `features`, and has addresses of `phys_bits`, can have them.
    ///
    /// See: AMD APM vol. 2, 15.5.1 (the state that VMRUN refuses), 14.6.
    #[must_use]
    pub fn are_consistent(&self, features: Features, phys_bits: u8) -> bool {
        let &Self { cr0, cr3, cr4, efer, code64 } = self;
        let has = |bit| cr0 & bit != 0;
        let cr0_fine =
            cr0 >> 32 == 0 && (!has(cr0::PG) || has(cr0::PE)) && (!has(cr0::NW) || has(cr0::CD));
        let cr4_fine = cr4 & !(cr4_allowed(|feature| features.has(feature)) | CR4_UNUSED) == 0;
        let long = efer & efer::LME != 0 && has(cr0::PG);
        let mode_fine = if long {
            cr4 & cr4::PAE != 0 && cr3 >> phys_bits.clamp(32, 52) == 0
        } else {
            // CR4.PCIDE is taken, as Linux takes it: it matters in long mode only.
            !code64
        };
        let efer_fine = efer & !(EFER_WRITABLE | efer::LMA) == 0 && (efer & efer::LMA != 0) == long;
        cr0_fine && cr4_fine && mode_fine && efer_fine
    }
}

/// EFER's bits that can be written: SVM is not offered.
const EFER_WRITABLE: u64 = efer::SCE | efer::LME | efer::NXE | efer::FFXSR;

/// What EFER becomes if `new` is written to it while it is `old`.
///
/// LMA is the processor's: a write does not change it.
/// See: AMD APM vol. 2, 3.1.7.
///
/// # Errors
/// #GP for a reserved bit, or a change of LME while paging is on.
pub fn check_efer(old: u64, new: u64, cr0: u64) -> Result<u64, Exception> {
    let reserved = !(EFER_WRITABLE | efer::LMA);
    let toggles_paging = (old ^ new) & efer::LME != 0 && cr0 & cr0::PG != 0;
    if new & reserved != 0 || toggles_paging {
        return Err(Exception::gp(0));
    }
    Ok(new & EFER_WRITABLE | old & efer::LMA)
}

/// LMSW: the four low bits of CR0; PE can be set but not cleared.
pub(super) fn lmsw<C: Cpu, S: Source<u16>>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    let value = u64::from(S::read(cpu, insn)?);
    let low = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let old = cpu.cr0();
    write_cr0(cpu, old & !low | value & low | old & cr0::PE)
}

pub(super) fn smsw<C: Cpu, T: Int, D: Destination<T>>(
    cpu: &mut C,
    insn: &Insn,
) -> Result<(), Stop> {
    check_umip(cpu)?;
    let value = cpu.cr0();
    D::write(cpu, insn, T::truncate(value))
}

pub(super) fn clts<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    cpu.set_cr0(cpu.cr0() & !cr0::TS);
    Ok(())
}

/// INVLPG: the operand is an address only; no limit is checked, and a non-canonical one is ignored.
pub(super) fn invlpg<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    check_privileged(cpu)?;
    let offset = effective_address(cpu, insn);
    let linear = if cpu.mode64() {
        cpu.linear64(insn.segment(), offset)
    } else {
        cpu.segment_base(insn.segment()).wrapping_add(offset) & 0xffff_ffff
    };
    if canonical(cpu, linear) {
        cpu.invalidate_page(linear);
    }
    Ok(())
}

/// See: AMD APM vol. 3, INVPCID.
pub(super) fn invpcid<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    if !cpu.offers(Feature::Invpcid) {
        return Err(ud(cpu));
    }
    check_privileged(cpu)?;
    let kind = cpu.gpr(insn.reg) & cr_gpr_size(cpu);
    let descriptor = linear_address(cpu, insn, 16, false)?;
    let pcid = load_part(cpu, insn, descriptor, 8)?;
    let linear = load_part(cpu, insn, descriptor.wrapping_add(8), 8)?;
    let no_pcids = cpu.cr4() & cr4::PCIDE == 0 && kind <= 1 && pcid != 0;
    let malformed = kind > 3
        || kind <= 1 && pcid & !PCID != 0
        || kind == 0 && !canonical(cpu, linear)
        || no_pcids;
    if malformed {
        return Err(gp(cpu, 0));
    }
    cpu.invalidate_pcid(kind, pcid & PCID, linear);
    Ok(())
}

/// XCR0 is the only extended control register; register 1 tells which components are in use.
/// See: Intel SDM vol. 2, XGETBV.
pub(super) fn xgetbv<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_xsave(cpu)?;
    let value = match cpu.gpr(gpr::RCX) as u32 {
        0 => cpu.sysreg(SysReg::Xcr0),
        1 => cpu.sysreg(SysReg::Xcr0) & xstate::in_use(cpu),
        _ => return Err(gp(cpu, 0)),
    };
    cpu.set_gpr(gpr::RAX, value & 0xffff_ffff);
    cpu.set_gpr(gpr::RDX, value >> 32);
    Ok(())
}

/// See: AMD APM vol. 4, XSETBV.
pub(super) fn xsetbv<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_xsave(cpu)?;
    check_privileged(cpu)?;
    let value = cpu.gpr(gpr::RDX) << 32 | cpu.gpr(gpr::RAX) & 0xffff_ffff;
    if cpu.gpr(gpr::RCX) as u32 != 0 || !is_xcr0(value, cpu.offers(Feature::Avx)) {
        return Err(gp(cpu, 0));
    }
    cpu.set_sysreg(SysReg::Xcr0, value);
    Ok(())
}

/// Whether XCR0 may have a value, where AVX is offered or not. See: AMD APM vol. 2, 11.5.2.
#[must_use]
pub const fn is_xcr0(value: u64, avx: bool) -> bool {
    let offered = xcr0::X87 | xcr0::SSE | if avx { xcr0::AVX } else { 0 };
    let alone = value & (xcr0::SSE | xcr0::AVX) == xcr0::AVX;
    value & !offered == 0 && value & xcr0::X87 != 0 && !alone
}

/// Without OSXSAVE the XSAVE family does not exist.
fn check_xsave<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    if cpu.cr4() & cr4::OSXSAVE == 0 { Err(ud(cpu)) } else { Ok(()) }
}
