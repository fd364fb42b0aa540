//! [`Common`]: the common configuration: features, status, and where the queues are. Registers alone.
//!
//! See: VIRTIO 1.2, 2.1, 2.2, 4.1.4.3.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::virtio::feature;

/// Bits of the device status.
pub mod status {
    /// The driver has taken the features that it wants.
    pub const FEATURES_OK: u8 = 8;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The device wants to be reset.
    pub const NEEDS_RESET: u8 = 64;
}

/// Offsets of the registers.
pub mod register {
    /// Which 32 of the features [`DEVICE_FEATURE`] are.
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    /// What the device offers.
    pub const DEVICE_FEATURE: u64 = 0x04;
    /// Which 32 of the features [`DRIVER_FEATURE`] are.
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    /// What the driver takes.
    pub const DRIVER_FEATURE: u64 = 0x0c;
    /// The configuration's vector.
    pub const CONFIG_VECTOR: u64 = 0x10;
    /// How many queues there are.
    pub const QUEUES: u64 = 0x12;
    /// The device status.
    pub const STATUS: u64 = 0x14;
    /// Another number after each change of the configuration.
    pub const GENERATION: u64 = 0x15;
    /// Which queue the rest is about.
    pub const QUEUE_SELECT: u64 = 0x16;
    /// How many descriptors it has.
    pub const QUEUE_SIZE: u64 = 0x18;
    /// Its vector.
    pub const QUEUE_VECTOR: u64 = 0x1a;
    /// Whether it is used.
    pub const QUEUE_ENABLE: u64 = 0x1c;
    /// Where it is notified.
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    /// The addresses of its parts.
    pub const QUEUE_RINGS: u64 = 0x20;
    /// Behind them.
    pub const QUEUE_RINGS_END: u64 = 0x38;
}

/// Bytes of the registers.
pub const SIZE: u64 = 0x38;

/// What a write asks for beyond the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The device is to be reset; the registers are already.
    Reset,
    /// The driver is ready.
    Activate,
    /// A queue, or the configuration, is to have another vector.
    SetVector(Option<u16>, u16),
}

/// What a read needs to know of elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elsewhere {
    /// The device has asked for reset.
    pub needs_reset: bool,
    /// How often its configuration has changed.
    pub generation: u8,
    /// The configuration's vector.
    pub config_vector: u16,
    /// The selected queue's.
    pub queue_vector: u16,
}

/// A queue as the driver sets it up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    most: u16,
    size: u16,
    enabled: bool,
    /// Descriptors, available and used ring.
    rings: [u64; 3],
}

impl Setup {
    const fn new(most: u16) -> Self {
        Self { most, size: most, enabled: false, rings: [0; 3] }
    }

    /// The queue, if the driver uses it.
    fn queue(&self, event_idx: bool) -> Result<Option<Queue>, virtio_queue::Error> {
        if !self.enabled {
            return Ok(None);
        }
        let [descriptors, available, used] = self.rings.map(GuestAddress);
        let mut queue = Queue::new(self.most)?;
        queue.try_set_size(self.size)?;
        queue.try_set_desc_table_address(descriptors)?;
        queue.try_set_avail_ring_address(available)?;
        queue.try_set_used_ring_address(used)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(Some(queue))
    }
}

/// The registers.
#[derive(Clone, Debug)]
pub struct Common {
    offered: u64,
    taken: u64,
    offered_select: u32,
    taken_select: u32,
    status: u8,
    select: u16,
    queues: Vec<Setup>,
}

impl Common {
    /// Of a device with these features and queues.
    #[must_use]
    pub fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        let queues = queue_sizes.iter().map(|most| Setup::new(*most)).collect();
        Self { offered, taken: 0, offered_select: 0, taken_select: 0, status: 0, select: 0, queues }
    }

    /// The features that the driver has taken.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.taken
    }

    /// The queue that is selected.
    #[must_use]
    pub fn selected(&self) -> u16 {
        self.select
    }

    /// The queues that the driver has set up, by number.
    ///
    /// # Errors
    /// When one is set up in a way that there is not.
    pub fn queues(&self) -> Result<Vec<Option<Queue>>, virtio_queue::Error> {
        let event_idx = self.taken & feature::EVENT_IDX != 0;
        self.queues.iter().map(|setup| setup.queue(event_idx)).collect()
    }

    /// Reads a register; what is none reads as zeroes.
    pub fn read(&self, offset: u64, data: &mut [u8], elsewhere: Elsewhere) {
        let queue = self.queues.get(usize::from(self.select)).copied();
        let queue = queue.unwrap_or(Setup { size: 0, ..Setup::new(0) });
        let value = match (offset, data.len()) {
            (register::DEVICE_FEATURE_SELECT, 4) => self.offered_select.into(),
            (register::DEVICE_FEATURE, 4) => half(self.offered, self.offered_select),
            (register::DRIVER_FEATURE_SELECT, 4) => self.taken_select.into(),
            (register::DRIVER_FEATURE, 4) => half(self.taken, self.taken_select),
            (register::CONFIG_VECTOR, 2) => elsewhere.config_vector.into(),
            (register::QUEUES, 2) => self.queues.len() as u64,
            (register::STATUS, 1) => {
                let needs_reset = elsewhere.needs_reset && self.status != 0;
                u64::from(self.status | if needs_reset { status::NEEDS_RESET } else { 0 })
            }
            (register::GENERATION, 1) => elsewhere.generation.into(),
            (register::QUEUE_SELECT, 2) => self.select.into(),
            (register::QUEUE_SIZE, 2) => queue.size.into(),
            (register::QUEUE_VECTOR, 2) => elsewhere.queue_vector.into(),
            (register::QUEUE_ENABLE, 2) => queue.enabled.into(),
            (register::QUEUE_NOTIFY_OFF, 2) => self.select.into(),
            (register::QUEUE_RINGS..register::QUEUE_RINGS_END, 4 | 8) => {
                let at = offset - register::QUEUE_RINGS;
                queue.rings[(at / 8) as usize] >> (at % 8 * 8)
            }
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }

    /// Writes a register. Gives what is to be done then.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Option<Action> {
        let mut bytes = [0; 8];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (register::DEVICE_FEATURE_SELECT, 4) => self.offered_select = value as u32,
            (register::DRIVER_FEATURE_SELECT, 4) => self.taken_select = value as u32,
            (register::DRIVER_FEATURE, 4) => self.take_features(value as u32),
            (register::CONFIG_VECTOR, 2) => return Some(Action::SetVector(None, value as u16)),
            (register::STATUS, 1) => return self.set_status(value as u8),
            (register::QUEUE_SELECT, 2) => self.select = value as u16,
            (register::QUEUE_VECTOR, 2) => {
                return Some(Action::SetVector(Some(self.select), value as u16));
            }
            (register::QUEUE_SIZE | register::QUEUE_ENABLE, 2)
            | (register::QUEUE_RINGS..register::QUEUE_RINGS_END, 4 | 8) => {
                self.set_up(offset, data.len(), value);
            }
            _ => {}
        }
        None
    }

    /// What the driver takes may be changed until it says that it has.
    fn take_features(&mut self, value: u32) {
        if self.status & status::FEATURES_OK == 0 && self.taken_select < 2 {
            let shift = self.taken_select * 32;
            self.taken = self.taken & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
        }
    }

    /// A queue is set up before the driver is ready, and before it is enabled. See: VIRTIO 1.2, 4.1.4.3.2.
    fn set_up(&mut self, offset: u64, size: usize, value: u64) {
        let is_ready = self.status & status::DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.select)) else { return };
        if is_ready || queue.enabled {
            return;
        }
        match offset {
            register::QUEUE_SIZE => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.most {
                    queue.size = size;
                }
            }
            register::QUEUE_ENABLE => queue.enabled = value == 1,
            _ => {
                let at = offset - register::QUEUE_RINGS;
                let (ring, shift) = (&mut queue.rings[(at / 8) as usize], at % 8 * 8);
                let mask = if size == 8 { u64::MAX } else { u64::from(u32::MAX) } << shift;
                *ring = *ring & !mask | value << shift & mask;
            }
        }
    }

    fn set_status(&mut self, value: u8) -> Option<Action> {
        if value == 0 {
            *self = Self {
                queues: self.queues.iter().map(|queue| Setup::new(queue.most)).collect(),
                ..Self::new(self.offered, &[])
            };
            return Some(Action::Reset);
        }
        let old = self.status;
        // Bits are only set; the device's own is not the driver's.
        let mut new = old | value & !status::NEEDS_RESET;
        let are_fine = self.taken & !self.offered == 0 && self.taken & feature::VERSION_1 != 0;
        if new & !old & status::FEATURES_OK != 0 && !are_fine {
            new &= !status::FEATURES_OK;
        }
        let is_ready = |status: u8| {
            status & (status::DRIVER_OK | status::FEATURES_OK)
                == status::DRIVER_OK | status::FEATURES_OK
        };
        self.status = new;
        (is_ready(new) && !is_ready(old)).then_some(Action::Activate)
    }
}

/// One half of the features.
fn half(features: u64, select: u32) -> u64 {
    let shift = if select < 2 { select * 32 } else { return 0 };
    features >> shift & u64::from(u32::MAX)
}

#[cfg(test)]
#[path = "common_test.rs"]
mod common_test;
