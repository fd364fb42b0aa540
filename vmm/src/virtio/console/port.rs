//! [`Port`]: a port of a console while it has a driver: bytes between its queues and the host's ends of it.

use std::time::Duration;

use guest_protocol::WindowSize;

use super::message::{self, Topic, Topics};
use crate::devices::stream::Ends;
use crate::virtio::queue::{self, Broken, Served, Virtqueue};

/// Bytes that are copied at once.
const PIECE: u64 = 64 << 10;

/// How long is waited for room on behalf of a driver that does nothing else meanwhile.
const PAUSE: Duration = Duration::from_millis(10);

/// What a port does when the host has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It leaves what is left for later, when it is told that there is room.
    Leave,
    /// It waits for a little while ([`PAUSE`]) first.
    Pause,
    /// It waits.
    Wait,
}

/// A port.
pub struct Port {
    /// What the guest's programs know it by.
    pub name: String,
    /// The guest has a terminal of it.
    pub is_console: bool,
    /// Somebody in the guest has it open. What comes before that would be lost.
    pub is_open: bool,
    ends: Ends,
    receive: Option<Virtqueue>,
    transmit: Option<Virtqueue>,
    /// How much of the chain that is next in `transmit` the host has.
    sent: u64,
    topics: Topics,
}

impl Port {
    /// A port that nobody has opened.
    pub fn new(
        name: String,
        is_console: bool,
        ends: Ends,
        [receive, transmit]: [Option<Virtqueue>; 2],
    ) -> Self {
        let topics = Topics::default();
        Self { name, is_console, is_open: false, ends, receive, transmit, sent: 0, topics }
    }

    /// The driver is to hear of the port.
    pub fn announce(&mut self) {
        self.topics.add(Topic::Add);
    }

    /// The driver knows the port, and is to hear what it is.
    pub fn introduce(&mut self, has_size: bool) {
        if self.is_console {
            self.topics.add(Topic::Console);
        }
        self.topics.add(Topic::Open);
        self.topics.add(Topic::Name);
        if has_size {
            self.tell_size();
        }
    }

    /// The driver of a console is to hear how large the window is.
    pub fn tell_size(&mut self) {
        if self.is_console {
            self.topics.add(Topic::Size);
        }
    }

    /// Whether there is something to say.
    pub fn has_message(&self) -> bool {
        !self.topics.is_empty()
    }

    /// What there is to say next, of the port with this number.
    pub fn message(&mut self, number: usize, size: WindowSize) -> Option<Vec<u8>> {
        Some(message::write(self.topics.take()?, number, &self.name, size))
    }

    /// What to do on the vCPU's thread that notifies. Linux waits in a loop until what it writes to a terminal was taken, with interrupts off: who is
    /// to make room may need the processor that this takes.
    pub fn when_notified(&self) -> Full {
        if self.is_console { Full::Pause } else { Full::Leave }
    }

    /// Moves what the guest has written. Gives whether there may be more to move now.
    ///
    /// # Errors
    /// When the driver does not keep to the rules.
    pub fn transmit(&mut self, full: Full) -> Result<bool, Broken> {
        let Some(queue) = &mut self.transmit else { return Ok(false) };
        let (output, sent) = (&self.ends.output, &mut self.sent);
        let mut is_full = false;
        let more = queue.serve(|memory, chain| {
            loop {
                let piece = queue::part(&chain.readable, *sent, PIECE);
                let mut bytes = vec![0; queue::size_of(&piece) as usize];
                if bytes.is_empty() {
                    *sent = 0;
                    return Ok(Served::Written(0));
                }
                queue::read(memory, &piece, &mut bytes)?;
                let taken = match full {
                    Full::Leave => output.offer(&bytes),
                    Full::Pause => {
                        let taken = output.offer(&bytes);
                        if taken < bytes.len() {
                            output.wait_for_room(PAUSE);
                        }
                        taken + output.offer(&bytes[taken..])
                    }
                    Full::Wait => {
                        output.push(&bytes);
                        bytes.len()
                    }
                };
                *sent += taken as u64;
                if taken < bytes.len() {
                    is_full = true;
                    return Ok(Served::Later);
                }
            }
        })?;
        Ok(more && !is_full)
    }

    /// Moves what there is for the guest, as far as it has buffers. Gives whether there may be more to move now.
    ///
    /// # Errors
    /// When the driver does not keep to the rules.
    pub fn receive(&mut self) -> Result<bool, Broken> {
        let Some(queue) = self.receive.as_mut().filter(|_| self.is_open) else { return Ok(false) };
        let input = &self.ends.input;
        let mut is_empty = false;
        let more = queue.serve(|memory, chain| {
            let room = queue::size_of(&chain.writable).min(PIECE);
            let bytes = input.take(room as usize);
            if bytes.is_empty() && room > 0 {
                is_empty = true;
                return Ok(Served::Later);
            }
            Ok(Served::Written(queue::write(memory, &chain.writable, &bytes)? as u32))
        })?;
        Ok(more && !is_empty)
    }
}
