//! [`Connection`]: a connection between a program in the guest and one on the host, as a state machine: bytes and packets go in and come out,
//! and the sockets are [`switch`](super::switch)'s.
//!
//! Neither side sends more than the other has room for (its credit), so that what is kept of a connection is at most [`BUFFER`] bytes.
//!
//! See: VIRTIO 1.2, 5.10.6.

use std::collections::VecDeque;

use super::packet::{Header, ended, op};

/// How many bytes of the guest's a connection keeps while nobody on the host takes them.
pub const BUFFER: u32 = 128 << 10;

/// After so many bytes the guest is told that there is room again.
const TELL_AFTER: u32 = BUFFER / 4;

/// The guest's driver does not keep to the rules of a connection, which is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

/// What a packet means to the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The connection that the host has asked for is there.
    Accepted,
    /// Perhaps there is something to be taken, or more room.
    Other,
}

/// What is sent before data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    /// To be sent, and then to be answered.
    Request,
    Requested,
    /// To be sent.
    Response,
    Done,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    greeting: Greeting,
    /// What the guest has room for, and what was sent to it and has left its buffer; both wrap.
    guest_room: u32,
    guest_forwarded: u32,
    sent: u32,
    /// The guest was asked for its credit, since there was none.
    has_asked: bool,
    /// What came from the guest, and how much of that has left the buffer, ever; it wraps.
    received: VecDeque<u8>,
    forwarded: u32,
    /// What the guest knows of that, and whether it wants to know.
    told: u32,
    is_asked: bool,
    /// What each side has ended, as flags of [`ended`], and what the guest knows of that.
    guest_ended: u32,
    host_ended: u32,
    told_ended: u32,
    is_abandoned: bool,
}

impl Connection {
    fn new(greeting: Greeting) -> Self {
        Self {
            greeting,
            guest_room: 0,
            guest_forwarded: 0,
            sent: 0,
            has_asked: false,
            received: VecDeque::new(),
            forwarded: 0,
            told: 0,
            is_asked: false,
            guest_ended: 0,
            host_ended: 0,
            told_ended: 0,
            is_abandoned: false,
        }
    }

    /// One that a program on the host asks for.
    #[must_use]
    pub fn request() -> Self {
        Self::new(Greeting::Request)
    }

    /// One that the guest has asked for with this, and that is accepted.
    #[must_use]
    pub fn accept(request: &Header) -> Self {
        let mut connection = Self::new(Greeting::Response);
        connection.learn(request);
        connection
    }

    /// Whether both sides have agreed on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.greeting, Greeting::Response | Greeting::Done)
    }

    /// Each packet says what room the guest has.
    fn learn(&mut self, header: &Header) {
        self.guest_room = header.allocated;
        self.guest_forwarded = header.forwarded;
        self.has_asked &= self.room() == 0;
    }

    fn room(&self) -> u32 {
        self.guest_room.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// A packet of the guest's, with its data; not a reset.
    ///
    /// # Errors
    /// When it makes no sense here, or has more data than there is room for.
    pub fn receive(&mut self, header: &Header, data: &[u8]) -> Result<Heard, Violation> {
        self.learn(header);
        match (self.greeting, header.op) {
            (Greeting::Requested, op::RESPONSE) => {
                self.greeting = Greeting::Done;
                return Ok(Heard::Accepted);
            }
            (Greeting::Request | Greeting::Requested, _) => return Err(Violation),
            (_, op::RW) => {
                let room = BUFFER as usize - self.received.len();
                if data.len() > room || self.guest_ended & ended::SEND != 0 {
                    return Err(Violation);
                }
                self.received.extend(data);
            }
            (_, op::SHUTDOWN) => self.guest_ended |= header.flags & ended::BOTH,
            (_, op::CREDIT_UPDATE) => {}
            (_, op::CREDIT_REQUEST) => self.is_asked = true,
            _ => return Err(Violation),
        }
        Ok(Heard::Other)
    }

    /// How many bytes may be sent to the guest now.
    #[must_use]
    pub fn credit(&self) -> usize {
        let is_over = (self.guest_ended & ended::RECEIVE) | (self.host_ended & ended::SEND) != 0;
        if self.greeting == Greeting::Done && !is_over { self.room() as usize } else { 0 }
    }

    /// So many bytes, of the credit that there was, are sent to it.
    pub fn send(&mut self, size: u32) {
        self.sent = self.sent.wrapping_add(size);
    }

    /// What the guest has sent, in two parts, and nobody has taken.
    #[must_use]
    pub fn received(&self) -> (&[u8], &[u8]) {
        self.received.as_slices()
    }

    /// So many bytes of that are taken.
    pub fn take(&mut self, size: usize) {
        let size = size.min(self.received.len());
        self.received.drain(..size);
        self.forwarded = self.forwarded.wrapping_add(size as u32);
    }

    /// What the guest has ended: that it sends no more is so when all that it has sent is taken.
    #[must_use]
    pub fn guest_ended(&self) -> u32 {
        let is_taken = self.received.is_empty();
        if is_taken { self.guest_ended } else { self.guest_ended & ended::RECEIVE }
    }

    /// What the host's side has ended.
    #[must_use]
    pub fn host_ended(&self) -> u32 {
        self.host_ended
    }

    /// The host's side ends something more.
    pub fn end(&mut self, flags: u32) {
        self.host_ended |= flags;
    }

    /// The host's side does not want it any more, whatever the guest still sends.
    pub fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// The packet that is due next besides data, as operation and flags. After a reset there is no connection.
    pub fn next_control(&mut self) -> Option<(u16, u32)> {
        if self.is_abandoned {
            return Some((op::RST, 0));
        }
        match self.greeting {
            // Who does not want it any more does not ask for it.
            Greeting::Request | Greeting::Requested if self.host_ended == ended::BOTH => {
                return Some((op::RST, 0));
            }
            Greeting::Request => {
                self.greeting = Greeting::Requested;
                return Some((op::REQUEST, 0));
            }
            Greeting::Requested => return None,
            Greeting::Response => {
                self.greeting = Greeting::Done;
                return Some((op::RESPONSE, 0));
            }
            Greeting::Done => {}
        }
        if self.guest_ended() == ended::BOTH {
            return Some((op::RST, 0));
        }
        if self.host_ended != self.told_ended {
            self.told_ended = self.host_ended;
            return Some((op::SHUTDOWN, self.host_ended));
        }
        if self.is_asked || self.forwarded.wrapping_sub(self.told) >= TELL_AFTER {
            return Some((op::CREDIT_UPDATE, 0));
        }
        let is_over = (self.guest_ended & ended::RECEIVE) | (self.host_ended & ended::SEND) != 0;
        if self.room() == 0 && !self.has_asked && !is_over {
            self.has_asked = true;
            return Some((op::CREDIT_REQUEST, 0));
        }
        None
    }

    /// Writes into a packet's header what room there is.
    pub fn stamp(&mut self, header: &mut Header) {
        (header.allocated, header.forwarded) = (BUFFER, self.forwarded);
        self.told = self.forwarded;
        self.is_asked = false;
    }
}

#[cfg(test)]
#[path = "connection_test.rs"]
mod connection_test;
