//! Tests of the switch, with programs on the host that are sockets of the test's, and a guest that is the test.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rustix::event::{Timespec, poll};

use super::super::listener::SocketFile;
use super::super::packet::ended;
use super::*;

struct Bench {
    folder: tempfile::TempDir,
    _file: SocketFile,
    switch: Switch,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (listener, file) = Listener::bind(&folder.path().join("socket")).unwrap();
        Self { folder, _file: file, switch: Switch::new(Arc::new(listener)) }
    }

    /// A program that connects to the guest, and what it says first.
    fn call(&self, line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        stream
    }

    /// A program that the guest can connect to.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("socket_{port}"))).unwrap()
    }

    /// Does what can be done at once; gives the packets for the guest.
    fn turn(&mut self) -> Vec<(Header, Vec<u8>)> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut interests = self.switch.interests(true);
        poll(&mut interests, Some(&at_once)).unwrap();
        let flags: Vec<_> = interests.iter().map(PollFd::revents).collect();
        self.switch.wake(&flags);
        self.switch.begin();
        std::iter::from_fn(|| self.switch.next(4096)).collect()
    }

    /// The next packet for the guest.
    fn next(&mut self) -> (Header, Vec<u8>) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let mut packets = self.turn();
            if !packets.is_empty() {
                assert_eq!(packets.len(), 1, "{packets:?}");
                return packets.remove(0);
            }
            assert!(Instant::now() < until, "nothing comes");
        }
    }

    fn next_op(&mut self) -> (u16, u32) {
        let (header, _) = self.next();
        (header.op, header.flags)
    }

    /// The guest sends a packet of a connection.
    fn send(&mut self, ports: Ports, op: u16, flags: u32, data: &[u8]) {
        let header = Header { size: data.len() as u32, op, flags, ..packet(ports) };
        self.switch.receive(&header, data);
    }

    /// A connection that a program on the host has asked for and the guest has accepted.
    fn called(&mut self) -> (UnixStream, Ports) {
        let stream = self.call("CONNECT 52\n");
        let (request, _) = self.next();
        assert_eq!((request.op, request.destination_port), (op::REQUEST, 52));
        let ports = Ports { host: request.source_port, guest: 52 };
        self.send(ports, op::RESPONSE, 0, &[]);
        assert_eq!(read(&stream, 14), format!("OK {}\n", ports.host).as_bytes());
        (stream, ports)
    }
}

/// A packet of the guest's, which has room for 8192 bytes.
fn packet(ports: Ports) -> Header {
    Header {
        source: GUEST,
        destination: HOST,
        source_port: ports.guest,
        destination_port: ports.host,
        kind: STREAM,
        allocated: 8192,
        ..Header::default()
    }
}

/// So many bytes that a program reads.
fn read(mut stream: &UnixStream, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Whether a program finds that it is hung up on.
fn is_closed(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn a_program_on_the_host_reaches_one_in_the_guest() {
    let mut bench = Bench::new();
    let (mut stream, ports) = bench.called();
    stream.write_all(b"question").unwrap();
    let (header, data) = bench.next();
    assert_eq!((header.op, header.size, data.as_slice()), (op::RW, 8, &b"question"[..]));
    assert_eq!((header.source, header.destination, header.kind), (HOST, GUEST, STREAM));
    bench.send(ports, op::RW, 0, b"answer");
    assert_eq!(read(&stream, 6), b"answer");
}

#[test]
fn what_is_said_behind_the_line_is_the_guests() {
    let mut bench = Bench::new();
    let _stream = bench.call("CONNECT 1024\nfirst");
    let (request, _) = bench.next();
    let ports = Ports { host: request.source_port, guest: 1024 };
    bench.send(ports, op::RESPONSE, 0, &[]);
    assert_eq!(bench.next().1, b"first");
}

#[test]
fn a_line_may_come_in_parts() {
    let mut bench = Bench::new();
    let mut stream = bench.call("CONN");
    assert_eq!(bench.turn(), []);
    stream.write_all(b"ECT 7").unwrap();
    assert_eq!(bench.turn(), []);
    stream.write_all(b"\n").unwrap();
    assert_eq!(bench.next().0.destination_port, 7);
}

#[test]
fn who_asks_for_no_port_is_hung_up_on() {
    let mut bench = Bench::new();
    let lines = [
        "\n",
        "CONNECT\n",
        "CONNECT \n",
        "CONNECT +7\n",
        "connect 7\n",
        "CONNECT 4294967296\n",
        "CONNECT 7 \n",
        "CONNECT 00000000000000007",
    ];
    for line in lines {
        let stream = bench.call(line);
        let until = Instant::now() + Duration::from_secs(20);
        bench.turn();
        while !bench.switch.callers.is_empty() {
            assert!(Instant::now() < until, "{line:?}");
            bench.turn();
        }
        assert!(is_closed(&stream), "{line:?}");
    }
    assert!(bench.switch.endpoints.is_empty());
}

#[test]
fn a_port_that_nobody_listens_at_is_refused_either_way() {
    let mut bench = Bench::new();
    let stream = bench.call("CONNECT 9\n");
    let (request, _) = bench.next();
    bench.send(Ports { host: request.source_port, guest: 9 }, op::RST, 0, &[]);
    assert!(is_closed(&stream));
    bench.send(Ports { host: 9, guest: 1000 }, op::REQUEST, 0, &[]);
    let (reset, _) = bench.next();
    assert_eq!((reset.op, reset.source_port, reset.destination_port), (op::RST, 9, 1000));
}

#[test]
fn a_program_in_the_guest_reaches_one_on_the_host() {
    let mut bench = Bench::new();
    let listener = bench.listen(80);
    let ports = Ports { host: 80, guest: 1000 };
    bench.send(ports, op::REQUEST, 0, &[]);
    assert_eq!(bench.next_op(), (op::RESPONSE, 0));
    let (mut stream, _) = listener.accept().unwrap();
    bench.send(ports, op::RW, 0, b"hello");
    assert_eq!(read(&stream, 5), b"hello");
    stream.write_all(b"welcome").unwrap();
    assert_eq!(bench.next().1, b"welcome");
    // The guest closes: what it sent is there, then the end.
    bench.send(ports, op::RW, 0, b"bye");
    bench.send(ports, op::SHUTDOWN, ended::BOTH, &[]);
    assert_eq!(bench.next_op(), (op::RST, 0));
    assert_eq!(read(&stream, 3), b"bye");
    assert!(is_closed(&stream) && bench.switch.endpoints.is_empty());
}

#[test]
fn each_side_may_end_before_the_other() {
    let mut bench = Bench::new();
    let (mut stream, ports) = bench.called();
    stream.write_all(b"all").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let packets = [bench.turn(), bench.turn()].concat();
    let ops: Vec<_> = packets.iter().map(|(header, _)| (header.op, header.flags)).collect();
    assert_eq!(ops, [(op::RW, 0), (op::SHUTDOWN, ended::SEND)]);
    bench.send(ports, op::RW, 0, b"answer");
    assert_eq!(read(&stream, 6), b"answer");
    bench.send(ports, op::SHUTDOWN, ended::BOTH, &[]);
    assert_eq!(bench.next_op(), (op::RST, 0));
    assert!(is_closed(&stream));
}

#[test]
fn a_program_that_is_gone_is_told_to_the_guest() {
    let mut bench = Bench::new();
    let (mut stream, ports) = bench.called();
    stream.write_all(b"last").unwrap();
    drop(stream);
    let until = Instant::now() + Duration::from_secs(20);
    let mut packets = Vec::new();
    while !packets.iter().any(|(header, _): &(Header, _)| header.flags == ended::BOTH) {
        assert!(Instant::now() < until, "{packets:?}");
        packets.extend(bench.turn());
    }
    assert_eq!((packets[0].0.op, packets[0].1.as_slice()), (op::RW, &b"last"[..]));
    assert!(packets[1..].iter().all(|(header, _)| header.op == op::SHUTDOWN));
    // What is sent to nobody is refused.
    bench.send(ports, op::RW, 0, b"lost");
    assert_eq!(bench.next_op(), (op::RST, 0));
    assert!(bench.switch.endpoints.is_empty());
}

#[test]
fn a_program_that_is_gone_is_told_to_a_guest_that_reads_nothing() {
    let mut bench = Bench::new();
    let (stream, ports) = bench.called();
    bench.send(ports, op::SHUTDOWN, ended::RECEIVE, &[]);
    assert_eq!(bench.turn(), []);
    drop(stream);
    assert_eq!(bench.next_op(), (op::SHUTDOWN, ended::BOTH));
}

#[test]
fn a_caller_that_does_not_wait_has_its_request_taken_back() {
    let mut bench = Bench::new();
    drop(bench.call("CONNECT 52\n"));
    let ops: Vec<_> = std::iter::repeat_with(|| bench.turn()).take(4).flatten().collect();
    let ops: Vec<_> = ops.iter().map(|(header, _)| header.op).collect();
    assert!(ops == [op::REQUEST, op::RST] || ops == [op::RST], "{ops:?}");
    assert!(bench.switch.endpoints.is_empty());
}

#[test]
fn a_program_that_does_not_read_stops_the_guest_and_loses_nothing() {
    let mut bench = Bench::new();
    let (mut stream, ports) = bench.called();
    let (mut sent, mut got) = (0_usize, 0);
    let mut bytes = vec![0; 1 << 16];
    let mut room = super::super::connection::BUFFER as usize;
    while sent < 1 << 20 {
        let size = room.min(4096);
        let data: Vec<u8> = (sent..sent + size).map(|at| (at % 251) as u8).collect();
        bench.send(ports, op::RW, 0, &data);
        (sent, room) = (sent + size, room - size);
        if room == 0 {
            // It is full: the program takes something at last.
            let size = stream.read(&mut bytes).unwrap();
            assert!((got..).zip(&bytes[..size]).all(|(at, byte)| *byte == (at % 251) as u8));
            got += size;
        }
        for (header, _) in bench.turn() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            room = header.allocated as usize - (sent - header.forwarded as usize);
        }
    }
}

#[test]
fn the_guests_nonsense_is_refused_or_heard_by_nobody() {
    let mut bench = Bench::new();
    let (stream, ports) = bench.called();
    let other = Ports { host: 1, guest: 2 };
    for op in [0, op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 99] {
        bench.send(other, op, 0, &[]);
        assert_eq!(bench.next_op(), (op::RST, 0), "{op}");
    }
    bench.send(other, op::RST, 0, &[]);
    let header = Header { op: op::REQUEST, ..packet(ports) };
    bench.switch.receive(&Header { source: 4, ..header }, &[]);
    bench.switch.receive(&Header { destination: 1, ..header }, &[]);
    assert_eq!(bench.turn(), []);
    bench.switch.receive(&Header { kind: 2, ..header }, &[]);
    let (reset, _) = bench.next();
    assert_eq!((reset.op, reset.kind), (op::RST, 2));
    assert!(is_closed(&stream), "that was its connection");
}

#[test]
fn there_are_no_more_connections_than_may_be() {
    let mut bench = Bench::new();
    let listener = bench.listen(80);
    let mut streams = Vec::new();
    for guest in 0..MOST as u32 + 5 {
        bench.send(Ports { host: 80, guest }, op::REQUEST, 0, &[]);
        let expected = if streams.len() < MOST { op::RESPONSE } else { op::RST };
        assert_eq!(bench.next_op().0, expected, "{guest}");
        if expected == op::RESPONSE {
            streams.push(listener.accept().unwrap());
        }
    }
    // One of the host's waits until there is room.
    let _waiting = bench.call("CONNECT 52\n");
    assert_eq!(bench.turn(), []);
    bench.send(Ports { host: 80, guest: 0 }, op::RST, 0, &[]);
    assert_eq!(bench.next_op().0, op::REQUEST);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_packets_make_it_panic_or_keep_more_than_it_may(
        packets in prop::collection::vec(
            (0..3_u32, 0..3_u32, 0..9_u16, 0..5_u32, 0..3_u16, 0..5000_usize, any::<u32>()),
            1..200,
        ),
    ) {
        let mut bench = Bench::new();
        let listener = bench.listen(1);
        listener.set_nonblocking(true).unwrap();
        let mut streams = Vec::new();
        for (host, guest, op, flags, kind, size, forwarded) in packets {
            let header = Header { op, flags, kind, forwarded, size: size as u32, ..packet(Ports { host, guest }) };
            bench.switch.receive(&header, &vec![0; size]);
            prop_assert!(bench.switch.endpoints.len() <= 9 && bench.switch.resets.len() <= 200);
            streams.extend(listener.accept().ok());
            if op == 0 {
                streams.pop();
                bench.turn();
            }
        }
    }

    #[test]
    fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..30)) {
        let text = String::from_utf8_lossy(&line);
        let expected = text.strip_prefix("CONNECT ").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        prop_assert_eq!(port(text.as_bytes()), expected.and_then(|rest| rest.parse().ok()));
    }
}
