//! Exceptions: their vectors, error codes and classes.
//!
//! An [`Exception`] is a guest fault as a value. [`crate::emulate`] and the
//! page walk of [`crate::mmu`] raise them; `emulate::event` delivers them.
//!
//! See: AMD APM vol. 2, 8.2; Intel SDM vol. 3, 6.15.

/// Divide error.
pub const DE: u8 = 0;
/// Debug.
pub const DB: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Breakpoint (INT3).
pub const BP: u8 = 3;
/// Overflow (INTO).
pub const OF: u8 = 4;
/// BOUND range exceeded.
pub const BR: u8 = 5;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Device not available.
pub const NM: u8 = 7;
/// Double fault.
pub const DF: u8 = 8;
/// Invalid TSS.
pub const TS: u8 = 10;
/// Segment not present.
pub const NP: u8 = 11;
/// Stack.
pub const SS: u8 = 12;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// x87 floating point.
pub const MF: u8 = 16;
/// Alignment check.
pub const AC: u8 = 17;
/// Machine check.
pub const MC: u8 = 18;
/// SIMD floating point.
pub const XM: u8 = 19;

/// Page-fault error code bits. See: AMD APM vol. 2, 8.4.2.
pub mod page_fault {
    /// The page was present: a protection violation.
    pub const PRESENT: u32 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// The access was made at CPL 3.
    pub const USER: u32 = 1 << 2;
    /// A reserved bit was set in a page-table entry.
    pub const RESERVED: u32 = 1 << 3;
    /// The access was an instruction fetch (only with NX or SMEP on).
    pub const FETCH: u32 = 1 << 4;
}

/// A guest fault or trap, ready to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The vector, below 32.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error: Option<u32>,
    /// What the exception leaves in a register besides: the faulting linear
    /// address of a #PF (for CR2), the DR6 bits of a #DB.
    pub payload: u64,
}

impl Exception {
    /// An exception that pushes no error code.
    #[must_use]
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, payload: 0 }
    }

    /// An exception that pushes `error`.
    #[must_use]
    pub const fn with_error(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), payload: 0 }
    }

    /// General protection with `error` (a selector, or 0).
    #[must_use]
    pub const fn gp(error: u32) -> Self {
        Self::with_error(GP, error)
    }

    /// Stack fault with `error`.
    #[must_use]
    pub const fn ss(error: u32) -> Self {
        Self::with_error(SS, error)
    }

    /// Invalid opcode.
    #[must_use]
    pub const fn ud() -> Self {
        Self::plain(UD)
    }

    /// Page fault at `linear` with the bits of [`page_fault`].
    #[must_use]
    pub const fn pf(linear: u64, error: u32) -> Self {
        Self { vector: PF, error: Some(error), payload: linear }
    }

    /// Debug exception that sets `dr6` bits.
    #[must_use]
    pub const fn db(dr6: u64) -> Self {
        Self { vector: DB, error: None, payload: dr6 }
    }

    /// Whether a second exception of this vector during delivery of a first
    /// may lead to a double fault. See: AMD APM vol. 2, 8.2.9.
    #[must_use]
    pub const fn class(vector: u8) -> Class {
        match vector {
            DE | TS | NP | SS | GP => Class::Contributory,
            PF => Class::PageFault,
            DF => Class::DoubleFault,
            _ => Class::Benign,
        }
    }

    /// What becomes of `self`, raised while `first` was being delivered.
    /// `None` is shutdown (a triple fault).
    #[must_use]
    pub const fn during(self, first: u8) -> Option<Self> {
        match (Self::class(first), Self::class(self.vector)) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                Some(Self::with_error(DF, 0))
            }
            _ => Some(self),
        }
    }
}

/// The classes of the double-fault rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Never leads to a double fault.
    Benign,
    /// Leads to one after another contributory exception or a page fault.
    Contributory,
    /// The page fault itself.
    PageFault,
    /// The double fault itself: a further fault shuts the processor down.
    DoubleFault,
}
