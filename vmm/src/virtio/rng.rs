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
