//! [`Pair`]: a pair of queues, and the link that their frames go to and come from.

use hv::EventFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::link::{HEADER, Header, Link, MOST};
use crate::virtio::queue::{self, Broken, Chain, Served, Virtqueue, size_of};

/// Where the number of buffers is in a frame's header. See: VIRTIO 1.2, 5.1.6.
const BUFFERS: usize = 10;

/// How many frames for the guest are taken before its own have their turn.
const TURN: usize = 64;

/// A pair of queues.
pub struct Pair {
    to_guest: Virtqueue,
    from_guest: Virtqueue,
    link: Box<dyn Link>,
    /// A frame for the guest may be in several chains.
    mergeable: bool,
    event: EventFd,
    /// Chains that were taken for a frame, which has not found enough yet.
    chains: Vec<Chain>,
    /// The link has a frame at hand that the guest has not got.
    has_frame: bool,
    /// The guest's frame, with its header.
    bytes: Vec<u8>,
}

/// What has become of frames for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivered {
    /// There are no more.
    All,
    /// There may be more.
    Some,
    /// The guest has no room for the next one.
    NoRoom,
}

impl Pair {
    /// Of these queues. `event` is signalled when the driver has put something there, and when all is over.
    pub fn new(
        to_guest: Virtqueue,
        from_guest: Virtqueue,
        link: Box<dyn Link>,
        mergeable: bool,
        event: EventFd,
    ) -> Self {
        let (chains, bytes) = (Vec::new(), vec![0; HEADER + MOST]);
        Self { to_guest, from_guest, link, mergeable, event, chains, has_frame: false, bytes }
    }

    /// Moves frames both ways, and waits if there are no more.
    ///
    /// # Errors
    /// When the driver does not keep to the rules.
    pub fn serve_and_wait(&mut self) -> Result<(), Broken> {
        self.link.wake();
        let (more, was_full) = self.send()?;
        let delivered = self.deliver()?;
        if !more && delivered != Delivered::Some {
            self.wait(delivered != Delivered::NoRoom, was_full);
        }
        Ok(())
    }

    /// Gives the link what the guest sends. Says whether there may be more, and whether the link has no room for it.
    fn send(&mut self) -> Result<(bool, bool), Broken> {
        let (link, bytes) = (&mut self.link, &mut self.bytes);
        let mut was_full = false;
        let more = self.from_guest.serve(|memory, chain| {
            let size = size_of(&chain.readable);
            if size < HEADER as u64 {
                return Err(Broken);
            }
            let Some(room) = usize::try_from(size).ok().and_then(|size| bytes.get_mut(..size))
            else {
                // It is longer than any frame: it is lost.
                return Ok(Served::Written(0));
            };
            queue::read(memory, &chain.readable, room)?;
            let (header, frame) = room.split_first_chunk::<HEADER>().ok_or(Broken)?;
            if link.send(header, frame) {
                return Ok(Served::Written(0));
            }
            was_full = true;
            Ok(Served::Later)
        })?;
        Ok((more && !was_full, was_full))
    }

    /// Gives the guest what the link has.
    fn deliver(&mut self) -> Result<Delivered, Broken> {
        self.to_guest.stop_notifications()?;
        let mut delivered = Delivered::Some;
        for _ in 0..TURN {
            if !self.has_frame && !self.link.receive() {
                delivered = Delivered::All;
                break;
            }
            self.has_frame = true;
            if !self.find_room()? {
                delivered = Delivered::NoRoom;
                break;
            }
            self.write()?;
            self.has_frame = false;
        }
        self.to_guest.tell()?;
        Ok(delivered)
    }

    /// Takes chains until the frame fits. Gives whether there were enough; or the one chain that there may be.
    fn find_room(&mut self) -> Result<bool, Broken> {
        let size = (HEADER + self.link.frame().1.len()) as u64;
        let room = |chains: &[Chain]| chains.iter().map(|chain| size_of(&chain.writable)).sum();
        let mut found: u64 = room(&self.chains);
        while found < size && (self.mergeable || self.chains.is_empty()) {
            match self.to_guest.pop()? {
                Some(chain) if size_of(&chain.writable) >= HEADER as u64 => {
                    found += size_of(&chain.writable);
                    self.chains.push(chain);
                }
                // See: VIRTIO 1.2, 5.1.6.3.1.
                Some(_) => return Err(Broken),
                None if self.to_guest.want_notifications()? => {
                    self.to_guest.stop_notifications()?;
                }
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes the frame to as many chains as it takes. One that fits into none is lost.
    fn write(&mut self) -> Result<(), Broken> {
        let (mut header, frame): (Header, &[u8]) = self.link.frame();
        let mut left = HEADER + frame.len();
        let mut parts = Vec::with_capacity(self.chains.len());
        for chain in &self.chains {
            if left == 0 {
                break;
            }
            let size = usize::try_from(size_of(&chain.writable)).unwrap_or(usize::MAX).min(left);
            left -= size;
            parts.push(size);
        }
        if left > 0 {
            return Ok(());
        }
        header[BUFFERS..].copy_from_slice(&(parts.len() as u16).to_le_bytes());
        let (memory, mut rest) = (self.to_guest.memory(), frame);
        for (number, (chain, size)) in self.chains.iter().zip(&parts).enumerate() {
            // The header is in the first one, whole.
            let skipped = if number == 0 { HEADER } else { 0 };
            if number == 0 {
                queue::write(memory, &chain.writable, &header)?;
            }
            let part = rest.split_off(..size - skipped).ok_or(Broken)?;
            match skipped {
                0 => queue::write(memory, &chain.writable, part)?,
                _ => {
                    let room = queue::part(&chain.writable, skipped as u64, part.len() as u64);
                    queue::write(memory, &room, part)?
                }
            };
        }
        let used = self.chains.drain(..parts.len()).zip(parts);
        let used: Vec<_> = used.map(|(chain, size)| (chain, size as u32)).collect();
        self.to_guest.push_together(&used)
    }

    /// Waits for the driver, or the link.
    fn wait(&self, guest_has_room: bool, was_full: bool) {
        let (link, flags) = self.link.interest(guest_has_room, was_full);
        let mut all =
            [PollFd::new(&self.event, PollFlags::IN), PollFd::from_borrowed_fd(link, flags)];
        let patience = self.link.patience().and_then(|most| Timespec::try_from(most).ok());
        // A signal of the process' cuts it short.
        let _ = poll(&mut all, patience.as_ref());
    }
}
