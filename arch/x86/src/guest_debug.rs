//! What a debugger wants of a vCPU, [`GuestDebug`], and what comes of it, [`DebugCause`]: plain values.
//!
//! [`crate::vcpu`] does what is wanted on the project's own engines; a back end on KVM hands it on.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.87 and 5 (`KVM_EXIT_DEBUG`); AMD APM vol. 2, 13.1.

use crate::emulate::debug::dr7;

/// What a debugger wants. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestDebug {
    /// Come out after each instruction.
    pub single_step: bool,
    /// Come out at INT3, instead of delivering its exception to the guest.
    pub software_breakpoints: bool,
    /// Come out at these. If there are any, the guest's own breakpoints are not active; it can use its debug registers
    /// all the same.
    pub hardware: [Option<Breakpoint>; 4],
    /// Come out before each access of the guest's to its debug registers.
    pub register_accesses: bool,
    /// Deliver neither interrupts nor NMIs: they wait.
    pub blocks_interrupts: bool,
}

/// A breakpoint that the processor looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoint {
    /// Linear address. The processor aligns it to what is watched there.
    pub address: u64,
    /// What is watched.
    pub watch: Watch,
}

/// What a [`Breakpoint`] watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// An instruction that begins there. The vCPU comes out before it.
    Execute,
    /// Writes of data. The vCPU comes out after the instruction.
    Write(Length),
    /// Reads and writes of data. The vCPU comes out after the instruction.
    ReadWrite(Length),
}

/// How many bytes are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the numbers")]
pub enum Length {
    One,
    Two,
    Four,
    Eight,
}

/// What a debugger is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugCause {
    /// The next instruction is INT3.
    SoftwareBreakpoint,
    /// A debug exception of the debugger's own: one of these, or both.
    Exception {
        /// An instruction was stepped over.
        stepped: bool,
        /// The [`GuestDebug::hardware`] breakpoints that were met: bit 0 is the first.
        breakpoints: u8,
    },
    /// The next instruction accesses the guest's debug registers.
    RegisterAccess,
}

impl GuestDebug {
    /// DR0 to DR3, and DR7, for the hardware breakpoints and accesses to registers; `None` if there are none.
    ///
    /// See: AMD APM vol. 2, 13.1.1.4. They are enabled as global ones, which a task switch leaves.
    #[must_use]
    pub fn registers(&self) -> Option<([u64; 4], u64)> {
        let mut control = if self.register_accesses { dr7::GD } else { 0 };
        for (n, breakpoint) in self.hardware.iter().enumerate() {
            let Some(breakpoint) = breakpoint else { continue };
            control |= 2 << (2 * n) | breakpoint.watch.control() << (16 + 4 * n);
        }
        let addresses = self.hardware.map(|b| b.map_or(0, |b| b.address));
        (control != 0).then_some((addresses, control | dr7::FIXED))
    }
}

impl Watch {
    /// The four bits of DR7.
    const fn control(self) -> u64 {
        match self {
            Self::Execute => 0,
            Self::Write(length) => 1 | length.control() << 2,
            Self::ReadWrite(length) => 3 | length.control() << 2,
        }
    }
}

impl Length {
    const fn control(self) -> u64 {
        match self {
            Self::One => 0,
            Self::Two => 1,
            Self::Eight => 2,
            Self::Four => 3,
        }
    }
}
