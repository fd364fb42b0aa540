//! Debug registers, and debugging a guest from outside. Neighbours: [`crate::run`].
//!
//! See: api.rst 4.33 (`KVM_GET_DEBUGREGS`), 4.87 (`KVM_SET_GUEST_DEBUG`).

/// The guest's debug registers: `struct kvm_debugregs`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRegs {
    /// DR0–DR3.
    pub db: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Zero.
    pub flags: u64,
    /// Zero.
    pub reserved: [u64; 9],
}

/// In [`GuestDebug::control`]: debugging is on.
pub const GUESTDBG_ENABLE: u32 = 1 << 0;
/// In [`GuestDebug::control`]: out after each instruction.
pub const GUESTDBG_SINGLESTEP: u32 = 1 << 1;
/// In [`GuestDebug::control`]: out at INT3.
pub const GUESTDBG_USE_SW_BP: u32 = 1 << 16;
/// In [`GuestDebug::control`]: out at the breakpoints in [`GuestDebug::debugreg`].
pub const GUESTDBG_USE_HW_BP: u32 = 1 << 17;
/// In [`GuestDebug::control`]: raise #DB in the guest.
pub const GUESTDBG_INJECT_DB: u32 = 1 << 18;
/// In [`GuestDebug::control`]: raise #BP in the guest.
pub const GUESTDBG_INJECT_BP: u32 = 1 << 19;
/// In [`GuestDebug::control`]: no interrupts while stepping.
pub const GUESTDBG_BLOCKIRQ: u32 = 1 << 20;

/// Asks for debugging: `struct kvm_guest_debug`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestDebug {
    /// `GUESTDBG_…`.
    pub control: u32,
    /// Zero.
    pub pad: u32,
    /// The debugger's DR0–DR7.
    pub debugreg: [u64; 8],
}

/// Why a debugged guest stopped: `struct kvm_debug_exit_arch`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugExit {
    /// The exception's vector: 1 or 3.
    pub exception: u32,
    /// Zero.
    pub pad: u32,
    /// The linear address of the instruction.
    pub pc: u64,
    /// DR6 as the debugger would see it.
    pub dr6: u64,
    /// DR7 likewise.
    pub dr7: u64,
}
