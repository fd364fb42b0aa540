//! [`Pings`]: echoes that the guest asks other machines for, by sockets that ordinary users may have where the host lets them
//! (`net.ipv4.ping_group_range`, which most distributions set).

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::address::GUEST;
use crate::icmp::{self, Echo, Unreachable};
use crate::packet::{Frame, Ipv4, Link};
use crate::ready::Source;
use crate::socket::{Happened, Watch, echoes, receive, send};
use crate::udp::{Sent, reason};

/// How many there may be: a program of the guest's that asks one machine is one.
const MOST: usize = 64;

/// How long one is kept after the last question.
const IDLE: Duration = Duration::from_secs(30);

/// Bytes of an echo's header, and of its kind that asks. See: RFC 792.
const HEADER: usize = 8;
const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// The most data of an echo.
const MOST_DATA: usize = 65_000;

struct Ping {
    ends: (u16, Ipv4Addr),
    socket: OwnedFd,
    is_readable: bool,
    limit: Duration,
    sent: Vec<u8>,
}

/// Who asks whom.
#[derive(Default)]
pub struct Pings {
    by_ends: HashMap<(u16, Ipv4Addr), u64>,
    all: HashMap<u64, Ping>,
    next: u64,
}

impl Pings {
    /// Asks another machine for an echo. What it is called there is the host's choice.
    pub fn send(
        &mut self,
        packet: &Ipv4<'_>,
        echo: &Echo<'_>,
        watch: &Watch,
        now: Duration,
    ) -> Sent {
        let ends = (echo.identifier, packet.destination);
        let id = match self.by_ends.get(&ends) {
            Some(id) => *id,
            None => match self.begin(ends, watch, now) {
                Ok(id) => id,
                Err(error) => return Sent::Unreachable(refusal(error)),
            },
        };
        let Some(ping) = self.all.get_mut(&id) else { return Sent::Yes };
        ping.limit = now + IDLE;
        ping.sent = icmp::quoted(packet);
        let mut message = vec![REQUEST, 0, 0, 0, 0, 0];
        message.extend(echo.sequence.to_be_bytes());
        message.extend(&echo.data[..echo.data.len().min(MOST_DATA)]);
        match send(&ping.socket, &message) {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => Sent::Yes,
            Err(error) => Sent::Unreachable(reason(error)),
        }
    }

    fn begin(&mut self, ends: (u16, Ipv4Addr), watch: &Watch, now: Duration) -> Result<u64, Errno> {
        let socket = echoes(ends.1)?;
        if self.all.len() >= MOST {
            let oldest = self.all.iter().min_by_key(|(_, ping)| ping.limit).map(|(id, _)| *id);
            oldest.into_iter().for_each(|id| self.forget(id));
        }
        self.next += 1;
        let id = self.next;
        watch.add(&socket, Source::Ping(id))?;
        let ping = Ping { ends, socket, is_readable: false, limit: now + IDLE, sent: Vec::new() };
        self.all.insert(id, ping);
        self.by_ends.insert(ends, id);
        Ok(id)
    }

    fn forget(&mut self, id: u64) {
        if let Some(ping) = self.all.remove(&id) {
            self.by_ends.remove(&ping.ends);
        }
    }

    /// Something has happened to a socket.
    pub fn wake(&mut self, id: u64, happened: Happened) {
        if let Some(ping) = self.all.get_mut(&id) {
            ping.is_readable |= happened.readable;
        }
    }

    /// Makes `frame` the next answer. Gives whether there is one.
    pub fn next(&mut self, id: u64, link: &Link, frame: &mut Frame) -> bool {
        let Some(ping) = self.all.get_mut(&id).filter(|ping| ping.is_readable) else {
            return false;
        };
        let (identifier, from) = ping.ends;
        let mut bytes = vec![0; HEADER + MOST_DATA];
        match receive(&ping.socket, &mut bytes) {
            Ok(size) if size >= HEADER && bytes[0] == REPLY => {
                let sequence = u16::from_be_bytes([bytes[6], bytes[7]]);
                let echo = Echo { identifier, sequence, data: &bytes[HEADER..size] };
                icmp::answer(frame, link, from, GUEST, &echo);
                true
            }
            Err(error) if error != Errno::AGAIN && !ping.sent.is_empty() => {
                let quoted = std::mem::take(&mut ping.sent);
                icmp::unreachable(frame, link, from, &quoted, reason(error))
            }
            _ => {
                ping.is_readable = false;
                false
            }
        }
    }

    /// When one of them is to be forgotten next.
    pub fn deadline(&self) -> Option<Duration> {
        self.all.values().map(|ping| ping.limit).min()
    }

    /// Forgets those that nobody uses.
    pub fn expire(&mut self, now: Duration) {
        let old = self.all.iter().filter(|(_, ping)| ping.limit <= now).map(|(id, _)| *id);
        old.collect::<Vec<_>>().into_iter().for_each(|id| self.forget(id));
    }
}

/// Why no socket could be made.
fn refusal(error: Errno) -> Unreachable {
    match error {
        Errno::NETUNREACH | Errno::HOSTUNREACH => reason(error),
        // Mostly because the host lets nobody have such sockets.
        _ => Unreachable::CommProhibited,
    }
}
