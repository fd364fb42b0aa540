//! [`Net`]: a network card.
//!
//! - [`link`]: what its cable leads to, as the card sees it: a back end ([`Cable`]) has a [`Link`](link::Link) for each pair of queues;
//! - [`user`]: a network in this process, without any privilege; [`tap`]: a TAP interface of the host's;
//! - `pair`: a pair of queues, which a thread serves: frames both ways;
//! - `control`: what the driver asks of the card itself.
//!
//! Neither side computes checksums that never leave the machine: the header before each frame says what was left out, and who sends it on
//! completes it. See: VIRTIO 1.2, 5.1.

mod control;
pub mod link;
mod pair;
pub mod tap;
pub mod user;

use std::io;
use std::sync::Arc;

use hv::EventFd;

use self::control::Control;
use self::link::Cable;
use self::pair::Pair;
use super::worker::Worker;
use super::{Active, Device, Kind};

/// Features. See: VIRTIO 1.2, 5.1.3.
pub mod feature {
    /// The driver may leave checksums out.
    pub const CSUM: u64 = 1 << 0;
    /// So may the device.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device says how large packets may be.
    pub const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes segments that are larger than packets: of TCP on IPv4, on IPv6, with congestion notification.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// On IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// With congestion notification.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device does.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// On IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// With congestion notification.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may be in several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device says whether its cable is in.
    pub const STATUS: u64 = 1 << 16;
    /// There is a queue for commands.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues.
    pub const MQ: u64 = 1 << 22;
}

/// The cable is in. See: VIRTIO 1.2, 5.1.4.
const LINK_UP: u16 = 1;

/// The sizes of the queues. One to the guest has to hold several frames as large as there are, in pieces of a page at most.
const TO_GUEST: u16 = 1024;
const FROM_GUEST: u16 = 256;
const CONTROL: u16 = 16;

/// Its address on the cable.
pub type Mac = [u8; 6];

/// The device. Each pair of queues has a thread, and so has the control queue if there is one.
pub struct Net {
    mac: Mac,
    cable: Arc<dyn Cable>,
    /// A worker for two queues that follow each other.
    workers: Vec<Worker>,
}

impl Net {
    /// One at this cable.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(mac: Mac, cable: Arc<dyn Cable>) -> io::Result<Self> {
        let pairs = cable.pairs();
        let count = if pairs > 1 { pairs + 1 } else { pairs };
        let workers = (0..count).map(|_| Worker::new()).collect::<Result<_, _>>()?;
        Ok(Self { mac, cable, workers })
    }

    fn has_control(&self) -> bool {
        self.cable.pairs() > 1
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind { id: 1, class: [0x02, 0x00, 0x00] }
    }

    fn features(&self) -> u64 {
        let mtu = if self.cable.mtu().is_some() { feature::MTU } else { 0 };
        let several = if self.has_control() { feature::CTRL_VQ | feature::MQ } else { 0 };
        feature::MAC | feature::STATUS | feature::MRG_RXBUF | mtu | several | self.cable.features()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = [TO_GUEST, FROM_GUEST].repeat(self.cable.pairs().into());
        sizes.extend(self.has_control().then_some(CONTROL));
        sizes
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.mac.to_vec();
        config.extend(LINK_UP.to_le_bytes());
        config.extend(self.cable.pairs().to_le_bytes());
        config.extend(self.cable.mtu().unwrap_or_default().to_le_bytes());
        config
    }

    fn activate(&self, mut active: Active) {
        let interrupt = &active.interrupt;
        let Ok(links) = self.cable.open(active.features) else {
            interrupt.ask_for_reset();
            return;
        };
        let has_several = active.features & feature::MQ != 0;
        let pairs = if has_several { usize::from(self.cable.pairs()) } else { 1 };
        if active.features & feature::CTRL_VQ != 0 {
            // Behind the pairs that the driver knows of. See: VIRTIO 1.2, 5.1.2.
            let queue = active.queues.get_mut(2 * pairs).and_then(Option::take);
            if let (Some(queue), Some(worker)) = (queue, self.workers.get(pairs)) {
                let mut control = Control { queue, cable: Arc::clone(&self.cable) };
                worker.serve("net control", interrupt, move || control.serve());
            }
        }
        let all = active.queues.chunks_mut(2).take(pairs).zip(links).zip(&self.workers);
        for ((queues, link), worker) in all {
            let mut queue = |number: usize| queues.get_mut(number).and_then(Option::take);
            let (Some(to_guest), Some(from_guest)) = (queue(0), queue(1)) else { continue };
            let mergeable = active.features & feature::MRG_RXBUF != 0;
            let mut pair = Pair::new(to_guest, from_guest, link, mergeable, worker.event());
            worker.serve("net", interrupt, move || {
                pair.serve_and_wait()?;
                // It has waited there, and there may be more.
                Ok(true)
            });
        }
    }

    fn queue_event(&self, queue: u16) -> Option<EventFd> {
        self.workers.get(usize::from(queue / 2)).map(Worker::event)
    }

    fn reset(&self) {
        self.workers.iter().for_each(Worker::stop);
        self.cable.reset();
    }
}

#[cfg(test)]
#[path = "net_test.rs"]
mod net_test;
