//! The page that a vCPU shares with its caller. Neighbours: [`crate::exit`].
//!
//! Only the adapters that speak ioctl know this page; inside, an exit and its
//! answer are values.
//!
//! See: api.rst 5 (`The kvm_run structure`).

use crate::bytes::{get, get_u8, get_u16, get_u32, get_u64, set};
use crate::debug::DebugExit;

/// Bytes of the exit's details.
pub const EXIT_BYTES: usize = 256;
/// Bytes of the registers that are shared.
pub const SYNC_REGS_BYTES: usize = 2048;

/// In [`Run::kvm_valid_regs`]: a [`crate::regs::Regs`].
pub const SYNC_REGS: u64 = 1 << 0;
/// In [`Run::kvm_valid_regs`]: behind that a [`crate::regs::Sregs`].
pub const SYNC_SREGS: u64 = 1 << 1;
/// In [`Run::kvm_valid_regs`]: behind that a [`crate::events::Events`].
pub const SYNC_EVENTS: u64 = 1 << 2;
/// All registers that can be shared.
pub const SYNC_VALID: u64 = SYNC_REGS | SYNC_SREGS | SYNC_EVENTS;

/// In [`Run::flags`]: the vCPU is in system management mode.
pub const RUN_X86_SMM: u16 = 1 << 0;

/// The fixed part of the page: `struct kvm_run`.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Run {
    /// In: come out as soon as an interrupt could be injected.
    pub request_interrupt_window: u8,
    /// In: come out at once, after completing what was pending.
    pub immediate_exit: u8,
    /// Zero.
    pub padding1: [u8; 6],
    /// Out: [`crate::exit`].
    pub exit_reason: u32,
    /// Out: an interrupt could be injected now.
    pub ready_for_interrupt_injection: u8,
    /// Out: the guest's RFLAGS.IF.
    pub if_flag: u8,
    /// Out: [`RUN_X86_SMM`].
    pub flags: u16,
    /// In and out: the task priority, without a local APIC in the hypervisor.
    pub cr8: u64,
    /// In and out: the MSR IA32_APIC_BASE, likewise.
    pub apic_base: u64,
    /// The exit's details, by [`Self::exit_reason`].
    pub exit: Details,
    /// Which of the shared registers are valid.
    pub kvm_valid_regs: u64,
    /// Which of them the caller changed.
    pub kvm_dirty_regs: u64,
    /// The shared registers.
    pub sync_regs: [u8; SYNC_REGS_BYTES],
}

/// The details of an exit: a union, whose member is the exit's reason to say. `BYTES`: all of it, or its beginning, of which
/// what lies beyond reads as zero, and is not set.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details<const BYTES: usize = EXIT_BYTES>(pub [u8; BYTES]);

/// [`crate::exit::IO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// [`crate::exit::IO_IN`] or [`crate::exit::IO_OUT`].
    pub direction: u8,
    /// Bytes of one access: 1, 2 or 4.
    pub size: u8,
    /// The port.
    pub port: u16,
    /// How many accesses.
    pub count: u32,
    /// Where their bytes are, from the page's start.
    pub data_offset: u64,
}

/// [`crate::exit::MMIO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    /// The guest-physical address.
    pub phys_addr: u64,
    /// The bytes: a write's, or the answer to a read.
    pub data: [u8; 8],
    /// How many of them count.
    pub len: u32,
    /// Whether it is a write.
    pub is_write: bool,
}

/// [`crate::exit::HYPERCALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hypercall {
    /// Its number.
    pub nr: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// The answer.
    pub ret: u64,
    /// Bit 0: from 64-bit mode.
    pub flags: u64,
}

/// [`crate::exit::INTERNAL_ERROR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// `INTERNAL_ERROR_…`.
    pub suberror: u32,
    /// How many of [`Self::data`] count.
    pub ndata: u32,
    /// The details.
    pub data: [u64; 16],
}

/// [`crate::exit::X86_RDMSR`] and [`crate::exit::X86_WRMSR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msr {
    /// In: not 0 raises #GP.
    pub error: u8,
    /// Out: why the caller is asked.
    pub reason: u32,
    /// Out: which register.
    pub index: u32,
    /// The value: of a write, or the answer to a read.
    pub data: u64,
}

/// [`crate::exit::TPR_ACCESS`]: of the local APIC's task priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TprAccess {
    /// Where the instruction is.
    pub rip: u64,
    /// Whether it wrote.
    pub is_write: bool,
}

impl Run {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            request_interrupt_window: 0,
            immediate_exit: 0,
            padding1: [0; 6],
            exit_reason: 0,
            ready_for_interrupt_injection: 0,
            if_flag: 0,
            flags: 0,
            cr8: 0,
            apic_base: 0,
            exit: Details::new(),
            kvm_valid_regs: 0,
            kvm_dirty_regs: 0,
            sync_regs: [0; SYNC_REGS_BYTES],
        }
    }
}

impl<const BYTES: usize> Details<BYTES> {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; BYTES])
    }

    /// An access to a port.
    pub fn io(&self) -> Io {
        Io {
            direction: get_u8(&self.0, 0),
            size: get_u8(&self.0, 1),
            port: get_u16(&self.0, 2),
            count: get_u32(&self.0, 4),
            data_offset: get_u64(&self.0, 8),
        }
    }

    /// Sets an access to a port.
    pub fn set_io(&mut self, io: &Io) {
        set(&mut self.0, 0, [io.direction, io.size]);
        set(&mut self.0, 2, io.port.to_ne_bytes());
        set(&mut self.0, 4, io.count.to_ne_bytes());
        set(&mut self.0, 8, io.data_offset.to_ne_bytes());
    }

    /// An access to memory that is not there.
    pub fn mmio(&self) -> Mmio {
        Mmio {
            phys_addr: get_u64(&self.0, 0),
            data: get(&self.0, 8),
            len: get_u32(&self.0, 16),
            is_write: get_u8(&self.0, 20) != 0,
        }
    }

    /// Sets an access to memory that is not there.
    pub fn set_mmio(&mut self, mmio: &Mmio) {
        set(&mut self.0, 0, mmio.phys_addr.to_ne_bytes());
        set(&mut self.0, 8, mmio.data);
        set(&mut self.0, 16, mmio.len.to_ne_bytes());
        set(&mut self.0, 20, [u8::from(mmio.is_write)]);
    }

    /// A debugger's stop.
    pub fn debug(&self) -> DebugExit {
        DebugExit {
            exception: get_u32(&self.0, 0),
            pad: get_u32(&self.0, 4),
            pc: get_u64(&self.0, 8),
            dr6: get_u64(&self.0, 16),
            dr7: get_u64(&self.0, 24),
        }
    }

    /// Sets a debugger's stop.
    pub fn set_debug(&mut self, debug: &DebugExit) {
        set(&mut self.0, 0, debug.exception.to_ne_bytes());
        set(&mut self.0, 4, debug.pad.to_ne_bytes());
        set(&mut self.0, 8, debug.pc.to_ne_bytes());
        set(&mut self.0, 16, debug.dr6.to_ne_bytes());
        set(&mut self.0, 24, debug.dr7.to_ne_bytes());
    }

    /// A hypercall.
    pub fn hypercall(&self) -> Hypercall {
        let mut args = [0; 6];
        for (number, argument) in args.iter_mut().enumerate() {
            *argument = get_u64(&self.0, 8 + 8 * number);
        }
        Hypercall {
            nr: get_u64(&self.0, 0),
            args,
            ret: get_u64(&self.0, 56),
            flags: get_u64(&self.0, 64),
        }
    }

    /// Sets a hypercall.
    pub fn set_hypercall(&mut self, hypercall: &Hypercall) {
        set(&mut self.0, 0, hypercall.nr.to_ne_bytes());
        for (number, argument) in hypercall.args.iter().enumerate() {
            set(&mut self.0, 8 + 8 * number, argument.to_ne_bytes());
        }
        set(&mut self.0, 56, hypercall.ret.to_ne_bytes());
        set(&mut self.0, 64, hypercall.flags.to_ne_bytes());
    }

    /// Why the hypervisor could not go on.
    pub fn internal_error(&self) -> InternalError {
        let mut data = [0; 16];
        for (number, word) in data.iter_mut().enumerate() {
            *word = get_u64(&self.0, 8 + 8 * number);
        }
        InternalError { suberror: get_u32(&self.0, 0), ndata: get_u32(&self.0, 4), data }
    }

    /// Sets why the hypervisor could not go on.
    pub fn set_internal_error(&mut self, error: &InternalError) {
        set(&mut self.0, 0, error.suberror.to_ne_bytes());
        set(&mut self.0, 4, error.ndata.to_ne_bytes());
        for (number, word) in error.data.iter().enumerate() {
            set(&mut self.0, 8 + 8 * number, word.to_ne_bytes());
        }
    }

    /// An MSR that the caller wants to see.
    pub fn msr(&self) -> Msr {
        Msr {
            error: get_u8(&self.0, 0),
            reason: get_u32(&self.0, 8),
            index: get_u32(&self.0, 12),
            data: get_u64(&self.0, 16),
        }
    }

    /// Sets an MSR that the caller wants to see.
    pub fn set_msr(&mut self, msr: &Msr) {
        set(&mut self.0, 0, [msr.error]);
        set(&mut self.0, 8, msr.reason.to_ne_bytes());
        set(&mut self.0, 12, msr.index.to_ne_bytes());
        set(&mut self.0, 16, msr.data.to_ne_bytes());
    }

    /// The processor's reason of [`crate::exit::UNKNOWN`] and [`crate::exit::FAIL_ENTRY`].
    pub fn hardware_reason(&self) -> u64 {
        get_u64(&self.0, 0)
    }

    /// Sets the details of [`crate::exit::FAIL_ENTRY`]: the processor's reason, and its number.
    pub fn set_entry_failure(&mut self, reason: u64, processor: u32) {
        set(&mut self.0, 0, reason.to_ne_bytes());
        set(&mut self.0, 8, processor.to_ne_bytes());
    }

    /// The number of the processor of [`crate::exit::FAIL_ENTRY`].
    pub fn processor(&self) -> u32 {
        get_u32(&self.0, 8)
    }

    /// The vector of [`crate::exit::IOAPIC_EOI`].
    pub fn eoi_vector(&self) -> u8 {
        get_u8(&self.0, 0)
    }

    /// An access to the task priority.
    pub fn tpr_access(&self) -> TprAccess {
        TprAccess { rip: get_u64(&self.0, 0), is_write: get_u32(&self.0, 8) != 0 }
    }

    /// Sets the details of [`crate::exit::TPR_ACCESS`].
    pub fn set_tpr_access(&mut self, access: &TprAccess) {
        set(&mut self.0, 0, access.rip.to_ne_bytes());
        set(&mut self.0, 8, u32::from(access.is_write).to_ne_bytes());
    }

    /// Sets the vector of [`crate::exit::IOAPIC_EOI`].
    pub fn set_eoi_vector(&mut self, vector: u8) {
        set(&mut self.0, 0, [vector]);
    }

    /// The kind of [`crate::exit::SYSTEM_EVENT`].
    pub fn system_event(&self) -> u32 {
        get_u32(&self.0, 0)
    }

    /// Sets the kind of [`crate::exit::SYSTEM_EVENT`], without details.
    pub fn set_system_event(&mut self, kind: u32) {
        set(&mut self.0, 0, kind.to_ne_bytes());
        set(&mut self.0, 4, 0u32.to_ne_bytes());
    }
}

impl<const BYTES: usize> Default for Details<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Run {
    fn default() -> Self {
        Self::new()
    }
}
