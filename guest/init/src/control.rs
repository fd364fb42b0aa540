//! The control channel: frames on the control line, in and out, without blocking.
//!
//! Messages themselves are `guest-protocol`'s.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use guest_protocol::{
    ACKNOWLEDGE_AFTER, Decoder, FromGuest, Line as LineName, Message, Start, ToGuest,
};

use crate::lines::Line;
use crate::{Error, sys};

/// The control channel's guest end.
pub(crate) struct Control {
    line: Line,
    decoder: Decoder<ToGuest>,
    received: VecDeque<ToGuest>,
    /// Frames, or what is left of them, that the line had no room for yet.
    outgoing: Vec<u8>,
    /// Bytes taken off the line and how many of them the host knows of.
    taken: u64,
    acknowledged: u64,
}

impl Control {
    pub fn new(line: Line) -> Self {
        Self {
            line,
            decoder: Decoder::default(),
            received: VecDeque::new(),
            outgoing: Vec::new(),
            taken: 0,
            acknowledged: 0,
        }
    }

    /// Queues a message.
    pub fn send(&mut self, message: &FromGuest) {
        // Every message of init's is far below the bound: texts are those of errors.
        let encoded = message.encode(&mut self.outgoing);
        debug_assert!(encoded.is_ok());
    }

    /// The device, to be polled.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Whether the device is to be polled for room.
    pub fn wants_to_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Writes as much of the queue as fits.
    pub fn write(&mut self) -> Result<(), Error> {
        while !self.outgoing.is_empty() {
            match self.line.file().write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.line.write_failed(error)),
            }
        }
        Ok(())
    }

    /// Reads what is there. Messages come out of [`Self::next_message`].
    pub fn read(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        let count = match self.line.file().read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(self.line.read_failed(error)),
        };
        let mut input = &buffer[..count];
        while let Some(message) = self.decoder.decode(&mut input).map_err(Error::Protocol)? {
            self.received.push_back(message);
        }
        self.taken += count as u64;
        if self.taken - self.acknowledged >= ACKNOWLEDGE_AFTER {
            self.acknowledged = self.taken;
            self.send(&FromGuest::Received { line: LineName::Control, total: self.taken });
        }
        Ok(())
    }

    /// Returns the next message that has come in.
    pub fn next_message(&mut self) -> Option<ToGuest> {
        self.received.pop_front()
    }

    /// Waits for the message that starts the command.
    pub fn wait_for_start(&mut self) -> Result<Start, Error> {
        loop {
            self.write()?;
            let events =
                if self.wants_to_write() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            sys::poll(&mut [sys::poll_fd(Some(self.as_fd()), events)])
                .map_err(Error::of("wait for the host"))?;
            self.read()?;
            match self.next_message() {
                None => {}
                Some(ToGuest::Start(start)) => return Ok(*start),
                Some(_) => return Err(Error::Order("a message before the command to start")),
            }
        }
    }

    /// Sends what is queued and waits until it is out.
    pub fn finish(&mut self) -> Result<(), Error> {
        loop {
            self.write()?;
            if !self.wants_to_write() {
                return self.line.drain();
            }
            sys::poll(&mut [sys::poll_fd(Some(self.as_fd()), libc::POLLOUT)])
                .map_err(Error::of("wait for the host"))?;
        }
    }
}
