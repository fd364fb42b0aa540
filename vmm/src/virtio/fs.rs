//! [`Fs`]: a folder of the host's.
//!
//! What the guest asks, in FUSE's words, is a server's to do, in a process of its own ([`vhost_user`](super::vhost_user)). If that is lost, each
//! request fails as on a medium that fails: EIO.
//!
//! See: VIRTIO 1.2, 5.11; Linux, `include/uapi/linux/fuse.h`.

use std::sync::Arc;

use hv::EventFd;
use vm_memory::GuestMemoryMmap;

use super::lane::Lane;
use super::queue::{self, Broken, Chain};
use super::vhost_user::{FrontEnd, Relay};
use super::{Active, Device, Kind};

/// Bytes of a tag. See: VIRTIO 1.2, 5.11.4.
const TAG: usize = 36;

/// Descriptors of the queue for what is urgent, as to forget, and of that for requests: one has a descriptor for each page.
const SIZES: [u16; QUEUES] = [128, 1024];

/// How many queues it has. See: VIRTIO 1.2, 5.11.2.
pub const QUEUES: usize = 2;

/// What a request is answered with when it has failed: how long the answer is, an error, and the request's number.
const ANSWER: u32 = 16;
const EIO: i32 = -5;

/// Where a request has its number, and how long that is.
const UNIQUE: u64 = 8;

/// The device.
pub struct Fs {
    tag: [u8; TAG],
    /// Whether requests are passed on where they are made.
    inline: bool,
    front_end: Arc<FrontEnd>,
    lane: Lane<Relay>,
}

impl Fs {
    /// One that the guest mounts by its tag, of at most 36 bytes. `inline`: an exit costs little here.
    #[must_use]
    pub fn new(tag: &str, front_end: Arc<FrontEnd>, inline: bool) -> Self {
        let mut bytes = [0; TAG];
        bytes.iter_mut().zip(tag.bytes()).for_each(|(to, from)| *to = from);
        let lane = Lane::on(front_end.event());
        Self { tag: bytes, inline, front_end, lane }
    }
}

/// Answers that a request has failed. One without room for an answer wants none.
fn refuse(memory: &GuestMemoryMmap, chain: &Chain) -> Result<u32, Broken> {
    let mut unique = [0; UNIQUE as usize];
    queue::read(memory, &queue::part(&chain.readable, UNIQUE, UNIQUE), &mut unique)?;
    let answer = [&ANSWER.to_le_bytes()[..], &EIO.to_le_bytes(), &unique].concat();
    Ok(queue::write(memory, &chain.writable, &answer)? as u32)
}

impl Device for Fs {
    fn kind(&self) -> Kind {
        Kind { id: 26, class: [0x01, 0x80, 0] }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        SIZES.to_vec()
    }

    fn config(&self) -> Vec<u8> {
        // One queue for requests.
        [&self.tag[..], &1_u32.to_le_bytes()].concat()
    }

    fn needs_file(&self) -> bool {
        true
    }

    fn activate(&self, active: Active) {
        let interrupt = Arc::clone(&active.interrupt);
        let relay = Relay::start(Arc::clone(&self.front_end), active, &SIZES, refuse);
        if self.lane.start("fs", relay, Relay::serve).is_err() {
            interrupt.ask_for_reset();
        }
    }

    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        (!self.inline).then(|| self.lane.event())
    }

    fn notify(&self, _queue: u16) {
        self.lane.serve_here(Relay::serve);
    }

    fn reset(&self) {
        self.front_end.stop(QUEUES);
        self.lane.end();
    }
}

#[cfg(test)]
#[path = "fs_test.rs"]
mod fs_test;
