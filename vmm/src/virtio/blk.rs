//! [`Blk`]: a disk.
//!
//! Each queue has a thread ([`Worker`]). Where an exit costs little, as on the software CPU, short requests are done on the vCPU's thread
//! that asks for them: to wake another thread takes longer than to copy a few pages. `request` is what a request is, and `growth` has the driver
//! see that the disk has become larger.
//!
//! See: VIRTIO 1.2, 5.2.

mod growth;
mod request;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Event, EventFd};

use self::growth::Growth;
use self::request::{Request, Target};
use super::interrupt::Interrupt;
use super::queue::{Broken, Served, Virtqueue};
use super::worker::Worker;
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
    queues: Vec<Lane>,
    /// Where the host does not tell, the disk is as large as it was until the next start.
    growth: Option<Growth>,
}

/// A queue, and the thread that serves it.
struct Lane {
    worker: Worker,
    active: Arc<Mutex<Option<Serving>>>,
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
        let lane = |_| Ok(Lane { worker: Worker::new()?, active: Arc::default() });
        let queues = (0..queues.max(1)).map(lane).collect::<io::Result<_>>()?;
        let growth = disk.can_grow().then(|| Growth::new(Arc::clone(&disk)).ok()).flatten();
        Ok(Self { disk, serial: bytes, inline, queues, growth })
    }

    fn config(&self) -> [u8; CONFIG] {
        let mut config = [0; CONFIG];
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
}

fn lock(active: &Mutex<Option<Serving>>) -> MutexGuard<'_, Option<Serving>> {
    active.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or(&[]);
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
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
            *lock(&lane.active) = Some(Serving { queue, interrupt: asked, target });
            let (active, event) = (Arc::clone(&lane.active), lane.worker.event());
            let work = move || {
                let more = lock(&active).as_mut().map(|serving| serving.serve(Which::All));
                if more == Some(true) {
                    event.signal();
                }
                more.is_some()
            };
            // Without a thread there is no disk: the guest sees that it does not work.
            if lane.worker.start(&format!("disk{number}"), work).is_err() {
                interrupt.ask_for_reset();
            }
        }
    }

    fn queue_event(&self, queue: u16) -> Option<EventFd> {
        let lane = self.queues.get(usize::from(queue)).filter(|_| !self.inline)?;
        Some(lane.worker.event())
    }

    fn notify(&self, queue: u16) {
        let Some(lane) = self.queues.get(usize::from(queue)) else { return };
        // Who has it serves this, too, or is told to look again.
        let is_left = match lane.active.try_lock() {
            Ok(mut active) => active.as_mut().is_some_and(|serving| serving.serve(Which::Short)),
            Err(_) => true,
        };
        if is_left {
            lane.worker.event().signal();
        }
    }

    fn reset(&self) {
        self.growth.iter().for_each(|growth| growth.tell(None));
        for lane in &self.queues {
            lane.worker.stop();
            *lock(&lane.active) = None;
        }
    }
}

#[cfg(test)]
#[path = "blk/blk_test.rs"]
mod blk_test;
