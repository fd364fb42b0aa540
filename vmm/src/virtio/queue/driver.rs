//! [`Driver`]: the other side of a queue, for tests: a driver that puts chains into rings in the guest's memory, right ones and wrong
//! ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{Buffer, Chain, Virtqueue};
use crate::memory::Wrote;
use crate::virtio::interrupt::Interrupt;

/// Bits of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// As many as a test's queue has, if nothing else is said.
pub const SIZE: u16 = 16;

/// How much memory a test's guest has.
pub const MEMORY: usize = 1 << 20;

/// A queue's driver, with its rings at an address.
pub struct Driver {
    pub memory: Arc<GuestMemoryMmap>,
    base: u64,
    size: u16,
    available: u16,
    used: u16,
    free: u16,
}

/// A descriptor.
#[derive(Clone, Copy)]
pub struct Descriptor {
    pub address: u64,
    pub size: u32,
    pub flags: u16,
    pub next: u16,
}

impl Driver {
    /// Memory, and a queue's rings in it.
    pub fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Self::at(Arc::new(memory), 0x1000)
    }

    /// Rings at an address, which take less than three pages.
    pub fn at(memory: Arc<GuestMemoryMmap>, base: u64) -> Self {
        Self { memory, base, size: SIZE, available: 0, used: 0, free: 0 }
    }

    /// The same with a queue of another size, at most 256.
    pub fn sized(self, size: u16) -> Self {
        Self { size, ..self }
    }

    /// Where descriptors, available and used ring are.
    pub fn rings(&self) -> [u64; 3] {
        [self.base, self.base + 0x1000, self.base + 0x2000]
    }

    /// The device's side.
    pub fn queue(&self, interrupt: Arc<Interrupt>) -> Virtqueue {
        self.queue_that_tells(interrupt, Arc::new(|_, _| {}))
    }

    /// The same, which says what the device writes.
    pub fn queue_that_tells(&self, interrupt: Arc<Interrupt>, wrote: Wrote) -> Virtqueue {
        Virtqueue::new(0, self.set_up(), Arc::clone(&self.memory), interrupt, wrote).unwrap()
    }

    /// The device's side, when both say from which index on they want to be told.
    pub fn queue_with_events(&self, interrupt: Arc<Interrupt>) -> Virtqueue {
        let mut queue = self.set_up();
        queue.set_event_idx(true);
        let (memory, wrote): (_, Wrote) = (Arc::clone(&self.memory), Arc::new(|_, _| {}));
        Virtqueue::new(0, queue, memory, interrupt, wrote).unwrap()
    }

    /// Says at which index of the used ring the driver wants to be told.
    pub fn want_event(&self, index: u16) {
        let at = self.rings()[1] + 4 + 2 * u64::from(SIZE);
        self.memory.write_obj(index.to_le(), GuestAddress(at)).unwrap();
    }

    fn set_up(&self) -> Queue {
        let [descriptors, available, used] = self.rings().map(GuestAddress);
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(descriptors).unwrap();
        queue.try_set_avail_ring_address(available).unwrap();
        queue.try_set_used_ring_address(used).unwrap();
        queue.set_ready(true);
        queue
    }

    /// Writes a descriptor into a table.
    pub fn describe(&self, table: u64, number: u16, descriptor: Descriptor) {
        let at = GuestAddress(table + u64::from(number) * 16);
        let low = u64::from(descriptor.size)
            | u64::from(descriptor.flags) << 32
            | u64::from(descriptor.next) << 48;
        self.memory.write_obj(descriptor.address.to_le(), at).unwrap();
        self.memory.write_obj(low.to_le(), GuestAddress(at.0 + 8)).unwrap();
    }

    /// Makes a head available.
    pub fn offer(&mut self, head: u16) {
        let ring = self.rings()[1];
        let slot = ring + 4 + u64::from(self.available % self.size) * 2;
        self.memory.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Says how many heads there ever were.
    pub fn set_available(&mut self, count: u16) {
        self.available = count;
        self.memory.write_obj(count.to_le(), GuestAddress(self.rings()[1] + 2)).unwrap();
    }

    /// Puts a chain into the queue: what is read, and what is written to. Gives its head.
    pub fn send(&mut self, readable: &[Buffer], writable: &[Buffer]) -> u16 {
        let all = readable.iter().map(|buffer| (buffer, 0));
        let all: Vec<_> = all.chain(writable.iter().map(|buffer| (buffer, WRITE))).collect();
        let head = self.free % self.size;
        for (n, (buffer, flags)) in all.iter().enumerate() {
            let number = self.free % self.size;
            self.free = self.free.wrapping_add(1);
            let more = if n + 1 < all.len() { NEXT } else { 0 };
            let (address, size) = (buffer.address, buffer.size);
            let next = self.free % self.size;
            self.describe(
                self.base,
                number,
                Descriptor { address, size, flags: flags | more, next },
            );
        }
        self.offer(head);
        head
    }

    /// What the device has put into the used ring next: head and written bytes.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        let ring = self.rings()[2];
        let count: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap();
        if u16::from_le(count) == self.used {
            return None;
        }
        let at = ring + 4 + u64::from(self.used % self.size) * 8;
        self.used = self.used.wrapping_add(1);
        let [head, size]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        Some((u32::from_le(head), u32::from_le(size)))
    }
}

/// Waits until there is something, but not for ever.
pub fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < until, "it does not come");
        std::thread::yield_now();
    }
}

impl Chain {
    /// One that came from no queue.
    pub fn of(readable: Vec<Buffer>, writable: Vec<Buffer>) -> Self {
        Self { head: 0, readable, writable }
    }
}
