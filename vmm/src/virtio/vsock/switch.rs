//! [`Switch`]: all connections of a guest, and the sockets on the host that they are with. Packets go in and come out; it knows no queue.
//!
//! A program on the host connects to the device's socket and says `CONNECT PORT` in a line. When a program in the guest that listens at
//! that port has accepted it, it is told `OK` and its own port, and what follows are the bytes; else the socket is closed. That is the protocol of
//! Firecracker, Cloud Hypervisor and crosvm. A program in the guest that connects to the host's port P reaches who listens at the socket
//! `PATH_P`.
//!
//! See: VIRTIO 1.2, 5.10.6; Firecracker, docs/vsock.md.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};

use super::connection::Connection;
use super::endpoint::{Endpoint, Gone};
use super::listener::Listener;
use super::packet::{Header, STREAM, op};
use super::{GUEST, HOST};

/// How many connections there may be, with those that programs on the host are about to ask for.
pub const MOST: usize = 256;

/// How many resets may wait for the guest to have room for them. Then it is not listened to.
const MOST_RESETS: usize = 256;

/// The first port that a program on the host is said to come from. Below are those that programs in the guest look for.
const FIRST_PORT: u32 = 1 << 30;

/// The longest line by which a connection is asked for: `CONNECT 4294967295`.
const LONGEST_LINE: usize = 18;

/// Which connection it is, by the ports at its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ports {
    host: u32,
    guest: u32,
}

/// A program on the host that has not said yet what it wants.
struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
}

/// What became of a caller.
enum Called {
    /// The line is not whole.
    NotYet,
    /// It wants to be connected to a port.
    Wants(u32),
    /// It is gone, or says something else.
    Refused,
}

/// The connections.
pub struct Switch {
    listener: Arc<Listener>,
    callers: Vec<Caller>,
    endpoints: BTreeMap<Ports, Endpoint>,
    resets: VecDeque<Header>,
    next_port: u32,
    /// No caller can be accepted, until something else has happened: it is no use to be told of it again.
    is_exhausted: bool,
    /// Whose turn it is to send.
    turns: VecDeque<Ports>,
}

impl Caller {
    /// Reads the line, and nothing behind it.
    fn hear(&mut self) -> Called {
        let mut byte = [0];
        while self.line.len() <= LONGEST_LINE {
            match (&self.stream).read(&mut byte) {
                Ok(0) => return Called::Refused,
                Ok(_) if byte == *b"\n" => {
                    return port(&self.line).map_or(Called::Refused, Called::Wants);
                }
                Ok(_) => self.line.push(byte[0]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Called::NotYet;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Called::Refused,
            }
        }
        Called::Refused
    }
}

/// The port in a line that asks for one.
fn port(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ").filter(|rest| rest.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(digits?).ok()?.parse().ok()
}

impl Switch {
    /// Without any connection.
    #[must_use]
    pub fn new(listener: Arc<Listener>) -> Self {
        Self {
            listener,
            callers: Vec::new(),
            endpoints: BTreeMap::new(),
            resets: VecDeque::new(),
            next_port: FIRST_PORT,
            is_exhausted: false,
            turns: VecDeque::new(),
        }
    }

    /// Whether it can take a packet of the guest's, to which the answer may be a reset.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.resets.len() < MOST_RESETS
    }

    /// A packet of the guest's.
    pub fn receive(&mut self, header: &Header, data: &[u8]) {
        if (header.source, header.destination) != (GUEST, HOST) {
            // It is from nobody, or for nobody, who could be told.
            return;
        }
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        if header.op == op::RST {
            self.endpoints.remove(&ports);
        } else if header.kind != STREAM || self.pass_on(ports, header, data).is_err() {
            self.endpoints.remove(&ports);
            self.resets.push_back(header.reset());
        }
    }

    /// Gives a packet to its connection, or makes that.
    fn pass_on(&mut self, ports: Ports, header: &Header, data: &[u8]) -> Result<(), Gone> {
        if let Some(endpoint) = self.endpoints.get_mut(&ports) {
            endpoint.receive(header, data, ports.host).map_err(|_| Gone)?;
            return endpoint.flush();
        }
        if header.op != op::REQUEST || self.is_full() {
            return Err(Gone);
        }
        let stream = self.listener.connect(ports.host).map_err(|_| Gone)?;
        self.endpoints.insert(ports, Endpoint::new(Connection::accept(header), stream));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.endpoints.len() + self.callers.len() >= MOST
    }

    /// From now on [`next`](Self::next) asks each connection again.
    pub fn begin(&mut self) {
        self.turns = self.endpoints.keys().copied().collect();
    }

    /// The packet that is to be sent to the guest next, with at most so many bytes of data.
    pub fn next(&mut self, room: usize) -> Option<(Header, Vec<u8>)> {
        if let Some(reset) = self.resets.pop_front() {
            return Some((reset, Vec::new()));
        }
        while let Some(ports) = self.turns.pop_front() {
            let Some(endpoint) = self.endpoints.get_mut(&ports) else { continue };
            let Some((op, flags, data)) = endpoint.next(room) else { continue };
            let mut header = Header {
                source: HOST,
                destination: GUEST,
                source_port: ports.host,
                destination_port: ports.guest,
                size: data.len() as u32,
                kind: STREAM,
                op,
                flags,
                ..Header::default()
            };
            if op == op::RST {
                self.endpoints.remove(&ports);
            } else {
                endpoint.connection.stamp(&mut header);
                self.turns.push_back(ports);
            }
            return Some((header, data));
        }
        None
    }

    /// What is to be waited for on the host. Without `to_guest` the guest has no room for anything: it is no use to read then.
    #[must_use]
    pub fn interests(&self, to_guest: bool) -> Vec<PollFd<'_>> {
        let is_deaf = self.is_full() || self.is_exhausted;
        let listens = if is_deaf { PollFlags::empty() } else { PollFlags::IN };
        let mut all = vec![PollFd::new(&*self.listener, listens)];
        all.extend(self.callers.iter().map(|caller| PollFd::new(&caller.stream, PollFlags::IN)));
        let of = |endpoint: &Endpoint| {
            let flags = endpoint.interest()?;
            Some(if to_guest { flags } else { flags - PollFlags::IN })
        };
        all.extend(
            self.endpoints
                .values()
                .filter_map(|endpoint| Some(PollFd::new(endpoint, of(endpoint)?))),
        );
        all
    }

    /// What has come of that, in the same order.
    pub fn wake(&mut self, flags: &[PollFlags]) {
        let mut flags = flags.iter().copied();
        self.is_exhausted = false;
        let accepts = flags.next().is_some_and(|flags| !flags.is_empty());
        let callers = std::mem::take(&mut self.callers);
        let callers: Vec<_> = callers.into_iter().map(|caller| (caller, flags.next())).collect();
        for endpoint in self.endpoints.values_mut() {
            if endpoint.interest().is_some() {
                endpoint.wake(flags.next().unwrap_or(PollFlags::empty()));
            }
        }
        for endpoint in self.endpoints.values_mut() {
            if endpoint.flush().is_err() {
                endpoint.connection.abandon();
            }
        }
        for (caller, flags) in callers {
            match flags.is_some_and(|flags| !flags.is_empty()) {
                true => self.hear(caller),
                false => self.callers.push(caller),
            }
        }
        while accepts && !self.is_full() {
            match self.listener.accept() {
                Ok(Some(stream)) => self.hear(Caller { stream, line: Vec::new() }),
                Ok(None) => break,
                Err(_) => {
                    self.is_exhausted = true;
                    break;
                }
            }
        }
    }

    /// Listens to a caller. One that is refused is hung up on.
    fn hear(&mut self, mut caller: Caller) {
        match caller.hear() {
            Called::NotYet => self.callers.push(caller),
            Called::Refused => {}
            Called::Wants(guest) => {
                let host = self.free_port(guest);
                let endpoint = Endpoint::new(Connection::request(), caller.stream);
                self.endpoints.insert(Ports { host, guest }, endpoint);
            }
        }
    }

    /// A port of the host's that is at no other end of a connection to that port of the guest's: there are more of them than connections.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = host.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.endpoints.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }
}

#[cfg(test)]
#[path = "switch_test.rs"]
mod switch_test;
