//! Why `run` returned, and the answer that goes in with the next: two plain values.

use crate::guest_debug::DebugCause;
use crate::msr_policy::MsrReason;

/// Bytes of a port access, or of a string of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    bytes: [u8; Data::MAX],
    len: u8,
}

impl Data {
    /// How many bytes one exit carries at most: few, because each exit is copied some times, and hardly any is of a string.
    pub const MAX: usize = 8;

    /// The first bytes of `bytes`, at most [`Data::MAX`].
    #[must_use]
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(Self::MAX);
        let mut data = Self { bytes: [0; Self::MAX], len: len as u8 };
        data.bytes[..len].copy_from_slice(&bytes[..len]);
        data
    }

    /// `len` (at most [`Data::MAX`]) bytes of zero, to be filled.
    #[must_use]
    #[inline]
    pub fn zeroed(len: usize) -> Self {
        Self { bytes: [0; Self::MAX], len: len.min(Self::MAX) as u8 }
    }

    /// As many bytes, all ones: what nobody's port is read as.
    #[must_use]
    #[inline]
    pub fn ones(len: usize) -> Self {
        Self { bytes: [0xff; Self::MAX], len: len.min(Self::MAX) as u8 }
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, to be filled.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..usize::from(self.len)]
    }

    /// The bytes as a number.
    #[must_use]
    #[inline]
    pub fn word(&self) -> u64 {
        let mut word = [0; Self::MAX];
        let len = usize::from(self.len);
        word[..len].copy_from_slice(&self.bytes[..len]);
        u64::from_le_bytes(word)
    }
}

/// Why `run` returned to the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Interrupted,
    /// The guest reads a port. The answer is [`Answer::Data`] of `size * count` bytes.
    In {
        /// The port.
        port: u16,
        /// Size of one access: 1, 2 or 4.
        size: u8,
        /// Number of accesses.
        count: u8,
    },
    /// The guest writes a port.
    Out {
        /// The port.
        port: u16,
        /// Size of one access: 1, 2 or 4.
        size: u8,
        /// One or more accesses.
        data: Data,
    },
    /// The guest reads where no memory is. The answer is [`Answer::Data`] of `size` bytes.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8.
        size: u8,
    },
    /// The guest writes where no memory is.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// 1 to 8 bytes.
        data: Data,
    },
    /// The guest halts with interrupts off: only an NMI, INIT or another vCPU ends that. Without a local APIC each HLT is
    /// this: the VMM knows what ends it, and to run the vCPU is to go on behind it.
    Halted,
    /// The guest has ended a level-triggered interrupt, of which the I/O APIC is the VMM's.
    EndOfInterrupt {
        /// Its vector.
        vector: u8,
    },
    /// The guest has accessed the local APIC's task priority, which the VMM has asked to be told.
    TaskPriority {
        /// Where the instruction is.
        rip: u64,
        /// Whether it wrote.
        is_write: bool,
    },
    /// The guest has lowered the task priority of a local APIC that is the VMM's: an interrupt may be free to go.
    TaskPriorityLowered,
    /// The VMM can inject an interrupt, which it has asked to be told.
    InterruptWindow,
    /// The guest's read of a model-specific register was not made, which the VMM has asked to see. The answer is [`Answer::Data`] of
    /// eight bytes, or [`Answer::Refused`].
    ReadMsr {
        /// The register.
        number: u32,
        /// Why not.
        reason: MsrReason,
    },
    /// Likewise a write. The answer is [`Answer::Refused`], or any other.
    WriteMsr {
        /// The register.
        number: u32,
        /// What was to be written.
        value: u64,
        /// Why not.
        reason: MsrReason,
    },
    /// A triple fault.
    Shutdown,
    /// There is little room left for pages that the guest writes to: the VMM is to collect some.
    DirtyRingFull,
    /// What a debugger asked for.
    Debug {
        /// What has happened.
        cause: DebugCause,
        /// Linear address of the instruction that comes next.
        address: u64,
    },
    /// The host's mapping of guest memory is bad at this guest-physical address.
    BadMemory {
        /// The address.
        gpa: u64,
    },
    /// The processor refuses to go into the guest: its registers are no state that there can be.
    EntryRefused {
        /// What the processor says, in its own words.
        reason: u64,
        /// Which one of the host it is.
        processor: u32,
    },
    /// The engine can't go on: the host lacks what it needs, or it found a fault of its own.
    Failed(virt::Errno),
    /// An instruction that the engine, or the emulator of accesses to devices, lacks.
    Unsupported {
        /// Its first bytes.
        bytes: [u8; 15],
        /// How many of them are known; 0 where there is no memory to fetch it from.
        len: u8,
    },
}

/// What goes in with the next `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The exit needed none.
    None,
    /// What was read.
    Data(Data),
    /// The guest gets a general protection fault.
    Refused,
}

/// Which answer a vCPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// None.
    Nothing,
    /// To [`Exit::In`].
    Port {
        /// How many bytes all accesses have.
        bytes: u8,
    },
    /// To [`Exit::MmioRead`].
    Memory {
        /// Size of the access.
        size: u8,
    },
    /// To [`Exit::ReadMsr`].
    ReadMsr,
    /// To [`Exit::WriteMsr`].
    WriteMsr,
}
