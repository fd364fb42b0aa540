//! [`Cable`], [`Link`]: what a network card is connected to.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::PollFlags;

/// Bytes of the header before each frame. See: VIRTIO 1.2, 5.1.6.
pub const HEADER: usize = 12;

/// That header: what of a frame was left out. The number of buffers in it is the card's to say.
pub type Header = [u8; HEADER];

/// The most bytes of a frame: a segment of the largest size with its headers. See: VIRTIO 1.2, 5.1.6.3.1.
pub const MOST: usize = 65_550;

/// What a card is connected to, whatever its driver does. Called on any thread.
pub trait Cable: Send + Sync {
    /// The features that it adds to the card's own, of [`feature`](super::feature).
    fn features(&self) -> u64;

    /// The largest packet, if it says so.
    fn mtu(&self) -> Option<u16>;

    /// How many pairs of queues it has something for.
    fn pairs(&self) -> u16 {
        1
    }

    /// The driver is ready, and has taken these of the features: gives a link for each pair.
    ///
    /// # Errors
    /// When the host has no room for it.
    fn open(&self, features: u64) -> io::Result<Vec<Box<dyn Link>>>;

    /// The driver uses so many pairs from now on.
    ///
    /// # Errors
    /// When there are not as many, or the host says so.
    fn set_pairs(&self, count: u16) -> io::Result<()> {
        if count == 1 { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// There is no driver any more.
    fn reset(&self) {}
}

/// What frames of a pair of queues go to and come from. None of it waits.
pub trait Link: Send {
    /// Takes a frame of the guest's. `false`: it has no room now. What it can't make sense of it takes, too.
    fn send(&mut self, header: &Header, frame: &[u8]) -> bool;

    /// Has the next frame for the guest at hand, if there is one.
    fn receive(&mut self) -> bool;

    /// That frame.
    fn frame(&self) -> (Header, &[u8]);

    /// Looks at what has happened meanwhile.
    fn wake(&mut self) {}

    /// What is to be waited for. If the guest has no room, it is no use to be told of frames for it; nor of room if all of the guest's were taken.
    fn interest(&self, guest_has_room: bool, was_full: bool) -> (BorrowedFd<'_>, PollFlags);

    /// How long to wait at most.
    fn patience(&self) -> Option<Duration> {
        None
    }
}
