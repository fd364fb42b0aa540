//! [`Endpoint`]: a connection, and the host's socket that its bytes go to and come from.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::connection::{Connection, Heard, Violation};
use super::packet::{Header, MOST_DATA, ended, op};

/// A packet for the guest: operation, flags and data.
pub type Packet = (u16, u32, Vec<u8>);

/// The socket is of no use any more: the connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// A connection's end on the host.
pub struct Endpoint {
    /// What the guest knows of it.
    pub connection: Connection,
    stream: UnixStream,
    /// Reading, or writing, is worth a try.
    is_readable: bool,
    is_writable: bool,
    /// Nobody has the other end any more.
    is_hung_up: bool,
    /// What of the socket was shut down.
    shut: u32,
}

impl Endpoint {
    /// Of a socket that does not wait.
    #[must_use]
    pub fn new(connection: Connection, stream: UnixStream) -> Self {
        let (is_readable, is_writable, is_hung_up) = (true, true, false);
        Self { connection, stream, is_readable, is_writable, is_hung_up, shut: 0 }
    }

    /// A packet of the guest's, which is not a reset. A program on the host that has asked for the connection is told `port`, which is its own.
    ///
    /// # Errors
    /// When the guest does not keep to the rules.
    pub fn receive(&mut self, header: &Header, data: &[u8], port: u32) -> Result<(), Violation> {
        if self.connection.receive(header, data)? == Heard::Accepted {
            // Nothing was written before: there is room, or nobody.
            let line = format!("OK {port}\n");
            if write(&self.stream, line.as_bytes()) != Ok(line.len()) {
                self.connection.end(ended::BOTH);
            }
        }
        Ok(())
    }

    /// Gives the host's program what came from the guest, as much as it takes, and the end of it.
    ///
    /// # Errors
    /// When it does not want any more.
    pub fn flush(&mut self) -> Result<(), Gone> {
        while self.is_writable {
            let (bytes, _) = self.connection.received();
            if bytes.is_empty() {
                break;
            }
            match write(&self.stream, bytes) {
                Ok(size) => self.connection.take(size),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.is_writable = false,
                Err(_) => return Err(Gone),
            }
        }
        let new = self.connection.guest_ended() & !self.shut;
        self.shut |= new;
        for (flag, how) in [(ended::SEND, Shutdown::Write), (ended::RECEIVE, Shutdown::Read)] {
            if new & flag != 0 {
                // Who is gone already knows.
                let _ = self.stream.shutdown(how);
            }
        }
        Ok(())
    }

    /// What is to be sent to the guest next, with at most so many bytes of data.
    pub fn next(&mut self, room: usize) -> Option<Packet> {
        if self.is_hung_up && !self.connection.is_open() {
            self.connection.end(ended::BOTH);
        }
        if let Some((op, flags)) = self.connection.next_control() {
            return Some((op, flags, Vec::new()));
        }
        let room = room.min(self.connection.credit()).min(MOST_DATA);
        if self.is_readable && room > 0 {
            let mut bytes = vec![0; room];
            match (&self.stream).read(&mut bytes) {
                Ok(0) => self.connection.end(ended::SEND),
                Ok(size) => {
                    bytes.truncate(size);
                    self.connection.send(size as u32);
                    return Some((op::RW, 0, bytes));
                }
                // It is told when it is worth another try.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    self.is_readable = false;
                }
                Err(_) => self.connection.end(ended::BOTH),
            }
        }
        // What was sent before the end is read by now, or nobody wants it.
        let is_read = self.connection.host_ended() & ended::SEND != 0
            || self.connection.guest_ended() & ended::RECEIVE != 0;
        if self.is_hung_up && is_read {
            self.connection.end(ended::BOTH);
        }
        self.connection.next_control().map(|(op, flags)| (op, flags, Vec::new()))
    }

    /// What of the socket is worth waiting for; nothing at all if it is over.
    #[must_use]
    pub fn interest(&self) -> Option<PollFlags> {
        let when = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let reads = !self.is_readable && self.connection.credit() > 0;
        let writes = !self.is_writable && !self.connection.received().0.is_empty();
        let flags = when(reads, PollFlags::IN) | when(writes, PollFlags::OUT);
        (!self.is_hung_up).then_some(flags)
    }

    /// What has come of it.
    pub fn wake(&mut self, flags: PollFlags) {
        self.is_hung_up |= flags.intersects(PollFlags::HUP | PollFlags::ERR);
        self.is_readable |= self.is_hung_up || flags.contains(PollFlags::IN);
        self.is_writable |= self.is_hung_up || flags.contains(PollFlags::OUT);
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Writes without waiting; who is gone is an error, and no signal.
fn write(stream: &UnixStream, bytes: &[u8]) -> Result<usize, Errno> {
    send(stream, bytes, SendFlags::NOSIGNAL)
}
