//! [`Network`]: all of a guest's network, which a thread drives.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use crate::address::{DNS, DNS_PORT, Destination, GATEWAY, GUEST, destination, is_for_many};
use crate::dhcp::{self, Told};
use crate::icmp::{self, Unreachable};
use crate::packet::{Frame, Ipv4, Link, Protocol, ipv4};
use crate::ping::Pings;
use crate::publish::{Published, Transport};
use crate::ready::{Ready, Source};
use crate::resolver::Resolver;
use crate::socket::{Watch, datagrams, stream};
use crate::tcp::Connections;
use crate::udp::{Flows, Sent};
use crate::{arp, packet};

/// How many answers may wait for the guest to take them. What is beyond is lost: it asks again.
const MOST_ANSWERS: usize = 256;

/// How long connections wait that can't be accepted, if none of the others ends before.
const RETRY: Duration = Duration::from_millis(200);

/// The most bytes of a datagram.
const DATAGRAM: usize = 1 << 16;

/// What a network is made with.
#[derive(Clone)]
pub struct Config {
    /// The guest's address on the cable, until it says another.
    pub mac: [u8; 6],
    /// The name that the guest is told, if any.
    pub hostname: String,
    /// Who is asked for names.
    pub resolver: Resolver,
    /// The host's ports that lead to the guest.
    pub published: Arc<Published>,
    /// Something that is not the same for each.
    pub seed: u64,
}

/// A guest's network. Times are counted from whenever its owner wants.
pub struct Network {
    watch: Watch,
    link: Link,
    told: Told,
    resolver: Resolver,
    published: Arc<Published>,
    connections: Connections,
    flows: Flows,
    pings: Pings,
    ready: Ready,
    answers: VecDeque<Frame>,
    /// When connections are to be accepted that could not be.
    retry: Option<Duration>,
    buffer: Vec<u8>,
}

impl Network {
    /// One with no connections. With `partial` the guest completes TCP's checksums itself ([`Partial`](packet::Partial)).
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new(config: &Config, partial: bool) -> io::Result<Self> {
        let watch = Watch::new()?;
        for (number, listener) in (0..).zip(config.published.listeners()) {
            watch.add(&*listener.socket, Source::Listener(number))?;
        }
        let guest = EthernetAddress(config.mac);
        // Another one than the guest's, of the same kind.
        let mut router = config.mac;
        router[5] ^= 0xff;
        Ok(Self {
            watch,
            link: Link { guest, router: EthernetAddress(router) },
            told: Told {
                hostname: config.hostname.clone(),
                search: config.resolver.configuration().search,
            },
            resolver: config.resolver.clone(),
            published: Arc::clone(&config.published),
            connections: Connections::new(config.seed, partial),
            flows: Flows::default(),
            pings: Pings::default(),
            ready: Ready::default(),
            answers: VecDeque::new(),
            retry: None,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Takes a frame of the guest's. One that makes no sense is lost.
    pub fn receive(&mut self, frame: &[u8], now: Duration) {
        if frame.len() > packet::MOST {
            return;
        }
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        let source = frame.src_addr();
        if !source.is_unicast() {
            return;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => {
                let Some(question) = arp::question(frame.payload()) else { return };
                if question.asker == GUEST {
                    self.link.guest = source;
                }
                self.answer(|link, frame| {
                    arp::answer(&question, link, frame);
                    true
                });
            }
            EthernetProtocol::Ipv4 => {
                let Some(packet) = ipv4(frame.payload()) else { return };
                if let Some(request) = dhcp::request(&packet) {
                    self.link.guest = source;
                    let told = self.told.clone();
                    self.answer(|link, frame| dhcp::answer(&request, &told, link, frame));
                } else if packet.source == GUEST {
                    self.link.guest = source;
                    self.route(&packet, now);
                }
            }
            _ => {}
        }
    }

    /// Makes an answer, and keeps it until the guest takes it.
    fn answer(&mut self, make: impl FnOnce(&Link, &mut Frame) -> bool) {
        if self.answers.len() < MOST_ANSWERS {
            let mut frame = Frame::default();
            if make(&self.link, &mut frame) {
                self.answers.push_back(frame);
            }
        }
    }

    /// Sends a packet on.
    fn route(&mut self, packet: &Ipv4<'_>, now: Duration) {
        match packet.protocol {
            // There are no connections with many. See: RFC 9293, 3.9.2.3.
            Protocol::Tcp if is_for_many(packet.destination) => {}
            Protocol::Tcp => self.route_tcp(packet, now),
            Protocol::Udp => {
                let resolver = &self.resolver;
                let connect = |address, port| match host_address(address, port, resolver) {
                    Some(to) => datagrams(to).map_err(crate::udp::reason),
                    None => Err(unreachable(address)),
                };
                let sent = self.flows.send(packet, &self.watch, now, connect);
                self.tell(packet, sent);
            }
            Protocol::Icmp => self.route_icmp(packet, now),
            _ => self.tell(packet, Sent::Unreachable(Unreachable::ProtoUnreachable)),
        }
    }

    fn route_tcp(&mut self, packet: &Ipv4<'_>, now: Duration) {
        let resolver = &self.resolver;
        let connect =
            |address, port| host_address(address, port, resolver).and_then(|to| stream(to).ok());
        let mut frame = Frame::default();
        let (link, watch) = (&self.link, &self.watch);
        let received = self.connections.receive(packet, link, &mut frame, watch, now, connect);
        received.id.into_iter().for_each(|id| self.ready.push(Source::Tcp(id)));
        if received.is_answered && self.answers.len() < MOST_ANSWERS {
            self.answers.push_back(frame);
        }
    }

    fn route_icmp(&mut self, packet: &Ipv4<'_>, now: Duration) {
        let Some(echo) = icmp::echo(packet) else { return };
        match destination(packet.destination) {
            Destination::Loopback | Destination::Resolver => {
                let (from, to) = (packet.destination, packet.source);
                self.answer(|link, frame| {
                    icmp::answer(frame, link, from, to, &echo);
                    true
                });
            }
            Destination::Outside(_) => {
                let sent = self.pings.send(packet, &echo, &self.watch, now);
                self.tell(packet, sent);
            }
            Destination::Nowhere => {
                self.tell(packet, Sent::Unreachable(unreachable(packet.destination)));
            }
        }
    }

    /// Tells the guest if there is no way for its packet.
    fn tell(&mut self, packet: &Ipv4<'_>, sent: Sent) {
        if let Sent::Unreachable(reason) = sent
            && !is_for_many(packet.destination)
        {
            let quoted = icmp::quoted(packet);
            self.answer(|link, frame| icmp::unreachable(frame, link, GATEWAY, &quoted, reason));
        }
    }

    /// Takes note of what has happened to the host's sockets, and of the time.
    pub fn wake(&mut self, now: Duration) {
        let (ready, connections) = (&mut self.ready, &mut self.connections);
        let (flows, pings) = (&mut self.flows, &mut self.pings);
        self.watch.take(|source, happened| {
            match source {
                Source::Tcp(id) => connections.wake(id, happened),
                Source::Udp(id) => flows.wake(id, happened),
                Source::Ping(id) => pings.wake(id, happened),
                Source::Listener(_) => {}
            }
            ready.push(source);
        });
        self.connections.expire(&mut self.ready, now);
        self.flows.expire(now);
        self.pings.expire(now);
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            let count = self.published.listeners().len() as u64;
            (0..count).for_each(|number| self.ready.push(Source::Listener(number)));
        }
    }

    /// When [`wake`](Self::wake) is to be called though nothing has happened.
    pub fn deadline(&self) -> Option<Duration> {
        let all =
            [self.connections.deadline(), self.flows.deadline(), self.pings.deadline(), self.retry];
        all.into_iter().flatten().min()
    }

    /// Makes `frame` the next one for the guest. Gives whether there is one.
    pub fn next(&mut self, frame: &mut Frame, now: Duration) -> bool {
        if let Some(answer) = self.answers.pop_front() {
            *frame = answer;
            return true;
        }
        while let Some(source) = self.ready.pop() {
            let is_frame = match source {
                Source::Tcp(id) => self.connections.next(id, &self.link, frame, now),
                Source::Udp(id) => self.flows.next(id, &self.link, frame, now),
                Source::Ping(id) => self.pings.next(id, &self.link, frame),
                Source::Listener(number) => self.listen(number, frame, now),
            };
            if is_frame {
                self.ready.push(source);
                return true;
            }
        }
        false
    }

    /// Serves a published port: connections have their turn then, a datagram is in the frame.
    fn listen(&mut self, number: u64, frame: &mut Frame, now: Duration) -> bool {
        let published = Arc::clone(&self.published);
        let Some(listener) = published.listeners().get(number as usize) else { return false };
        let port = listener.port.guest;
        if listener.port.transport == Transport::Udp {
            while let Some((size, from)) = listener.receive(&mut self.buffer) {
                let to = (number, &listener.socket, port);
                let data = &self.buffer[..size];
                if self.flows.deliver(to, from, data, &self.link, frame, now) {
                    return true;
                }
            }
            return false;
        }
        while !self.connections.is_full() {
            match listener.accept() {
                Ok(Some(socket)) => {
                    self.connections.accept(socket, port, &mut self.ready, &self.watch, now);
                }
                Ok(None) => return false,
                Err(_) => break,
            }
        }
        self.retry = Some(now + RETRY);
        false
    }
}

/// What is to be waited for.
impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// Where on the host what the guest sends goes to, if anywhere.
fn host_address(address: Ipv4Addr, port: u16, resolver: &Resolver) -> Option<SocketAddr> {
    match destination(address) {
        _ if port == 0 => None,
        Destination::Loopback => Some((Ipv4Addr::LOCALHOST, port).into()),
        Destination::Resolver => (port == DNS_PORT).then(|| resolver.server()),
        Destination::Outside(address) => Some((address, port).into()),
        Destination::Nowhere => None,
    }
}

/// How an address is not reached.
fn unreachable(address: Ipv4Addr) -> Unreachable {
    if address == DNS { Unreachable::PortUnreachable } else { Unreachable::HostUnreachable }
}

#[cfg(test)]
#[path = "network_test.rs"]
mod network_test;
