//! RDMSR and WRMSR: where each register lives.

use virt::host::Host;

use super::handle::Completion;
use super::{Exit, Vcpu};
use crate::emulate::control;
use crate::engine::{Engine, EngineVcpu};
use crate::exception::Exception;
use crate::irqchip::lapic::{GeneralProtection, LocalApic};
use crate::machine_check::MachineCheck;
use crate::msr::{Refused, Stored, index};
use crate::msr_policy::MsrReason;
use crate::quirks;
use crate::regs::{Regs, Seg, SysReg, gpr};

impl From<GeneralProtection> for Refused {
    fn from(_: GeneralProtection) -> Self {
        Self
    }
}

/// Which of the engine's registers an MSR is.
fn sysreg(number: u32) -> Option<SysReg> {
    Some(match number {
        index::STAR => SysReg::Star,
        index::LSTAR => SysReg::Lstar,
        index::CSTAR => SysReg::Cstar,
        index::SFMASK => SysReg::Sfmask,
        index::KERNEL_GS_BASE => SysReg::KernelGsBase,
        index::SYSENTER_CS => SysReg::SysenterCs,
        index::SYSENTER_ESP => SysReg::SysenterEsp,
        index::SYSENTER_EIP => SysReg::SysenterEip,
        index::TSC_AUX => SysReg::TscAux,
        _ => return None,
    })
}

/// Whether bits 63–47 of `value` are equal (63–56 with five-level paging).
fn is_canonical(value: u64, five_level: bool) -> bool {
    let unused = if five_level { 7 } else { 16 };
    (value as i64) << unused >> unused == value as i64
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    #[inline(never)]
    pub(super) fn read_msr_instruction(&mut self, len: u8) -> Option<Exit> {
        let number = self.engine.gpr(gpr::RCX) as u32;
        let reason = if !self.machine.msr_policy.allows(number, false) {
            MsrReason::Filtered
        } else if self.machine.msr_policy.hides(number) {
            MsrReason::Invalid
        } else {
            match self.read_msr(number) {
                Ok(value) => {
                    self.note_msr_access(number, false);
                    self.complete_read_msr(value, len);
                    return None;
                }
                Err(Refused) => MsrReason::Unknown,
            }
        };
        self.not_accessed(reason, Completion::ReadMsr { len }, Exit::ReadMsr { number, reason })
    }

    /// The end of RDMSR.
    pub(super) fn complete_read_msr(&mut self, value: u64, len: u8) {
        self.engine.set_gpr(gpr::RAX, value & 0xffff_ffff);
        self.engine.set_gpr(gpr::RDX, value >> 32);
        self.advance(len);
    }

    /// An access was not made: the guest's fault, or the VMM's to see.
    fn not_accessed(
        &mut self,
        reason: MsrReason,
        completion: Completion,
        exit: Exit,
    ) -> Option<Exit> {
        if !self.machine.msr_policy.wants(reason) {
            self.raise(Exception::gp(0));
            return None;
        }
        self.completion = completion;
        Some(exit)
    }

    #[inline(never)]
    pub(super) fn write_msr_instruction(&mut self, len: u8) -> Option<Exit> {
        let number = self.engine.gpr(gpr::RCX) as u32;
        let low = self.engine.gpr(gpr::RAX) & 0xffff_ffff;
        let value = self.engine.gpr(gpr::RDX) << 32 | low;
        let reason = if !self.machine.msr_policy.allows(number, true) {
            MsrReason::Filtered
        } else if self.write_msr(number, value).is_ok() {
            self.note_msr_access(number, true);
            self.advance(len);
            return None;
        } else if self.read_msr(number).is_ok() {
            MsrReason::Invalid
        } else {
            MsrReason::Unknown
        };
        let exit = Exit::WriteMsr { number, value, reason };
        self.not_accessed(reason, Completion::WriteMsr { len }, exit)
    }

    /// Reads a model-specific register.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn read_msr(&mut self, number: u32) -> Result<u64, Refused> {
        if !self.has_pv_register(number) {
            return Err(Refused);
        }
        if let Some(reg) = sysreg(number) {
            return Ok(self.engine.sysreg(reg));
        }
        Ok(match number {
            index::TSC => self.engine.tsc(),
            index::TSC_ADJUST => self.tsc_adjust,
            index::EFER => self.engine.efer(),
            index::FS_BASE => self.engine.segment_base(Seg::Fs),
            index::GS_BASE => self.engine.segment_base(Seg::Gs),
            index::APIC_BASE => self.lapic.base(),
            index::TSC_DEADLINE => self.lapic.tsc_deadline(),
            index::KVM_SYSTEM_TIME | index::KVM_SYSTEM_TIME_NEW => self.clock.system_time,
            index::KVM_WALL_CLOCK | index::KVM_WALL_CLOCK_NEW => self.clock.wall_clock,
            _ if LocalApic::has_msr(number) => {
                self.lapic.read_msr(number, self.machine.host.now())?
            }
            _ if MachineCheck::has_msr(number) => self.machine_check.read(number)?,
            _ => self.msrs.read(number)?,
        })
    }

    /// Sets a model-specific register as the VMM does: what a guest may not write can be restored, if it is what is here.
    ///
    /// # Errors
    /// When there is none of that number, or it does not take the value.
    pub fn set_msr(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        let done = match number {
            index::TSC => {
                self.restore_tsc(value);
                Ok(())
            }
            index::TSC_ADJUST => {
                self.tsc_adjust = value;
                Ok(())
            }
            index::APIC_BASE => self.restore_apic_base(value).map_err(Refused::from),
            index::ARCH_CAPABILITIES | index::PLATFORM_INFO => self.msrs.restore(number, value),
            _ if MachineCheck::has_msr(number) => self.machine_check.write(number, value, true),
            _ => self.write_msr(number, value),
        };
        if done.is_err() && self.read_msr(number) == Ok(value) { Ok(()) } else { done }
    }

    /// Writes a model-specific register, as the guest does.
    ///
    /// # Errors
    /// When there is none of that number, or it does not take the value.
    pub fn write_msr(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        if !self.has_pv_register(number) {
            return Err(Refused);
        }
        if let Some(reg) = sysreg(number) {
            return self.write_sysreg(reg, value);
        }
        match number {
            index::TSC => self.write_tsc(value),
            index::TSC_ADJUST => self.write_tsc_adjust(value),
            index::EFER => {
                let checked = control::check_efer(self.engine.efer(), value, self.engine.cr0());
                self.engine.set_efer(checked.map_err(|_| Refused)?);
            }
            index::FS_BASE => self.set_base(Seg::Fs, value)?,
            index::GS_BASE => self.set_base(Seg::Gs, value)?,
            index::APIC_BASE => {
                let effect = self.lapic.set_base(value)?;
                self.carry_out(effect);
            }
            index::TSC_DEADLINE => {
                let effect = self.lapic.set_tsc_deadline(value);
                self.carry_out(effect);
            }
            index::KVM_SYSTEM_TIME | index::KVM_SYSTEM_TIME_NEW => self.set_system_time(value)?,
            index::KVM_WALL_CLOCK | index::KVM_WALL_CLOCK_NEW => self.set_wall_clock(value)?,
            _ if LocalApic::has_msr(number) => {
                let effect = self.lapic.write_msr(number, value, self.machine.host.now())?;
                self.carry_out(effect);
            }
            _ if MachineCheck::has_msr(number) => self.machine_check.write(number, value, false)?,
            index::MISC_ENABLE => self.set_misc_enable(value)?,
            index::SPEC_CTRL => {
                self.msrs.write(number, value)?;
                self.engine.set_speculation_control(value);
            }
            index::PRED_CMD => {
                self.msrs.write(number, value)?;
                if value & 1 != 0 {
                    self.engine.forget_branches();
                }
            }
            _ => self.msrs.write(number, value)?,
        }
        Ok(())
    }

    /// Sets IA32_MISC_ENABLE, by which MONITOR may come and go: a processor that has it has SSE3.
    fn set_misc_enable(&mut self, value: u64) -> Result<(), Refused> {
        let sse3 = self.cpuid.get(1, 0).unwrap_or_default()[2] & 1 != 0;
        let by_msr = self.quirks & quirks::MISC_ENABLE_NO_MWAIT == 0;
        let changed = Stored::monitor_in(value) != self.msrs.offers_monitor();
        if by_msr && changed && !sse3 {
            return Err(Refused);
        }
        self.msrs.write(index::MISC_ENABLE, value)?;
        self.update_features();
        Ok(())
    }

    fn write_sysreg(&mut self, reg: SysReg, value: u64) -> Result<(), Refused> {
        use SysReg::{Cstar, KernelGsBase, Lstar, Sfmask, SysenterCs, TscAux};
        let address = matches!(reg, Lstar | Cstar | KernelGsBase);
        if address && !is_canonical(value, self.five_level()) {
            return Err(Refused);
        }
        let narrow = matches!(reg, Sfmask | TscAux | SysenterCs);
        self.engine.set_sysreg(reg, if narrow { value & 0xffff_ffff } else { value });
        Ok(())
    }

    fn set_base(&mut self, seg: Seg, value: u64) -> Result<(), Refused> {
        if !is_canonical(value, self.five_level()) {
            return Err(Refused);
        }
        let mut segment = self.engine.segment(seg);
        segment.base = value;
        self.engine.set_segment(seg, segment);
        Ok(())
    }

    fn five_level(&self) -> bool {
        self.engine.cr4() & crate::regs::cr4::LA57 != 0
    }
}
