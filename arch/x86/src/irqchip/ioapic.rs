//! The I/O APIC, of 24 pins: [`IoApic`].
//!
//! A pin that becomes active, a write and an EOI make [`Message`]s, for the caller to deliver.
//!
//! After the Intel 82093AA datasheet (1996), with the EOI register of version 0x20 (ICH datasheets).
//! Not implemented, or otherwise:
//! - polarity is stored, without effect: pins are set active or inactive, whatever the wire's level;
//! - delivery status reads 0, because a message is delivered in no time, and the arbitration ID
//!   is the ID, because nothing is arbitrated;
//! - destinations of more than eight bits (KVM's extended destination ID, interrupt remapping);
//! - a level-triggered pin is treated as an edge for delivery modes that no EOI ends.

use super::{Delivery, Message, Messages, Shorthand, widen_destination};

/// How many pins there are.
pub const PINS: usize = 24;

/// Where a PC has it, and how much address space it takes there.
pub const DEFAULT_ADDRESS: u64 = 0xfec0_0000;
/// See [`DEFAULT_ADDRESS`].
pub const SIZE: u64 = 0x1000;

/// Registers, by their offset.
mod offset {
    /// Which register is behind `DATA`.
    pub const INDEX: u64 = 0x00;
    pub const DATA: u64 = 0x10;
    /// Version 0x20 only, write-only: a vector.
    pub const EOI: u64 = 0x40;
}

/// Registers behind `DATA`, by their index.
mod index {
    pub const ID: u8 = 0x00;
    pub const VERSION: u8 = 0x01;
    pub const ARBITRATION: u8 = 0x02;
    /// Two for each pin.
    pub const REDIRECTION: u8 = 0x10;
}

/// Where, and how wide, the ID is in its register.
const ID_SHIFT: u32 = 24;
const ID_BITS: u8 = 0xf;

/// The versions. See: 82093AA, 3.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Version {
    /// The 82093AA's own, without an EOI register.
    V11 = 0x11,
    /// With an EOI register: what local APICs that can suppress EOI broadcasts need.
    #[default]
    V20 = 0x20,
}

/// An entry of the redirection table. See: 82093AA, 3.2.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirection(pub u64);

impl Redirection {
    /// The vector.
    pub const VECTOR: u64 = 0xff;
    /// The delivery mode.
    pub const DELIVERY: u64 = 7 << 8;
    /// The destination is a logical one.
    pub const LOGICAL: u64 = 1 << 11;
    /// Read-only: not yet delivered.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    /// Active low.
    pub const ACTIVE_LOW: u64 = 1 << 13;
    /// Read-only: a level-triggered interrupt awaits its EOI.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// The destination.
    pub const DESTINATION: u64 = 0xff << 56;
    /// The bits that can be written.
    pub const WRITABLE: u64 = Self::VECTOR
        | Self::DELIVERY
        | Self::LOGICAL
        | Self::ACTIVE_LOW
        | Self::LEVEL
        | Self::MASKED
        | Self::DESTINATION;

    /// The entry after reset.
    pub const RESET: Self = Self(Self::MASKED);

    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        (self.0 & Self::VECTOR) as u8
    }

    /// The delivery mode; `None` is the reserved one.
    #[must_use]
    pub const fn delivery(self) -> Option<Delivery> {
        Delivery::from_bits((self.0 >> Self::DELIVERY.trailing_zeros()) as u32)
    }

    /// Whether the interrupt lasts until its EOI.
    #[must_use]
    pub fn is_level(self) -> bool {
        self.has(Self::LEVEL) && self.delivery().is_some_and(Delivery::has_vector)
    }

    /// Whether nothing is sent.
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.has(Self::MASKED)
    }

    /// The message that the entry sends, masked or not; `None` for the reserved delivery mode.
    #[must_use]
    pub fn message(self) -> Option<Message> {
        Some(Message {
            destination: widen_destination((self.0 >> Self::DESTINATION.trailing_zeros()) as u8),
            logical: self.has(Self::LOGICAL),
            delivery: self.delivery()?,
            vector: self.vector(),
            level: self.is_level(),
            assert: true,
            shorthand: Shorthand::None,
        })
    }
}

/// What the guest sees and changes, and the pins: saved, restored and reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Four bits.
    pub id: u8,
    /// Which register is behind the data register.
    pub index: u8,
    /// The pins that are active, a bit each. Not reset: they are not the chip's.
    pub lines: u32,
    /// The redirection table.
    pub redirections: [Redirection; PINS],
}

/// What an EOI did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The pins whose interrupt it ended, a bit each.
    pub pins: u32,
    /// Those among them that are still active interrupt again.
    pub messages: Messages,
}

/// An I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    // Fixed configuration.
    version: Version,
    // Volatile state.
    state: State,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new(Version::default())
    }
}

impl IoApic {
    /// An I/O APIC after power-on.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        let state = State { id: 0, index: 0, lines: 0, redirections: [Redirection::RESET; PINS] };
        Self { version, state }
    }

    /// Power-on reset.
    pub const fn reset(&mut self) {
        let lines = self.state.lines;
        *self = Self::new(self.version);
        self.state.lines = lines;
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Restores its state. What the entries say is sent is not sent again.
    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    /// A pin becomes active or inactive; pins that are not there are ignored.
    pub fn set_line(&mut self, pin: usize, active: bool) -> Option<Message> {
        if pin >= PINS {
            return None;
        }
        let was = self.state.lines >> pin & 1 != 0;
        if active {
            self.state.lines |= 1 << pin;
        } else {
            self.state.lines &= !(1 << pin);
        }
        self.evaluate(pin, active && !was)
    }

    /// The processors have ended the level-triggered interrupt `vector`. Of the pins in `falling`, a bit each, one whose interrupt has
    /// ended is inactive from then on.
    pub fn eoi(&mut self, vector: u8, falling: u32) -> Ended {
        let mut ended = Ended::default();
        for pin in 0..PINS {
            let entry = &mut self.state.redirections[pin];
            if entry.vector() != vector || !entry.has(Redirection::REMOTE_IRR) {
                continue;
            }
            entry.0 &= !Redirection::REMOTE_IRR;
            ended.pins |= 1 << pin;
            self.state.lines &= !(falling & 1 << pin);
            if let Some(message) = self.evaluate(pin, false) {
                ended.messages.push(message);
            }
        }
        ended
    }

    /// Reads from `offset`, modulo [`SIZE`].
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match offset % SIZE {
            offset::INDEX => self.state.index.into(),
            offset::DATA => self.read_register(),
            _ => return,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// Writes to `offset`, modulo [`SIZE`]. A write of fewer than four bytes is filled up with
    /// zeros. It may end interrupts, as [`eoi`](Self::eoi).
    pub fn write(&mut self, offset: u64, data: &[u8], falling: u32) -> Ended {
        let mut bytes = [0; 4];
        for (byte, value) in bytes.iter_mut().zip(data) {
            *byte = *value;
        }
        let value = u32::from_le_bytes(bytes);
        match offset % SIZE {
            offset::INDEX => self.state.index = value as u8,
            offset::DATA => {
                let messages = self.write_register(value).into();
                return Ended { pins: 0, messages };
            }
            offset::EOI if self.version == Version::V20 => {
                return self.eoi(value as u8, falling);
            }
            _ => {}
        }
        Ended::default()
    }

    fn read_register(&self) -> u32 {
        match self.state.index {
            index::ID | index::ARBITRATION => u32::from(self.state.id) << ID_SHIFT,
            index::VERSION => self.version as u32 | (PINS as u32 - 1) << 16,
            other => match half_of(other) {
                Some((pin, high)) => {
                    (self.state.redirections[pin].0 >> if high { 32 } else { 0 }) as u32
                }
                None => 0,
            },
        }
    }

    fn write_register(&mut self, value: u32) -> Option<Message> {
        if self.state.index == index::ID {
            self.state.id = (value >> ID_SHIFT) as u8 & ID_BITS;
        }
        let (pin, high) = half_of(self.state.index)?;
        let entry = &mut self.state.redirections[pin];
        let shift = if high { 32 } else { 0 };
        let writable = Redirection::WRITABLE & u64::from(u32::MAX) << shift;
        entry.0 = entry.0 & !writable | u64::from(value) << shift & writable;
        // Without an EOI register this is how a guest ends a level-triggered interrupt by itself: make
        // it an edge, and then a level again.
        if !entry.is_level() {
            entry.0 &= !Redirection::REMOTE_IRR;
        }
        self.evaluate(pin, false)
    }

    /// The message, if any, that is due at `pin`, of which `edge` says that it just became active.
    ///
    /// An edge at a masked pin is lost; a level is looked at again when the mask goes.
    /// See: 82093AA, 3.2.4.
    fn evaluate(&mut self, pin: usize, edge: bool) -> Option<Message> {
        let active = self.state.lines >> pin & 1 != 0;
        let entry = &mut self.state.redirections[pin];
        let due =
            if entry.is_level() { active && !entry.has(Redirection::REMOTE_IRR) } else { edge };
        if !due || entry.has(Redirection::MASKED) {
            return None;
        }
        let message = entry.message()?;
        if message.level {
            entry.0 |= Redirection::REMOTE_IRR;
        }
        Some(message)
    }
}

/// The pin, and whether it is the upper half, whose redirection is at `index`.
fn half_of(index: u8) -> Option<(usize, bool)> {
    let half = index.checked_sub(index::REDIRECTION)?;
    let pin = usize::from(half / 2);
    (pin < PINS).then_some((pin, half % 2 != 0))
}
