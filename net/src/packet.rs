//! Frames: [`Frame`] is one to the guest, as it is made; [`ipv4`] reads a packet of the guest's.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
pub use smoltcp::wire::IpProtocol as Protocol;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Ipv4Packet, Ipv4Repr,
};

/// Bytes of a frame before its packet.
pub const ETHERNET: usize = 14;

/// Bytes of a packet's header, without options.
pub const IPV4: usize = 20;

/// The most bytes of a frame.
pub const MOST: usize = ETHERNET + crate::address::MTU as usize;

/// How many hops a packet of the router's may go.
const HOPS: u8 = 64;

/// Which checksum the receiver of a frame has to complete, as with a network card: that from `start` on, which has the sum of
/// the addresses in it, and is at `offset` from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The first byte that it is of.
    pub start: u16,
    /// Where it is, counted from there.
    pub offset: u16,
}

/// A frame to the guest. Its memory is used again for the next one.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// All of it.
    pub bytes: Vec<u8>,
    /// A checksum that was left to the receiver.
    pub partial: Option<Partial>,
}

impl Frame {
    /// Makes it one with a packet of so many bytes, which `fill` writes.
    pub fn set<R>(
        &mut self,
        from: EthernetAddress,
        to: EthernetAddress,
        kind: EthernetProtocol,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        self.partial = None;
        self.bytes.resize(ETHERNET + size, 0);
        let mut frame = EthernetFrame::new_unchecked(&mut self.bytes);
        EthernetRepr { src_addr: from, dst_addr: to, ethertype: kind }.emit(&mut frame);
        fill(frame.payload_mut())
    }

    /// Makes it one with a packet of IP's whose payload has so many bytes, which `fill` writes.
    pub fn set_ipv4(
        &mut self,
        link: &Link,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
        size: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let header = Ipv4Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: protocol,
            payload_len: size,
            hop_limit: HOPS,
        };
        let to = if destination.is_broadcast() { EthernetAddress::BROADCAST } else { link.guest };
        self.set(link.router, to, EthernetProtocol::Ipv4, IPV4 + size, |packet| {
            let mut packet = Ipv4Packet::new_unchecked(packet);
            header.emit(&mut packet, &ChecksumCapabilities::default());
            fill(packet.payload_mut());
        });
    }
}

/// The two ends of the guest's cable.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The guest's address, which it may change.
    pub guest: EthernetAddress,
    /// The router's.
    pub router: EthernetAddress,
}

/// A packet of the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// From where.
    pub source: Ipv4Addr,
    /// To where.
    pub destination: Ipv4Addr,
    /// What its payload is.
    pub protocol: Protocol,
    /// What it carries.
    pub payload: &'a [u8],
    /// All of it.
    pub packet: &'a [u8],
}

/// Reads a packet. One that is a part of another, or is none, is nothing.
#[must_use]
pub fn ipv4(bytes: &[u8]) -> Option<Ipv4<'_>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let (header, total) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
    if header < IPV4 {
        return None;
    }
    Some(Ipv4 {
        source: packet.src_addr(),
        destination: packet.dst_addr(),
        protocol: packet.next_header(),
        payload: bytes.get(header..total)?,
        packet: bytes.get(..total)?,
    })
}
