//! [`Vsock`]: sockets between programs in the guest and on the host.
//!
//! - `packet`: what goes through the queues;
//! - `connection`: one connection, without any socket;
//! - `endpoint`: its socket on the host;
//! - `switch`: all of them;
//! - [`listener`]: where programs on the host connect.
//!
//! There are stream sockets only, between the guest ([`GUEST`]) and the host ([`HOST`]). Nothing is ever told in the queue of events: they are
//! for a guest that has moved to another host. Of a connection that the guest resets, what nobody on the host has taken yet is lost.
//!
//! See: VIRTIO 1.2, 5.10.

mod connection;
mod endpoint;
pub mod listener;
mod packet;
mod switch;

use std::io;
use std::sync::Arc;

use hv::EventFd;
use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::GuestMemoryMmap;

use self::listener::Listener;
use self::packet::{Header, MOST_DATA};
use self::switch::Switch;
use super::queue::{self, Broken, Chain, Served, Virtqueue};
use super::worker::Worker;
use super::{Active, Device, Kind};

/// The host's address. See: VIRTIO 1.2, 5.10.4.
pub const HOST: u64 = 2;

/// The guest's: the first that a guest can have. Each guest has a device, and a socket, of its own.
pub const GUEST: u64 = 3;

/// Stream sockets. See: VIRTIO 1.2, 5.10.3.
const FEATURE_STREAM: u64 = 1 << 0;

/// The queues, as the device sees them: to the guest, from it, and of events.
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const QUEUES: usize = 3;

/// The device. It has a thread, which has both queues and all sockets. As long as there is no driver, who connects waits.
pub struct Vsock {
    listener: Arc<Listener>,
    worker: Worker,
}

/// What the thread has.
struct Serving {
    to_guest: Virtqueue,
    from_guest: Virtqueue,
    switch: Switch,
    event: EventFd,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// There is more already.
    GoOn,
    /// To wait, and whether the guest has room for something.
    Wait { to_guest: bool },
}

impl Vsock {
    /// One whose host's side is a socket.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(listener: Listener) -> io::Result<Self> {
        Ok(Self { listener: Arc::new(listener), worker: Worker::new()? })
    }
}

/// Gives the switch a packet that the guest has sent.
fn receive(switch: &mut Switch, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, Broken> {
    if !switch.has_room() {
        return Ok(Served::Later);
    }
    let mut header = [0; packet::SIZE];
    if queue::read(memory, &chain.readable, &mut header)? < packet::SIZE {
        return Err(Broken);
    }
    let header = Header::decode(&header);
    let size = header.size as usize;
    if size > MOST_DATA {
        return Err(Broken);
    }
    let mut data = vec![0; size];
    let data_part = queue::part(&chain.readable, packet::SIZE as u64, size as u64);
    if queue::read(memory, &data_part, &mut data)? < size {
        return Err(Broken);
    }
    switch.receive(&header, &data);
    Ok(Served::Written(0))
}

/// Writes the next packet of the switch's to a chain, if there is one.
fn send(switch: &mut Switch, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, Broken> {
    let room = queue::size_of(&chain.writable).checked_sub(packet::SIZE as u64).ok_or(Broken)?;
    let Some((header, data)) = switch.next(room as usize) else { return Ok(Served::Later) };
    let bytes = [&header.encode()[..], &data].concat();
    Ok(Served::Written(queue::write(memory, &chain.writable, &bytes)? as u32))
}

impl Serving {
    /// Moves packets both ways, as far as it goes without waiting.
    fn serve(&mut self) -> Result<Next, Broken> {
        let switch = &mut self.switch;
        let more = self.from_guest.serve(|memory, chain| receive(switch, memory, chain))?;
        switch.begin();
        let mut is_done = false;
        let has_room = self.to_guest.serve(|memory, chain| {
            let served = send(switch, memory, chain)?;
            is_done = served == Served::Later;
            Ok(served)
        })?;
        let goes_on = (more && switch.has_room()) || (has_room && !is_done);
        Ok(if goes_on { Next::GoOn } else { Next::Wait { to_guest: has_room } })
    }

    /// Waits for the driver, or for the host. It is the driver, or the end, if the event is signalled then.
    fn wait(&mut self, to_guest: bool) {
        let mut all = vec![PollFd::new(&self.event, PollFlags::IN)];
        all.extend(self.switch.interests(to_guest));
        // A signal of the process' cuts it short.
        let _ = poll(&mut all, None);
        let flags: Vec<_> = all[1..].iter().map(PollFd::revents).collect();
        self.switch.wake(&flags);
    }
}

impl Device for Vsock {
    fn kind(&self) -> Kind {
        Kind { id: 19, class: [0xff, 0, 0] }
    }

    fn features(&self) -> u64 {
        FEATURE_STREAM
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![128; QUEUES]
    }

    fn config(&self) -> Vec<u8> {
        GUEST.to_le_bytes().to_vec()
    }

    fn activate(&self, mut active: Active) {
        let mut queue = |number| active.queues.get_mut(number).and_then(Option::take);
        let (Some(to_guest), Some(from_guest)) = (queue(TO_GUEST), queue(FROM_GUEST)) else {
            return;
        };
        let (event, switch) = (self.worker.event(), Switch::new(Arc::clone(&self.listener)));
        let mut serving = Serving { to_guest, from_guest, switch, event };
        self.worker.serve("vsock", &active.interrupt, move || {
            if let Next::Wait { to_guest } = serving.serve()? {
                serving.wait(to_guest);
            }
            // It has waited here, and there may be more.
            Ok(true)
        });
    }

    fn queue_event(&self, _queue: u16) -> Option<EventFd> {
        Some(self.worker.event())
    }

    fn reset(&self) {
        self.worker.stop();
    }
}

#[cfg(test)]
#[path = "vsock_test.rs"]
mod vsock_test;
