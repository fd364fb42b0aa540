//! [`Tap`]: a TAP interface of the host's. Frames go through as they are, with the header that says what was left out of them: the kernel's is
//! virtio's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::PollFlags;
use tap::{Interface, Queue, offload};

use super::feature;
use super::link::{Cable, HEADER, Header, Link, MOST};

/// How many pairs of queues there are at most.
const MOST_PAIRS: u16 = 8;

const _: () = assert!(HEADER == tap::HEADER);

/// A cable to a TAP interface.
pub struct Tap(Interface);

impl Tap {
    /// To the interface of this name, with as many queues as `pairs`, if it was made for several.
    ///
    /// # Errors
    /// When there is none, it is not this user's, or another program uses it.
    pub fn open(name: &str, pairs: u16) -> Result<Self, tap::Error> {
        Interface::open(name, pairs.min(MOST_PAIRS)).map(Self)
    }
}

impl Cable for Tap {
    fn features(&self) -> u64 {
        feature::CSUM
            | feature::GUEST_CSUM
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::GUEST_ECN
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_ECN
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn pairs(&self) -> u16 {
        self.0.count()
    }

    fn open(&self, features: u64) -> io::Result<Vec<Box<dyn Link>>> {
        let offloads = [
            (feature::GUEST_CSUM, offload::CHECKSUM),
            (feature::GUEST_TSO4, offload::TSO4),
            (feature::GUEST_TSO6, offload::TSO6),
            (feature::GUEST_ECN, offload::ECN),
        ];
        let taken = offloads.iter().filter(|(feature, _)| features & feature != 0);
        let left_out = taken.fold(0, |all, (_, flag)| all | flag);
        let link = |queue| {
            let (header, buffer) = ([0; HEADER], vec![0; MOST]);
            Box::new(TapLink { queue, header, buffer, size: 0 }) as Box<dyn Link>
        };
        Ok(self.0.queues(left_out)?.into_iter().map(link).collect())
    }

    fn set_pairs(&self, count: u16) -> io::Result<()> {
        self.0.use_queues(count)
    }

    fn reset(&self) {
        // It has been done before: there is nothing to be refused.
        let _ = self.set_pairs(1);
    }
}

struct TapLink {
    queue: Queue,
    header: Header,
    buffer: Vec<u8>,
    size: usize,
}

impl Link for TapLink {
    fn send(&mut self, header: &Header, frame: &[u8]) -> bool {
        self.queue.write(header, frame).is_ok()
    }

    fn receive(&mut self) -> bool {
        let size = self.queue.read(&mut self.header, &mut self.buffer);
        self.size = size.unwrap_or_default();
        size.is_some()
    }

    fn frame(&self) -> (Header, &[u8]) {
        (self.header, self.buffer.get(..self.size).unwrap_or_default())
    }

    fn interest(&self, guest_has_room: bool, was_full: bool) -> (BorrowedFd<'_>, PollFlags) {
        let when = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        (self.queue.as_fd(), when(guest_has_room, PollFlags::IN) | when(was_full, PollFlags::OUT))
    }
}
