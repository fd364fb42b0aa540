//! [`Intercepts`]: what the guest comes out for, and when.
//!
//! - Always: what is the host's (interrupts, NMIs, SMIs, INIT, machine checks); what the run loop answers (CPUID, HLT, ports,
//!   model-specific registers, CR8, hypercalls); what it has to check or to know of (writes of CR4, of CR0 but for TS and MP, debug registers,
//!   XSETBV, RDPMC, MONITOR, MWAIT, the caches); what is no instruction without SVM; triple faults. #DB and #AC, too: the processor can be
//!   kept for ever in their delivery.
//! - While they are other than what the processor has: reads of CR0 (and all writes), and of CR4.
//! - What CPUID does not offer, where there is an intercept for it: RDTSCP, INVPCID. Deviation: other instructions that CPUID does not
//!   offer, but the processor has, are executed by the guest all the same.
//! - While NMIs are blocked: IRET, which the run loop executes. Deviation: if that sets RFLAGS.TF the step ends with it, and RF is lost.
//!   While a window is waited for: the virtual interrupt that shows it.
//!
//! Deviation: VMCALL, which is Intel's, is no instruction, and is not replaced by VMMCALL; nor has a guest of another maker's
//! processor that one's SYSENTER and SYSCALL.
//!
//! Task switches are the processor's to do, and so is the freezing with CR0.NE off: an interrupt of ours ends that.
//!
//! See: AMD APM vol. 2, 15.9, 15.12, 15.13; appendix B, table B-1.

use arch_x86::emulate::Feature;
use arch_x86::engine::Features as Offered;
use arch_x86::exception;

use crate::features::Features;
use crate::vmcb::{Vmcb, clean};

/// Bits of the first word behind the exceptions.
mod first {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const CR0_SELECTIVE: u32 = 1 << 5;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const RSM: u32 = 1 << 19;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const SHUTDOWN: u32 = 1 << 31;
    pub const ALWAYS: u32 = INTR
        | NMI
        | SMI
        | INIT
        | CR0_SELECTIVE
        | RDPMC
        | CPUID
        | RSM
        | INVD
        | HLT
        | INVLPGA
        | IOIO
        | MSR
        | SHUTDOWN;
}

/// Bits of the second word.
mod second {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const ICEBP: u32 = 1 << 8;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
    pub const ALWAYS: u32 = VMRUN
        | VMMCALL
        | VMLOAD
        | VMSAVE
        | STGI
        | CLGI
        | SKINIT
        | ICEBP
        | WBINVD
        | MONITOR
        | MWAIT
        | MWAIT_ARMED
        | XSETBV
        | RDPRU;
}

/// Bits of the third word.
mod third {
    pub const INVPCID: u32 = 1 << 2;
}

/// Where the writes begin among the intercepts of control registers.
const WRITES: u32 = 16;
/// All accesses to debug registers.
const DEBUG_REGISTERS: u32 = 0xffff_ffff;
/// Exceptions that never go to the guest without the engine.
const EXCEPTIONS: u32 =
    1 << exception::DB | 1 << exception::UD | 1 << exception::AC | 1 << exception::MC;
/// Vectors that are an exception's: there is none of 2, 9, 15 and above 19.
const VECTORS: u32 = 0x000f_7dfb;
/// So many PAUSEs, this close to each other, are a wait for another vCPU.
const PAUSES: (u16, u16) = (3000, 128);

/// What decides which intercepts are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intercepts {
    /// CR0 is other than the processor's.
    pub cr0_differs: bool,
    /// CR4 is other than the processor's.
    pub cr4_differs: bool,
    /// Vectors whose exceptions the run loop wants.
    pub exceptions: u32,
    /// What CPUID offers the guest.
    pub offered: Offered,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// The virtual interrupt waits for the guest to be open for one.
    pub window: bool,
}

impl Intercepts {
    /// Sets them.
    pub fn write(&self, features: &Features, vmcb: &mut Vmcb) {
        let when = |on: bool, bits: u32| if on { bits } else { 0 };
        let cr = 1 << 8
            | 1 << (WRITES + 8)
            | 1 << (WRITES + 4)
            | when(self.cr0_differs, 1 | 1 << WRITES)
            | when(self.cr4_differs, 1 << 4);
        let words = [
            first::ALWAYS
                | when(self.window, first::VINTR)
                | when(self.nmi_blocked, first::IRET)
                | when(features.pause_filter, first::PAUSE),
            second::ALWAYS | when(!self.offered.has(Feature::Rdtscp), second::RDTSCP),
            when(features.invpcid && !self.offered.has(Feature::Invpcid), third::INVPCID),
        ];
        let threshold = if features.pause_filter_threshold { PAUSES.1 } else { 0 };
        let bit = clean::INTERCEPTS;
        vmcb.set(bit, |v| &mut v.intercept_cr, cr);
        vmcb.set(bit, |v| &mut v.intercept_dr, DEBUG_REGISTERS);
        vmcb.set(bit, |v| &mut v.intercept_exceptions, EXCEPTIONS | self.exceptions & VECTORS);
        vmcb.set(bit, |v| &mut v.intercepts, words);
        vmcb.set(
            bit,
            |v| &mut v.pause_filter_count,
            if features.pause_filter { PAUSES.0 } else { 0 },
        );
        vmcb.set(bit, |v| &mut v.pause_filter_threshold, threshold);
    }
}
