//! Answers the question which station has an address: the router's and the resolver's are both the router's.
//!
//! See: RFC 826.

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use crate::address::{DNS, GATEWAY};
use crate::packet::{Frame, Link};

/// Who asks, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    station: EthernetAddress,
    /// The address that the one who asks has, or none yet.
    pub asker: Ipv4Addr,
    target: Ipv4Addr,
}

/// Reads a question that is to be answered.
pub fn question(packet: &[u8]) -> Option<Question> {
    let packet = ArpPacket::new_checked(packet).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let is_ours = [GATEWAY, DNS].contains(&target_protocol_addr);
    (is_ours && source_hardware_addr.is_unicast()).then_some(Question {
        station: source_hardware_addr,
        asker: source_protocol_addr,
        target: target_protocol_addr,
    })
}

/// Makes a frame the answer.
pub fn answer(question: &Question, link: &Link, frame: &mut Frame) {
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: link.router,
        source_protocol_addr: question.target,
        target_hardware_addr: question.station,
        target_protocol_addr: question.asker,
    };
    let (from, to) = (link.router, question.station);
    frame.set(from, to, EthernetProtocol::Arp, reply.buffer_len(), |packet| {
        reply.emit(&mut ArpPacket::new_unchecked(packet));
    });
}
