//! The entries of a local APIC's local vector table: [`Entry`], named by [`Source`].
//! See: Intel SDM vol. 3, 11.5.1.
//!
//! Not implemented: CMCI (no machine checks are counted); delivery status, polarity
//! and remote IRR read as 0, because a local interrupt is accepted in no time and the two
//! local pins are not level-triggered.

use super::Delivery;

/// What can interrupt its own processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// The timer.
    Timer = 0,
    /// The thermal sensor.
    Thermal = 1,
    /// Performance monitoring counters.
    Performance = 2,
    /// The pin LINT0, to which a PC wires the 8259s.
    Lint0 = 3,
    /// The pin LINT1, to which a PC wires NMI.
    Lint1 = 4,
    /// The local APIC's own errors.
    Error = 5,
}

impl Source {
    /// How many there are.
    pub const COUNT: usize = 6;

    /// All, in the order of their registers.
    pub const ALL: [Source; Self::COUNT] = [
        Source::Timer,
        Source::Thermal,
        Source::Performance,
        Source::Lint0,
        Source::Lint1,
        Source::Error,
    ];

    /// The bits of this entry that can be written.
    #[must_use]
    pub const fn writable(self, tsc_deadline: bool) -> u32 {
        const MASKABLE: u32 = Entry::VECTOR | Entry::MASKED;
        match self {
            Source::Timer if tsc_deadline => MASKABLE | Entry::PERIODIC | Entry::TSC_DEADLINE,
            Source::Timer => MASKABLE | Entry::PERIODIC,
            Source::Thermal | Source::Performance => MASKABLE | Entry::DELIVERY,
            Source::Lint0 | Source::Lint1 => {
                MASKABLE | Entry::DELIVERY | Entry::ACTIVE_LOW | Entry::LEVEL
            }
            Source::Error => MASKABLE,
        }
    }

    /// The bits that are there but read-only: writing them is no error.
    #[must_use]
    pub const fn read_only(self) -> u32 {
        match self {
            Source::Lint0 | Source::Lint1 => Entry::DELIVERY_STATUS | Entry::REMOTE_IRR,
            _ => Entry::DELIVERY_STATUS,
        }
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u32);

impl Entry {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// The delivery mode.
    pub const DELIVERY: u32 = 7 << 8;
    /// Read-only: not yet accepted.
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// The pin is active low. Without effect: pins are set active or inactive.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// Read-only: a level-triggered interrupt awaits its EOI.
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// Timer mode: periodic.
    pub const PERIODIC: u32 = 1 << 17;
    /// Timer mode: TSC deadline.
    pub const TSC_DEADLINE: u32 = 1 << 18;

    /// The entry after reset.
    pub const RESET: Self = Self(Self::MASKED);

    /// Whether it lets nothing through.
    #[must_use]
    pub const fn masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        (self.0 & Self::VECTOR) as u8
    }

    /// The delivery mode; `None` is the reserved one.
    #[must_use]
    pub const fn delivery(self) -> Option<Delivery> {
        Delivery::from_bits(self.0 >> Self::DELIVERY.trailing_zeros())
    }
}
