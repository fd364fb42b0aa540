//! Which local APICs a [`Message`] is for. See: Intel SDM vol. 3, 11.6.2 and 11.12.10.
//!
//! Each local APIC tells its [`Address`]; who delivers messages keeps these in a
//! published map, one word for each vCPU, and asks [`matches()`], or for a message of lowest
//! priority [`arbitrate`].
//!
//! Not implemented: arbitration by the processors' priorities and focus processor
//! checking (11.6.2.4; both went with the Pentium 4). Instead the vector chooses among the
//! candidates, so that different interrupts spread and one stays where it is.

use super::{BROADCAST, Delivery, Message, Shorthand, XAPIC_BROADCAST};

/// The modes of a local APIC, as IA32_APIC_BASE sets them. See: Intel SDM vol. 3, 11.12.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Off: as if the processor had none.
    #[default]
    Disabled = 0,
    /// Registers are memory; 8-bit IDs.
    XApic = 1,
    /// Registers are MSRs; 32-bit IDs.
    X2Apic = 2,
}

/// How an xAPIC understands logical destinations. See: Intel SDM vol. 3, 11.6.2.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Model {
    /// Eight bits, one for each of eight APICs.
    #[default]
    Flat = 0,
    /// A cluster of four bits, one for each of four of its APICs.
    Cluster = 1,
}

/// What a local APIC answers to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The x2APIC ID; the xAPIC ID is its low eight bits.
    pub id: u32,
    /// The xAPIC's logical ID: bits 24–31 of the LDR. An x2APIC's is made of its ID.
    pub logical_id: u8,
    /// The xAPIC's model: the DFR.
    pub model: Model,
    /// Disabled, xAPIC or x2APIC.
    pub mode: Mode,
    /// Whether the spurious vector register enables it: otherwise it takes NMI, INIT,
    /// SMI and start-up, but no vectors.
    pub enabled: bool,
}

impl Address {
    /// Packs it into one word, to be published atomically.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.id as u64
            | (self.logical_id as u64) << 32
            | (self.model as u64) << 40
            | (self.mode as u64) << 41
            | (self.enabled as u64) << 43
    }

    /// Unpacks what [`Self::to_bits`] packed. Zero is a disabled local APIC.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            id: bits as u32,
            logical_id: (bits >> 32) as u8,
            model: if bits >> 40 & 1 == 0 { Model::Flat } else { Model::Cluster },
            mode: match bits >> 41 & 3 {
                0 => Mode::Disabled,
                1 => Mode::XApic,
                _ => Mode::X2Apic,
            },
            enabled: bits >> 43 & 1 != 0,
        }
    }

    /// Whether a message for `destination` reaches this local APIC.
    const fn answers(self, destination: u32, logical: bool) -> bool {
        if destination == BROADCAST {
            return true;
        }
        match (self.mode, logical) {
            (Mode::Disabled, _) => false,
            // All ones of what it has.
            (Mode::XApic, _) if destination == XAPIC_BROADCAST => true,
            (Mode::XApic, false) => destination == self.id & 0xff,
            (Mode::X2Apic, false) => destination == self.id,
            // Eight bits at most: a wider destination is for x2APICs.
            (Mode::XApic, true) => destination <= 0xff && self.answers_8_bits(destination as u8),
            (Mode::X2Apic, true) => {
                let own = x2apic_logical_id(self.id);
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
        }
    }

    /// Whether `destination` is this xAPIC's logical destination.
    const fn answers_8_bits(self, destination: u8) -> bool {
        match self.model {
            Model::Flat => destination & self.logical_id != 0,
            Model::Cluster => {
                destination >> 4 == self.logical_id >> 4 && destination & self.logical_id & 0xf != 0
            }
        }
    }
}

/// The logical ID that an x2APIC has by its ID: sixteen to a cluster.
/// See: Intel SDM vol. 3, 11.12.10.2.
#[must_use]
pub const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// Whether `message`, sent by the local APIC `sender` (if by one), is for `target`.
///
/// A local APIC that is disabled, or not enabled for a message with a vector, takes none. For a
/// message of lowest priority this says who is a candidate.
#[must_use]
pub const fn matches(message: &Message, sender: Option<u32>, target: Address) -> bool {
    let accepts = match target.mode {
        Mode::Disabled => false,
        Mode::XApic | Mode::X2Apic => target.enabled || !message.delivery.has_vector(),
    };
    let is_sender = match sender {
        Some(id) => id == target.id,
        None => false,
    };
    accepts
        && match message.shorthand {
            Shorthand::None => target.answers(message.destination, message.logical),
            Shorthand::Myself => is_sender,
            Shorthand::All => true,
            Shorthand::Others => !is_sender,
        }
}

/// Which of `candidates` local APICs that match takes a message of lowest priority: an index below
/// `candidates`, or `None` without any.
#[must_use]
pub const fn arbitrate(vector: u8, candidates: usize) -> Option<usize> {
    (vector as usize).checked_rem(candidates)
}

/// Whether one local APIC alone can match `message`, found by its ID: the common case, for
/// which a sender need not walk the map.
#[must_use]
pub const fn single(message: &Message, sender: Option<u32>) -> Option<u32> {
    match message.shorthand {
        Shorthand::Myself => sender,
        Shorthand::None if message.logical => None,
        Shorthand::None if matches!(message.destination, BROADCAST | XAPIC_BROADCAST) => None,
        Shorthand::None => Some(message.destination),
        _ => None,
    }
}

/// Whether `message` goes to one of those that match rather than to all.
#[must_use]
pub const fn is_arbitrated(message: &Message) -> bool {
    matches!(message.delivery, Delivery::LowestPriority)
}
