//! [`Rng`]: entropy for the guest.
//!
//! See: VIRTIO 1.2, 5.4.

use std::io;
use std::sync::Arc;

use hv::EventFd;
use vm_memory::GuestMemoryMmap;

use super::queue::{self, Broken, Chain, Served};
use super::worker::Worker;
use super::{Active, Device, Kind};

/// What the guest gets at once, at most.
const MOST: u64 = 4096;

/// Fills bytes with randomness of the host's. `false`: it has none now.
pub type Source = Arc<dyn Fn(&mut [u8]) -> bool + Send + Sync>;

/// The device. It has a thread, which has the queue: nobody waits for entropy.
pub struct Rng {
    source: Source,
    worker: Worker,
}

impl Rng {
    /// One that gives what a source does.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(source: Source) -> io::Result<Self> {
        Ok(Self { source, worker: Worker::new()? })
    }
}

/// Fills a chain.
fn fill(source: &Source, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, Broken> {
    let size = queue::size_of(&chain.writable).min(MOST);
    let mut bytes = vec![0; size as usize];
    if !source(&mut bytes) {
        return Ok(Served::Written(0));
    }
    Ok(Served::Written(queue::write(memory, &chain.writable, &bytes)? as u32))
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: [0xff, 0, 0] }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn activate(&self, mut active: Active) {
        let Some(mut requests) = active.queues.first_mut().and_then(Option::take) else { return };
        let source = Arc::clone(&self.source);
        self.worker.serve("rng", &active.interrupt, move || {
            requests.serve(|memory, chain| fill(&source, memory, chain))
        });
    }

    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        Some(self.worker.event())
    }

    fn reset(&self) {
        self.worker.stop();
    }
}

#[cfg(test)]
mod tests {
    use hv::Event;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::interrupt::Interrupt;
    use crate::virtio::queue::Buffer;
    use crate::virtio::queue::driver::{Driver, MEMORY, wait_for};

    fn active(source: Source, buffers: &[Buffer]) -> (Rng, Driver, Arc<Interrupt>) {
        let (rng, mut driver) = (Rng::new(source).unwrap(), Driver::new());
        let interrupt = Arc::new(Interrupt::new(1, Arc::new(|_| {}), Arc::new(|_| {})));
        driver.send(&[], buffers);
        let queues = vec![Some(driver.queue(Arc::clone(&interrupt)))];
        rng.activate(Active { queues, features: 0, interrupt: Arc::clone(&interrupt) });
        (rng, driver, interrupt)
    }

    fn sevens(bytes: &mut [u8]) -> bool {
        bytes.fill(7);
        true
    }

    #[test]
    fn buffers_are_filled_as_far_as_one_request_goes() {
        let buffers = [Buffer { address: 0x8000, size: 5 }, Buffer { address: 0x9000, size: 6000 }];
        let (rng, mut driver, _) = active(Arc::new(sevens), &buffers);
        assert_eq!(wait_for(|| driver.take()), (0, MOST as u32));
        let mut bytes = [0; 6];
        driver.memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 0]);
        driver.memory.read_slice(&mut bytes, GuestAddress(0x9000 + MOST - 6)).unwrap();
        assert_eq!(bytes, [7, 0, 0, 0, 0, 0]);
        driver.send(&[], &[Buffer { address: 0x8000, size: 1 }]);
        rng.queue_event(0).unwrap().signal();
        assert_eq!(wait_for(|| driver.take()).1, 1);
    }

    #[test]
    fn without_entropy_nothing_is_written() {
        let buffers = [Buffer { address: 0x8000, size: 5 }];
        let (_rng, mut driver, _) = active(Arc::new(|_| false), &buffers);
        assert_eq!(wait_for(|| driver.take()), (0, 0));
    }

    #[test]
    fn a_bad_driver_is_asked_for_reset_and_not_served() {
        let buffers = [Buffer { address: MEMORY as u64, size: 5 }];
        let (rng, mut driver, interrupt) = active(Arc::new(sevens), &buffers);
        wait_for(|| interrupt.needs_reset().then_some(()));
        assert_eq!(driver.take(), None);
        rng.reset();
    }
}
