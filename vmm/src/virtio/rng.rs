//! [`Rng`]: entropy for the guest.
//!
//! See: VIRTIO 1.2, 5.4.

use std::sync::{Mutex, PoisonError};

use super::queue::{self, Broken, Virtqueue};
use super::{Active, Device, Kind};

/// What the guest gets at once, at most.
const MOST: u64 = 4096;

/// Fills bytes with randomness of the host's. `false`: it has none now.
pub type Source = Box<dyn Fn(&mut [u8]) -> bool + Send + Sync>;

/// The device.
pub struct Rng {
    source: Source,
    active: Mutex<Option<(Virtqueue, Active)>>,
}

impl Rng {
    /// One that gives what a source does.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, active: Mutex::new(None) }
    }

    fn serve(&self, requests: &mut Virtqueue) -> Result<(), Broken> {
        requests.serve(|memory, chain| {
            let size = queue::size_of(&chain.writable).min(MOST);
            let mut bytes = vec![0; size as usize];
            if !(self.source)(&mut bytes) {
                return 0;
            }
            queue::write(memory, &chain.writable, &bytes).map_or(0, |size| size as u32)
        })
    }
}

impl Device for Rng {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: [0xff, 0, 0] }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64]
    }

    fn activate(&self, mut active: Active) {
        let requests = active.queues.first_mut().and_then(Option::take);
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) =
            requests.map(|requests| (requests, active));
    }

    /// A request is a system call: it is made where it is asked for.
    fn notify(&self, _queue: u16) {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((requests, Active { interrupt, .. })) = &mut *active
            && !interrupt.needs_reset()
            && self.serve(requests) == Err(Broken)
        {
            interrupt.ask_for_reset();
        }
    }

    fn reset(&self) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::interrupt::Interrupt;
    use crate::virtio::queue::Buffer;
    use crate::virtio::queue::driver::{Driver, MEMORY};

    fn active(source: Source) -> (Rng, Driver, Arc<Interrupt>) {
        let (rng, driver) = (Rng::new(source), Driver::new());
        let interrupt = Arc::new(Interrupt::new(1, Arc::new(|_| {}), Arc::new(|_| {})));
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
        let (rng, mut driver, _) = active(Box::new(sevens));
        driver.send(
            &[],
            &[Buffer { address: 0x8000, size: 5 }, Buffer { address: 0x9000, size: 6000 }],
        );
        rng.notify(0);
        assert_eq!(driver.take(), Some((0, MOST as u32)));
        let mut bytes = [0; 6];
        driver.memory.read_slice(&mut bytes, GuestAddress(0x8000)).unwrap();
        assert_eq!(bytes, [7, 7, 7, 7, 7, 0]);
        driver.memory.read_slice(&mut bytes, GuestAddress(0x9000 + MOST - 6)).unwrap();
        assert_eq!(bytes, [7, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn without_entropy_nothing_is_written() {
        let (rng, mut driver, _) = active(Box::new(|_| false));
        driver.send(&[], &[Buffer { address: 0x8000, size: 5 }]);
        rng.notify(0);
        assert_eq!(driver.take(), Some((0, 0)));
    }

    #[test]
    fn a_bad_driver_is_asked_for_reset_and_then_served_again() {
        let (rng, mut driver, interrupt) = active(Box::new(sevens));
        driver.send(&[], &[Buffer { address: MEMORY as u64, size: 5 }]);
        rng.notify(0);
        rng.notify(0);
        assert!(interrupt.needs_reset());
        assert_eq!(driver.take(), None);
        rng.reset();
        rng.notify(0);
    }
}
