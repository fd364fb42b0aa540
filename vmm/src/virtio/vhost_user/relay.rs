//! [`Relay`]: passes requests from a guest's queues to a server's rings, and what came of them back.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd as Kick;

use super::ring::{Ring, Unasked};
use super::{FrontEnd, Lost};
use crate::virtio::Active;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Broken, Chain, Served, Virtqueue};

/// Says of a request that it has failed, for there is no server. Gives how many bytes it has written.
pub type Refuse = fn(&GuestMemoryMmap, &Chain) -> Result<u32, Broken>;

/// A device's queues, and the rings behind them.
pub struct Relay {
    pairs: Vec<Pair>,
    front_end: Arc<FrontEnd>,
    interrupt: Arc<Interrupt>,
    refuse: Refuse,
}

/// A queue and, if there was a server when it became active, a ring.
struct Pair {
    queue: Virtqueue,
    ring: Option<(Ring, Kick)>,
}

/// Who does not do as it should.
enum Failure {
    Driver,
    Server,
}

impl From<Broken> for Failure {
    fn from(_: Broken) -> Self {
        Self::Driver
    }
}

impl From<Unasked> for Failure {
    fn from(_: Unasked) -> Self {
        Self::Server
    }
}

impl Relay {
    /// Has a server serve a device's queues, which are of these sizes at most.
    #[must_use]
    pub fn start(front_end: Arc<FrontEnd>, active: Active, most: &[u16], refuse: Refuse) -> Self {
        let queues = || active.queues.iter();
        let sizes: Vec<_> =
            queues().zip(most).map(|(queue, size)| queue.as_ref().map(|_| *size)).collect();
        let memory = queues().flatten().next().map(|queue| Arc::clone(queue.memory()));
        let rings = match memory.map(|memory| front_end.start(&memory, &sizes)) {
            Some(Ok(rings)) => rings,
            Some(Err(why)) => {
                front_end.lose(&why);
                Vec::new()
            }
            None => Vec::new(),
        };
        let rings = rings.into_iter().chain(std::iter::repeat_with(|| None));
        let pairs = active.queues.into_iter().zip(rings);
        let pairs = pairs.filter_map(|(queue, ring)| Some(Pair { queue: queue?, ring }));
        Self { pairs: pairs.collect(), front_end, interrupt: active.interrupt, refuse }
    }

    /// Does what can be done, if the driver keeps to the rules. Gives whether there is more to do.
    pub fn serve(&mut self) -> bool {
        if self.interrupt.needs_reset() {
            return false;
        }
        let mut more = false;
        for pair in &mut self.pairs {
            let lost = self.front_end.is_lost();
            let served = if lost { pair.refuse(self.refuse) } else { pair.pass_on() };
            match served {
                Ok(is_more) => more |= is_more,
                Err(Failure::Driver) => {
                    self.interrupt.ask_for_reset();
                    return false;
                }
                // It signals that there is something to refuse.
                Err(Failure::Server) => self.front_end.lose(&Lost::Unasked),
            }
        }
        more
    }
}

impl Pair {
    /// Takes back what the server is done with, and gives it what is new. Gives whether there may be more of that.
    fn pass_on(&mut self) -> Result<bool, Failure> {
        let Some((ring, kick)) = &mut self.ring else { return Ok(false) };
        let mut has_answers = false;
        while let Some((chain, written)) = ring.take()? {
            self.queue.push(&chain, written)?;
            has_answers = true;
        }
        if has_answers {
            self.queue.tell()?;
        }
        let (mut is_full, mut is_asked, mut failed) = (false, false, Ok(()));
        let more = self.queue.serve(|_, chain| {
            if !ring.can_hold(chain) {
                // See: VIRTIO 1.2, 2.7.5.3.1: it is longer than the queue.
                return Err(Broken);
            }
            if !ring.has_room(chain) {
                is_full = true;
                return Ok(Served::Later);
            }
            failed = failed.and(ring.put(chain.clone()));
            is_asked = true;
            Ok(Served::UnderWay)
        });
        if is_asked {
            // It is signalled then, or was and is not heard yet.
            let _ = kick.write(1);
        }
        failed?;
        Ok(more? && !is_full)
    }

    /// Refuses what the server had, and what is new.
    fn refuse(&mut self, refuse: Refuse) -> Result<bool, Failure> {
        let had = self.ring.as_mut().map(|(ring, _)| ring.give_up()).unwrap_or_default();
        for chain in had {
            let written = refuse(self.queue.memory(), &chain)?;
            self.queue.push(&chain, written)?;
        }
        Ok(self.queue.serve(|memory, chain| Ok(Served::Written(refuse(memory, chain)?)))?)
    }
}
