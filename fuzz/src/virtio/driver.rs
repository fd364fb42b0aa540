//! [`Driver`]: the guest's side: rings in memory, and accesses to a function's registers.
//!
//! See: VIRTIO 1.2, 2.7, 4.1.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hv::IoEventFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm::pci::Function;
use vmm::virtio::Device;
use vmm::virtio::pci::{Notifications, Surroundings, VirtioFunction};

use crate::input::Input;

/// Bytes of the guest's memory, and where its buffers are: rings come before.
const MEMORY: usize = 1 << 20;
const BUFFERS: u64 = 0x2_0000;

/// Entries of a queue, and bytes that its rings are apart.
const SIZE: u16 = 16;
const RINGS: u64 = 0x1000;

/// From a queue's descriptors to what is available, and what was used.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;

/// Bytes of a chain's first buffer that are of the input: most of what is said to a device is no longer. A packet's header is.
const MESSAGE: usize = 16;
const PACKET: usize = 44;
/// The device with packets. See: VIRTIO 1.2, 5.10.1.
const SOCKETS: u16 = 19;

/// How long is waited for a device's thread, which has all it needs.
const MOMENT: Duration = Duration::from_millis(1);

/// More queues than any device here has.
const QUEUES: u16 = 8;

/// Where the function's memory is.
const ADDRESS: u32 = 0xc000_0000;

/// Fields of the common configuration. See: VIRTIO 1.2, 4.1.4.3.
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    pub const DEVICE_FEATURE: u64 = 4;
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    pub const DRIVER_FEATURE: u64 = 12;
    pub const STATUS: u64 = 20;
    pub const QUEUE_SELECT: u64 = 22;
    pub const QUEUE_SIZE: u64 = 24;
    pub const QUEUE_ENABLE: u64 = 28;
    pub const QUEUE_ADDRESSES: u64 = 32;
}

/// The bit of the status by which a device asks for reset.
const NEEDS_RESET: u8 = 64;

/// A machine without a hypervisor to signal events.
struct NoEvents;

impl Notifications for NoEvents {
    fn add(&self, _notification: IoEventFd) -> bool {
        false
    }

    fn remove(&self, _notification: &IoEventFd) {}
}

/// A driver, and the device that it drives.
pub struct Driver {
    memory: Arc<GuestMemoryMmap>,
    function: VirtioFunction,
    /// Where in the function's memory the common configuration and the notifications are.
    common: u64,
    notify: u64,
    /// Bytes of a message.
    message: usize,
    /// Of each queue, how many chains were put into it.
    available: [u16; QUEUES as usize],
}

impl Driver {
    /// One that has found a device, and has done nothing with it.
    pub fn new(device: Arc<dyn Device>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]);
        let memory = Arc::new(memory.expect("the host has memory"));
        let around = Surroundings {
            memory: Arc::clone(&memory),
            wrote: Arc::new(|_, _| {}),
            line: Arc::new(|_| {}),
            send: Arc::new(|_| {}),
            notifications: Arc::new(NoEvents),
        };
        let message = if device.kind().id == SOCKETS { PACKET } else { MESSAGE };
        let function = VirtioFunction::new(device, around, ADDRESS);
        let [common, notify] = [1, 2].map(|kind| structure(&function, kind));
        Self { memory, function, common, notify, message, available: [0; QUEUES as usize] }
    }

    /// Resets the device, and makes it ready with those of its features that are in a mask, and all queues that it has.
    pub fn activate(&mut self, features: u64) {
        self.set(field::STATUS, &[0]);
        self.set(field::STATUS, &[1 | 2]);
        for half in 0..2_u32 {
            self.set(field::DEVICE_FEATURE_SELECT, &half.to_le_bytes());
            let mut offered = [0; 4];
            self.function.read(self.common + field::DEVICE_FEATURE, &mut offered);
            // Without the feature of today's devices there is none.
            let wanted = if half == 0 { features as u32 } else { 1 };
            self.set(field::DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            let taken = u32::from_le_bytes(offered) & wanted;
            self.set(field::DRIVER_FEATURE, &taken.to_le_bytes());
        }
        self.set(field::STATUS, &[1 | 2 | 8]);
        for queue in 0..QUEUES {
            self.set(field::QUEUE_SELECT, &queue.to_le_bytes());
            self.set(field::QUEUE_SIZE, &SIZE.to_le_bytes());
            let rings = u64::from(queue + 1) * RINGS;
            for (place, ring) in (0..).zip([rings, rings + AVAILABLE, rings + USED]) {
                self.set(field::QUEUE_ADDRESSES + place * 8, &(ring as u32).to_le_bytes());
                self.set(field::QUEUE_ADDRESSES + place * 8 + 4, &[0; 4]);
            }
            self.put(rings + AVAILABLE, &[0; 4]);
            self.put(rings + USED, &[0; 4]);
            self.set(field::QUEUE_ENABLE, &1_u16.to_le_bytes());
        }
        self.available = [0; QUEUES as usize];
        self.set(field::STATUS, &[1 | 2 | 8 | 4]);
    }

    /// Does something right, or something wrong.
    pub fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0..=3 => self.send(input),
            4 => self.notify(input.u8()),
            // Anything, to anywhere in memory: buffers, descriptors, rings.
            5 => {
                let address = u64::from(input.u16()) * 2;
                let bytes = input.bytes(16);
                self.put(address, bytes);
            }
            6 => {
                let (offset, size) = (input.u16(), 1 << (input.u8() % 4));
                let mut bytes = [0; 8];
                let taken = input.bytes(size);
                bytes[..taken.len()].copy_from_slice(taken);
                self.function.write(offset.into(), &bytes[..size]);
            }
            _ => {
                let (offset, size) = (input.u16(), 1 << (input.u8() % 4));
                self.function.read(offset.into(), &mut [0; 8][..size]);
            }
        }
    }

    /// Puts a chain into a queue, most often one that keeps to the rules, with a message in its first buffer; and notifies.
    fn send(&mut self, input: &mut Input<'_>) {
        let queue = input.u8() % QUEUES as u8;
        let rings = (u64::from(queue) + 1) * RINGS;
        let count = u16::from(input.u8() % 5) + 1;
        let readable = u16::from(input.u8());
        let first = self.available[usize::from(queue)] % SIZE;
        for n in 0..count {
            let (place, size) = (input.u8(), input.u16());
            let address = BUFFERS + u64::from(place) * 0xe00;
            if n == 0 {
                let message = input.bytes(self.message);
                self.put(address, message);
            }
            let is_last = n + 1 == count;
            let writable = if n < readable % 6 { 0 } else { 2 };
            let flags = u16::from(!is_last) | writable;
            let next = (first + n + 1) % SIZE;
            let mut descriptor = address.to_le_bytes().to_vec();
            descriptor.extend(u32::from(size).to_le_bytes());
            descriptor.extend([flags, next].map(u16::to_le_bytes).concat());
            self.put(rings + u64::from((first + n) % SIZE) * 16, &descriptor);
        }
        let available = &mut self.available[usize::from(queue)];
        let slot = rings + AVAILABLE + 4 + u64::from(*available % SIZE) * 2;
        *available = available.wrapping_add(1);
        let index = *available;
        self.put(slot, &first.to_le_bytes());
        self.put(rings + AVAILABLE + 2, &index.to_le_bytes());
        self.notify(queue);
    }

    /// Waits for a moment until all that was sent is used, or the device asks for reset.
    pub fn settle(&self) {
        let began = Instant::now();
        let is_busy = |queue: usize| {
            let used = GuestAddress((queue as u64 + 1) * RINGS + USED + 2);
            self.memory.read_obj(used).ok() != Some(self.available[queue])
        };
        let asks = || {
            let mut status = [0];
            self.function.read(self.common + field::STATUS, &mut status);
            status[0] & NEEDS_RESET != 0
        };
        while (0..QUEUES.into()).any(is_busy) && !asks() && began.elapsed() < MOMENT {
            std::thread::yield_now();
        }
    }

    fn notify(&self, queue: u8) {
        let queue = u16::from(queue) % (QUEUES + 1);
        self.function.write(self.notify + u64::from(queue) * 4, &queue.to_le_bytes());
    }

    fn set(&self, field: u64, value: &[u8]) {
        self.function.write(self.common + field, value);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("it is in memory");
    }
}

/// Where in a function's memory a structure is, as its capability says. See: VIRTIO 1.2, 4.1.4.
fn structure(function: &VirtioFunction, kind: u8) -> u64 {
    let byte = |offset: u8| {
        let mut byte = [0];
        function.read_config(offset, &mut byte);
        byte[0]
    };
    let mut capability = byte(0x34);
    while capability != 0 {
        if byte(capability) == 9 && byte(capability + 3) == kind {
            let mut offset = [0; 4];
            function.read_config(capability + 8, &mut offset);
            return u32::from_le_bytes(offset).into();
        }
        capability = byte(capability + 1);
    }
    panic!("each function has one");
}
