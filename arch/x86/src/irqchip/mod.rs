//! The interrupt and timer chips of a PC, as pure state machines.
//!
//! A chip has no lock, no I/O and no clock: state and time go in, effects come out
//! as values of a fixed size, for the caller to carry out. Time is in nanoseconds of
//! one monotonic clock. Nothing here allocates.
//!
//! - [`lapic`]: one vCPU's local APIC, owned by that vCPU's thread, with its registers
//!   ([`lapic_registers`]), local vector table ([`lvt`]) and timer ([`lapic_timer`]);
//! - [`destination`]: which local APICs a [`Message`] is for;
//! - [`i8259`], [`i8254`], [`ioapic`]: the chips that vCPUs share, and [`chips`], the
//!   three of them wired together, which belong behind one lock;
//! - [`vectors`]: a set of interrupt vectors.
//!
//! This file defines what they exchange: [`Message`].

pub mod chips;
pub mod destination;
pub mod i8254;
pub mod i8254_counter;
pub mod i8259;
pub mod ioapic;
pub mod lapic;
pub mod lapic_registers;
pub mod lapic_timer;
pub mod lvt;
pub mod owed_ticks;
pub mod vectors;

#[cfg(feature = "selftest")]
pub mod chips_test;
#[cfg(feature = "selftest")]
pub mod destination_test;
#[cfg(feature = "selftest")]
pub mod i8254_test;
#[cfg(feature = "selftest")]
pub mod i8259_test;
#[cfg(feature = "selftest")]
pub mod ioapic_test;
#[cfg(feature = "selftest")]
pub mod lapic_test;
#[cfg(feature = "selftest")]
pub mod lapic_timer_test;
#[cfg(feature = "selftest")]
pub mod vectors_test;

/// The destination that means every local APIC, in either addressing mode.
///
/// An 8-bit destination of 0xff, as the I/O APIC, MSIs and an xAPIC send it, is widened
/// to this by [`widen_destination`], so that a receiver needs to know only one broadcast.
pub const BROADCAST: u32 = u32::MAX;

/// The destination that means every xAPIC. To an x2APIC it is an ID like others, unless what sends it has no more bits.
pub const XAPIC_BROADCAST: u32 = 0xff;

/// Makes a [`Message::destination`] of the 8 bits that a sender has.
#[must_use]
pub const fn widen_destination(destination: u8) -> u32 {
    if destination as u32 == XAPIC_BROADCAST { BROADCAST } else { destination as u32 }
}

/// How a message is delivered. The values are those of the delivery mode field.
/// See: Intel SDM vol. 3, 11.6.1 and 11.11.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Delivery {
    /// To every destination, as `vector`.
    #[default]
    Fixed = 0,
    /// To the one destination of the lowest priority, as `vector`.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// Puts the processor into its state after INIT.
    Init = 5,
    /// Starts a processor that waits after INIT, at page `vector`.
    StartUp = 6,
    /// The vector is the 8259's to say.
    ExtInt = 7,
}

impl Delivery {
    /// The mode that the low three bits of `bits` say; 3 is reserved.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Delivery::Fixed),
            1 => Some(Delivery::LowestPriority),
            2 => Some(Delivery::Smi),
            4 => Some(Delivery::Nmi),
            5 => Some(Delivery::Init),
            6 => Some(Delivery::StartUp),
            7 => Some(Delivery::ExtInt),
            _ => None,
        }
    }

    /// Whether the message ends in a local APIC's request register as its vector.
    #[must_use]
    pub const fn has_vector(self) -> bool {
        matches!(self, Delivery::Fixed | Delivery::LowestPriority)
    }
}

/// The destination shorthand of an interprocessor interrupt. The values are those of
/// the field in the ICR. See: Intel SDM vol. 3, 11.6.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shorthand {
    /// [`Message::destination`] says it.
    #[default]
    None = 0,
    /// The sender alone.
    Myself = 1,
    /// Every local APIC.
    All = 2,
    /// Every local APIC but the sender's.
    Others = 3,
}

impl Shorthand {
    /// The shorthand that the low two bits of `bits` say.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        }
    }
}

/// An interrupt message on its way to local APICs: from an I/O APIC, another local APIC
/// or, as an MSI, from a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// To whom: an APIC ID or, if `logical`, a logical one. [`BROADCAST`] is everybody.
    pub destination: u32,
    /// Whether `destination` is matched against logical IDs.
    pub logical: bool,
    /// What it does there.
    pub delivery: Delivery,
    /// With what vector.
    pub vector: u8,
    /// Trigger mode: level rather than edge.
    pub level: bool,
    /// Whether the level is asserted; only INIT can be otherwise.
    pub assert: bool,
    /// What replaces `destination`; only local APICs send other than [`Shorthand::None`].
    pub shorthand: Shorthand,
}

impl Message {
    /// The message that a write of `data` to `address` makes, if it is one at all.
    /// See: Intel SDM vol. 3, 11.11.
    ///
    /// Bits 32–63 of the address carry bits 8–31 of the destination in KVM's x2APIC
    /// format (`KVM_CAP_X2APIC_API`). A redirection hint makes a fixed message one of lowest
    /// priority. The remappable format (bit 4) is not implemented.
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        const PAGE: u64 = 0xfee0_0000;
        const PAGE_MASK: u64 = 0xfff0_0000;
        const REDIRECTION_HINT: u64 = 1 << 3;
        const LOGICAL: u64 = 1 << 2;
        const ASSERT: u32 = 1 << 14;
        const LEVEL: u32 = 1 << 15;
        if address & PAGE_MASK != PAGE {
            return None;
        }
        let Some(delivery) = Delivery::from_bits(data >> 8) else {
            return None;
        };
        let high = (address >> 32) as u32 & !0xff;
        let low = (address >> 12) as u8;
        let delivery = match delivery {
            Delivery::Fixed if address & REDIRECTION_HINT != 0 => Delivery::LowestPriority,
            other => other,
        };
        let level = data & LEVEL != 0;
        Some(Self {
            destination: if high == 0 { widen_destination(low) } else { high | low as u32 },
            logical: address & LOGICAL != 0,
            delivery,
            vector: data as u8,
            level,
            // An edge has no level to deassert.
            assert: !level || data & ASSERT != 0,
            shorthand: Shorthand::None,
        })
    }

    /// This message, sent with 8 bits of destination, as it is where all ones of these are for xAPICs alone.
    #[must_use]
    pub const fn for_xapics(self) -> Self {
        match self.destination {
            BROADCAST => Self { destination: XAPIC_BROADCAST, ..self },
            _ => self,
        }
    }

    /// The address and the data whose write makes this message: what [`Self::from_msi`] reads. A shorthand has no
    /// place there.
    #[must_use]
    pub const fn to_msi(&self) -> (u64, u32) {
        let (high, low) = match self.destination {
            BROADCAST => (0, 0xff),
            destination => (destination & !0xff, destination as u8),
        };
        let address =
            (high as u64) << 32 | 0xfee0_0000 | (low as u64) << 12 | (self.logical as u64) << 2;
        let data = self.vector as u32
            | (self.delivery as u32) << 8
            | (self.assert as u32) << 14
            | (self.level as u32) << 15;
        (address, data)
    }
}

/// A list of messages of bounded length: what one write to a chip can set off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    // Entries at `len` and behind are `Message::default()`.
    entries: [Message; Messages::CAPACITY],
    len: u8,
}

impl Messages {
    /// One for each pin of an I/O APIC: all of them can wait for the same EOI.
    pub const CAPACITY: usize = ioapic::PINS;

    /// The messages, in the order in which they were made.
    #[must_use]
    pub fn as_slice(&self) -> &[Message] {
        &self.entries[..usize::from(self.len)]
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `message`. One beyond the capacity is lost: a chip has one for each pin at most.
    pub fn push(&mut self, message: Message) {
        if let Some(entry) = self.entries.get_mut(usize::from(self.len)) {
            *entry = message;
            self.len += 1;
        }
    }
}

impl From<Option<Message>> for Messages {
    fn from(message: Option<Message>) -> Self {
        let mut messages = Self::default();
        if let Some(message) = message {
            messages.push(message);
        }
        messages
    }
}

impl<'a> IntoIterator for &'a Messages {
    type Item = &'a Message;
    type IntoIter = core::slice::Iter<'a, Message>;
    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter()
    }
}
