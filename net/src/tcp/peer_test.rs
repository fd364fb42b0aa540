//! Tests of a connection without any socket: what a guest sends that keeps to no rule.

use proptest::prelude::*;
use smoltcp::wire::{
    EthernetAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::*;

const ENDS: Ends = Ends { guest: 1000, address: Ipv4Addr::new(192, 0, 2, 1), port: 80 };
const ROOM: usize = 4096;
const LINK: Link = Link {
    guest: EthernetAddress([2, 0, 0, 0, 0, 1]),
    router: EthernetAddress([2, 0, 0, 0, 0, 2]),
};

fn segment(control: TcpControl, sequence: i32, ack: Option<i32>, payload: &[u8]) -> TcpRepr<'_> {
    TcpRepr {
        src_port: ENDS.guest,
        dst_port: ENDS.port,
        control,
        seq_number: TcpSeqNumber(sequence),
        ack_number: ack.map(TcpSeqNumber),
        window_len: 0x4000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    }
}

fn packet(segment: &TcpRepr<'_>) -> Vec<u8> {
    let header = Ipv4Repr {
        src_addr: GUEST,
        dst_addr: ENDS.address,
        next_header: IpProtocol::Tcp,
        payload_len: segment.buffer_len(),
        hop_limit: 64,
    };
    let sums = ChecksumCapabilities::ignored();
    let mut bytes = vec![0; IPV4 + segment.buffer_len()];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    header.emit(&mut packet, &sums);
    let mut tcp = TcpPacket::new_unchecked(packet.payload_mut());
    segment.emit(&mut tcp, &GUEST.into(), &ENDS.address.into(), &sums);
    bytes
}

struct Bench {
    peer: Peer,
    frame: Frame,
    now: Duration,
}

impl Bench {
    fn new(partial: bool) -> Self {
        let peer = Peer::listen(ENDS, ROOM, partial, 1, Duration::ZERO).unwrap();
        Self { peer, frame: Frame::default(), now: Duration::from_millis(1) }
    }

    fn give(&mut self, segment: &TcpRepr<'_>) -> bool {
        let packet = packet(segment);
        self.peer.receive(&packet, &LINK, &mut self.frame, self.now)
    }

    /// What it sends next: flags and numbers.
    fn next(&mut self) -> Option<(TcpControl, i32, Option<i32>)> {
        if !self.peer.next(&LINK, &mut self.frame, self.now) {
            return None;
        }
        let tcp = TcpPacket::new_checked(&self.frame.bytes[ETHERNET + IPV4..]).unwrap();
        let (from, to) = (ENDS.address.into(), GUEST.into());
        let sums = ChecksumCapabilities::ignored();
        let read = TcpRepr::parse(&tcp, &from, &to, &sums).unwrap();
        Some((read.control, read.seq_number.0, read.ack_number.map(|number| number.0)))
    }
}

#[test]
fn nothing_is_answered_before_the_host_has_connected() {
    let mut bench = Bench::new(false);
    bench.give(&segment(TcpControl::Syn, 100, None, b""));
    assert_eq!(bench.next(), None);
    bench.peer.accept();
    let (control, _, ack) = bench.next().unwrap();
    assert_eq!((control, ack), (TcpControl::Syn, Some(101)));
}

#[test]
fn a_refusal_is_a_reset_that_the_guest_believes() {
    let mut bench = Bench::new(false);
    bench.give(&segment(TcpControl::Syn, 100, None, b""));
    bench.peer.socket().abort();
    assert!(!bench.peer.is_over(), "the guest has yet to be told");
    let (control, _, ack) = bench.next().unwrap();
    // In answer to a SYN it has to acknowledge that. See: RFC 9293, 3.10.7.3.
    assert_eq!((control, ack), (TcpControl::Rst, Some(101)));
    assert!(bench.peer.is_over());
}

#[test]
fn a_checksum_is_whole_or_left_to_the_guest() {
    for partial in [false, true] {
        let mut bench = Bench::new(partial);
        bench.give(&segment(TcpControl::Syn, 100, None, b""));
        bench.peer.accept();
        assert!(bench.next().is_some());
        let (from, to) = (IpAddress::Ipv4(ENDS.address), IpAddress::Ipv4(GUEST));
        if let Some(Partial { start, offset }) = bench.frame.partial {
            assert!(partial);
            // What a network card does: the sum of all from there on, with what is in the field already.
            let (start, at) = (usize::from(start), usize::from(start + offset));
            let pairs = bench.frame.bytes[start..].chunks(2);
            let mut sum: u32 = pairs
                .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
                .sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            bench.frame.bytes[at..at + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
        } else {
            assert!(!partial);
        }
        let tcp = TcpPacket::new_checked(&bench.frame.bytes[ETHERNET + IPV4..]).unwrap();
        assert!(tcp.verify_checksum(&from, &to));
    }
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_held_up() {
    let mut bench = Bench::new(false);
    bench.give(&segment(TcpControl::Syn, 100, None, b""));
    bench.peer.accept();
    let (_, ours, _) = bench.next().unwrap();
    bench.give(&segment(TcpControl::None, 101, Some(ours.wrapping_add(1)), &[7; 9000]));
    assert_eq!(bench.peer.socket().recv_queue(), ROOM);
    let (_, _, ack) = bench.next().unwrap();
    assert_eq!(ack, Some(101 + ROOM as i32), "what was taken and no more");
}

fn control() -> impl Strategy<Value = TcpControl> {
    prop_oneof![
        8 => Just(TcpControl::None),
        4 => Just(TcpControl::Psh),
        2 => Just(TcpControl::Fin),
        1 => Just(TcpControl::Syn),
        1 => Just(TcpControl::Rst),
    ]
}

/// A segment near what would be right, or far from it: control, sequence and acknowledgement beyond what is expected, window, size.
fn step() -> impl Strategy<Value = (TcpControl, i32, i32, u16, usize)> {
    let near = || prop_oneof![8 => Just(0), 3 => -20..5000_i32, 1 => any::<i32>()];
    let size = prop_oneof![3 => Just(0_usize), 3 => 1..200_usize, 1 => 3900..5000_usize];
    (control(), near(), near(), prop_oneof![Just(0), any::<u16>()], size)
}

proptest! {
    #[test]
    fn no_segments_make_it_panic(steps in prop::collection::vec(step(), 0..40), scale in prop::option::of(0..20_u8), mss in prop::option::of(any::<u16>())) {
        let mut bench = Bench::new(true);
        let syn = segment(TcpControl::Syn, 100, None, b"");
        bench.give(&TcpRepr { window_scale: scale, max_seg_size: mss, ..syn });
        bench.peer.accept();
        let mut ours = bench.next().map_or(0, |(_, sequence, _)| sequence).wrapping_add(1);
        let mut theirs = 101_i32;
        for (control, sequence, ack, window, size) in steps {
            let payload = vec![1; size];
            let (sequence, ack) = (theirs.wrapping_add(sequence), ours.wrapping_add(ack));
            let mut step = segment(control, sequence, Some(ack), &payload);
            step.window_len = window;
            bench.give(&step);
            let _ = bench.peer.socket().send_slice(&payload);
            if sequence % 3 == 0 {
                let _ = bench.peer.socket().recv(|bytes| (bytes.len() / 2, ()));
            }
            if size == 77 {
                bench.peer.socket().close();
            }
            for _ in 0..20 {
                let Some((_, sent, acked)) = bench.next() else { break };
                prop_assert!(bench.frame.bytes.len() <= crate::packet::MOST);
                ours = sent;
                theirs = acked.unwrap_or(theirs);
            }
            bench.now += Duration::from_millis(300);
            if let Some(at) = bench.peer.deadline(bench.now) {
                prop_assert!(at > bench.now);
            }
        }
    }
}
