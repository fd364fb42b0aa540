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
    /// What the threads are to do.
    others: Vec<Taken>,
    /// How many they do.
    given: usize,
    answers: (Sender<Answer>, Receiver<Answer>),
}

impl UnderWay {
    /// None yet. `event` is signalled when one is done. `threads`: how many there may be.
    pub fn new(target: Target, event: EventFd, is_ring_wanted: bool, threads: usize) -> Self {
        let ring = is_ring_wanted.then(|| IoRing::new(QUEUE_SIZE, &event).ok()).flatten();
        let (threads, answers) = (Threads::new(threads), channel());
        Self { target, event, ring, threads, others: Vec::new(), given: 0, answers }
    }

    fn count(&self) -> usize {
        self.ring.as_ref().map_or(0, IoRing::len) + self.given + self.others.len()
    }

    /// Whether there are as many as a queue holds. A driver that gives more has not waited for answers.
    pub fn is_full(&self) -> bool {
        self.count() >= usize::from(QUEUE_SIZE)
    }

    /// Starts a transfer at a file.
    pub fn transfer(&mut self, taken: Taken, place: InFile) {
        let refused = match &mut self.ring {
            Some(ring) => {
                let memory = Arc::clone(&taken.memory);
                let (direction, at) = (place.direction(), place.at());
                let buffers = taken.request.buffers(direction).to_vec();
                let range = |buffer: &Buffer| (GuestAddress(buffer.address), buffer.size as usize);
                let owner = (taken, Some(place));
                ring.transfer(direction, at, &memory, buffers.iter().map(range), owner).err()
            }
            None => Some((taken, Some(place))),
        };
        self.others.extend(refused.map(|(taken, _)| taken));
    }

    /// Starts anything else.
    pub fn other(&mut self, taken: Taken) {
        let refused = match &mut self.ring {
            Some(ring) if taken.request.is_flush() => match self.target.disk.file_to_sync() {
                Ok(Some(file)) => ring.sync(file, (taken, None)).err().map(|(taken, _)| taken),
                // Why it cannot be is found again.
                Ok(None) | Err(_) => Some(taken),
            },
            _ => Some(taken),
        };
        self.others.extend(refused);
    }

    /// Has all begin that was started.
    pub fn go(&mut self) {
        if self.ring.as_mut().is_some_and(|ring| ring.submit().is_err()) {
            self.event.signal();
        }
        // To wake another thread takes longer than many a transfer does, and the guest waits for nothing else.
        let is_alone = self.count() == 1;
        for taken in std::mem::take(&mut self.others) {
            self.given += 1;
            if is_alone && !taken.request.takes_long(&self.target) {
                let _ = self.answers.0.send(taken.carry_out(&self.target));
            } else {
                self.give(taken);
            }
        }
    }

    fn give(&mut self, taken: Taken) {
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
            match self.settle(taken, place, result) {
                Ok(answer) => return Some(answer),
                Err(taken) => self.others.push(taken),
            }
        }
        let answer = self.answers.1.try_recv().ok()?;
        self.given -= 1;
        Some(answer)
    }

    /// What the kernel says it has done. What it has not, or in part, is done once more by asking the image, which goes on or finds what is wrong.
    fn settle(
        &self,
        taken: Taken,
        place: Option<InFile>,
        result: io::Result<u64>,
    ) -> Result<Answer, Taken> {
        let disk = &self.target.disk;
        let outcome = match (place, result) {
            (None, result) => disk.synced(result.map(|_| ())),
            (Some(place), Ok(size)) if size == place.size() => disk.arrived(&place),
            (Some(_), _) => return Err(taken),
        };
        Ok(taken.answer(outcome))
    }

    /// Nobody waits for answers any more. What has begun is done nevertheless: others may wait for its place.
    pub fn forget(&mut self) {
        self.others.clear();
        self.go();
        while self.finished().is_some() {}
        self.others.clear();
    }

    /// Has the event not be signalled by the ring for now.
    pub fn stop_events(&mut self) {
        self.ring.iter_mut().for_each(IoRing::stop_events);
    }

    /// Has it be signalled from now on. Gives whether there is something to do already.
    pub fn want_events(&mut self) -> bool {
        let is_done = self.ring.as_mut().is_some_and(IoRing::want_events);
        is_done || !self.others.is_empty()
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
