//! [`Blk`]: a disk.
//!
//! Each queue has a thread ([`Lane`]). Where an exit costs little, as on the software CPU, short requests are done on the vCPU's thread
//! that asks for them: to wake another thread takes longer than to copy a few pages. `request` is what a request is, and `growth` has the driver
//! see that the disk has become larger.
//!
//! See: VIRTIO 1.2, 5.2.

mod growth;
mod request;

use std::io;
use std::sync::Arc;

use hv::EventFd;

use self::growth::Growth;
use self::request::{Request, Target};
use super::interrupt::Interrupt;
use super::lane::Lane;
use super::queue::{Broken, Served, Virtqueue};
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

/// A request of more bytes is not a short one.
const SHORT: u64 = 64 << 10;

/// Bytes of the configuration.
const CONFIG: usize = 60;

/// The device.
pub struct Blk {
    disk: Arc<Disk>,
    /// What the guest is told for a serial number.
    serial: [u8; 20],
    /// Whether short requests are done where they are asked for.
    inline: bool,
    queues: Vec<Lane<Serving>>,
    /// Where the host does not tell, the disk is as large as it was until the next start.
    growth: Option<Growth>,
}

/// What is served.
struct Serving {
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
    target: Target,
}

/// Which requests are done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Until one comes that is not short.
    Short,
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
        Ok(Self { disk, serial: bytes, inline, queues, growth })
    }
}

impl Serving {
    /// Does what there is, if the driver keeps to the rules. Gives whether the thread is to go on.
    fn serve(&mut self, which: Which) -> bool {
        if self.interrupt.needs_reset() {
            return false;
        }
        let target = &self.target;
        let served = self.queue.serve(|memory, chain| {
            let request = Request::read(memory, chain)?;
            match which {
                Which::Short if !request.is_short(SHORT) => Ok(Served::Later),
                _ => request.carry_out(target, memory).map(Served::Written),
            }
        });
        served.unwrap_or_else(|Broken| {
            self.interrupt.ask_for_reset();
            false
        })
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
            let (name, serving) =
                (format!("disk{number}"), Serving { queue, interrupt: asked, target });
            // Without a thread there is no disk: the guest sees that it does not work.
            if lane.start(&name, serving, |serving| serving.serve(Which::All)).is_err() {
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
            lane.serve_here(|serving| serving.serve(Which::Short));
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
