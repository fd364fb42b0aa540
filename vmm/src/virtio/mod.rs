//! Virtio 1.2 devices, and what they share.
//!
//! - [`Device`]: what makes a device one of its kind. A device is one file, or a folder, here: [`balloon`], [`blk`], [`console`], [`fs`], [`net`],
//!   [`rng`], [`vsock`];
//! - [`queue`]: its virtqueues, and what a driver does wrong with them;
//! - [`interrupt`]: how it tells the driver;
//! - [`worker`]: a thread that serves queues; [`lane`]: one that others help;
//! - [`vhost_user`]: one that another process is;
//! - [`pci`]: how the guest finds it: the only transport.
//!
//! See: Virtual I/O Device (VIRTIO) Version 1.2.

pub mod balloon;
pub mod blk;
pub mod console;
pub mod fs;
pub mod interrupt;
pub mod lane;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod vhost_user;
pub mod vsock;
pub mod worker;

use std::sync::Arc;

use hv::EventFd;

use interrupt::Interrupt;
use queue::Virtqueue;

/// Features that the transport and the queues have, whatever the device. See: VIRTIO 1.2, 6.
pub mod feature {
    /// A descriptor may refer to a table of them.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Driver and device say from which index on they want to be told.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is no legacy one.
    pub const VERSION_1: u64 = 1 << 32;
    /// Of every device.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What a device is given when its driver is ready.
pub struct Active {
    /// By number. Those that the driver does not use are absent.
    pub queues: Vec<Option<Virtqueue>>,
    /// What the driver has taken of the features that were offered.
    pub features: u64,
    /// To tell the driver of what is no queue's.
    pub interrupt: Arc<Interrupt>,
}

/// What a device is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its number. See: VIRTIO 1.2, 5.
    pub id: u16,
    /// PCI's class, subclass and programming interface.
    pub class: [u8; 3],
}

/// A virtio device behind its transport. Called on vCPUs' threads.
pub trait Device: Send + Sync {
    /// What it is.
    fn kind(&self) -> Kind;

    /// Its own features: those of [`feature`] are the transport's.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue, a power of 2.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Its configuration space as it is now.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads that, as far as there is some: `data` holds zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or(&[]);
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// Writes to it.
    fn write_config(&self, _offset: u64, _data: &[u8]) {}

    /// Whether the guest's memory has to be in a file, all of it, for another process to map.
    fn needs_file(&self) -> bool {
        false
    }

    /// The driver is ready.
    fn activate(&self, active: Active);

    /// What is signalled by a notification of a queue; if there is none, [`notify`](Self::notify) is called.
    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        None
    }

    /// The driver has put something into a queue.
    fn notify(&self, _queue: u16) {}

    /// Back to before [`activate`](Self::activate). When this returns the device accesses no memory of the guest's.
    fn reset(&self);
}
