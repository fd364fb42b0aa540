//! A guest's network without any privilege: the guest's Ethernet frames on one side, the host's sockets on the other.
//!
//! [`Network`] takes frames and gives frames, and has the sockets; who drives it waits for its descriptor and its deadline. It knows nothing of
//! how frames come to the guest. To the guest it is a network with a router ([`address`]), as that of slirp:
//!
//! | address | what it is |
//! |---|---|
//! | 10.0.2.15 | the guest: the only address that is listened to |
//! | 10.0.2.2 | the router; what is sent to it goes to the host's loopback |
//! | 10.0.2.3 | the host's resolver of names |
//!
//! From the guest inwards:
//!
//! - [`packet`]: frames, read and made; `arp`, `dhcp` and `icmp` answer some by themselves;
//! - `tcp`, `udp`, `ping`: connections and flows, each with a socket of the host's;
//! - [`publish`]: ports of the host's that lead to the guest; `ports`: those that its clients come from;
//! - `ready`: whose turn it is to send to the guest;
//! - [`network`]: puts these together.
//!
//! The guest is not trusted. All that it can have the host keep is bounded: connections and flows ([`tcp::MOST`], [`udp::MOST`]), their
//! buffers, and answers that wait; what is beyond is refused or lost, as in any network.
//!
//! Deviations: fragments are not put together (the MTU is as large as there is); there is IPv4 only to the guest.
#![forbid(unsafe_code)]

pub mod address;
mod arp;
mod dhcp;
mod icmp;
pub mod network;
pub mod packet;
mod ping;
mod ports;
pub mod publish;
mod ready;
pub mod resolver;
mod socket;
pub mod tcp;
pub mod udp;

pub use network::{Config, Network};
