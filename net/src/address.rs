//! Who has which address in a guest's network, and what an address is on the host ([`destination`]).

use std::net::Ipv4Addr;

/// The guest's address: there is one.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// The router's, which stands for the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The resolver's.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// How many bits of an address are the network's.
pub const PREFIX: u8 = 24;

/// Where programs that ask for names send their questions.
pub const DNS_PORT: u16 = 53;

/// The largest packet of IP's: a segment of TCP is as large as its receiver's buffers let it, and there are few of them. It is a multiple of
/// eight below 65,535, which packets may not reach with all headers.
pub const MTU: u16 = 65_520;

/// What an address is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The host itself, at its loopback.
    Loopback,
    /// Its resolver.
    Resolver,
    /// A machine, by the same address.
    Outside(Ipv4Addr),
    /// Nobody.
    Nowhere,
}

/// What an address is that the guest sends to. Loopback addresses are not reached by their own names: what is sent to those never
/// leaves a machine.
#[must_use]
pub fn destination(address: Ipv4Addr) -> Destination {
    let in_network = address.octets()[..3] == GUEST.octets()[..3];
    let is_special = address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240;
    match address {
        GATEWAY => Destination::Loopback,
        DNS => Destination::Resolver,
        _ if in_network || is_special => Destination::Nowhere,
        _ => Destination::Outside(address),
    }
}

/// Whether what is sent to an address is for more than one station: nobody is told that it can't be delivered. See: RFC 1812, 4.3.2.7.
#[must_use]
pub fn is_for_many(address: Ipv4Addr) -> bool {
    let is_networks = address == Ipv4Addr::from_bits(GUEST.to_bits() | u32::MAX >> PREFIX);
    address.is_multicast() || address.is_broadcast() || is_networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_by_the_router_only() {
        assert_eq!(destination(GATEWAY), Destination::Loopback);
        assert_eq!(destination(DNS), Destination::Resolver);
        let outside = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(destination(outside), Destination::Outside(outside));
        for nowhere in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "10.0.2.4",
            "10.0.2.15",
            "10.0.2.255",
        ] {
            assert_eq!(destination(nowhere.parse().unwrap()), Destination::Nowhere, "{nowhere}");
        }
    }

    #[test]
    fn broadcasts_are_for_many() {
        for (address, expected) in [
            ("255.255.255.255", true),
            ("10.0.2.255", true),
            ("224.0.0.251", true),
            ("192.0.2.255", false),
            ("10.0.2.2", false),
        ] {
            assert_eq!(is_for_many(address.parse().unwrap()), expected, "{address}");
        }
    }
}
