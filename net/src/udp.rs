//! [`Flows`]: datagrams, of the guest's programs with others. A flow is a port of the guest's and whom it speaks with; it has a socket of the
//! host's as long as it is used.
//!
//! What the guest sends to its resolver goes to one of the host's ([`Resolver`](crate::resolver)). What comes to a published port is of a flow
//! with the router, at another port for each that it comes from.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, UdpPacket, UdpRepr};

use crate::address::{DNS, DNS_PORT, GATEWAY, GUEST, MTU};
use crate::icmp::{self, Unreachable};
use crate::packet::{Frame, IPV4, Ipv4, Link, Protocol};
use crate::ports::Ports;
use crate::ready::Source;
use crate::socket::{Happened, Watch, receive, send};

/// How many flows there may be. The one that was longest not used makes room for another.
pub const MOST: usize = 512;

/// How long a flow is kept that nobody uses; and one with a resolver, which is a question and its answer. See: RFC 4787, 4.3.
const IDLE: Duration = Duration::from_secs(120);
const IDLE_DNS: Duration = Duration::from_secs(10);

/// Bytes of a header.
const HEADER: usize = 8;

/// The most data of a datagram to the guest.
const MOST_DATA: usize = MTU as usize - IPV4 - HEADER;

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    guest: u16,
    address: Ipv4Addr,
    port: u16,
}

/// What a flow's datagrams go to on the host.
enum Way {
    /// A socket of its own.
    Own { socket: OwnedFd, is_readable: bool },
    /// The socket of a published port, and who sends to it.
    Published { socket: Arc<OwnedFd>, peer: SocketAddr },
}

struct Flow {
    ends: Ends,
    way: Way,
    /// Until when it is kept.
    limit: Duration,
    /// What was sent last, as it is quoted to the guest if nobody is there.
    sent: Vec<u8>,
}

/// The flows.
pub struct Flows {
    by_ends: HashMap<Ends, u64>,
    by_peer: HashMap<(u64, SocketAddr), u64>,
    all: HashMap<u64, Flow>,
    limits: BTreeSet<(Duration, u64)>,
    next: u64,
    ports: Ports,
    buffer: Vec<u8>,
}

/// What a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or lost, as datagrams may be.
    Yes,
    /// There is no way for it.
    Unreachable(Unreachable),
}

/// Why there is no way, in the network's words.
pub fn reason(error: Errno) -> Unreachable {
    match error {
        Errno::CONNREFUSED => Unreachable::PortUnreachable,
        Errno::NETUNREACH => Unreachable::NetUnreachable,
        Errno::ACCESS | Errno::PERM => Unreachable::CommProhibited,
        _ => Unreachable::HostUnreachable,
    }
}

fn idle(ends: Ends) -> Duration {
    if (ends.address, ends.port) == (DNS, DNS_PORT) { IDLE_DNS } else { IDLE }
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            by_ends: HashMap::new(),
            by_peer: HashMap::new(),
            all: HashMap::new(),
            limits: BTreeSet::new(),
            next: 0,
            ports: Ports::new(),
            buffer: vec![0; MOST_DATA + 1],
        }
    }
}

impl Flows {
    /// How many there are.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Sends the guest's datagram on. For a flow that there is not yet, `connect` makes a socket.
    pub fn send(
        &mut self,
        packet: &Ipv4<'_>,
        watch: &Watch,
        now: Duration,
        connect: impl FnOnce(Ipv4Addr, u16) -> Result<OwnedFd, Unreachable>,
    ) -> Sent {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return Sent::Yes };
        let ends = Ends {
            guest: datagram.src_port(),
            address: packet.destination,
            port: datagram.dst_port(),
        };
        let id = match self.by_ends.get(&ends) {
            Some(id) => *id,
            None => match connect(ends.address, ends.port) {
                Ok(socket) => {
                    self.next += 1;
                    if watch.add(&socket, Source::Udp(self.next)).is_err() {
                        return Sent::Yes;
                    }
                    self.begin(ends, Way::Own { socket, is_readable: false }, now)
                }
                Err(reason) => return Sent::Unreachable(reason),
            },
        };
        self.keep(id, now);
        let Some(flow) = self.all.get_mut(&id) else { return Sent::Yes };
        flow.sent = icmp::quoted(packet);
        let sent = match &flow.way {
            Way::Own { socket, .. } => send(socket, datagram.payload()),
            Way::Published { socket, peer } => {
                let flags = rustix::net::SendFlags::NOSIGNAL;
                rustix::net::sendto(&**socket, datagram.payload(), flags, peer)
            }
        };
        match sent {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => Sent::Yes,
            Err(error) => Sent::Unreachable(reason(error)),
        }
    }

    /// Begins the flow whose number is next.
    fn begin(&mut self, ends: Ends, way: Way, now: Duration) -> u64 {
        if self.all.len() >= MOST
            && let Some((_, oldest)) = self.limits.first().copied()
        {
            self.forget(oldest);
        }
        let id = self.next;
        let limit = now + idle(ends);
        self.limits.insert((limit, id));
        self.by_ends.insert(ends, id);
        self.all.insert(id, Flow { ends, way, limit, sent: Vec::new() });
        id
    }

    /// It is used.
    fn keep(&mut self, id: u64, now: Duration) {
        let Some(flow) = self.all.get_mut(&id) else { return };
        self.limits.remove(&(flow.limit, id));
        flow.limit = now + idle(flow.ends);
        self.limits.insert((flow.limit, id));
    }

    fn forget(&mut self, id: u64) {
        let Some(flow) = self.all.remove(&id) else { return };
        self.limits.remove(&(flow.limit, id));
        self.by_ends.remove(&flow.ends);
        if let Way::Published { peer, .. } = flow.way {
            self.by_peer.retain(|(_, other), flow| *other != peer || *flow != id);
        }
    }

    /// Something has happened to a socket.
    pub fn wake(&mut self, id: u64, happened: Happened) {
        if let Some(Flow { way: Way::Own { is_readable, .. }, .. }) = self.all.get_mut(&id) {
            *is_readable |= happened.readable;
        }
    }

    /// Makes `frame` the next datagram of a flow, or that nobody is there. Gives whether there is something.
    pub fn next(&mut self, id: u64, link: &Link, frame: &mut Frame, now: Duration) -> bool {
        let Some(flow) = self.all.get_mut(&id) else { return false };
        let ends = flow.ends;
        let Way::Own { socket, is_readable } = &mut flow.way else { return false };
        if !*is_readable {
            return false;
        }
        match receive(socket, &mut self.buffer) {
            Ok(size) => {
                self.keep(id, now);
                // One that is too large for the guest is lost, as on any way; so that the next one is not, an empty one takes its turn.
                let size = if size > MOST_DATA { 0 } else { size };
                set(frame, link, ends, &self.buffer[..size]);
                true
            }
            Err(Errno::AGAIN) => {
                *is_readable = false;
                false
            }
            Err(error) => {
                let quoted = std::mem::take(&mut flow.sent);
                let from = ends.address;
                !quoted.is_empty() && icmp::unreachable(frame, link, from, &quoted, reason(error))
            }
        }
    }

    /// Makes `frame` what somebody has sent to a published port of the guest's: to the router's it is from a port of its own. Gives whether it is one.
    pub fn deliver(
        &mut self,
        listener: (u64, &Arc<OwnedFd>, u16),
        peer: SocketAddr,
        data: &[u8],
        link: &Link,
        frame: &mut Frame,
        now: Duration,
    ) -> bool {
        let (number, socket, guest) = listener;
        let id = match self.by_peer.get(&(number, peer)) {
            Some(id) => *id,
            None => {
                let known = &self.by_ends;
                let is_known = |port| known.contains_key(&Ends { guest, address: GATEWAY, port });
                let Some(port) = self.ports.take(is_known) else { return false };
                let ends = Ends { guest, address: GATEWAY, port };
                self.next += 1;
                let way = Way::Published { socket: Arc::clone(socket), peer };
                let id = self.begin(ends, way, now);
                self.by_peer.insert((number, peer), id);
                id
            }
        };
        self.keep(id, now);
        let Some(flow) = self.all.get(&id).filter(|_| data.len() <= MOST_DATA) else {
            return false;
        };
        set(frame, link, flow.ends, data);
        true
    }

    /// When one of them is to be forgotten next.
    pub fn deadline(&self) -> Option<Duration> {
        self.limits.first().map(|(at, _)| *at)
    }

    /// Forgets those that nobody uses.
    pub fn expire(&mut self, now: Duration) {
        while let Some((_, id)) = self.limits.first().copied().filter(|(at, _)| *at <= now) {
            self.forget(id);
        }
    }
}

/// Makes a frame a datagram to the guest.
fn set(frame: &mut Frame, link: &Link, ends: Ends, data: &[u8]) {
    let ports = UdpRepr { src_port: ends.port, dst_port: ends.guest };
    let size = ports.header_len() + data.len();
    frame.set_ipv4(link, ends.address, GUEST, Protocol::Udp, size, |payload| {
        let mut datagram = UdpPacket::new_unchecked(payload);
        let (from, to) = (IpAddress::Ipv4(ends.address), IpAddress::Ipv4(GUEST));
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(data);
        let sums = ChecksumCapabilities::default();
        ports.emit(&mut datagram, &from, &to, data.len(), fill, &sums);
    });
}
