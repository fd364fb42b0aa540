//! Tells the guest its address, and what it has to know of the network. There is one lease, which is the guest's for ever.
//!
//! See: RFC 2131, RFC 2132, RFC 3397.

use std::net::Ipv4Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr,
    EthernetAddress, IpAddress, UdpPacket, UdpRepr,
};

use crate::address::{DNS, GATEWAY, GUEST, MTU, PREFIX};
use crate::packet::{Frame, Ipv4, Link, Protocol};

/// How long the lease is said to be. It is renewed after half of that.
const LEASE: u32 = 24 * 60 * 60;

/// Options that `smoltcp` has no field for. See: RFC 2132, 3.14, 5.1; RFC 3397.
mod option {
    pub const HOSTNAME: u8 = 12;
    pub const MTU: u8 = 26;
    pub const SEARCH: u8 = 119;
}

/// The most bytes of an option.
const MOST: usize = 255;

/// What the guest is told besides addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its name, if it is to be told one.
    pub hostname: String,
    /// Domains in which names are looked for.
    pub search: Vec<String>,
}

/// What the guest has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    kind: DhcpMessageType,
    transaction: u32,
    client: EthernetAddress,
    /// The address that it has.
    current: Ipv4Addr,
    /// The one that it wants.
    wanted: Option<Ipv4Addr>,
    /// The server that it wants it of.
    server: Option<Ipv4Addr>,
}

/// Reads a question, if the packet is one.
pub fn request(packet: &Ipv4<'_>) -> Option<Request> {
    if packet.protocol != Protocol::Udp {
        return None;
    }
    let datagram = UdpPacket::new_checked(packet.payload).ok()?;
    if (datagram.src_port(), datagram.dst_port()) != (DHCP_CLIENT_PORT, DHCP_SERVER_PORT) {
        return None;
    }
    let packet = DhcpPacket::new_checked(datagram.payload()).ok()?;
    let read = DhcpRepr::parse(&packet).ok()?;
    Some(Request {
        kind: read.message_type,
        transaction: read.transaction_id,
        client: read.client_hardware_address,
        current: read.client_ip,
        wanted: read.requested_ip,
        server: read.server_identifier,
    })
}

impl Request {
    /// What is answered, if anything.
    fn answer(&self) -> Option<DhcpMessageType> {
        match self.kind {
            DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
            DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
            // It has taken another server's offer.
            DhcpMessageType::Request if self.server.is_some_and(|server| server != GATEWAY) => None,
            DhcpMessageType::Request => {
                let has_it = self.wanted.unwrap_or(self.current) == GUEST;
                Some(if has_it { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
            }
            _ => None,
        }
    }
}

/// Domains as DNS writes them, as many as an option holds; what is no name is left out.
fn encode_search(domains: &[String]) -> Vec<u8> {
    let mut all = Vec::new();
    for domain in domains {
        let mut name = Vec::new();
        let labels = domain.trim_end_matches('.').split('.');
        let is_name = labels.clone().all(|label| (1..=63).contains(&label.len()));
        for label in labels {
            name.push(label.len() as u8);
            name.extend(label.as_bytes());
        }
        name.push(0);
        if is_name && name.len() <= MOST && all.len() + name.len() <= MOST {
            all.extend(name);
        }
    }
    all
}

/// Makes a frame the answer. Gives whether there is one.
pub fn answer(request: &Request, told: &Told, link: &Link, frame: &mut Frame) -> bool {
    let Some(kind) = request.answer() else { return false };
    let is_granted = kind != DhcpMessageType::Nak;
    let (mtu, search) = (MTU.to_be_bytes(), encode_search(&told.search));
    let mut options = Vec::new();
    let mut add = |kind, data| options.push(DhcpOption { kind, data });
    if is_granted {
        add(option::MTU, &mtu[..]);
        if (1..=MOST).contains(&told.hostname.len()) {
            add(option::HOSTNAME, told.hostname.as_bytes());
        }
        if !search.is_empty() {
            add(option::SEARCH, &search);
        }
    }
    let is_leased = is_granted && request.kind != DhcpMessageType::Inform;
    let reply = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction,
        secs: 0,
        client_hardware_address: request.client,
        client_ip: if is_granted { request.current } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if is_leased { GUEST } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: is_granted.then_some(GATEWAY),
        subnet_mask: is_granted.then(|| Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX))),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(GATEWAY),
        parameter_request_list: None,
        dns_servers: is_granted.then(|| [DNS].into_iter().collect()),
        max_size: None,
        lease_duration: is_leased.then_some(LEASE),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    let ports = UdpRepr { src_port: DHCP_SERVER_PORT, dst_port: DHCP_CLIENT_PORT };
    let (from, to) = (GATEWAY, Ipv4Addr::BROADCAST);
    let size = reply.buffer_len();
    let mut is_made = false;
    frame.set_ipv4(link, from, to, Protocol::Udp, ports.header_len() + size, |payload| {
        let mut datagram = UdpPacket::new_unchecked(payload);
        let (source, destination) = (IpAddress::Ipv4(from), IpAddress::Ipv4(to));
        let fill = |bytes: &mut [u8]| {
            // The memory has held other frames.
            bytes.fill(0);
            is_made = reply.emit(&mut DhcpPacket::new_unchecked(bytes)).is_ok();
        };
        let sums = ChecksumCapabilities::default();
        ports.emit(&mut datagram, &source, &destination, size, fill, &sums);
    });
    is_made
}

#[cfg(test)]
#[path = "dhcp_test.rs"]
mod dhcp_test;
