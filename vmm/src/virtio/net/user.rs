//! [`User`]: a network in this process ([`user_net`]), which needs no privilege.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use user_net::address::MTU;
use user_net::packet::Frame;
use user_net::{Config, Network};

use super::feature;
use super::link::{Cable, HEADER, Header, Link};

/// The checksum is for the receiver to complete. See: VIRTIO 1.2, 5.1.6.
const NEEDS_CHECKSUM: u8 = 1;

/// Where in a header it is said where the checksum begins, and where it is from there.
const START: usize = 6;
const OFFSET: usize = 8;

/// A cable to a network of the guest's own.
pub struct User(Config);

impl User {
    /// With this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self(config)
    }
}

impl Cable for User {
    fn features(&self) -> u64 {
        feature::CSUM | feature::GUEST_CSUM
    }

    fn mtu(&self) -> Option<u16> {
        Some(MTU)
    }

    fn open(&self, features: u64) -> io::Result<Vec<Box<dyn Link>>> {
        let network = Network::new(&self.0, features & feature::GUEST_CSUM != 0)?;
        let (frame, began) = (Frame::default(), Instant::now());
        Ok(vec![Box::new(UserLink { network, frame, began })])
    }
}

struct UserLink {
    network: Network,
    frame: Frame,
    began: Instant,
}

impl Link for UserLink {
    fn send(&mut self, _header: &Header, frame: &[u8]) -> bool {
        // What was left out is of no use here.
        self.network.receive(frame, self.began.elapsed());
        true
    }

    fn receive(&mut self) -> bool {
        self.network.next(&mut self.frame, self.began.elapsed())
    }

    fn frame(&self) -> (Header, &[u8]) {
        let mut header = [0; HEADER];
        if let Some(partial) = self.frame.partial {
            header[0] = NEEDS_CHECKSUM;
            header[START..OFFSET].copy_from_slice(&partial.start.to_le_bytes());
            header[OFFSET..OFFSET + 2].copy_from_slice(&partial.offset.to_le_bytes());
        }
        (header, &self.frame.bytes)
    }

    fn wake(&mut self) {
        self.network.wake(self.began.elapsed());
    }

    fn interest(&self, _guest_has_room: bool, _was_full: bool) -> (BorrowedFd<'_>, PollFlags) {
        // What has happened is told once.
        (self.network.as_fd(), PollFlags::IN)
    }

    fn patience(&self) -> Option<Duration> {
        let at = self.network.deadline()?;
        Some(at.saturating_sub(self.began.elapsed()))
    }
}
