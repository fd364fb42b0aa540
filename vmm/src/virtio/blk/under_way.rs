//! [`UnderWay`]: the requests of a queue that are being done, several at once.
//!
//! What is a transfer at a file, or a flush of one, the kernel does ([`IoRing`]). What is more than that (`imago` has to change tables, to unpack, to look
//! in several places), and all of it where the host has no io_uring, [`Threads`] do. Either signals the queue's event when something is done.
//!
//! The queue's thread never waits here while the ring has something of its own, but for the ring: a request that changes where blocks are waits for those
//! that are done there ([`InFile`]), and these are over only when the thread has taken them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use hv::io_ring::IoRing;
use hv::{Event, EventFd};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::QUEUE_SIZE;
use super::request::{Request, Target};
use super::threads::Threads;
use crate::disk::straight::InFile;
use crate::virtio::queue::{Broken, Buffer, Chain};

/// A request that was taken from the queue and is not answered.
pub struct Taken {
    /// Where it came from.
    pub chain: Chain,
    /// What it asks.
    pub request: Request,
    /// Where its buffers are.
    pub memory: Arc<GuestMemoryMmap>,
}

/// A chain that is to go back, and how many bytes were written to it.
type Answer = (Chain, Result<u32, Broken>);

/// Those of a queue. Dropped, it waits for them; the answers are nobody's then.
pub struct UnderWay {
    target: Target,
    event: EventFd,
    /// A transfer has the place where it is done, a flush has none.
    ring: Option<IoRing<(Taken, Option<InFile>)>>,
    threads: Threads,
    /// What has not begun, and where it can be done if that is at a file.
    waiting: Vec<(Taken, Option<InFile>)>,
    /// How many are done by threads, or here.
    given: usize,
    /// Another one came while this thread did one by itself.
    is_crowded: bool,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl UnderWay {
    /// None yet. `event` is signalled when one is done. `threads`: how many there may be.
    pub fn new(target: Target, event: EventFd, is_ring_wanted: bool, threads: usize) -> Self {
        let ring = is_ring_wanted.then(|| IoRing::new(QUEUE_SIZE, &event).ok()).flatten();
        let (threads, answers) = (Threads::new(threads), channel());
        Self {
            target,
            event,
            ring,
            threads,
            waiting: Vec::new(),
            given: 0,
            is_crowded: false,
            answers,
        }
    }

    fn count(&self) -> usize {
        self.ring.as_ref().map_or(0, IoRing::len) + self.given + self.waiting.len()
    }

    /// Whether there are as many as a queue holds. A driver that gives more has not waited for answers.
    pub fn is_full(&self) -> bool {
        self.count() >= usize::from(QUEUE_SIZE)
    }

    /// One more, and where it can be done if that is at a file. It begins with [`go`](Self::go).
    pub fn add(&mut self, taken: Taken, place: Option<InFile>) {
        self.waiting.push((taken, place));
    }

    /// Has all begin that waits. Gives whether one was done meanwhile by this thread itself: a transfer that was all there is, for to have another
    /// thread do it, or the kernel, takes longer.
    pub fn go(&mut self) -> bool {
        let count = self.count();
        self.is_crowded &= count != 0;
        let is_alone = count == 1 && !self.is_crowded;
        let mut is_done = false;
        for (taken, place) in std::mem::take(&mut self.waiting) {
            if is_alone && !taken.request.takes_long(&self.target) {
                // It is looked for once more, as anything is that is not done at its place.
                drop(place);
                self.given += 1;
                let _ = self.answers.0.send(taken.carry_out(&self.target));
                is_done = true;
            } else if let Some(taken) = self.start(taken, place) {
                self.give(taken);
            }
        }
        if self.ring.as_mut().is_some_and(|ring| ring.submit().is_err()) {
            self.event.signal();
        }
        is_done
    }

    /// Another one came while this thread did one: from now on it does none by itself, as long as there is something.
    pub fn crowd(&mut self) {
        self.is_crowded = true;
    }

    /// Has the kernel do it, or gives it back.
    fn start(&mut self, taken: Taken, place: Option<InFile>) -> Option<Taken> {
        let Some(ring) = &mut self.ring else { return Some(taken) };
        let refused = if let Some(place) = place {
            let (direction, at) = (place.direction(), place.at());
            let memory = Arc::clone(&taken.memory);
            let buffers = taken.request.buffers(direction).to_vec();
            let range = |buffer: &Buffer| (GuestAddress(buffer.address), buffer.size as usize);
            let owner = (taken, Some(place));
            ring.transfer(direction, at, &memory, buffers.iter().map(range), owner)
        } else {
            // Why it cannot be is found again.
            let is_flush = taken.request.is_flush();
            match is_flush.then(|| self.target.disk.file_to_sync()) {
                Some(Ok(Some(file))) => ring.sync(file, (taken, None)),
                _ => Err((taken, None)),
            }
        };
        refused.err().map(|(taken, _)| taken)
    }

    /// Has a thread do it.
    fn give(&mut self, taken: Taken) {
        self.given += 1;
        let answers = self.answers.0.clone();
        if let Err(error) = self.threads.make_room() {
            let _ = answers.send(taken.answer(Err(error)));
            return;
        }
        let (target, event) = (self.target.clone(), self.event.clone());
        self.threads.run(move || {
            let _ = answers.send(taken.carry_out(&target));
            event.signal();
        });
    }

    /// The next one that is done.
    pub fn finished(&mut self) -> Option<Answer> {
        while let Some(((taken, place), result)) = self.ring.as_mut().and_then(IoRing::take) {
            match self.settle(place, result) {
                Some(outcome) => return Some(taken.answer(outcome)),
                None => self.give(taken),
            }
        }
        let answer = self.answers.1.try_recv().ok()?;
        self.given -= 1;
        Some(answer)
    }

    /// What the kernel says it has done. What it has not, or in part, is done once more by asking the image, which goes on or finds what is wrong.
    fn settle(&self, place: Option<InFile>, result: io::Result<u64>) -> Option<io::Result<()>> {
        let disk = &self.target.disk;
        match (place, result) {
            (None, result) => Some(disk.synced(result.map(|_| ()))),
            (Some(place), Ok(size)) if size == place.size() => Some(disk.arrived(&place)),
            (Some(_), _) => None,
        }
    }

    /// Nobody waits for answers any more. What has begun is done nevertheless: others may wait for its place.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.go();
        while self.finished().is_some() {}
    }

    /// Has the event not be signalled by the ring for now.
    pub fn stop_events(&mut self) {
        self.ring.iter_mut().for_each(IoRing::stop_events);
    }

    /// Has it be signalled from now on. Gives whether something is done already.
    pub fn want_events(&mut self) -> bool {
        self.ring.as_mut().is_some_and(IoRing::want_events)
    }
}

impl Taken {
    fn carry_out(self, target: &Target) -> Answer {
        let written = self.request.carry_out(target, &self.memory);
        (self.chain, written)
    }

    fn answer(self, outcome: io::Result<()>) -> Answer {
        let written = self.request.answer(&self.memory, outcome);
        (self.chain, written)
    }
}
