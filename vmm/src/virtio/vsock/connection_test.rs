//! Tests of a connection: the order of its packets, credit, its end, and what goes through it beside a model of the guest's side.

use proptest::prelude::*;

use super::*;

fn packet(op: u16) -> Header {
    Header { op, allocated: 1000, ..Header::default() }
}

/// One that is open, with a guest that has room for 1000 bytes.
fn open() -> Connection {
    let mut connection = Connection::accept(&packet(op::REQUEST));
    assert_eq!(connection.next_control(), Some((op::RESPONSE, 0)));
    connection
}

#[test]
fn the_host_asks_and_is_answered() {
    let mut connection = Connection::request();
    assert_eq!(connection.next_control(), Some((op::REQUEST, 0)));
    assert_eq!((connection.next_control(), connection.credit()), (None, 0));
    assert!(!connection.is_open());
    assert_eq!(connection.receive(&packet(op::RESPONSE), &[]), Ok(Heard::Accepted));
    assert!(connection.is_open());
    assert_eq!(connection.credit(), 1000);
    assert_eq!(connection.receive(&packet(op::RESPONSE), &[]), Err(Violation));
}

#[test]
fn nothing_is_sent_before_the_answer() {
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::REQUEST] {
        let mut connection = Connection::request();
        assert_eq!(connection.receive(&packet(op), &[]), Err(Violation));
    }
    let mut connection = Connection::accept(&packet(op::REQUEST));
    assert_eq!(connection.credit(), 0);
    connection.next_control();
    assert_eq!(connection.credit(), 1000);
}

#[test]
fn a_caller_that_gives_up_has_the_request_taken_back() {
    let mut connection = Connection::request();
    connection.next_control();
    connection.end(ended::BOTH);
    assert_eq!(connection.next_control(), Some((op::RST, 0)));
}

#[test]
fn no_more_is_sent_than_the_guest_has_room_for() {
    let mut connection = open();
    connection.send(400);
    assert_eq!((connection.credit(), connection.next_control()), (600, None));
    connection.send(600);
    assert_eq!(connection.credit(), 0);
    // It asks once.
    assert_eq!(connection.next_control(), Some((op::CREDIT_REQUEST, 0)));
    assert_eq!(connection.next_control(), None);
    let update = Header { forwarded: 300, ..packet(op::CREDIT_UPDATE) };
    assert_eq!(connection.receive(&update, &[]), Ok(Heard::Other));
    assert_eq!(connection.credit(), 300);
    connection.send(300);
    assert_eq!(connection.next_control(), Some((op::CREDIT_REQUEST, 0)));
}

#[test]
fn the_guest_is_told_of_room_before_it_has_none() {
    let mut connection = open();
    let data = vec![1; BUFFER as usize];
    assert_eq!(connection.receive(&packet(op::RW), &data), Ok(Heard::Other));
    assert_eq!(connection.receive(&packet(op::RW), &[1]), Err(Violation));
    connection.take(TELL_AFTER as usize - 1);
    assert_eq!(connection.next_control(), None);
    connection.take(1);
    assert_eq!(connection.next_control(), Some((op::CREDIT_UPDATE, 0)));
    let mut header = Header::default();
    connection.stamp(&mut header);
    assert_eq!((header.allocated, header.forwarded), (BUFFER, TELL_AFTER));
    assert_eq!(connection.next_control(), None);
    assert_eq!(connection.receive(&packet(op::CREDIT_REQUEST), &[]), Ok(Heard::Other));
    assert_eq!(connection.next_control(), Some((op::CREDIT_UPDATE, 0)));
}

#[test]
fn what_the_guest_has_sent_is_taken_before_its_end() {
    let mut connection = open();
    connection.receive(&packet(op::RW), b"last").unwrap();
    let both = Header { flags: ended::BOTH, ..packet(op::SHUTDOWN) };
    connection.receive(&both, &[]).unwrap();
    assert_eq!(connection.guest_ended(), ended::RECEIVE);
    assert_eq!((connection.next_control(), connection.credit()), (None, 0));
    assert_eq!(connection.receive(&packet(op::RW), b"more"), Err(Violation));
    connection.take(4);
    assert_eq!(connection.guest_ended(), ended::BOTH);
    assert_eq!(connection.next_control(), Some((op::RST, 0)));
}

#[test]
fn the_guest_is_told_what_the_host_has_ended() {
    let mut connection = open();
    connection.end(ended::SEND);
    assert_eq!(connection.next_control(), Some((op::SHUTDOWN, ended::SEND)));
    assert_eq!((connection.next_control(), connection.credit()), (None, 0));
    connection.receive(&packet(op::RW), b"still").unwrap();
    connection.end(ended::RECEIVE);
    assert_eq!(connection.next_control(), Some((op::SHUTDOWN, ended::BOTH)));
    connection.abandon();
    assert_eq!(connection.next_control(), Some((op::RST, 0)));
}

/// What a guest that keeps to the rules knows of a connection.
#[derive(Default)]
struct Model {
    room: u32,
    /// What it has received and not taken, and taken ever.
    received: Vec<u8>,
    taken: u32,
    /// What it has sent, and what the host has told of its side.
    sent: u32,
    host_room: u32,
    host_forwarded: u32,
}

impl Model {
    fn header(&self, op: u16) -> Header {
        Header { op, allocated: self.room, forwarded: self.taken, ..Header::default() }
    }

    fn learn(&mut self, connection: &mut Connection) {
        let mut header = Header::default();
        connection.stamp(&mut header);
        (self.host_room, self.host_forwarded) = (header.allocated, header.forwarded);
    }

    fn credit(&self) -> u32 {
        self.host_room - self.sent.wrapping_sub(self.host_forwarded)
    }
}

/// What happens next: the guest, or the host, sends or takes so many bytes.
#[derive(Clone, Copy, Debug)]
enum Step {
    GuestSends(u32),
    GuestTakes(usize),
    HostSends(usize),
    HostTakes(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..200_000_u32).prop_map(Step::GuestSends),
        (0..5000_usize).prop_map(Step::GuestTakes),
        (0..5000_usize).prop_map(Step::HostSends),
        (0..200_000_usize).prop_map(Step::HostTakes),
    ]
}

proptest! {
    #[test]
    fn bytes_go_through_in_order_and_within_credit(
        room in 1..4000_u32,
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut guest = Model { room, ..Model::default() };
        let mut connection = Connection::accept(&guest.header(op::REQUEST));
        prop_assert_eq!(connection.next_control(), Some((op::RESPONSE, 0)));
        guest.learn(&mut connection);
        let (mut to_host, mut at_host) = (0_u8, 0_u8);
        let (mut to_guest, mut at_guest) = (0_u8, 0_u8);
        for step in steps {
            match step {
                Step::GuestSends(size) => {
                    let size = size.min(guest.credit());
                    let data: Vec<u8> = (0..size).map(|_| { to_host = to_host.wrapping_add(1); to_host }).collect();
                    guest.sent = guest.sent.wrapping_add(size);
                    prop_assert_eq!(connection.receive(&guest.header(op::RW), &data), Ok(Heard::Other));
                }
                Step::HostTakes(size) => {
                    let (first, second) = connection.received();
                    let taken: Vec<u8> = first.iter().chain(second).copied().take(size).collect();
                    for byte in &taken {
                        at_host = at_host.wrapping_add(1);
                        prop_assert_eq!(*byte, at_host);
                    }
                    connection.take(taken.len());
                }
                Step::HostSends(size) => {
                    let size = size.min(connection.credit());
                    guest.received.extend((0..size).map(|_| { to_guest = to_guest.wrapping_add(1); to_guest }));
                    connection.send(size as u32);
                    prop_assert!(guest.received.len() <= room as usize);
                    guest.learn(&mut connection);
                }
                Step::GuestTakes(size) => {
                    let size = size.min(guest.received.len());
                    for byte in guest.received.drain(..size) {
                        at_guest = at_guest.wrapping_add(1);
                        prop_assert_eq!(byte, at_guest);
                    }
                    guest.taken = guest.taken.wrapping_add(size as u32);
                    connection.receive(&guest.header(op::CREDIT_UPDATE), &[]).unwrap();
                }
            }
            if let Some((op, flags)) = connection.next_control() {
                prop_assert!(matches!((op, flags), (op::CREDIT_UPDATE | op::CREDIT_REQUEST, 0)));
                guest.learn(&mut connection);
            }
            // Who has room is never left without knowing.
            let unknown = connection.forwarded.wrapping_sub(guest.host_forwarded);
            prop_assert!(unknown < TELL_AFTER);
        }
    }

    #[test]
    fn no_packets_make_it_keep_more_than_its_buffer(
        packets in prop::collection::vec(
            (0..9_u16, any::<u32>(), any::<u32>(), any::<u32>(), 0..70_000_usize),
            1..50,
        ),
        is_guests in any::<bool>(),
    ) {
        let request = Header { op: op::REQUEST, ..Header::default() };
        let mut connection =
            if is_guests { Connection::accept(&request) } else { Connection::request() };
        for (op, flags, allocated, forwarded, size) in packets {
            let header = Header { op, flags, allocated, forwarded, ..Header::default() };
            let is_good = connection.receive(&header, &vec![0; size]).is_ok();
            prop_assert!(connection.received.len() <= BUFFER as usize);
            prop_assert!(connection.credit() <= allocated as usize);
            connection.send(connection.credit().min(1000) as u32);
            if !is_good || connection.next_control().is_some_and(|(op, _)| op == op::RST) {
                break;
            }
            connection.take(size / 2);
        }
    }
}
