//! [`Serving`]: a queue of a disk, and how its requests are taken up: on the spot, or by [`UnderWay`].
//!
//! See: VIRTIO 1.2, 5.2.6.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::request::{Request, Target};
use super::under_way::{Taken, UnderWay};
use crate::disk::straight::{InFile, Tried};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{self, Broken, Served, Virtqueue};

/// A request of more bytes is not a short one.
const SHORT: u64 = 64 << 10;

/// What is served.
pub struct Serving {
    queue: Virtqueue,
    interrupt: Arc<Interrupt>,
    target: Target,
}

/// How far a request has come.
enum Begun {
    /// It is answered: so many bytes were written.
    Answered(u32),
    /// It is a transfer that can be done there.
    Waits(InFile),
    /// It is another.
    Other,
}

impl Serving {
    /// Of a queue. `interrupt` has the driver be asked for a reset.
    pub fn new(queue: Virtqueue, interrupt: Arc<Interrupt>, target: Target) -> Self {
        Self { queue, interrupt, target }
    }

    /// Answers short requests that the host need not wait for, until one comes that is none. Gives whether the queue's thread is to go on.
    pub fn serve_short(&mut self) -> bool {
        if self.interrupt.needs_reset() {
            return false;
        }
        let target = &self.target;
        let served = self.queue.serve(|memory, chain| {
            let request = Request::read(memory, chain)?;
            if request.transfer(target).is_some_and(|transfer| transfer.size > SHORT) {
                return Ok(Served::Later);
            }
            Ok(match begin(&request, target, memory)? {
                Begun::Answered(written) => Served::Written(written),
                Begun::Waits(_) | Begun::Other => Served::Later,
            })
        });
        self.unless_broken(served)
    }

    /// Answers what is done, and takes up what there is. Gives whether there may be more already.
    pub fn serve(&mut self, under_way: &mut UnderWay) -> bool {
        under_way.stop_events();
        let more = !self.interrupt.needs_reset() && {
            let served = self.take_turn(under_way);
            self.unless_broken(served)
        };
        if self.interrupt.needs_reset() {
            under_way.forget();
        }
        under_way.want_events() || more
    }

    fn take_turn(&mut self, under_way: &mut UnderWay) -> Result<bool, Broken> {
        self.give_back(under_way)?;
        // This tells the driver of what was given back as well.
        let more = self.take_up(under_way)?;
        if under_way.go() && self.queue.has_next()? {
            under_way.crowd();
        }
        if self.give_back(under_way)? {
            self.queue.tell()?;
        }
        Ok(more)
    }

    /// Pushes what is done. Gives whether there was something.
    fn give_back(&mut self, under_way: &mut UnderWay) -> Result<bool, Broken> {
        let mut is_some = false;
        while let Some((chain, written)) = under_way.finished() {
            self.queue.push(&chain, written?)?;
            is_some = true;
        }
        Ok(is_some)
    }

    /// Takes chains from the queue. Gives whether there may be more that can be taken.
    fn take_up(&mut self, under_way: &mut UnderWay) -> Result<bool, Broken> {
        let (target, memory) = (&self.target, Arc::clone(self.queue.memory()));
        let mut is_full = false;
        let more = self.queue.serve(|_, chain| {
            is_full = under_way.is_full();
            if is_full {
                return Ok(Served::Later);
            }
            let request = Request::read(&memory, chain)?;
            let begun = begin(&request, target, &memory)?;
            let taken = || Taken { chain: chain.clone(), memory: Arc::clone(&memory), request };
            match begun {
                Begun::Answered(written) => return Ok(Served::Written(written)),
                Begun::Waits(place) => under_way.add(taken(), Some(place)),
                Begun::Other => under_way.add(taken(), None),
            }
            Ok(Served::UnderWay)
        })?;
        // When one of those that are under way is done the event says so.
        Ok(more && !is_full)
    }

    fn unless_broken(&self, served: Result<bool, Broken>) -> bool {
        served.unwrap_or_else(|Broken| {
            self.interrupt.ask_for_reset();
            false
        })
    }
}

/// Does a request if nothing has to be waited for, locks neither.
fn begin(request: &Request, target: &Target, memory: &GuestMemoryMmap) -> Result<Begun, Broken> {
    let Some(transfer) = request.transfer(target) else {
        return match request.takes_long(target) {
            true => Ok(Begun::Other),
            false => request.carry_out(target, memory).map(Begun::Answered),
        };
    };
    let slices = queue::slices(memory, transfer.buffers)?;
    let outcome = match target.disk.try_now(transfer.direction, &slices, transfer.offset) {
        Ok(Tried::Done) => Ok(()),
        Ok(Tried::Waits(place)) => return Ok(Begun::Waits(place)),
        Ok(Tried::Elsewhere) => return Ok(Begun::Other),
        Err(error) => Err(error),
    };
    request.answer(memory, outcome).map(Begun::Answered)
}
