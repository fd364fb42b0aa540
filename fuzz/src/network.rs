//! A guest's network under frames that no guest would send: [`run`].
//!
//! The bytes are a sequence of steps: frames of the guest's, most of them segments of connections with a server on the host's loopback, near
//! to what would be right; what the server does; the time that goes by. Nothing may come of it but frames of a size that there is.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use user_net::address::{DNS, GATEWAY, GUEST};
use user_net::packet::{ETHERNET, Frame, IPV4, MOST};
use user_net::publish::Published;
use user_net::resolver::Resolver;
use user_net::{Config, Network};

use crate::input::Input;

/// How many steps an input has at most.
const MOST_STEPS: usize = 200;

/// The guest's address on the cable, and its ports.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORTS: [u16; 3] = [1000, 1001, 1002];

/// Protocols. See: RFC 791, 3.1.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The server, which all inputs have: a port of the host's is not free again at once.
static SERVER: LazyLock<(TcpListener, u16)> = LazyLock::new(|| {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there are ports");
    listener.set_nonblocking(true).expect("it is a socket");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
});

/// What is known of a connection: the number that the guest sends next, and the one that it acknowledges.
#[derive(Clone, Copy, Default)]
struct Numbers {
    ours: u32,
    theirs: u32,
}

struct Case {
    network: Network,
    now: Duration,
    numbers: [Numbers; PORTS.len()],
    streams: Vec<TcpStream>,
}

/// Makes the steps that the bytes are.
///
/// # Panics
/// When something comes of it that may not.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let config = Config {
        mac: MAC,
        hostname: "fuzz".into(),
        resolver: Resolver::Fixed((Ipv4Addr::LOCALHOST, SERVER.1).into()),
        published: Arc::new(Published::default()),
        seed: 1,
    };
    let network =
        Network::new(&config, input.u8().is_multiple_of(2)).expect("there are files left");
    let mut case =
        Case { network, now: Duration::ZERO, numbers: Default::default(), streams: Vec::new() };
    for _ in 0..MOST_STEPS {
        if input.is_empty() {
            break;
        }
        case.step(&mut input);
    }
}

/// A packet's header, with its checksum left out: nobody looks at it.
fn packet(to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(((IPV4 + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(GUEST.octets());
    frame.extend(to.octets());
    frame.extend(payload);
    frame
}

impl Case {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 8 {
            0..=3 => self.segment(input),
            4 => self.other(input),
            5 => self.serve(input),
            6 => self.now += Duration::from_millis(input.u16().into()),
            _ => {
                let size = input.u8();
                let frame = input.bytes(size.into()).to_vec();
                self.network.receive(&frame, self.now);
            }
        }
        self.take();
    }

    /// A segment near to what would be right.
    fn segment(&mut self, input: &mut Input<'_>) {
        let which = usize::from(input.u8()) % PORTS.len();
        let Numbers { ours, theirs } = self.numbers[which];
        let near = |input: &mut Input<'_>| match input.u8() {
            200.. => input.u32(),
            byte @ 180.. => u32::from(byte).wrapping_sub(190),
            _ => 0,
        };
        let (sequence, ack) = (ours.wrapping_add(near(input)), theirs.wrapping_add(near(input)));
        let (flags, window) = (input.u8(), input.u16());
        let size = if input.u8() < 64 { usize::from(input.u16()) % 9000 } else { 0 };
        let options = input.u8() as usize % 6 * 4;
        let mut segment = PORTS[which].to_be_bytes().to_vec();
        segment.extend(SERVER.1.to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([(5 + options as u8 / 4) << 4, flags]);
        segment.extend(window.to_be_bytes());
        segment.extend([0; 4]);
        let taken = input.bytes(options);
        segment.extend(taken);
        segment.resize(20 + options + size, 1);
        // SYN and FIN take a number each. See: RFC 9293, 3.4.
        let counted = u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        self.numbers[which].ours = sequence.wrapping_add(size as u32).wrapping_add(counted);
        self.network.receive(&packet(GATEWAY, TCP, &segment), self.now);
    }

    /// Another packet, to an address where nothing leaves the machine.
    fn other(&mut self, input: &mut Input<'_>) {
        let to =
            input.one_of(&[GATEWAY, DNS, GUEST, Ipv4Addr::new(10, 0, 2, 9), Ipv4Addr::BROADCAST]);
        let protocol = input.one_of(&[ICMP, UDP, TCP, 2]);
        let size = input.u8();
        let mut payload = input.bytes(size.into()).to_vec();
        if protocol == UDP && payload.len() >= 8 && input.u8() < 200 {
            // Of the length that it has, and for the server of addresses, or of names.
            let length = (payload.len() as u16).to_be_bytes();
            payload[4..6].copy_from_slice(&length);
            let ports = input.one_of(&[[0, 68, 0, 67], [4, 0, 0, 53]]);
            payload[..4].copy_from_slice(&ports);
        }
        self.network.receive(&packet(to, protocol, &payload), self.now);
    }

    /// What the server does.
    fn serve(&mut self, input: &mut Input<'_>) {
        if let Ok((stream, _)) = SERVER.0.accept() {
            stream.set_nonblocking(true).expect("it is a socket");
            self.streams.push(stream);
        }
        if self.streams.is_empty() {
            return;
        }
        let which = usize::from(input.u8()) % self.streams.len();
        let stream = &mut self.streams[which];
        match input.u8() % 4 {
            0 => drop(stream.write(&vec![7; input.u16().into()])),
            1 => drop(stream.read(&mut vec![0; input.u16().into()])),
            2 => drop(stream.shutdown(std::net::Shutdown::Write)),
            _ => drop(self.streams.remove(which)),
        }
    }

    /// Takes what there is for the guest.
    fn take(&mut self) {
        let mut frame = Frame::default();
        self.network.wake(self.now);
        for _ in 0..64 {
            if !self.network.next(&mut frame, self.now) {
                break;
            }
            assert!((ETHERNET..=MOST).contains(&frame.bytes.len()), "{}", frame.bytes.len());
            self.note(&frame.bytes);
        }
        if let Some(at) = self.network.deadline() {
            assert!(at > Duration::ZERO);
        }
    }

    /// Takes note of a connection's numbers.
    fn note(&mut self, frame: &[u8]) {
        let Some(segment) = frame.get(ETHERNET + IPV4..).filter(|rest| rest.len() >= 20) else {
            return;
        };
        if frame[ETHERNET + 9] != TCP {
            return;
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| segment[at + n]));
        let port = u16::from_be_bytes([segment[2], segment[3]]);
        let Some(which) = PORTS.iter().position(|own| *own == port) else { return };
        let header = usize::from(segment[12] >> 4) * 4;
        let size = segment.len().saturating_sub(header) as u32;
        let counted = u32::from(segment[13] & 1) + u32::from(segment[13] >> 1 & 1);
        let theirs = word(4).wrapping_add(size).wrapping_add(counted);
        self.numbers[which] = Numbers { ours: word(8), theirs };
    }
}
