//! [`Blk`]: a disk.
//!
//! Each queue has a thread ([`Lane`]), and several of its requests are done at once (`under_way`): by the host's kernel
//! ([`hv::io_ring`]), or by more `threads`. What the host need not wait for, as it is in its page cache, is done on the spot (`serving`). Where an exit costs
//! little, as on the software CPU, such requests that are short are done on the vCPU's thread that asks for them: to wake another thread takes longer than to
//! copy a few pages. `request` is what a request is, and `growth` has the driver see that the disk has become larger.
//!
//! See: VIRTIO 1.2, 5.2.

mod growth;
mod request;
mod serving;
mod threads;
mod under_way;

use std::io;
use std::sync::Arc;

use hv::EventFd;

use self::growth::Growth;
use self::request::Target;
use self::serving::Serving;
use self::under_way::UnderWay;
use super::lane::Lane;
use super::{Active, Device, Kind};
use crate::disk::{Disk, SECTOR};

/// Features. See: VIRTIO 1.2, 5.2.3.
mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const FLUSH: u64 = 1 << 9;
    pub const QUEUES: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// How many requests a queue holds.
const QUEUE_SIZE: u16 = 256;

/// How many parts a request's data may be in: its header and status have descriptors, too.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// Sectors that are discarded, or set to zero, by one request: 1 GiB.
const MOST_SECTORS: u32 = 1 << 21;

/// Threads that do requests of a disk at once, if the kernel does not, and in what it does not.
const THREADS: usize = 8;

/// Bytes of the configuration.
const CONFIG: usize = 60;

/// The device.
pub struct Blk {
    disk: Arc<Disk>,
    /// What the guest is told for a serial number.
    serial: [u8; 20],
    /// Whether short requests are done where they are asked for.
    inline: bool,
    /// Whether the host's kernel is asked by io_uring, if it can be.
    is_ring_wanted: bool,
    queues: Vec<Lane<Serving>>,
    /// Where the host does not tell, the disk is as large as it was until the next start.
    growth: Option<Growth>,
}

impl Blk {
    /// A disk with so many queues. `inline`: an exit costs little here.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(disk: Arc<Disk>, serial: &str, queues: u16, inline: bool) -> io::Result<Self> {
        let mut bytes = [0; 20];
        bytes.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
        let queues = (0..queues.max(1)).map(|_| Lane::new()).collect::<io::Result<_>>()?;
        let growth = disk.can_grow().then(|| Growth::new(Arc::clone(&disk)).ok()).flatten();
        Ok(Self { disk, serial: bytes, inline, is_ring_wanted: true, queues, growth })
    }

    /// The same, as it is where the host has no io_uring: that must be as good.
    #[must_use]
    pub fn without_ring(self) -> Self {
        Self { is_ring_wanted: false, ..self }
    }
}

impl Device for Blk {
    fn kind(&self) -> Kind {
        Kind { id: 2, class: [0x01, 0x80, 0] }
    }

    fn features(&self) -> u64 {
        let common = feature::SEG_MAX | feature::FLUSH | feature::QUEUES;
        match self.disk.is_read_only() {
            true => common | feature::READ_ONLY,
            false => common | feature::DISCARD | feature::WRITE_ZEROES,
        }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG];
        let mut set = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &(self.disk.size() / SECTOR).to_le_bytes());
        set(12, &SEGMENTS.to_le_bytes());
        set(34, &(self.queues.len() as u16).to_le_bytes());
        for at in [36, 48] {
            set(at, &MOST_SECTORS.to_le_bytes());
            set(at + 4, &1_u32.to_le_bytes());
        }
        set(44, &1_u32.to_le_bytes());
        config
    }

    fn activate(&self, active: Active) {
        let interrupt = active.interrupt;
        self.growth.iter().for_each(|growth| growth.tell(Some(Arc::clone(&interrupt))));
        let target = Target {
            disk: Arc::clone(&self.disk),
            serial: self.serial,
            writes_through: active.features & feature::FLUSH == 0,
        };
        for (number, (lane, queue)) in self.queues.iter().zip(active.queues).enumerate() {
            let Some(queue) = queue else { continue };
            let (asked, target) = (Arc::clone(&interrupt), target.clone());
            let threads = (THREADS / self.queues.len()).max(2);
            let mut under_way =
                UnderWay::new(target.clone(), lane.event(), self.is_ring_wanted, threads);
            let (name, serving) = (format!("disk{number}"), Serving::new(queue, asked, target));
            // Without a thread there is no disk: the guest sees that it does not work.
            if lane.start(&name, serving, move |serving| serving.serve(&mut under_way)).is_err() {
                interrupt.ask_for_reset();
            }
        }
    }

    fn queue_event(&self, queue: u16) -> Option<EventFd> {
        let lane = self.queues.get(usize::from(queue)).filter(|_| !self.inline)?;
        Some(lane.event())
    }

    fn notify(&self, queue: u16) {
        if let Some(lane) = self.queues.get(usize::from(queue)) {
            lane.serve_here(Serving::serve_short);
        }
    }

    fn reset(&self) {
        self.growth.iter().for_each(|growth| growth.tell(None));
        self.queues.iter().for_each(Lane::end);
    }
}

#[cfg(test)]
#[path = "blk/blk_test.rs"]
mod blk_test;
#[cfg(test)]
#[path = "blk/depth_test.rs"]
mod depth_test;
