//! [`Balloon`]: memory that the guest does not use goes back to the host.
//!
//! By itself the driver reports which pages are free. It inflates its balloon when somebody asks for that; nobody does here, so the device
//! has the queues and its size stays 0. Neither statistics nor hints of free pages are offered.
//!
//! Whatever the guest names, it can lose no memory but its own: what is given back reads as zeroes to it ([`hv::discard`](mod@hv::discard)).
//!
//! See: VIRTIO 1.2, 5.5.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hv::EventFd;
use hv::discard::discard;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::queue::{self, Broken, Buffer, Chain, Served, Virtqueue};
use super::worker::Worker;
use super::{Active, Device, Kind};

/// Features. See: VIRTIO 1.2, 5.5.3.
mod feature {
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub const PAGE_POISON: u64 = 1 << 4;
    pub const REPORTING: u64 = 1 << 5;
}

/// The configuration's fields that a driver writes: the size that the balloon has, and what free pages are filled with. See: VIRTIO 1.2,
/// 5.5.4.
mod at {
    pub const ACTUAL: u64 = 4;
    pub const POISON: u64 = 12;
}

/// Bytes of the configuration.
const CONFIG: usize = 16;

/// The queues: to inflate, to deflate, and those of reports. These have number 4, but Linux counts only the queues that its device has, and
/// looks for them at 2; no driver uses more than one of these.
const QUEUES: usize = 5;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// A page, as a number of one is counted. See: VIRTIO 1.2, 5.5.6.
const PAGE: u64 = 4096;

/// How many pages to inflate, or ranges to report, of a chain are looked at. Linux gives 256, and 32: the rest would be the host's loss alone,
/// and a driver that names more keeps nobody busy.
const MOST: usize = 256;

/// The device. It has a thread, which has all queues.
pub struct Balloon {
    worker: Worker,
    config: Arc<Config>,
}

/// What the driver has written.
#[derive(Default)]
struct Config {
    actual: AtomicU32,
    poison: AtomicU32,
}

/// What the thread has.
struct Serving {
    queues: Vec<(usize, Virtqueue)>,
    config: Arc<Config>,
    has_poison: bool,
}

impl Balloon {
    /// One of no size.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::new()?, config: Arc::default() })
    }
}

/// Gives a range of the guest's memory back, as far as there is such.
fn give_back(memory: &GuestMemoryMmap, range: Range<u64>) {
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        let part = range.start.saturating_sub(start)..range.end.saturating_sub(start);
        // What the host does not take, it does not need.
        let _ = discard(region, part);
    }
}

/// The pages that the driver puts into the balloon: their numbers are in the buffers.
fn inflate(memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, Broken> {
    let size = queue::size_of(&chain.readable).min(MOST as u64 * 4);
    let mut bytes = vec![0; size as usize];
    let size = queue::read(memory, &chain.readable, &mut bytes)?;
    for number in bytes[..size].as_chunks().0 {
        let start = u64::from(u32::from_le_bytes(*number)) * PAGE;
        give_back(memory, start..start + PAGE);
    }
    Ok(Served::Written(0))
}

/// Free pages: they are the buffers.
fn report(memory: &GuestMemoryMmap, chain: &Chain) {
    for Buffer { address, size } in chain.writable.iter().take(MOST) {
        give_back(memory, *address..address.saturating_add((*size).into()));
    }
}

impl Serving {
    /// Whether pages that are reported may become zeroes: the guest may rely on what it has filled them with. See: VIRTIO 1.2, 5.5.6.
    fn may_report(&self) -> bool {
        !self.has_poison || self.config.poison.load(Ordering::Acquire) == 0
    }

    /// Does what there is in all queues. Gives whether there may be more.
    fn serve(&mut self) -> Result<bool, Broken> {
        let (mut more, may_report) = (false, self.may_report());
        for (number, queue) in &mut self.queues {
            more |= queue.serve(|memory, chain| {
                match *number {
                    INFLATE => return inflate(memory, chain),
                    // The driver just takes pages back.
                    DEFLATE => {}
                    _ if may_report => report(memory, chain),
                    _ => {}
                }
                Ok(Served::Written(0))
            })?;
        }
        Ok(more)
    }
}

impl Device for Balloon {
    fn kind(&self) -> Kind {
        Kind { id: 5, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        feature::DEFLATE_ON_OOM | feature::PAGE_POISON | feature::REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; QUEUES]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG];
        for (at, field) in [(at::ACTUAL, &self.config.actual), (at::POISON, &self.config.poison)] {
            let bytes = field.load(Ordering::Acquire).to_le_bytes();
            config[at as usize..][..4].copy_from_slice(&bytes);
        }
        config
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = data.try_into() else { return };
        let field = match offset {
            at::ACTUAL => &self.config.actual,
            at::POISON => &self.config.poison,
            _ => return,
        };
        field.store(u32::from_le_bytes(bytes), Ordering::Release);
    }

    fn activate(&self, active: Active) {
        let queues = active.queues.into_iter().enumerate();
        let mut serving = Serving {
            queues: queues.filter_map(|(number, queue)| Some((number, queue?))).collect(),
            config: Arc::clone(&self.config),
            has_poison: active.features & feature::PAGE_POISON != 0,
        };
        self.worker.serve("balloon", &active.interrupt, move || serving.serve());
    }

    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        Some(self.worker.event())
    }

    fn reset(&self) {
        self.worker.stop();
        self.config.actual.store(0, Ordering::Release);
        self.config.poison.store(0, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "balloon_test.rs"]
mod balloon_test;
