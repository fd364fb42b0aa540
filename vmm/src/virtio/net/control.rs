//! [`Control`]: commands of the driver's for the card itself. There is one: how many pairs of queues it uses.
//!
//! See: VIRTIO 1.2, 5.1.6.5.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::link::Cable;
use crate::virtio::queue::{self, Broken, Chain, Served, Virtqueue};

/// A command's class and number, and what it is about. See: VIRTIO 1.2, 5.1.6.5.5.
const COMMAND: usize = 4;
const MULTIQUEUE: u8 = 4;
const SET_PAIRS: u8 = 0;

/// What it is answered with.
const OK: u8 = 0;
const ERROR: u8 = 1;

/// The control queue.
pub struct Control {
    /// Where commands come from.
    pub queue: Virtqueue,
    /// Who carries them out.
    pub cable: Arc<dyn Cable>,
}

fn obey(cable: &dyn Cable, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, Broken> {
    let mut command = [0; COMMAND];
    let is_whole = queue::read(memory, &chain.readable, &mut command)? == COMMAND;
    let [class, number, low, high] = command;
    let is_done = is_whole
        && (class, number) == (MULTIQUEUE, SET_PAIRS)
        && cable.set_pairs(u16::from_le_bytes([low, high])).is_ok();
    let answer = if is_done { OK } else { ERROR };
    Ok(Served::Written(queue::write(memory, &chain.writable, &[answer])? as u32))
}

impl Control {
    /// Carries commands out. Gives whether there may be more.
    ///
    /// # Errors
    /// When the driver does not keep to the rules.
    pub fn serve(&mut self) -> Result<bool, Broken> {
        let cable = &*self.cable;
        self.queue.serve(|memory, chain| obey(cable, memory, chain))
    }
}
