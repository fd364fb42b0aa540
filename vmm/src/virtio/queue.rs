//! [`Virtqueue`]: a queue that its device takes [`Chain`]s of buffers from and gives them back to.
//!
//! The rings are `virtio-queue`'s, descriptors are read by `descriptors`. What is here is what a device must not be left to find out for itself: a
//! chain that does not end, whose buffers are not in memory or in the wrong order, and indices that jump, are [`Broken`]: the device asks for reset.
//!
//! See: VIRTIO 1.2, 2.7.

mod descriptors;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::interrupt::Interrupt;
use crate::memory::Wrote;

/// The driver did what there is no going on after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's driver does not keep to the rules of virtqueues")]
pub struct Broken;

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Self
    }
}

/// A buffer in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical.
    pub address: u64,
    /// In bytes.
    pub size: u32,
}

/// What the driver asks with: buffers to read, and buffers to write to, all of them in its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    /// What the device reads.
    pub readable: Vec<Buffer>,
    /// What it writes to.
    pub writable: Vec<Buffer>,
}

/// Bytes of all of them.
#[must_use]
pub fn size_of(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.size)).sum()
}

/// The part of some buffers that is `size` bytes from `offset` on, or as many as there are.
#[must_use]
pub fn part(buffers: &[Buffer], offset: u64, size: u64) -> Vec<Buffer> {
    let (mut skipped, mut left) = (offset, size);
    let cut = |buffer: &Buffer| {
        let before = skipped.min(buffer.size.into());
        skipped -= before;
        let taken = (u64::from(buffer.size) - before).min(left);
        left -= taken;
        (taken != 0).then_some(Buffer {
            address: buffer.address + before,
            size: u32::try_from(taken).ok()?,
        })
    };
    buffers.iter().filter_map(cut).collect()
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It is done: so many bytes were written to it.
    Written(u32),
    /// It is being done, and is [pushed](Virtqueue::push) when it is.
    UnderWay,
    /// It is not, and not lost.
    Later,
}

/// A queue that is ready.
pub struct Virtqueue {
    number: u16,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<Interrupt>,
    wrote: Wrote,
    /// The used ring's index when the driver was last told of it.
    told: u16,
}

impl Virtqueue {
    /// The queue of this number, which the driver has set up.
    ///
    /// # Errors
    /// When its rings are not in memory.
    pub fn new(
        number: u16,
        queue: Queue,
        memory: Arc<GuestMemoryMmap>,
        interrupt: Arc<Interrupt>,
        wrote: Wrote,
    ) -> Result<Self, Broken> {
        if !queue.is_valid(&*memory) {
            return Err(Broken);
        }
        let told = queue.next_used();
        Ok(Self { number, queue, memory, interrupt, wrote, told })
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// The next chain, if the driver has put one there.
    ///
    /// # Errors
    /// When the driver has left the ring, or the chain, in a state that there is not.
    pub fn pop(&mut self) -> Result<Option<Chain>, Broken> {
        let memory = &*self.memory;
        let Some(next) = self.queue.iter(memory)?.next() else { return Ok(None) };
        let chain = descriptors::read(&self.queue, next.head_index(), memory)?;
        let is_there = |buffer: &Buffer| {
            let (address, size) = (GuestAddress(buffer.address), buffer.size as usize);
            GuestMemory::check_range(memory, address, size, Permissions::ReadWrite)
        };
        if !chain.readable.iter().chain(&chain.writable).all(is_there) {
            return Err(Broken);
        }
        Ok(Some(chain))
    }

    /// Whether the driver has put one there, or more, that were not taken.
    ///
    /// # Errors
    /// When the ring is not in memory any more.
    pub fn has_next(&self) -> Result<bool, Broken> {
        let index = self.queue.avail_idx(&*self.memory, Ordering::Acquire)?;
        Ok(index.0 != self.queue.next_avail())
    }

    /// The device is done with a chain, and has written so many bytes to it. The driver is told by [`tell`](Self::tell).
    ///
    /// # Errors
    /// When the ring is not in memory any more.
    pub fn push(&mut self, chain: &Chain, written: u32) -> Result<(), Broken> {
        // All that it may have written to: what the driver is told of may be less.
        for buffer in &chain.writable {
            (self.wrote)(buffer.address, buffer.size.into());
        }
        self.queue.add_used(&*self.memory, chain.head, written)?;
        // See: VIRTIO 1.2, 2.7.8: flags, index, elements, and the event's index.
        (self.wrote)(self.queue.used_ring(), 6 + 8 * u64::from(self.queue.size()));
        Ok(())
    }

    /// The device is done with several chains, and the driver finds all of them or none: they hold one thing.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_together(&mut self, chains: &[(Chain, u32)]) -> Result<(), Broken> {
        let Some(((last, size), others)) = chains.split_last() else { return Ok(()) };
        // All but the last are put beyond the ring's index, which that one moves behind them.
        for (chain, size) in others {
            for buffer in &chain.writable {
                (self.wrote)(buffer.address, buffer.size.into());
            }
            let used = self.queue.next_used();
            // See: VIRTIO 1.2, 2.7.8.
            let at = self.queue.used_ring() + 4 + 8 * u64::from(used % self.queue.size());
            let element = [u32::from(chain.head).to_le(), size.to_le()];
            self.memory.write_obj(element, GuestAddress(at)).map_err(|_| Broken)?;
            self.queue.set_next_used(used.wrapping_add(1));
        }
        self.push(last, *size)
    }

    /// Interrupts, if the driver wants to be told of what was pushed.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn tell(&mut self) -> Result<(), Broken> {
        let used = self.queue.next_used();
        let told = std::mem::replace(&mut self.told, used);
        if used != told && self.wants_interrupt(told, used)? {
            self.interrupt.queue(self.number);
        }
        Ok(())
    }

    /// Whether the driver wants to be told that the used ring's index has gone from one to another. The queue's own answer counts what
    /// [`push_together`](Self::push_together) does as one. See: VIRTIO 1.2, 2.7.10.
    fn wants_interrupt(&mut self, told: u16, used: u16) -> Result<bool, Broken> {
        if !self.queue.event_idx_enabled() {
            return Ok(self.queue.needs_notification(&*self.memory)?);
        }
        // What was pushed is there before it is looked whether somebody waits for it.
        fence(Ordering::SeqCst);
        // See: VIRTIO 1.2, 2.7.6.
        let at = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
        let event: u16 = self.memory.read_obj(GuestAddress(at)).map_err(|_| Broken)?;
        let event = u16::from_le(event);
        Ok(used.wrapping_sub(event).wrapping_sub(1) < used.wrapping_sub(told))
    }

    /// Says that the driver need not notify: the device looks by itself.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn stop_notifications(&mut self) -> Result<(), Broken> {
        Ok(self.queue.disable_notification(&*self.memory)?)
    }

    /// Says that it is to notify from now on. Gives whether there is something already, which it may not tell of.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn want_notifications(&mut self) -> Result<bool, Broken> {
        Ok(self.queue.enable_notification(&*self.memory)?)
    }

    /// Gives the chains that there are to `serve`, which does what each asks for; and tells the driver. Gives whether there may be more: it
    /// is at most as many as the queue holds, for a driver that adds some meanwhile is not served for ever; and it ends at one that is
    /// left for later, which is the next one then.
    ///
    /// # Errors
    /// As [`pop`](Self::pop), and what `serve` finds.
    pub fn serve(
        &mut self,
        mut serve: impl FnMut(&GuestMemoryMmap, &Chain) -> Result<Served, Broken>,
    ) -> Result<bool, Broken> {
        self.stop_notifications()?;
        for _ in 0..self.queue.size() {
            let Some(chain) = self.pop()? else {
                if self.want_notifications()? {
                    self.stop_notifications()?;
                    continue;
                }
                self.tell()?;
                return Ok(false);
            };
            match serve(&self.memory, &chain)? {
                Served::Written(size) => self.push(&chain, size)?,
                Served::UnderWay => (),
                Served::Later => {
                    self.queue.go_to_previous_position();
                    break;
                }
            }
        }
        self.tell()?;
        Ok(true)
    }
}

/// The memory of some buffers.
///
/// # Errors
/// When some of it is nowhere.
pub fn slices<'a>(
    memory: &'a GuestMemoryMmap,
    buffers: &[Buffer],
) -> Result<Vec<VolatileSlice<'a>>, Broken> {
    let mut all = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let address = GuestAddress(buffer.address);
        let found = memory.get_slices(address, buffer.size as usize, Permissions::ReadWrite);
        for slice in found.map_err(|_| Broken)? {
            all.push(slice.map_err(|_| Broken)?);
        }
    }
    Ok(all)
}

/// Copies bytes from buffers, as many as both have. Gives how many.
///
/// # Errors
/// When some of the memory that is read is nowhere.
pub fn read(memory: &GuestMemoryMmap, from: &[Buffer], to: &mut [u8]) -> Result<usize, Broken> {
    let mut done = 0;
    for buffer in from {
        // A request's header is in the first of many buffers.
        if done == to.len() {
            break;
        }
        for slice in slices(memory, std::slice::from_ref(buffer))? {
            done += slice.copy_to(&mut to[done..]);
        }
    }
    Ok(done)
}

/// Copies bytes to buffers, as many as both have. Gives how many.
///
/// # Errors
/// When some of the memory is nowhere.
pub fn write(memory: &GuestMemoryMmap, to: &[Buffer], from: &[u8]) -> Result<usize, Broken> {
    let mut done = 0;
    for slice in slices(memory, to)? {
        let size = slice.len().min(from.len() - done);
        slice.copy_from(&from[done..done + size]);
        done += size;
    }
    Ok(done)
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
#[path = "queue_test.rs"]
mod queue_test;
