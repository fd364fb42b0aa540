//! [`Ring`]: a virtqueue whose driver is this process, and whose device another one.
//!
//! It lies in memory that the guest does not have; what its descriptors name is the guest's, where the guest has it. Chains are put in, and
//! taken when the device is done with them. What the device writes to the ring is looked at as a driver's is: an answer to what nobody
//! asked is [`Unasked`].
//!
//! See: VIRTIO 1.2, 2.7.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestMemoryError, GuestRegionMmap, MemoryRegionAddress};

use crate::virtio::queue::{Buffer, Chain, size_of};

/// Bits of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The device has answered what it was not asked, or written more than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unasked;

impl From<GuestMemoryError> for Unasked {
    /// The memory is as large as it was made: there is no such error.
    fn from(_: GuestMemoryError) -> Self {
        Self
    }
}

/// Where the parts of a ring are, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    size: u16,
}

impl Layout {
    /// Of so many descriptors, a power of 2.
    pub(super) const fn new(size: u16) -> Self {
        Self { size }
    }

    /// The table of descriptors.
    pub(super) const fn descriptors(self) -> u64 {
        0
    }

    /// What is offered: flags, an index, heads, and an event's index.
    pub(super) const fn available(self) -> u64 {
        16 * self.size as u64
    }

    /// What was used: flags, an index, heads with sizes, and an event's index.
    pub(super) const fn used(self) -> u64 {
        (self.available() + 6 + 2 * self.size as u64).next_multiple_of(4)
    }

    /// Bytes of all that, so that another ring may follow.
    pub(super) const fn bytes(self) -> u64 {
        (self.used() + 6 + 8 * self.size as u64).next_multiple_of(64)
    }
}

/// A chain that the device has.
struct Asked {
    chain: Chain,
    descriptors: Vec<u16>,
}

/// The driver's side.
pub(super) struct Ring {
    memory: Arc<GuestRegionMmap>,
    /// Where it starts in that.
    start: u64,
    layout: Layout,
    free: Vec<u16>,
    /// By the number of the first descriptor.
    asked: Vec<Option<Asked>>,
    /// Counts of what was ever offered, and taken back.
    offered: u16,
    taken: u16,
}

impl Ring {
    /// One in memory that is zero.
    pub(super) fn new(memory: Arc<GuestRegionMmap>, start: u64, layout: Layout) -> Self {
        let asked = (0..layout.size).map(|_| None).collect();
        let free = (0..layout.size).rev().collect();
        Self { memory, start, layout, free, asked, offered: 0, taken: 0 }
    }

    fn at(&self, part: u64, offset: u64) -> MemoryRegionAddress {
        MemoryRegionAddress(self.start + part + offset)
    }

    /// How many descriptors a chain takes.
    fn length(chain: &Chain) -> usize {
        chain.readable.len() + chain.writable.len()
    }

    /// Whether a chain fits in when there is nothing else.
    pub(super) fn can_hold(&self, chain: &Chain) -> bool {
        Self::length(chain) <= usize::from(self.layout.size)
    }

    /// Whether it does now.
    pub(super) fn has_room(&self, chain: &Chain) -> bool {
        Self::length(chain) <= self.free.len()
    }

    /// Offers a chain, which there is room for, to the device.
    pub(super) fn put(&mut self, chain: Chain) -> Result<(), Unasked> {
        let descriptors = self.free.split_off(self.free.len().saturating_sub(Self::length(&chain)));
        let readable = chain.readable.iter().map(|buffer| (buffer, 0));
        let buffers = readable.chain(chain.writable.iter().map(|buffer| (buffer, WRITE)));
        for (n, (buffer, flags)) in buffers.enumerate() {
            let next = descriptors.get(n + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            self.describe(*descriptors.get(n).ok_or(Unasked)?, *buffer, flags, next.unwrap_or(0))?;
        }
        let head = *descriptors.first().ok_or(Unasked)?;
        let slot = 4 + 2 * u64::from(self.offered % self.layout.size);
        let (slot, index) =
            (self.at(self.layout.available(), slot), self.at(self.layout.available(), 2));
        self.memory.write_obj(head.to_le(), slot)?;
        *self.asked.get_mut(usize::from(head)).ok_or(Unasked)? = Some(Asked { chain, descriptors });
        self.offered = self.offered.wrapping_add(1);
        // What is before it is seen first.
        Ok(self.memory.store(self.offered.to_le(), index, Ordering::Release)?)
    }

    fn describe(&self, number: u16, buffer: Buffer, flags: u16, next: u16) -> Result<(), Unasked> {
        let at = |offset| self.at(self.layout.descriptors(), 16 * u64::from(number) + offset);
        self.memory.write_obj(buffer.address.to_le(), at(0))?;
        self.memory.write_obj(buffer.size.to_le(), at(8))?;
        self.memory.write_obj([flags.to_le(), next.to_le()], at(12))?;
        Ok(())
    }

    /// Takes a chain back that the device is done with, and how much it has written to it.
    pub(super) fn take(&mut self) -> Result<Option<(Chain, u32)>, Unasked> {
        let used = self.layout.used();
        let count: u16 = self.memory.load(self.at(used, 2), Ordering::Acquire)?;
        let done = u16::from_le(count).wrapping_sub(self.taken);
        if done == 0 {
            return Ok(None);
        }
        if done > self.offered.wrapping_sub(self.taken) {
            return Err(Unasked);
        }
        let slot = 4 + 8 * u64::from(self.taken % self.layout.size);
        let [head, size]: [u32; 2] = self.memory.read_obj(self.at(used, slot))?;
        let (head, size) = (u32::from_le(head), u32::from_le(size));
        let asked = self.asked.get_mut(head as usize).and_then(Option::take);
        let Asked { chain, descriptors } = asked.ok_or(Unasked)?;
        self.free.extend(descriptors);
        if u64::from(size) > size_of(&chain.writable) {
            return Err(Unasked);
        }
        self.taken = self.taken.wrapping_add(1);
        Ok(Some((chain, size)))
    }

    /// What the device has, and will not answer any more.
    pub(super) fn give_up(&mut self) -> Vec<Chain> {
        self.asked.iter_mut().filter_map(Option::take).map(|asked| asked.chain).collect()
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod ring_test;
