//! What is pending in a vCPU, and whether it runs. Neighbours: [`crate::regs`].
//!
//! See: api.rst 4.31 (`KVM_GET_VCPU_EVENTS`), 4.38 (`KVM_GET_MP_STATE`).

/// [`Events::nmi`]`.pending` counts in a set.
pub const VALID_NMI_PENDING: u32 = 1 << 0;
/// [`Events::sipi_vector`] counts in a set.
pub const VALID_SIPI_VECTOR: u32 = 1 << 1;
/// [`Events::interrupt`]`.shadow` counts.
pub const VALID_SHADOW: u32 = 1 << 2;
/// [`Events::smi`] counts.
pub const VALID_SMM: u32 = 1 << 3;
/// The exception's `pending` and payload count (`KVM_CAP_EXCEPTION_PAYLOAD`).
pub const VALID_PAYLOAD: u32 = 1 << 4;
/// [`Events::triple_fault`] counts (`KVM_CAP_X86_TRIPLE_FAULT_EVENT`).
pub const VALID_TRIPLE_FAULT: u32 = 1 << 5;

/// In [`Interrupt::shadow`]: blocked by a write to SS.
pub const SHADOW_INT_MOV_SS: u8 = 1 << 0;
/// In [`Interrupt::shadow`]: blocked by STI.
pub const SHADOW_INT_STI: u8 = 1 << 1;

/// An exception on its way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// It is being delivered.
    pub injected: u8,
    /// Its vector.
    pub nr: u8,
    /// Whether it has an error code.
    pub has_error_code: u8,
    /// It was raised, and is not yet being delivered.
    pub pending: u8,
    /// Its error code.
    pub error_code: u32,
}

/// An interrupt on its way, and the shadow that holds one up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// It is being delivered.
    pub injected: u8,
    /// Its vector.
    pub nr: u8,
    /// It came from an INT instruction.
    pub soft: u8,
    /// [`SHADOW_INT_MOV_SS`], [`SHADOW_INT_STI`].
    pub shadow: u8,
}

/// Non-maskable interrupts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nmi {
    /// One is being delivered.
    pub injected: u8,
    /// How many wait: at most two.
    pub pending: u8,
    /// They are blocked until IRET.
    pub masked: u8,
    /// Zero.
    pub pad: u8,
}

/// System management mode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Smi {
    /// The vCPU is in system management mode.
    pub smm: u8,
    /// An SMI waits.
    pub pending: u8,
    /// The mode was entered from an NMI's handler.
    pub smm_inside_nmi: u8,
    /// An INIT waits.
    pub latched_init: u8,
}

/// A triple fault that waits to be reported.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TripleFault {
    /// There is one.
    pub pending: u8,
}

/// What is pending in a vCPU: `struct kvm_vcpu_events`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// The exception.
    pub exception: Exception,
    /// The interrupt.
    pub interrupt: Interrupt,
    /// NMIs.
    pub nmi: Nmi,
    /// The vector of a start-up IPI.
    pub sipi_vector: u32,
    /// Which parts count: `VALID_…`.
    pub flags: u32,
    /// System management mode.
    pub smi: Smi,
    /// A triple fault.
    pub triple_fault: TripleFault,
    /// Zero.
    pub reserved: [u8; 26],
    /// The pending exception has a payload.
    pub exception_has_payload: u8,
    /// What goes into DR6 or CR2 when it is delivered.
    pub exception_payload: u64,
}

/// Whether a vCPU runs: `struct kvm_mp_state`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MpState {
    /// `MP_STATE_…`.
    pub mp_state: u32,
}

/// It runs.
pub const MP_STATE_RUNNABLE: u32 = 0;
/// An application processor that has had no INIT.
pub const MP_STATE_UNINITIALIZED: u32 = 1;
/// It has had INIT and waits for a start-up IPI.
pub const MP_STATE_INIT_RECEIVED: u32 = 2;
/// It executed HLT and waits for an interrupt.
pub const MP_STATE_HALTED: u32 = 3;
/// It has had its start-up IPI.
pub const MP_STATE_SIPI_RECEIVED: u32 = 4;
