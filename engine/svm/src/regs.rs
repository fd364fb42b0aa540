//! The registers of a vCPU: [`Regs`] for [`SvmVcpu`].
//!
//! Most are the VMCB's, as they are. Otherwise than the guest has them the processor has:
//!
//! - EFER with SVME, which VMRUN asks for;
//! - CR0 without CD and NW: the guest's caches are the host's business. CR4 with MCE, so that a machine check comes to the host, and
//!   without VME and PVI, which the core says have no effect;
//! - DR6, which is kept beside, so that an exception's bits can be told from those that were there.
//!
//! Whatever decides a translation has those of the guest dropped when it is set.
//!
//! See: AMD APM vol. 2, 15.5.1, appendix B, table B-2.

use arch_x86::emulate::Status;
use arch_x86::hardware::{GuestFpu, Platform};
use arch_x86::regs::{
    Attr, FxArea, Regs, Seg, Segment, SysReg, Table, YmmHigh, cr0, cr4, efer, gpr, rflags,
};

use crate::processor::Processor;
use crate::vcpu::SvmVcpu;
use crate::vmcb::{self, Vmcb, clean};

/// CR3's bit that keeps the translations of the PCID that is switched to.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// CR0's bits that the processor does not get.
const CR0_HIDDEN: u64 = cr0::CD | cr0::NW;

/// Where the VMCB has a segment register.
const fn place(vmcb: &Vmcb, seg: Seg) -> &vmcb::Segment {
    match seg {
        Seg::Es => &vmcb.es,
        Seg::Cs => &vmcb.cs,
        Seg::Ss => &vmcb.ss,
        Seg::Ds => &vmcb.ds,
        Seg::Fs => &vmcb.fs,
        Seg::Gs => &vmcb.gs,
        Seg::Ldtr => &vmcb.ldtr,
        Seg::Tr => &vmcb.tr,
    }
}

/// The same, to be changed.
fn place_mut(vmcb: &mut Vmcb, seg: Seg) -> &mut vmcb::Segment {
    match seg {
        Seg::Es => &mut vmcb.es,
        Seg::Cs => &mut vmcb.cs,
        Seg::Ss => &mut vmcb.ss,
        Seg::Ds => &mut vmcb.ds,
        Seg::Fs => &mut vmcb.fs,
        Seg::Gs => &mut vmcb.gs,
        Seg::Ldtr => &mut vmcb.ldtr,
        Seg::Tr => &mut vmcb.tr,
    }
}

const fn table(place: &vmcb::Segment) -> Table {
    Table { base: place.base, limit: place.limit as u16 }
}

/// Where the VMCB has a register that SYSCALL and its kin use; the others are not there.
fn system(vmcb: &mut Vmcb, reg: SysReg) -> Option<&mut u64> {
    Some(match reg {
        SysReg::Star => &mut vmcb.star,
        SysReg::Lstar => &mut vmcb.lstar,
        SysReg::Cstar => &mut vmcb.cstar,
        SysReg::Sfmask => &mut vmcb.sfmask,
        SysReg::KernelGsBase => &mut vmcb.kernel_gs_base,
        SysReg::SysenterCs => &mut vmcb.sysenter_cs,
        SysReg::SysenterEsp => &mut vmcb.sysenter_esp,
        SysReg::SysenterEip => &mut vmcb.sysenter_eip,
        SysReg::TscAux | SysReg::Xcr0 => return None,
    })
}

impl<P: Platform, C: Processor> Regs for SvmVcpu<P, C> {
    fn gpr(&self, n: u8) -> u64 {
        match n {
            gpr::RAX => self.vmcb.rax,
            gpr::RSP => self.vmcb.rsp,
            _ => self.gprs[usize::from(n & 15)],
        }
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        match n {
            gpr::RAX => self.vmcb.rax = value,
            gpr::RSP => self.vmcb.rsp = value,
            _ => self.gprs[usize::from(n & 15)] = value,
        }
    }
    fn rip(&self) -> u64 {
        self.vmcb.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.vmcb.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.vmcb.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.vmcb.rflags = value | rflags::FIXED;
    }
    fn status(&self) -> Status {
        Status::from_bits(self.vmcb.rflags)
    }
    fn set_status(&mut self, status: Status) {
        self.vmcb.rflags = self.vmcb.rflags & !rflags::STATUS | status.bits();
    }
    fn segment(&self, seg: Seg) -> Segment {
        let &vmcb::Segment { selector, attr, limit, base } = place(&self.vmcb, seg);
        Segment { base, limit, selector, attr: Attr(attr) }
    }
    fn set_segment(&mut self, seg: Seg, value: Segment) {
        let Segment { base, limit, selector, attr } = value;
        *place_mut(&mut self.vmcb, seg) = vmcb::Segment { selector, attr: attr.0, limit, base };
        // VMLOAD always reads the others.
        self.vmcb.clean &= !clean::SEGMENTS;
    }
    fn segment_base(&self, seg: Seg) -> u64 {
        place(&self.vmcb, seg).base
    }
    fn cpl(&self) -> u8 {
        self.vmcb.cpl
    }
    fn set_cpl(&mut self, cpl: u8) {
        self.vmcb.set(clean::SEGMENTS, |vmcb| &mut vmcb.cpl, cpl);
    }
    fn gdtr(&self) -> Table {
        table(&self.vmcb.gdtr)
    }
    fn set_gdtr(&mut self, table: Table) {
        let Table { base, limit } = table;
        self.vmcb.gdtr = vmcb::Segment { base, limit: limit.into(), ..self.vmcb.gdtr };
        self.vmcb.clean &= !clean::TABLES;
    }
    fn idtr(&self) -> Table {
        table(&self.vmcb.idtr)
    }
    fn set_idtr(&mut self, table: Table) {
        let Table { base, limit } = table;
        self.vmcb.idtr = vmcb::Segment { base, limit: limit.into(), ..self.vmcb.idtr };
        self.vmcb.clean &= !clean::TABLES;
    }
    fn cr0(&self) -> u64 {
        self.vmcb.cr0 & !CR0_HIDDEN | self.cr0_hidden
    }
    fn set_cr0(&mut self, value: u64) {
        let changed = self.cr0() ^ value;
        self.cr0_hidden = value & CR0_HIDDEN;
        self.vmcb.set(clean::CONTROL, |vmcb| &mut vmcb.cr0, value & !CR0_HIDDEN);
        self.flush |= changed & (cr0::PE | cr0::PG | cr0::WP) != 0;
        self.intercepts.cr0_differs = self.cr0_hidden != 0;
        self.update_intercepts();
    }
    fn cr2(&self) -> u64 {
        self.vmcb.cr2
    }
    fn set_cr2(&mut self, value: u64) {
        self.vmcb.set(clean::CR2, |vmcb| &mut vmcb.cr2, value);
    }
    fn cr3(&self) -> u64 {
        self.vmcb.cr3
    }
    fn set_cr3(&mut self, value: u64) {
        self.vmcb.set(clean::CONTROL, |vmcb| &mut vmcb.cr3, value & !CR3_NO_FLUSH);
        let keep = value & CR3_NO_FLUSH != 0 && self.cr4 & cr4::PCIDE != 0;
        self.flush |= !keep;
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn set_cr4(&mut self, value: u64) {
        self.flush |= value != self.cr4;
        self.cr4 = value;
        let real = value & !(cr4::VME | cr4::PVI) | cr4::MCE;
        self.vmcb.set(clean::CONTROL, |vmcb| &mut vmcb.cr4, real);
        self.intercepts.cr4_differs = real != value;
        self.update_intercepts();
    }
    fn efer(&self) -> u64 {
        self.vmcb.efer & !efer::SVME
    }
    fn set_efer(&mut self, value: u64) {
        self.flush |= value != self.efer();
        self.vmcb.set(clean::CONTROL, |vmcb| &mut vmcb.efer, value | efer::SVME);
    }
    fn dr(&self, n: u8) -> u64 {
        match n {
            0..=3 => self.breakpoints[usize::from(n)],
            6 => self.dr6,
            7 => self.vmcb.dr7,
            _ => 0,
        }
    }
    fn set_dr(&mut self, n: u8, value: u64) {
        match n {
            0..=3 => self.breakpoints[usize::from(n)] = value,
            6 => self.dr6 = value,
            7 => self.vmcb.set(clean::DEBUG, |vmcb| &mut vmcb.dr7, value),
            _ => {}
        }
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        let vmcb = &*self.vmcb;
        match reg {
            SysReg::Star => vmcb.star,
            SysReg::Lstar => vmcb.lstar,
            SysReg::Cstar => vmcb.cstar,
            SysReg::Sfmask => vmcb.sfmask,
            SysReg::KernelGsBase => vmcb.kernel_gs_base,
            SysReg::SysenterCs => vmcb.sysenter_cs,
            SysReg::SysenterEsp => vmcb.sysenter_esp,
            SysReg::SysenterEip => vmcb.sysenter_eip,
            SysReg::TscAux => self.tsc_aux,
            SysReg::Xcr0 => self.xcr0,
        }
    }
    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        match reg {
            SysReg::TscAux => self.tsc_aux = value,
            SysReg::Xcr0 => self.xcr0 = value,
            _ => {
                // VMLOAD always reads them.
                if let Some(place) = system(&mut self.vmcb, reg) {
                    *place = value;
                }
            }
        }
    }
    fn interrupt_shadow(&self) -> bool {
        self.vmcb.interrupt_shadow & 1 != 0
    }
    fn set_interrupt_shadow(&mut self, on: bool) {
        self.vmcb.interrupt_shadow = u64::from(on);
    }
    fn nmi_blocked(&self) -> bool {
        self.intercepts.nmi_blocked
    }
    fn set_nmi_blocked(&mut self, on: bool) {
        if self.intercepts.nmi_blocked != on {
            self.intercepts.nmi_blocked = on;
            self.update_intercepts();
        }
    }
    fn fxsave(&self) -> &FxArea {
        self.fpu.registers().0
    }
    fn fxsave_mut(&mut self) -> &mut FxArea {
        self.fpu.registers_mut().0
    }
    fn ymm_high(&self) -> &YmmHigh {
        self.fpu.registers().1
    }
    fn ymm_high_mut(&mut self) -> &mut YmmHigh {
        self.fpu.registers_mut().1
    }
}
