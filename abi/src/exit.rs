//! Why a vCPU came out of `KVM_RUN`. Neighbours: [`crate::run`], which holds the details.
//!
//! See: api.rst 5 (`The kvm_run structure`).

/// The processor gave a reason that the hypervisor does not know.
pub const UNKNOWN: u32 = 0;
/// Not used.
pub const EXCEPTION: u32 = 1;
/// An access to a port: [`crate::run::Io`].
pub const IO: u32 = 2;
/// A hypercall: [`crate::run::Hypercall`].
pub const HYPERCALL: u32 = 3;
/// A debugger's stop: [`crate::debug::DebugExit`].
pub const DEBUG: u32 = 4;
/// HLT, without a local APIC in the hypervisor.
pub const HLT: u32 = 5;
/// An access to an address without memory: [`crate::run::Mmio`].
pub const MMIO: u32 = 6;
/// An interrupt could be injected now, which was asked for.
pub const IRQ_WINDOW_OPEN: u32 = 7;
/// A triple fault.
pub const SHUTDOWN: u32 = 8;
/// The processor refused to enter the guest.
pub const FAIL_ENTRY: u32 = 9;
/// A signal.
pub const INTR: u32 = 10;
/// A write to the task priority, without a local APIC in the hypervisor.
pub const SET_TPR: u32 = 11;
/// An access to the task priority, which was asked for.
pub const TPR_ACCESS: u32 = 12;
/// A non-maskable interrupt of the host's.
pub const NMI: u32 = 16;
/// The hypervisor could not go on: [`crate::run::InternalError`].
pub const INTERNAL_ERROR: u32 = 17;
/// The guest powered off, reset or crashed.
pub const SYSTEM_EVENT: u32 = 24;
/// The end of a level-triggered interrupt, for an I/O APIC in the caller.
pub const IOAPIC_EOI: u32 = 26;
/// A Hyper-V facility that the caller does.
pub const HYPERV: u32 = 27;
/// A read of an MSR that the caller wants to see: [`crate::run::Msr`].
pub const X86_RDMSR: u32 = 29;
/// A write of one.
pub const X86_WRMSR: u32 = 30;
/// The dirty ring is full.
pub const DIRTY_RING_FULL: u32 = 31;
/// An application processor of a confidential guest waits.
pub const AP_RESET_HOLD: u32 = 32;
/// A bus lock, which was asked for.
pub const X86_BUS_LOCK: u32 = 33;
/// The guest held the processor for too long without a window for events.
pub const NOTIFY: u32 = 37;
/// An access to memory that the caller must make ready.
pub const MEMORY_FAULT: u32 = 39;

/// [`crate::run::InternalError::suberror`]: an instruction could not be emulated.
pub const INTERNAL_ERROR_EMULATION: u32 = 1;
/// [`crate::run::InternalError::suberror`]: exceptions at once that cannot be.
pub const INTERNAL_ERROR_SIMUL_EX: u32 = 2;
/// [`crate::run::InternalError::suberror`]: a fault while an event was delivered.
pub const INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
/// [`crate::run::InternalError::suberror`]: an exit that should not happen.
pub const INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;

/// A system event's kind: power off.
pub const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// A system event's kind: reset.
pub const SYSTEM_EVENT_RESET: u32 = 2;
/// A system event's kind: crash.
pub const SYSTEM_EVENT_CRASH: u32 = 3;

/// [`crate::run::Io::direction`]: IN.
pub const IO_IN: u8 = 0;
/// [`crate::run::Io::direction`]: OUT.
pub const IO_OUT: u8 = 1;
