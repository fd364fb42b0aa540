//! Single step, breakpoints and injected events by KVM's ioctls: [`Debugger`], and what KVM_EXIT_DEBUG means.
//!
//! KVM gives all debug exceptions to who debugs with a step or with breakpoints of its own. Those that are not for it are given
//! back to the guest here, as QEMU does.
//!
//! Deviations of KVM's: while it steps, the guest's own RFLAGS.TF is lost. TF is in the frames of the guest's handlers, which run
//! within the step, and in what PUSHF stores. See: Linux, arch/x86/kvm/x86.c, `kvm_get_rflags`, `kvm_set_rflags`.

use std::io;

use arch_x86::emulate::debug::{dr6, dr7};
use arch_x86::exception::{self, Exception};
use arch_x86::guest_debug::{DebugCause, GuestDebug};
use arch_x86::regs::efer;
use arch_x86::vcpu::Exit;
use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP,
    KVM_GUESTDBG_USE_SW_BP, kvm_debug_exit_arch, kvm_guest_debug,
};
use kvm_ioctls::VcpuFd;

/// What a debugger wants of a vCPU.
#[derive(Default)]
pub(super) struct Debugger {
    wanted: GuestDebug,
    /// What the last KVM_RUN came out for is of an instruction that is not stepped over yet.
    unfinished: bool,
}

impl Debugger {
    /// Sets it.
    pub fn set(&mut self, fd: &VcpuFd, wanted: &GuestDebug) -> io::Result<()> {
        self.wanted = *wanted;
        self.tell(fd)
    }

    /// Whether it steps.
    #[inline]
    pub fn steps(&self) -> bool {
        self.wanted.single_step
    }

    /// Tells KVM. A step begins with this: KVM sets RFLAGS.TF where the vCPU is then, and loses it when it emulates an
    /// instruction, or registers are set.
    fn tell(&self, fd: &VcpuFd) -> io::Result<()> {
        Ok(fd.set_guest_debug(&as_kvm(&self.wanted))?)
    }

    /// What a debug exception is to the debugger; `None` if it is the guest's.
    fn cause(&self, status: u64) -> Option<DebugCause> {
        let stepped = self.wanted.single_step && status & dr6::BS != 0;
        let mut breakpoints = 0;
        for (n, breakpoint) in self.wanted.hardware.iter().enumerate() {
            // Others may be shown as well. See: Intel SDM vol. 3, 18.2.3.
            breakpoints |= (status as u8 & 1 << n) * u8::from(breakpoint.is_some());
        }
        (stepped || breakpoints != 0).then_some(DebugCause::Exception { stepped, breakpoints })
    }

    /// Begins a step. Gives whether KVM is only to finish the instruction that came out last.
    pub fn begin_step(&mut self, fd: &mut VcpuFd) -> io::Result<bool> {
        self.tell(fd)?;
        if self.unfinished {
            // Else it stays as it is: a kick may have set it.
            fd.set_kvm_immediate_exit(1);
        }
        Ok(std::mem::take(&mut self.unfinished))
    }

    /// KVM_RUN came out in the middle of a step.
    pub fn came_out(&mut self) {
        self.unfinished = true;
    }

    /// What KVM_EXIT_DEBUG is for the VMM; `None` if it is the guest's.
    #[cold]
    pub fn exit(&self, debug: &kvm_debug_exit_arch) -> Option<Exit> {
        let cause = if debug.exception == u32::from(exception::BP) {
            DebugCause::SoftwareBreakpoint
        } else if self.wanted.register_accesses && debug.dr6 & dr6::BD != 0 {
            DebugCause::RegisterAccess
        } else {
            self.cause(debug.dr6)?
        };
        Some(Exit::Debug { cause, address: debug.pc })
    }
}

/// What KVM_SET_GUEST_DEBUG takes.
fn as_kvm(wanted: &GuestDebug) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    let mut set = |on: bool, flag| {
        debug.control |= if on { KVM_GUESTDBG_ENABLE | flag } else { 0 };
    };
    let registers = wanted.registers();
    set(wanted.single_step, KVM_GUESTDBG_SINGLESTEP);
    set(wanted.software_breakpoints, KVM_GUESTDBG_USE_SW_BP);
    set(registers.is_some(), KVM_GUESTDBG_USE_HW_BP);
    set(wanted.blocks_interrupts, KVM_GUESTDBG_BLOCKIRQ);
    if let Some((addresses, control)) = registers {
        debug.arch.debugreg[..4].copy_from_slice(&addresses);
        debug.arch.debugreg[7] = control;
    }
    debug
}

/// The exit after an instruction that KVM has emulated and not told of: a write to a device, or a string of them.
pub(super) fn stepped(fd: &VcpuFd) -> io::Result<Exit> {
    let (rip, system) = (fd.get_regs()?.rip, fd.get_sregs()?);
    let mode64 = system.efer & efer::LMA != 0 && system.cs.l != 0;
    let linear = system.cs.base.wrapping_add(rip);
    let address = if mode64 { rip } else { linear & 0xffff_ffff };
    Ok(Exit::Debug { cause: DebugCause::Exception { stepped: true, breakpoints: 0 }, address })
}

/// Has the guest have a debug exception. See: AMD APM vol. 2, 13.1.1.3.
pub(super) fn give_back(fd: &VcpuFd, status: u64) -> io::Result<()> {
    let mut debug = fd.get_debug_regs()?;
    debug.dr6 = debug.dr6 & !dr6::B | status & dr6::WRITABLE;
    debug.dr7 &= !dr7::GD;
    fd.set_debug_regs(&debug)?;
    inject(fd, Exception::plain(exception::DB))
}

/// Has an exception delivered. See: Linux, Documentation/virt/kvm/api.rst, 4.32.
pub(super) fn inject(fd: &VcpuFd, exception: Exception) -> io::Result<()> {
    let mut events = fd.get_vcpu_events()?;
    let (pending, nmi, interrupt) = (&mut events.exception, events.nmi, events.interrupt);
    if pending.injected | pending.pending | nmi.injected | interrupt.injected != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    pending.injected = 1;
    pending.nr = exception.vector;
    pending.has_error_code = exception.error.is_some().into();
    pending.error_code = exception.error.unwrap_or(0);
    Ok(fd.set_vcpu_events(&events)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::{Breakpoint, Length, Watch};

    fn at(address: u64, watch: Watch) -> Option<Breakpoint> {
        Some(Breakpoint { address, watch })
    }

    #[test]
    fn kvm_is_told_what_is_wanted() {
        assert_eq!(as_kvm(&GuestDebug::default()).control, 0);
        let mut wanted = GuestDebug { single_step: true, ..GuestDebug::default() };
        assert_eq!(as_kvm(&wanted).control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
        wanted = GuestDebug { software_breakpoints: true, ..GuestDebug::default() };
        wanted.hardware[1] = at(0x1000, Watch::Write(Length::Eight));
        wanted.hardware[3] = at(0x2000, Watch::ReadWrite(Length::Four));
        let debug = as_kvm(&wanted);
        let flags = KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_USE_HW_BP;
        assert_eq!(debug.control, KVM_GUESTDBG_ENABLE | flags);
        assert_eq!(debug.arch.debugreg, [0, 0x1000, 0, 0x2000, 0, 0, 0, 0xf090_0488]);
    }

    #[test]
    fn what_nobody_asked_for_is_the_guests() {
        let mut debugger = Debugger::default();
        debugger.wanted.hardware[1] = at(0, Watch::Execute);
        let told = |exception: u8, dr6| {
            let exception = exception.into();
            debugger.exit(&kvm_debug_exit_arch { exception, dr6, pc: 5, ..Default::default() })
        };
        assert_eq!(told(exception::DB, dr6::BS | 1), None);
        let exit = |cause| Some(Exit::Debug { cause, address: 5 });
        let met = DebugCause::Exception { stepped: false, breakpoints: 2 };
        assert_eq!(told(exception::DB, dr6::BS | 3), exit(met));
        assert_eq!(told(exception::BP, 0), exit(DebugCause::SoftwareBreakpoint));
    }
}
