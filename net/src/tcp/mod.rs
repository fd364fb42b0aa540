//! [`Connections`]: all of the guest's connections, those that it asked for and those that programs on the host did.
//!
//! - [`peer`]: one connection, as the guest knows it, without any socket of the host's;
//! - `connection`: with it.
//!
//! A guest's connection is answered when the host's stands, so that one that is refused is refused. What one side does not take, the other
//! is not asked for: the window is what there is room for in the connection's buffer, and the host's socket is read when there is some.

mod connection;
pub mod peer;

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use self::connection::Connection;
use self::peer::{Ends, Peer};
use crate::address::GATEWAY;
use crate::packet::{Frame, Ipv4, Link, Protocol};
use crate::ports::Ports;
use crate::ready::{Ready, Source};
use crate::socket::{Happened, Watch};

/// How many connections there may be.
pub const MOST: usize = 4096;

/// From how many connections on a new one has how much room, each way: all together at most 204 MiB if the guest fills all of it.
const ROOM: [(usize, usize); 3] = [(512, 16 << 10), (32, 64 << 10), (0, 512 << 10)];

/// What has come of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Which connection it was for, if any: that may have something to send now.
    pub id: Option<u64>,
    /// The guest is told at once what is in the frame.
    pub is_answered: bool,
}

/// The connections.
pub struct Connections {
    by_ends: HashMap<Ends, u64>,
    all: HashMap<u64, Connection>,
    timers: BTreeSet<(Duration, u64)>,
    next: u64,
    ports: Ports,
    seed: u64,
    partial: bool,
}

/// How a segment that is no part of any connection is answered. See: RFC 9293, 3.10.7.1.
fn refuse(packet: &Ipv4<'_>, segment: &TcpRepr<'_>, link: &Link, frame: &mut Frame) -> Received {
    if segment.control == TcpControl::Rst {
        return Received::default();
    }
    let ack_number = match segment.ack_number {
        Some(_) => None,
        None => Some(segment.seq_number + segment.segment_len()),
    };
    let reset = TcpRepr {
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        control: TcpControl::Rst,
        seq_number: segment.ack_number.unwrap_or(TcpSeqNumber(0)),
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (packet.destination, packet.source);
    frame.set_ipv4(link, from, to, Protocol::Tcp, reset.buffer_len(), |payload| {
        let (from, to) = (IpAddress::Ipv4(from), IpAddress::Ipv4(to));
        let sums = ChecksumCapabilities::default();
        reset.emit(&mut TcpPacket::new_unchecked(payload), &from, &to, &sums);
    });
    Received { id: None, is_answered: true }
}

impl Connections {
    /// None yet. With `partial` the guest completes checksums.
    pub fn new(seed: u64, partial: bool) -> Self {
        Self {
            by_ends: HashMap::new(),
            all: HashMap::new(),
            timers: BTreeSet::new(),
            next: 0,
            ports: Ports::new(),
            seed,
            partial,
        }
    }

    /// Whether there may be no more.
    pub fn is_full(&self) -> bool {
        self.all.len() >= MOST
    }

    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    fn room(&self) -> usize {
        let fits = |(from, room): (usize, usize)| (self.all.len() >= from).then_some(room);
        ROOM.into_iter().find_map(fits).unwrap_or_default()
    }

    /// Another number for each connection.
    fn number(&mut self) -> (u64, u64) {
        self.next += 1;
        (self.next, self.seed ^ self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Takes a packet of the guest's. For a connection that there is not yet, `connect` makes a socket, or says that there is no way.
    pub fn receive(
        &mut self,
        packet: &Ipv4<'_>,
        link: &Link,
        frame: &mut Frame,
        watch: &Watch,
        now: Duration,
        connect: impl FnOnce(Ipv4Addr, u16) -> Option<OwnedFd>,
    ) -> Received {
        let Ok(tcp) = TcpPacket::new_checked(packet.payload) else { return Received::default() };
        let (source, destination) =
            (IpAddress::Ipv4(packet.source), IpAddress::Ipv4(packet.destination));
        // It was made in this process.
        let sums = ChecksumCapabilities::ignored();
        let Ok(segment) = TcpRepr::parse(&tcp, &source, &destination, &sums) else {
            return Received::default();
        };
        let ends =
            Ends { guest: segment.src_port, address: packet.destination, port: segment.dst_port };
        let id = match self.by_ends.get(&ends) {
            Some(id) => *id,
            None => {
                let begins = segment.control == TcpControl::Syn && segment.ack_number.is_none();
                let new = (begins && !self.is_full())
                    .then(|| self.begin(ends, connect, watch, now))
                    .flatten();
                let Some(id) = new else { return refuse(packet, &segment, link, frame) };
                id
            }
        };
        let Some(connection) = self.all.get_mut(&id) else { return Received::default() };
        let is_answered = connection.receive(packet.packet, link, frame, now);
        Received { id: Some(id), is_answered }
    }

    /// Begins a connection that the guest asks for.
    fn begin(
        &mut self,
        ends: Ends,
        connect: impl FnOnce(Ipv4Addr, u16) -> Option<OwnedFd>,
        watch: &Watch,
        now: Duration,
    ) -> Option<u64> {
        let (id, seed) = self.number();
        let socket = connect(ends.address, ends.port)?;
        let peer = Peer::listen(ends, self.room(), self.partial, seed, now).ok()?;
        watch.add(&socket, Source::Tcp(id)).ok()?;
        self.insert(id, Connection::outward(ends, peer, socket, now));
        Some(id)
    }

    fn insert(&mut self, id: u64, connection: Connection) {
        self.by_ends.insert(connection.ends, id);
        self.all.insert(id, connection);
    }

    /// Begins a connection that a program on the host has asked for, to a port of the guest's. If there is no way, the program finds its own closed.
    pub fn accept(
        &mut self,
        socket: OwnedFd,
        guest: u16,
        ready: &mut Ready,
        watch: &Watch,
        now: Duration,
    ) {
        let known = &self.by_ends;
        let is_known = |port| known.contains_key(&Ends { guest, address: GATEWAY, port });
        let Some(port) = self.ports.take(is_known) else { return };
        let (id, seed) = self.number();
        let ends = Ends { guest, address: GATEWAY, port };
        let Ok(peer) = Peer::connect(ends, self.room(), self.partial, seed, now) else { return };
        if watch.add(&socket, Source::Tcp(id)).is_ok() {
            self.insert(id, Connection::inward(ends, peer, socket, now));
            ready.push(Source::Tcp(id));
        }
    }

    /// Something has happened to a socket.
    pub fn wake(&mut self, id: u64, happened: Happened) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.wake(happened);
        }
    }

    /// Makes `frame` what a connection sends next. Gives whether there is something. One that is over is forgotten.
    pub fn next(&mut self, id: u64, link: &Link, frame: &mut Frame, now: Duration) -> bool {
        let Some(connection) = self.all.get_mut(&id) else { return false };
        let is_frame = connection.next(link, frame, now);
        let timer = if is_frame { None } else { connection.deadline(now) };
        if connection.timer != timer {
            let old = std::mem::replace(&mut connection.timer, timer);
            old.map(|old| self.timers.remove(&(old, id)));
            timer.map(|new| self.timers.insert((new, id)));
        }
        if !is_frame && connection.is_over() {
            self.forget(id);
        }
        is_frame
    }

    fn forget(&mut self, id: u64) {
        let Some(connection) = self.all.remove(&id) else { return };
        self.by_ends.remove(&connection.ends);
        connection.timer.map(|timer| self.timers.remove(&(timer, id)));
    }

    /// When a connection has to be looked after next.
    pub fn deadline(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Those that are to be looked after now have their turn.
    pub fn expire(&mut self, ready: &mut Ready, now: Duration) {
        while let Some(first) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&first);
            if let Some(connection) = self.all.get_mut(&first.1) {
                connection.timer = None;
                ready.push(Source::Tcp(first.1));
            }
        }
    }
}
