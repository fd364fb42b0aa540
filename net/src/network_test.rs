//! Tests of the network with a guest that speaks TCP properly, and sockets of the host's loopback; and with one that keeps to no rule.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Instant as Clock;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr,
    UdpPacket, UdpRepr,
};

use super::*;
use crate::address::{MTU, PREFIX};
use crate::packet::ETHERNET;
use crate::publish::Port;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LIMIT: Duration = Duration::from_secs(60);

/// The guest's network card.
#[derive(Default)]
struct Card {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, size: usize, fill: F) -> R {
        let mut frame = vec![0; size];
        let result = fill(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        Some((Incoming(self.incoming.pop_front()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut all = DeviceCapabilities::default();
        all.medium = Medium::Ethernet;
        all.max_transmission_unit = packet::MOST;
        all
    }
}

/// A network, and a guest in it.
struct Bench {
    network: Network,
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    began: Clock,
    next_port: u16,
}

fn config(published: Published) -> Config {
    Config {
        mac: MAC,
        hostname: String::new(),
        resolver: Resolver::Fixed("127.0.0.1:1".parse().unwrap()),
        published: Arc::new(published),
        seed: 5,
    }
}

impl Bench {
    fn new(config: &Config) -> Self {
        let mut card = Card::default();
        let hardware = HardwareAddress::Ethernet(EthernetAddress(MAC));
        let own = smoltcp::iface::Config::new(hardware);
        let mut interface = Interface::new(own, &mut card, Instant::ZERO);
        let address = IpCidr::new(IpAddress::Ipv4(GUEST), PREFIX);
        interface.update_ip_addrs(|all| all.push(address).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Self {
            network: Network::new(config, false).unwrap(),
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            began: Clock::now(),
            next_port: 1024,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Moves frames both ways, once.
    fn turn(&mut self) {
        let now = self.now();
        let instant = Instant::from_micros(now.as_micros() as i64);
        self.interface.poll(instant, &mut self.card, &mut self.sockets);
        for frame in self.card.outgoing.drain(..) {
            self.network.receive(&frame, now);
        }
        self.network.wake(now);
        let mut frame = Frame::default();
        while self.card.incoming.len() < 64 && self.network.next(&mut frame, now) {
            self.card.incoming.push_back(frame.bytes.clone());
        }
        if self.card.incoming.is_empty() {
            let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let _ = poll(&mut [PollFd::new(&self.network, PollFlags::IN)], Some(&wait));
        }
    }

    /// Moves frames until something is so, but not for ever.
    fn until<T>(&mut self, mut what: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            self.turn();
            if let Some(found) = what(self) {
                return found;
            }
            assert!(self.now() < LIMIT, "it does not come");
        }
    }

    fn add(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 128 << 10]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn connect(&mut self, to: Ipv4Addr, port: u16) -> SocketHandle {
        let handle = self.add();
        self.next_port += 1;
        let (remote, local) = ((IpAddress::Ipv4(to), port), self.next_port);
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(self.interface.context(), remote, local).unwrap();
        handle
    }

    fn established(&mut self, handle: SocketHandle) {
        self.until(|bench| (bench.socket(handle).state() == State::Established).then_some(()));
    }

    /// Sends a packet past the guest's own TCP, and gives the answer's.
    fn ask(&mut self, to: Ipv4Addr, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        self.send(to, protocol, payload);
        let mut frame = Frame::default();
        let network = &mut self.network;
        let began = Clock::now();
        loop {
            network.wake(began.elapsed());
            if network.next(&mut frame, began.elapsed()) {
                return frame.bytes.split_off(ETHERNET);
            }
            assert!(began.elapsed() < LIMIT, "it does not come");
            let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let _ = poll(&mut [PollFd::new(&*network, PollFlags::IN)], Some(&wait));
        }
    }

    fn send(&mut self, to: Ipv4Addr, protocol: Protocol, payload: &[u8]) {
        let mut frame = Frame::default();
        let link = Link { guest: EthernetAddress([2; 6]), router: EthernetAddress(MAC) };
        frame.set_ipv4(&link, GUEST, to, protocol, payload.len(), |bytes| {
            bytes.copy_from_slice(payload);
        });
        self.network.receive(&frame.bytes, self.began.elapsed());
    }
}

fn bench() -> Bench {
    Bench::new(&config(Published::default()))
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let ports = UdpRepr { src_port: from, dst_port: to };
    let mut bytes = vec![0; ports.header_len() + payload.len()];
    let (source, destination) = (IpAddress::Ipv4(GUEST), IpAddress::Ipv4(GATEWAY));
    ports.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[..]),
        &source,
        &destination,
        payload.len(),
        |room| room.copy_from_slice(payload),
        &ChecksumCapabilities::ignored(),
    );
    bytes
}

/// Bytes that are not the same anywhere soon.
fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

#[test]
fn megabytes_go_both_ways_and_each_end_is_told() {
    let mut bench = bench();
    let (listener, port) = listen();
    let all = bytes(4 << 20);
    let expected = all.clone();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} bytes", got.len());
        stream.write_all(&got).unwrap();
    });
    let handle = bench.connect(GATEWAY, port);
    let (mut sent, mut back) = (0, Vec::new());
    bench.until(|bench| {
        let socket = bench.socket(handle);
        if sent < all.len() && socket.can_send() {
            sent += socket.send_slice(&all[sent..]).unwrap();
            if sent == all.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), back.extend_from_slice(bytes))).unwrap();
        }
        (sent == all.len() && !socket.may_recv() && socket.state() != State::SynSent).then_some(())
    });
    host.join().unwrap();
    assert!(back == all, "{} bytes", back.len());
    bench.until(|bench| (bench.network.connections.count() == 0).then_some(()));
}

#[test]
fn what_nobody_listens_at_is_refused() {
    let mut bench = bench();
    let (listener, port) = listen();
    drop(listener);
    let nowhere = [(GATEWAY, port), (DNS, 80), (Ipv4Addr::new(10, 0, 2, 99), 80), (GATEWAY, 1)];
    for (address, port) in nowhere {
        // Nobody answers for the others in the network, so it is sent to the router.
        let handle = bench.connect(GATEWAY, port);
        let ends = (address, port);
        bench.until(|bench| (bench.socket(handle).state() == State::Closed).then_some(()));
        assert_eq!(bench.network.connections.count(), 0, "{ends:?}");
    }
}

#[test]
fn there_are_no_connections_with_many_or_with_nobody() {
    let mut bench = bench();
    let mut syn = [0; 20];
    (syn[1], syn[3], syn[12], syn[13]) = (77, 80, 5 << 4, 2);
    let mut frame = Frame::default();
    for (to, is_answered) in [
        ("255.255.255.255", false),
        ("10.0.2.255", false),
        ("224.0.0.1", false),
        ("0.0.0.0", true),
        ("240.0.0.1", true),
        ("127.0.0.1", true),
        ("10.0.2.15", true),
    ] {
        bench.send(to.parse().unwrap(), Protocol::Tcp, &syn);
        assert_eq!(bench.network.next(&mut frame, Duration::ZERO), is_answered, "{to}");
        assert_eq!(bench.network.connections.count(), 0, "{to}");
    }
}

#[test]
fn a_server_that_stops_reading_holds_the_guest_up() {
    let mut bench = bench();
    let (listener, port) = listen();
    let handle = bench.connect(GATEWAY, port);
    bench.established(handle);
    let (mut stream, _) = listener.accept().unwrap();
    let (mut sent, mut since, piece) = (0, Clock::now(), [7; 1 << 16]);
    // Until nothing has gone for a while.
    bench.until(|bench| {
        let socket = bench.socket(handle);
        if socket.can_send() {
            sent += socket.send_slice(&piece).unwrap();
            since = Clock::now();
        }
        (since.elapsed() > Duration::from_millis(300)).then_some(())
    });
    assert!(sent < 64 << 20, "{sent}: it is the buffers of both");
    bench.socket(handle).close();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got.len()
    });
    bench.until(|_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap(), sent, "nothing is lost");
}

#[test]
fn a_guest_that_stops_reading_holds_the_server_up() {
    let mut bench = bench();
    let (listener, port) = listen();
    let handle = bench.connect(GATEWAY, port);
    bench.established(handle);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut since, piece) = (0, Clock::now(), bytes(1 << 16));
    bench.until(|_| {
        if let Ok(size) = stream.write(&piece[sent % piece.len()..]) {
            sent += size;
            since = Clock::now();
        }
        (since.elapsed() > Duration::from_millis(300)).then_some(())
    });
    drop(stream);
    let mut got = 0;
    bench.until(|bench| {
        let socket = bench.socket(handle);
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    let right = bytes
                        .iter()
                        .enumerate()
                        .all(|(n, byte)| *byte == piece[(got + n) % piece.len()]);
                    assert!(right);
                    got += bytes.len();
                    (bytes.len(), ())
                })
                .unwrap();
        }
        (!socket.may_recv()).then_some(())
    });
    assert_eq!(got, sent, "nothing is lost");
}

#[test]
fn a_program_that_is_killed_is_a_reset_on_either_side() {
    let mut bench = bench();
    let (listener, port) = listen();
    let handle = bench.connect(GATEWAY, port);
    bench.established(handle);
    let (mut stream, _) = listener.accept().unwrap();
    bench.socket(handle).abort();
    bench.until(|bench| (bench.network.connections.count() == 0).then_some(()));
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let handle = bench.connect(GATEWAY, port);
    bench.established(handle);
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    bench.until(|bench| (bench.socket(handle).state() == State::Closed).then_some(()));
    // And a guest that is switched off.
    let handle = bench.connect(GATEWAY, port);
    bench.established(handle);
    let (mut stream, _) = listener.accept().unwrap();
    drop(bench);
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn connections_beyond_the_most_are_refused_and_forgotten_ones_make_room() {
    let mut bench = bench();
    let (_listener, port) = listen();
    let syn = |from: u16| {
        let mut bytes = [0; 20];
        bytes[..2].copy_from_slice(&from.to_be_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[12] = 5 << 4;
        bytes[13] = 2;
        bytes
    };
    // As many as this process may have files, or connections.
    for from in 1..=5000 {
        bench.send(GATEWAY, Protocol::Tcp, &syn(from));
    }
    let count = bench.network.connections.count();
    assert!((100..=crate::tcp::MOST).contains(&count), "{count}");
    assert!(bench.network.answers.len() <= MOST_ANSWERS);
    // None of them is ever acknowledged.
    let (late, mut frame) = (bench.now() + Duration::from_secs(200), Frame::default());
    bench.network.wake(late);
    while bench.network.next(&mut frame, late) {}
    assert_eq!(bench.network.connections.count(), 0);
}

#[test]
fn a_published_port_leads_to_the_guest() {
    let host = "127.0.0.1:0".parse().unwrap();
    let ports =
        [Transport::Tcp, Transport::Udp].map(|transport| Port { transport, host, guest: 80 });
    let published = Published::bind(&ports).unwrap();
    let address = |number: usize| {
        let socket = &*published.listeners()[number].socket;
        SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap()
    };
    let (tcp, udp) = (address(0), address(1));
    let mut bench = Bench::new(&config(published));
    let handle = bench.add();
    bench.socket(handle).listen(80).unwrap();
    let mut stream = TcpStream::connect(tcp).unwrap();
    stream.write_all(b"question").unwrap();
    let question = bench.until(|bench| {
        let socket = bench.socket(handle);
        let whole = socket.recv_queue() == 8;
        whole.then(|| socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap())
    });
    assert_eq!(question, b"question");
    bench.socket(handle).send_slice(b"answer").unwrap();
    bench.socket(handle).close();
    let reader = std::thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    bench.until(|_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap().unwrap(), "answer");
    // A second one, for which nobody listens.
    let mut stream = TcpStream::connect(tcp).unwrap();
    let reader = std::thread::spawn(move || stream.read(&mut [0]).map_err(|error| error.kind()));
    bench.until(|_| reader.is_finished().then_some(()));
    assert_eq!(reader.join().unwrap(), Err(io::ErrorKind::ConnectionReset));
    // A datagram, and the answer to the port that it seems to come from.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(b"ping", udp).unwrap();
    let mut frame = Frame::default();
    let now = bench.now();
    let mut network = bench.network;
    while !network.next(&mut frame, now) {
        network.wake(now);
    }
    let packet = ipv4(&frame.bytes[ETHERNET..]).unwrap();
    let got = UdpPacket::new_checked(packet.payload).unwrap();
    assert_eq!((got.dst_port(), got.payload(), packet.source), (80, &b"ping"[..], GATEWAY));
    let back = got.src_port();
    bench.network = network;
    bench.send(GATEWAY, Protocol::Udp, &datagram(80, back, b"pong"));
    let mut bytes = [0; 8];
    assert_eq!(socket.recv_from(&mut bytes).unwrap(), (4, udp));
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_it() {
    let (listener, port) = listen();
    let host = listener.local_addr().unwrap();
    let taken = Port { transport: Transport::Tcp, host, guest: 80 };
    let error = Published::bind(&[taken]).err().unwrap();
    assert_eq!((error.port, error.source.kind()), (taken, io::ErrorKind::AddrInUse));
    assert_eq!(error.port.host.port(), port);
}

#[test]
fn datagrams_go_to_the_host_and_names_are_asked_of_its_resolver() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    let address = server.local_addr().unwrap();
    let resolver = Resolver::Fixed(address);
    let mut bench = Bench::new(&Config { resolver, ..config(Published::default()) });
    for (to, port) in [(GATEWAY, address.port()), (DNS, DNS_PORT)] {
        bench.send(to, Protocol::Udp, &datagram(4000, port, b"who?"));
        let mut bytes = [0; 8];
        let (size, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..size], b"who?");
        server.send_to(b"me", from).unwrap();
        let answer = bench.ask(to, Protocol::Udp, &datagram(4000, port, b"again"));
        let packet = ipv4(&answer).unwrap();
        let got = UdpPacket::new_checked(packet.payload).unwrap();
        assert_eq!((packet.source, got.src_port(), got.payload()), (to, port, &b"me"[..]));
        server.recv_from(&mut bytes).unwrap();
    }
    assert_eq!(bench.network.flows.count(), 2);
    bench.network.wake(bench.now() + Duration::from_secs(60));
    assert_eq!(bench.network.flows.count(), 1, "a question is forgotten sooner");
    bench.network.wake(bench.now() + Duration::from_secs(600));
    assert_eq!(bench.network.flows.count(), 0);
}

#[test]
fn a_datagram_for_nobody_is_told_so() {
    let mut bench = bench();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases = [
        (GATEWAY, free, Unreachable::PortUnreachable),
        (DNS, 54, Unreachable::PortUnreachable),
        (Ipv4Addr::new(10, 0, 2, 77), 9, Unreachable::HostUnreachable),
    ];
    for (to, port, expected) in cases {
        let answer = bench.ask(to, Protocol::Udp, &datagram(4000, port, b"anybody?"));
        let packet = ipv4(&answer).unwrap();
        let message = Icmpv4Packet::new_checked(packet.payload).unwrap();
        let sums = ChecksumCapabilities::default();
        let Icmpv4Repr::DstUnreachable { reason, header, data } =
            Icmpv4Repr::parse(&message, &sums).unwrap()
        else {
            panic!("it is another message");
        };
        assert_eq!((reason, header.dst_addr), (expected, to));
        assert_eq!(data[..2], 4000_u16.to_be_bytes(), "its sender knows it again");
    }
}

#[test]
fn flows_are_bounded() {
    let mut bench = bench();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    for from in 1..=2000 {
        bench.send(GATEWAY, Protocol::Udp, &datagram(from, port, b"x"));
        assert!(bench.network.flows.count() <= crate::udp::MOST);
    }
}

#[test]
fn the_router_answers_echoes_itself() {
    let mut bench = bench();
    for to in [GATEWAY, DNS] {
        let echo = Icmpv4Repr::EchoRequest { ident: 9, seq_no: 3, data: &[5; 1000] };
        let mut bytes = vec![0; echo.buffer_len()];
        let sums = ChecksumCapabilities::default();
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes[..]), &sums);
        let answer = bench.ask(to, Protocol::Icmp, &bytes);
        let packet = ipv4(&answer).unwrap();
        let message = Icmpv4Packet::new_checked(packet.payload).unwrap();
        let read = Icmpv4Repr::parse(&message, &sums).unwrap();
        assert_eq!(read, Icmpv4Repr::EchoReply { ident: 9, seq_no: 3, data: &[5; 1000] });
        assert_eq!(packet.source, to);
    }
}

#[test]
fn stations_are_the_router_and_the_resolver() {
    let mut bench = bench();
    let mut ask = |target: Ipv4Addr| {
        let question = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(MAC),
            source_protocol_addr: GUEST,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut frame = Frame::default();
        let (from, to) = (EthernetAddress(MAC), EthernetAddress::BROADCAST);
        frame.set(from, to, EthernetProtocol::Arp, question.buffer_len(), |bytes| {
            question.emit(&mut ArpPacket::new_unchecked(bytes));
        });
        bench.network.receive(&frame.bytes, Duration::ZERO);
        bench.network.next(&mut frame, Duration::ZERO)
    };
    assert!(ask(GATEWAY) && ask(DNS));
    assert!(!ask(GUEST) && !ask(Ipv4Addr::new(10, 0, 2, 4)), "the guest's own is nobody else's");
}

#[test]
fn a_guest_under_another_address_is_not_heard() {
    let mut bench = bench();
    let mut frame = Frame::default();
    let link = Link { guest: EthernetAddress([2; 6]), router: EthernetAddress(MAC) };
    let payload = datagram(1, 2, b"x");
    let stranger = Ipv4Addr::new(10, 0, 2, 16);
    frame.set_ipv4(&link, stranger, GATEWAY, Protocol::Udp, payload.len(), |bytes| {
        bytes.copy_from_slice(&payload);
    });
    bench.network.receive(&frame.bytes, Duration::ZERO);
    assert_eq!(bench.network.flows.count(), 0);
    assert!(!bench.network.next(&mut frame, Duration::ZERO));
    assert!(usize::from(MTU) + ETHERNET == packet::MOST);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_frames_make_it_panic(frames in prop::collection::vec(
        (any::<bool>(), 0..4_usize, prop::collection::vec(any::<u8>(), 0..120), 0..120_usize, any::<u8>()), 0..60,
    )) {
        let mut bench = bench();
        let mut now = Duration::ZERO;
        for (is_raw, kind, payload, at, byte) in frames {
            let mut frame = Frame::default();
            if is_raw {
                frame.bytes = payload;
            } else {
                let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp, Protocol::Igmp][kind];
                let link = Link { guest: EthernetAddress([2; 6]), router: EthernetAddress(MAC) };
                // Never further than the router.
                frame.set_ipv4(&link, GUEST, GATEWAY, protocol, payload.len(), |bytes| {
                    bytes.copy_from_slice(&payload);
                });
                // The addresses stay what they are.
                let spared = ETHERNET + 12..ETHERNET + 20;
                if at < frame.bytes.len() && !spared.contains(&at) {
                    frame.bytes[at] = byte;
                }
            }
            bench.network.receive(&frame.bytes, now);
            now += Duration::from_millis(200);
            bench.network.wake(now);
            for _ in 0..8 {
                bench.network.next(&mut frame, now);
            }
        }
    }
}
