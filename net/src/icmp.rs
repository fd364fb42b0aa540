//! What the router says of packets: answers to echoes, and that one could not be delivered.
//!
//! See: RFC 792; RFC 1812, 5.2.7.1.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Ipv4Packet, Ipv4Repr};

use crate::packet::{Frame, IPV4, Ipv4, Link, Protocol, ipv4};

pub use smoltcp::wire::Icmpv4DstUnreachable as Unreachable;

/// How much of a packet's payload is quoted: its ports are.
const QUOTED: usize = 8;

/// An echo that the guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Who asks, among the guest's programs.
    pub identifier: u16,
    /// Which of its questions it is.
    pub sequence: u16,
    /// What is to come back.
    pub data: &'a [u8],
}

/// Reads a packet of ICMP's, if it asks for an echo.
pub fn echo<'a>(packet: &Ipv4<'a>) -> Option<Echo<'a>> {
    let message = Icmpv4Packet::new_checked(packet.payload).ok()?;
    let sums = ChecksumCapabilities::default();
    let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, data }) = Icmpv4Repr::parse(&message, &sums)
    else {
        return None;
    };
    Some(Echo { identifier: ident, sequence: seq_no, data })
}

fn set(frame: &mut Frame, link: &Link, from: Ipv4Addr, to: Ipv4Addr, message: &Icmpv4Repr<'_>) {
    frame.set_ipv4(link, from, to, Protocol::Icmp, message.buffer_len(), |payload| {
        message.emit(&mut Icmpv4Packet::new_unchecked(payload), &ChecksumCapabilities::default());
    });
}

/// Makes a frame the answer to an echo.
pub fn answer(frame: &mut Frame, link: &Link, from: Ipv4Addr, to: Ipv4Addr, echo: &Echo<'_>) {
    let Echo { identifier: ident, sequence: seq_no, data } = *echo;
    set(frame, link, from, to, &Icmpv4Repr::EchoReply { ident, seq_no, data });
}

/// The part of a packet by which its sender knows it again.
pub fn quoted(packet: &Ipv4<'_>) -> Vec<u8> {
    let header = packet.packet.len() - packet.payload.len();
    packet.packet[..packet.packet.len().min(header + QUOTED)].to_vec()
}

/// Makes a frame the message that what is quoted could not be delivered. Gives whether it is one.
pub fn unreachable(
    frame: &mut Frame,
    link: &Link,
    from: Ipv4Addr,
    quoted: &[u8],
    reason: Icmpv4DstUnreachable,
) -> bool {
    // Its length is that of the whole packet, which is not here.
    let mut header = quoted.to_vec();
    let size = (quoted.len() as u16).to_be_bytes();
    header.splice(2.min(quoted.len())..4.min(quoted.len()), size);
    let Some(packet) = ipv4(&header) else { return false };
    let header = Ipv4Packet::new_unchecked(packet.packet);
    let message = Icmpv4Repr::DstUnreachable {
        reason,
        header: Ipv4Repr {
            src_addr: packet.source,
            dst_addr: packet.destination,
            next_header: packet.protocol,
            payload_len: packet.payload.len(),
            hop_limit: header.hop_limit(),
        },
        data: packet.payload,
    };
    debug_assert!(message.buffer_len() <= 2 * IPV4 + QUOTED + 8);
    set(frame, link, from, packet.source, &message);
    true
}
