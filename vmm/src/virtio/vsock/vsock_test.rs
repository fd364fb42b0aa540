//! Tests of the device: packets through its queues, and a driver that keeps to no rule.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use hv::Event;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, MEMORY, wait_for};

/// Where the test's guest has its packets, to the device and from it.
const OUT: u64 = 0x1_0000;
const IN: u64 = 0x4_0000;

struct Bench {
    device: Vsock,
    to_guest: Driver,
    from_guest: Driver,
    interrupt: Arc<Interrupt>,
    folder: tempfile::TempDir,
    _file: listener::SocketFile,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (listener, file) = Listener::bind(&folder.path().join("socket")).unwrap();
        let device = Vsock::new(listener).unwrap();
        let interrupt = Arc::new(Interrupt::new(QUEUES, Arc::new(|_| {}), Arc::new(|_| {})));
        let to_guest = Driver::new();
        let from_guest = Driver::at(Arc::clone(&to_guest.memory), 0x8000);
        let bench = Self { device, to_guest, from_guest, interrupt, folder, _file: file };
        bench.activate();
        bench
    }

    fn activate(&self) {
        let queue = |driver: &Driver| Some(driver.queue(Arc::clone(&self.interrupt)));
        let queues = vec![queue(&self.to_guest), queue(&self.from_guest), None];
        let interrupt = Arc::clone(&self.interrupt);
        self.device.activate(Active { queues, features: 0, interrupt });
    }

    fn send(&mut self, header: &Header, data: &[u8]) {
        let bytes = [&header.encode()[..], data].concat();
        self.from_guest.memory.write_slice(&bytes, GuestAddress(OUT)).unwrap();
        // As Linux has it: header and data apart.
        let header = Buffer { address: OUT, size: packet::SIZE as u32 };
        let data = Buffer { address: OUT + packet::SIZE as u64, size: data.len() as u32 };
        self.from_guest.send(&[header, data], &[]);
        self.device.queue_event(1).unwrap().signal();
    }

    /// Gives the device a buffer, and waits for a packet in it.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        self.to_guest.send(
            &[],
            &[Buffer { address: IN, size: 44 }, Buffer { address: IN + 100, size: 4096 }],
        );
        self.device.queue_event(0).unwrap().signal();
        let (to_guest, mut header) = (&mut self.to_guest, [0; packet::SIZE]);
        let (_, size) = wait_for(|| to_guest.take());
        to_guest.memory.read_slice(&mut header, GuestAddress(IN)).unwrap();
        let mut data = vec![0; size as usize - packet::SIZE];
        to_guest.memory.read_slice(&mut data, GuestAddress(IN + 100)).unwrap();
        let header = Header::decode(&header);
        assert_eq!(header.size as usize, data.len());
        (header, data)
    }
}

/// A packet from the guest's port 1000 to the host's port 80.
fn to_host(op: u16, size: usize) -> Header {
    Header {
        source: GUEST,
        destination: HOST,
        source_port: 1000,
        destination_port: 80,
        size: size as u32,
        kind: packet::STREAM,
        op,
        allocated: 1 << 16,
        ..Header::default()
    }
}

#[test]
fn bytes_go_both_ways_and_a_reset_ends_it() {
    let mut bench = Bench::new();
    let listener = UnixListener::bind(bench.folder.path().join("socket_80")).unwrap();
    bench.send(&to_host(packet::op::REQUEST, 0), &[]);
    assert_eq!(bench.receive().0.op, packet::op::RESPONSE);
    let (mut stream, _) = listener.accept().unwrap();
    bench.send(&to_host(packet::op::RW, 8), b"question");
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"question");
    stream.write_all(b"answer").unwrap();
    assert_eq!(bench.receive().1, b"answer");
    bench.device.reset();
    assert!(matches!(stream.read(&mut bytes), Ok(0)));
    assert!(!bench.interrupt.needs_reset());
}

#[test]
fn who_calls_before_there_is_a_driver_waits() {
    let mut bench = Bench::new();
    bench.device.reset();
    let path = bench.folder.path().join("socket");
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(b"CONNECT 52\n").unwrap();
    bench.to_guest = Driver::new();
    bench.from_guest = Driver::at(Arc::clone(&bench.to_guest.memory), 0x8000);
    bench.activate();
    let (header, _) = bench.receive();
    assert_eq!((header.op, header.destination_port), (packet::op::REQUEST, 52));
}

#[test]
fn a_packet_that_is_none_has_it_ask_for_reset() {
    let size = packet::SIZE as u32;
    let most = MOST_DATA as u32;
    for (size, claimed) in
        [(size - 1, 0), (size + 4, 5), (size, 1), (size + most + 1, most + 1), (size, u32::MAX)]
    {
        let mut bench = Bench::new();
        let header = Header { size: claimed, ..to_host(packet::op::RW, 0) };
        bench.from_guest.memory.write_slice(&header.encode(), GuestAddress(OUT)).unwrap();
        bench.from_guest.send(&[Buffer { address: OUT, size }], &[]);
        bench.device.queue_event(1).unwrap().signal();
        wait_for(|| bench.interrupt.needs_reset().then_some(()));
        assert_eq!(bench.from_guest.take(), None);
    }
    let mut bench = Bench::new();
    bench.to_guest.send(&[], &[Buffer { address: IN, size: size - 1 }]);
    bench.device.queue_event(0).unwrap().signal();
    wait_for(|| bench.interrupt.needs_reset().then_some(()));
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to_until_it_does() {
    let mut bench = Bench::new();
    for _ in 0..256 {
        bench.send(&to_host(packet::op::RW, 0), &[]);
        let from_guest = &mut bench.from_guest;
        wait_for(|| from_guest.take());
    }
    bench.send(&to_host(packet::op::RW, 0), &[]);
    assert_eq!(bench.from_guest.take(), None);
    assert_eq!(bench.receive().0.op, packet::op::RST);
    let from_guest = &mut bench.from_guest;
    wait_for(|| from_guest.take());
}

#[test]
fn the_configuration_tells_the_guests_address() {
    let bench = Bench::new();
    let mut address = [0xff; 8];
    bench.device.read_config(0, &mut address);
    assert_eq!(u64::from_le_bytes(address), GUEST);
    for offset in [5, 8, 4096, u64::MAX] {
        bench.device.read_config(offset, &mut [0; 8]);
        bench.device.write_config(offset, &[0; 8]);
    }
}

fn anywhere() -> impl Strategy<Value = Buffer> {
    let address =
        prop_oneof![8 => OUT..MEMORY as u64, 1 => MEMORY as u64 - 600..MEMORY as u64 + 600];
    (address, 0_u32..200).prop_map(|(address, size)| Buffer { address, size })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_chain_makes_it_panic(
        bytes in prop::collection::vec(0..8_u8, 4096),
        chains in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(anywhere(), 0..4), prop::collection::vec(anywhere(), 0..4)),
            1..8,
        ),
    ) {
        let mut bench = Bench::new();
        let all = bytes.repeat((MEMORY - OUT as usize) / bytes.len());
        bench.to_guest.memory.write_slice(&all, GuestAddress(OUT)).unwrap();
        for (is_out, readable, writable) in chains {
            let driver = if is_out { &mut bench.from_guest } else { &mut bench.to_guest };
            driver.send(&readable, &writable);
            bench.device.queue_event(0).unwrap().signal();
            if is_out {
                // It is done, or a reset is asked for.
                let (driver, interrupt) = (&mut bench.from_guest, &bench.interrupt);
                wait_for(|| driver.take().map(drop).or(interrupt.needs_reset().then_some(())));
            }
            if bench.interrupt.needs_reset() {
                break;
            }
        }
        bench.device.reset();
    }
}
