//! [`Peer`]: the guest's end of one connection, as the router speaks TCP with it. Packets come in and go out; it knows no socket of the host's.
//!
//! TCP is `smoltcp`'s. Each connection has an interface of its own there, at the address that the guest speaks to, with one socket: a packet
//! finds its connection by a table (`tcp`) and not by a search, and what happens to one costs the others nothing.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::socket::tcp::{ConnectError, ListenError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetProtocol, HardwareAddress, IpAddress, IpCidr};

use crate::address::{GUEST, MTU};
use crate::packet::{ETHERNET, Frame, IPV4, Link, Partial};

/// Where the checksum is in TCP's header. See: RFC 9293, 3.1.
const CHECKSUM: u16 = 16;

/// The ends of a connection: the guest's port, and whom it speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    /// The guest's port.
    pub guest: u16,
    /// The other's address.
    pub address: Ipv4Addr,
    /// The other's port.
    pub port: u16,
}

/// The end of a connection that the guest speaks with.
pub struct Peer {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    partial: bool,
}

/// What a peer can't be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPeer;

impl From<ListenError> for NoPeer {
    fn from(_: ListenError) -> Self {
        Self
    }
}

impl From<ConnectError> for NoPeer {
    fn from(_: ConnectError) -> Self {
        Self
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// What `smoltcp` takes a packet from, and puts one into.
struct Wire<'a> {
    incoming: Option<&'a [u8]>,
    outgoing: Option<(&'a Link, &'a mut Frame)>,
    partial: bool,
}

struct Incoming<'a>(&'a [u8]);

struct Outgoing<'a>(&'a Link, &'a mut Frame);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, size: usize, fill: F) -> R {
        let Self(link, frame) = self;
        frame.set(link.router, link.guest, EthernetProtocol::Ipv4, size, fill)
    }
}

impl<'w> Device for Wire<'w> {
    type RxToken<'a>
        = Incoming<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Outgoing<'a>
    where
        Self: 'a;

    fn receive(&mut self, now: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), self.transmit(now)?))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        self.outgoing.as_mut().map(|(link, frame)| Outgoing(link, frame))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ip;
        all.max_transmission_unit = MTU.into();
        all.checksum = ChecksumCapabilities::ignored();
        // What the guest sends never leaves this process, and what it gets is right, or left to it.
        all.checksum.ipv4 = Checksum::Tx;
        all.checksum.tcp = if self.partial { Checksum::None } else { Checksum::Tx };
        all
    }
}

/// Leaves the checksum of a segment to the receiver, who wants the sum of the addresses there. See: VIRTIO 1.2, 5.1.6.2.
fn leave_checksum(frame: &mut Frame) {
    let Some(segment) = frame.bytes.len().checked_sub(ETHERNET + IPV4) else { return };
    let sum = |bytes: &[u8]| -> u32 {
        bytes.as_chunks().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum()
    };
    // Of both addresses, the protocol and the length. See: RFC 9293, 3.1.
    const ADDRESSES: std::ops::Range<usize> = ETHERNET + 12..ETHERNET + 20;
    const TCP: u32 = 6;
    let mut total = sum(&frame.bytes[ADDRESSES]) + TCP + segment as u32;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    let at = ETHERNET + IPV4 + usize::from(CHECKSUM);
    if let Some(field) = frame.bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&(total as u16).to_be_bytes());
        frame.partial = Some(Partial { start: (ETHERNET + IPV4) as u16, offset: CHECKSUM });
    }
}

impl Peer {
    /// One that listens at nothing yet, with so much room each way. With `partial` the guest completes checksums.
    ///
    /// # Errors
    /// When the address is of nobody in particular.
    fn new(
        address: Ipv4Addr,
        room: usize,
        partial: bool,
        seed: u64,
        now: Duration,
    ) -> Result<Self, NoPeer> {
        // An interface of `smoltcp`'s has no other.
        if !IpAddress::Ipv4(address).is_unicast() {
            return Err(NoPeer);
        }
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire { incoming: None, outgoing: None, partial };
        let mut interface = Interface::new(config, &mut wire, instant(now));
        // All addresses are of its network: the guest's is.
        let own = IpCidr::new(IpAddress::Ipv4(address), 0);
        interface.update_ip_addrs(|all| all.extend([own]));
        let buffer = || SocketBuffer::new(vec![0; room]);
        let mut socket = Socket::new(buffer(), buffer());
        // Who writes to the host's socket has waited for more, or does not want to; and the guest waits for no acknowledgement in vain.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Ok(Self { interface, sockets, handle, partial })
    }

    /// One for a connection that the guest asks for. Nothing is answered before [`accept`](Self::accept).
    ///
    /// # Errors
    /// When it is with a port or an address that there is not.
    pub fn listen(
        ends: Ends,
        room: usize,
        partial: bool,
        seed: u64,
        now: Duration,
    ) -> Result<Self, NoPeer> {
        let mut peer = Self::new(ends.address, room, partial, seed, now)?;
        let socket = peer.socket();
        socket.pause_synack(true);
        socket.listen((IpAddress::Ipv4(ends.address), ends.port))?;
        Ok(peer)
    }

    /// One that asks the guest for a connection.
    ///
    /// # Errors
    /// When it is with a port or an address that there is not.
    pub fn connect(
        ends: Ends,
        room: usize,
        partial: bool,
        seed: u64,
        now: Duration,
    ) -> Result<Self, NoPeer> {
        let mut peer = Self::new(ends.address, room, partial, seed, now)?;
        let remote = (IpAddress::Ipv4(GUEST), ends.guest);
        let local = (IpAddress::Ipv4(ends.address), ends.port);
        let socket = peer.sockets.get_mut::<Socket<'_>>(peer.handle);
        socket.connect(peer.interface.context(), remote, local)?;
        Ok(peer)
    }

    /// Its socket.
    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Lets the guest know that the connection stands.
    pub fn accept(&mut self) {
        self.socket().pause_synack(false);
    }

    /// Takes a packet of the guest's. Gives whether `frame` is an answer to it that has to be sent now, such as that it can't be understood.
    pub fn receive(
        &mut self,
        packet: &[u8],
        link: &Link,
        frame: &mut Frame,
        now: Duration,
    ) -> bool {
        frame.bytes.clear();
        let outgoing = Some((link, &mut *frame));
        let mut wire = Wire { incoming: Some(packet), outgoing, partial: self.partial };
        self.interface.poll_ingress_single(instant(now), &mut wire, &mut self.sockets);
        self.finish(frame)
    }

    /// Makes `frame` what is to be sent next. Gives whether there is something.
    pub fn next(&mut self, link: &Link, frame: &mut Frame, now: Duration) -> bool {
        frame.bytes.clear();
        let outgoing = Some((link, &mut *frame));
        let mut wire = Wire { incoming: None, outgoing, partial: self.partial };
        self.interface.poll_egress(instant(now), &mut wire, &mut self.sockets);
        self.finish(frame)
    }

    fn finish(&self, frame: &mut Frame) -> bool {
        if frame.bytes.is_empty() {
            return false;
        }
        frame.partial = None;
        if self.partial {
            leave_checksum(frame);
        }
        true
    }

    /// When [`next`](Self::next) may have something though nothing else has happened.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        let at = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
        // What was to be sent by now is sent.
        Some(at.max(now + Duration::from_millis(1)))
    }

    /// Whether there is nothing more to be said. The guest may have missed our last acknowledgement: it is told then that there is no such
    /// connection, and is content.
    pub fn is_over(&mut self) -> bool {
        let socket = self.socket();
        match socket.state() {
            State::TimeWait => true,
            // A reset is still to be sent as long as it is known to whom.
            State::Closed => socket.remote_endpoint().is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "peer_test.rs"]
mod peer_test;
