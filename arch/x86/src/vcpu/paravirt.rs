//! KVM's own interface to a guest: which of its registers there are, and hypercalls.
//!
//! Of the hypercalls those are answered that need nothing done: a processor that waits for another one may yield to it, which is a
//! hint. See: Linux, Documentation/virt/kvm/x86/hypercalls.rst, cpuid.rst; arch/x86/kvm/x86.c, `kvm_emulate_hypercall`,
//! `emulator_fix_hypercall`.

use virt::host::Host;

use super::access::Emulator;
use super::{Exit, Vcpu};
use crate::cpuid::Vendor;
use crate::emulate::decode::MAX_LENGTH;
use crate::emulate::{Access, Cpu};
use crate::engine::Engine;
use crate::exception::{self, Exception};
use crate::msr::index;
use crate::quirks;
use crate::regs::{Regs, Seg, gpr};

/// The leaf whose EAX has the features.
const FEATURES: u32 = 0x4000_0001;

/// The features.
mod feature {
    /// The clock's first registers.
    pub const CLOCKSOURCE: u32 = 1 << 0;
    /// Those that came later.
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    /// A hypercall by which a processor yields to another one.
    pub const SCHED_YIELD: u32 = 1 << 13;
}

/// The hypercalls.
mod number {
    pub const VAPIC_POLL_IRQ: u64 = 1;
    pub const SCHED_YIELD: u64 = 11;
}

/// The answer to a hypercall that is not offered.
const ENOSYS: u64 = (-1000_i64) as u64;
/// The answer to a hypercall from outside the guest's kernel.
const EPERM: u64 = (-1_i64) as u64;

/// The last byte of VMCALL and of VMMCALL.
const VMCALL: u8 = 0xc1;
const VMMCALL: u8 = 0xd9;

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Has KVM's registers and hypercalls be there only if CPUID says so, or in any case.
    pub fn enforce_pv_features(&mut self, on: bool) {
        self.enforces_pv = on;
    }

    /// Whether a feature is there by what CPUID says, if that counts.
    fn has_feature(&self, feature: u32) -> bool {
        let offered = self.cpuid.get(FEATURES, 0).unwrap_or_default()[0];
        !self.enforces_pv || offered & feature != 0
    }

    /// Whether a register of KVM's is there; any other is.
    pub(super) fn has_pv_register(&self, number: u32) -> bool {
        match number {
            index::KVM_WALL_CLOCK | index::KVM_SYSTEM_TIME => {
                self.has_feature(feature::CLOCKSOURCE)
            }
            index::KVM_WALL_CLOCK_NEW | index::KVM_SYSTEM_TIME_NEW => {
                self.has_feature(feature::CLOCKSOURCE2)
            }
            _ => true,
        }
    }

    /// VMCALL or VMMCALL. Gives an exit if the VMM is needed.
    #[inline(never)]
    pub(super) fn hypercall(&mut self, len: u8) -> Option<Exit> {
        if let Some(own) = self.replacement(len) {
            return self.replace_hypercall(len, own);
        }
        let answer = match self.engine.gpr(gpr::RAX) {
            _ if self.engine.cpl() != 0 => EPERM,
            number::VAPIC_POLL_IRQ => 0,
            number::SCHED_YIELD if self.has_feature(feature::SCHED_YIELD) => 0,
            _ => ENOSYS,
        };
        self.engine.set_gpr(gpr::RAX, answer);
        self.advance(len);
        None
    }

    /// Executes a hypercall that the processor does not know, for it is another maker's; any other instruction is the guest's mistake.
    #[inline(never)]
    pub(super) fn undefined(&mut self) -> Option<Exit> {
        let mut bytes = [0; MAX_LENGTH];
        let fetched = Emulator::new(self).fetch(&mut bytes);
        if fetched.is_ok() && matches!(bytes, [0x0f, 0x01, 0xc1 | 0xd9, ..]) {
            return self.emulate();
        }
        self.raise(Exception::ud());
        None
    }

    /// The last byte that the hypercall at RIP would have on the processor that CPUID names, if it has another one.
    fn replacement(&mut self, len: u8) -> Option<u8> {
        let own = if self.cpuid.vendor() == Vendor::Amd { VMMCALL } else { VMCALL };
        let mut bytes = [0; MAX_LENGTH];
        // If it can't be fetched any more it was the right one.
        Emulator::new(self).fetch(&mut bytes).ok()?;
        let last = *bytes.get(usize::from(len).checked_sub(1)?)?;
        (last != own && matches!(last, VMCALL | VMMCALL)).then_some(own)
    }

    /// Writes the processor's own hypercall over another one, which is to be executed again then; or raises the exception that there
    /// is on a processor.
    fn replace_hypercall(&mut self, len: u8, own: u8) -> Option<Exit> {
        if self.quirks & quirks::FIX_HYPERCALL == 0 {
            self.raise(Exception::plain(exception::UD));
            return None;
        }
        let start = self.engine.segment_base(Seg::Cs).wrapping_add(self.engine.rip());
        let last = start.wrapping_add(u64::from(len) - 1);
        let mut emulator = Emulator::new(self);
        if emulator.store::<u8>(last, own, Access::Operand).is_err() {
            return emulator.give_up();
        }
        self.replay.forget_reads();
        None
    }
}
