//! What is counted of a vCPU, [`VcpuStatistics`], and of a machine, [`VmStatistics`]. Names are those of Linux's KVM, and so is what
//! they mean.
//!
//! The writer of a vCPU's counters is its thread, that of a machine's is who changes its memory, which is done by one after the other.
//!
//! See: Linux, arch/x86/kvm/x86.c, `kvm_vcpu_stats_desc`.

use virt::statistics::{Counter, Description, Kind, Statistics};

use crate::engine::{Event, Intercept};
use crate::vcpu::Exit;

/// Declares the names of statistics, and what has a counter for each.
macro_rules! statistics {
    (
        $(#[$about:meta])* $names:ident, $(#[$all:meta])* $counters:ident:
        $($(#[$what:meta])* $name:ident = $text:literal $kind:ident),* $(,)?
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $names {
            $($(#[$what])* $name),*
        }

        impl $names {
            const ALL: &'static [Description] =
                &[$(Description { name: $text, kind: Kind::$kind }),*];
        }

        $(#[$all])*
        #[derive(Debug, Default)]
        pub struct $counters([Counter; $names::ALL.len()]);

        impl $counters {
            /// One more. By the writer. Any context.
            #[inline]
            pub fn count(&self, what: $names) {
                self.0[what as usize].count();
            }

            /// Sets it. By the writer. Any context.
            #[inline]
            pub fn set(&self, what: $names, value: u64) {
                self.0[what as usize].set(value);
            }
        }

        impl Statistics for $counters {
            fn descriptions(&self) -> &'static [Description] {
                $names::ALL
            }

            fn value(&self, at: usize) -> u64 {
                self.0.get(at).map_or(0, Counter::get)
            }
        }
    };
}

statistics! {
    /// What is counted of a machine.
    VmStatistic,
    /// The counters of a machine.
    VmStatistics:
    /// All vCPUs have dropped the translations of a range.
    RemoteTlbFlush = "remote_tlb_flush" Count,
}

statistics! {
    /// What is counted of a vCPU.
    VcpuStatistic,
    /// The counters of a vCPU.
    VcpuStatistics:
    /// The engine came out, for whatever reason.
    Exits = "exits" Count,
    /// It did for an access to a port.
    IoExits = "io_exits" Count,
    /// The VMM was asked for an access to memory that is a device's.
    MmioExits = "mmio_exits" Count,
    /// The VMM has asked the vCPU to come out, as for a signal.
    SignalExits = "signal_exits" Count,
    /// The engine came out as an interrupt could be injected.
    IrqWindowExits = "irq_window_exits" Count,
    /// It did as an NMI could.
    NmiWindowExits = "nmi_window_exits" Count,
    /// It did for HLT.
    HaltExits = "halt_exits" Count,
    /// It did for a hypercall.
    Hypercalls = "hypercalls" Count,
    /// An instruction was executed by the run loop.
    InsnEmulation = "insn_emulation" Count,
    /// An interrupt was injected.
    IrqInjections = "irq_injections" Count,
    /// An NMI was.
    NmiInjections = "nmi_injections" Count,
    /// A halted vCPU went on.
    HaltWakeup = "halt_wakeup" Count,
    /// The vCPU's thread waits for something to happen.
    Blocking = "blocking" State,
}

impl VcpuStatistics {
    /// The engine came out.
    #[inline]
    pub(crate) fn came_out(&self, intercept: &Intercept) {
        self.count(VcpuStatistic::Exits);
        match intercept {
            Intercept::In { .. } | Intercept::Out { .. } | Intercept::StringIo => {
                self.count(VcpuStatistic::IoExits);
            }
            Intercept::InterruptWindow => self.count(VcpuStatistic::IrqWindowExits),
            Intercept::NmiWindow => self.count(VcpuStatistic::NmiWindowExits),
            Intercept::Halt { .. } => self.count(VcpuStatistic::HaltExits),
            Intercept::Hypercall { .. } => self.count(VcpuStatistic::Hypercalls),
            _ => {}
        }
    }

    /// The vCPU came out to the VMM.
    #[inline]
    pub fn came_out_to_vmm(&self, exit: &Exit) {
        match exit {
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => self.count(VcpuStatistic::MmioExits),
            Exit::Interrupted => self.count(VcpuStatistic::SignalExits),
            _ => {}
        }
    }

    /// An event was delivered.
    #[inline]
    pub(crate) fn injected(&self, event: Option<Event>) {
        match event {
            Some(Event::Interrupt { .. }) => self.count(VcpuStatistic::IrqInjections),
            Some(Event::Nmi) => self.count(VcpuStatistic::NmiInjections),
            _ => {}
        }
    }
}
