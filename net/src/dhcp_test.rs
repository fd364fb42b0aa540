//! Tests of what the guest is told when it asks for its address.

use proptest::prelude::*;

use super::*;
use crate::packet::{ETHERNET, ipv4};

const CLIENT: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

fn request(kind: DhcpMessageType) -> Request {
    let (current, wanted, server) = (Ipv4Addr::UNSPECIFIED, None, None);
    Request { kind, transaction: 77, client: CLIENT, current, wanted, server }
}

fn link() -> Link {
    Link { guest: CLIENT, router: EthernetAddress([2, 0, 0, 0, 0, 2]) }
}

/// The answer's DHCP, as bytes.
fn answered(request: &Request, told: &Told) -> Option<Vec<u8>> {
    // As if it had held another frame.
    let mut frame = Frame { bytes: vec![0xee; 900], partial: None };
    if !answer(request, told, &link(), &mut frame) {
        return None;
    }
    let packet = ipv4(&frame.bytes[ETHERNET..]).expect("it is a packet");
    let datagram = UdpPacket::new_checked(packet.payload).expect("it is a datagram");
    let (from, to) = (IpAddress::Ipv4(packet.source), IpAddress::Ipv4(packet.destination));
    assert!(datagram.verify_checksum(&from, &to));
    Some(datagram.payload().to_vec())
}

fn option(bytes: &[u8], kind: u8) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(bytes).unwrap();
    packet.options().find(|option| option.kind == kind).map(|option| option.data.to_vec())
}

#[test]
fn an_offer_has_the_address_and_all_that_belongs_to_it() {
    let told = Told {
        hostname: "unibody".into(),
        search: vec!["a.example".into(), "..".into(), "b.".into()],
    };
    let bytes = answered(&request(DhcpMessageType::Discover), &told).unwrap();
    let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
    let offer = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(offer.message_type, DhcpMessageType::Offer);
    assert_eq!((offer.transaction_id, offer.your_ip), (77, GUEST));
    assert_eq!(offer.router, Some(GATEWAY));
    assert_eq!(offer.subnet_mask, Some(Ipv4Addr::new(255, 255, 255, 0)));
    assert_eq!(offer.dns_servers.as_deref(), Some(&[DNS][..]));
    assert_eq!(offer.lease_duration, Some(LEASE));
    assert_eq!(option(&bytes, super::option::MTU), Some(MTU.to_be_bytes().to_vec()));
    assert_eq!(option(&bytes, super::option::HOSTNAME), Some(b"unibody".to_vec()));
    assert_eq!(
        option(&bytes, super::option::SEARCH),
        Some(b"\x01a\x07example\x00\x01b\x00".to_vec())
    );
}

#[test]
fn only_the_one_address_is_granted() {
    let answer_to = |change: &dyn Fn(&mut Request)| {
        let mut request = request(DhcpMessageType::Request);
        change(&mut request);
        request.answer()
    };
    assert_eq!(answer_to(&|ask| ask.wanted = Some(GUEST)), Some(DhcpMessageType::Ack));
    assert_eq!(answer_to(&|ask| ask.current = GUEST), Some(DhcpMessageType::Ack));
    assert_eq!(answer_to(&|ask| ask.wanted = Some(DNS)), Some(DhcpMessageType::Nak));
    assert_eq!(answer_to(&|_| {}), Some(DhcpMessageType::Nak));
    assert_eq!(answer_to(&|ask| ask.server = Some(DNS)), None);
    assert_eq!(request(DhcpMessageType::Release).answer(), None);
    let nak = answered(&request(DhcpMessageType::Request), &Told::default()).unwrap();
    assert_eq!(DhcpPacket::new_checked(&nak[..]).unwrap().your_ip(), Ipv4Addr::UNSPECIFIED);
}

proptest! {
    #[test]
    fn no_names_make_it_panic(hostname in "\\PC{0,300}", search in prop::collection::vec("[a-z.]{0,80}", 0..9)) {
        let told = Told { hostname, search };
        prop_assert!(answered(&request(DhcpMessageType::Discover), &told).is_some());
    }
}
