use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::stream::CAPACITY;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, MEMORY, SIZE, wait_for};

/// Where a test has its messages and bytes.
const OUT: u64 = 0x4_0000;
const IN: u64 = 0x8_0000;

const NAMES: [&str; 2] = ["first", "second"];
const WINDOW: WindowSize = WindowSize { rows: 24, cols: 80 };

struct Bench {
    console: Console,
    drivers: Vec<Driver>,
    ends: [Ends; 2],
    interrupt: Arc<Interrupt>,
}

impl Bench {
    /// A console of two ports, the first of which is a terminal.
    fn new(features: u64) -> Self {
        let ends: [Ends; 2] = Default::default();
        let port = |(n, ends): (usize, &Ends)| PortConfig {
            name: NAMES[n].into(),
            is_console: n == 0,
            ends: ends.clone(),
        };
        let ports = ends.iter().enumerate().map(port).collect();
        let console = Console::new(ports, Some(WINDOW)).unwrap();
        let memory = Driver::new().memory;
        let place = |n| Driver::at(Arc::clone(&memory), 0x1000 + n * 0x3000);
        let drivers = (0..console.queue_sizes().len() as u64).map(place).collect();
        let interrupt = Arc::new(Interrupt::new(6, Arc::new(|_| {}), Arc::new(|_| {})));
        let bench = Self { console, drivers, ends, interrupt };
        bench.activate(features);
        bench
    }

    fn activate(&self, features: u64) {
        let interrupt = Arc::clone(&self.interrupt);
        let queue = |driver: &Driver| Some(driver.queue(Arc::clone(&interrupt)));
        let queues = self.drivers.iter().map(queue).collect();
        self.console.activate(Active { queues, features, interrupt: Arc::clone(&interrupt) });
    }

    /// One whose driver has heard of both ports, and has opened them.
    fn open() -> Self {
        let mut bench = Self::new(feature::MULTIPORT | feature::SIZE);
        bench.say(0, 0, 1);
        bench.hear(2);
        for port in 0..2 {
            bench.say(port, 3, 1);
            bench.hear(if port == 0 { 4 } else { 2 });
            bench.say(port, 6, 1);
        }
        bench
    }

    fn notify(&self, queue: usize) {
        self.console.notify(queue as u16);
    }

    /// Puts a chain into a queue, tells the console of it, and gives how many bytes were written when it is done.
    fn exchange(&mut self, queue: usize, readable: &[Buffer], writable: &[Buffer]) -> u32 {
        self.drivers[queue].send(readable, writable);
        self.notify(queue);
        self.done(queue)
    }

    /// Waits until the next chain of a queue is done.
    fn done(&mut self, queue: usize) -> u32 {
        wait_for(|| self.drivers[queue].take()).1
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        let message =
            [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        self.memory().write_slice(&message, GuestAddress(OUT)).unwrap();
        self.exchange(CONTROL_TRANSMIT.into(), &[Buffer { address: OUT, size: 8 }], &[]);
    }

    /// What the console has to say, in so many messages.
    fn hear(&mut self, messages: usize) -> Vec<(u32, u16, Vec<u8>)> {
        let mut heard = Vec::new();
        for _ in 0..messages {
            let buffer = Buffer { address: IN, size: 64 };
            let size = self.exchange(CONTROL_RECEIVE.into(), &[], &[buffer]) as usize;
            let message = self.bytes(IN, size);
            let word = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
            heard.push((word(0).into(), word(4), message[8..].to_vec()));
        }
        heard
    }

    fn memory(&self) -> &vm_memory::GuestMemoryMmap {
        &self.drivers[0].memory
    }

    fn bytes(&self, address: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

#[test]
fn queues_are_ports_but_for_two() {
    let roles: Vec<_> = (0..8).map(Role::of).collect();
    assert_eq!(roles[..2], [Role::Receive(0), Role::Transmit(0)]);
    assert_eq!(roles[2..4], [Role::ControlReceive, Role::ControlTransmit]);
    let others = [Role::Receive(1), Role::Transmit(1), Role::Receive(2), Role::Transmit(2)];
    assert_eq!(roles[4..], others);
}

#[test]
fn a_driver_is_told_of_ports_and_what_they_are() {
    let mut bench = Bench::new(feature::MULTIPORT | feature::SIZE);
    bench.say(0, 0, 1);
    // Said twice, it is the same.
    bench.say(0, 0, 1);
    assert_eq!(bench.hear(2), [(0, 1, vec![]), (1, 1, vec![])]);
    bench.say(1, 3, 1);
    assert_eq!(bench.hear(2), [(1, 6, vec![]), (1, 7, b"second".to_vec())]);
    bench.say(0, 3, 1);
    let size = vec![80, 0, 24, 0];
    let all = [(0, 4, vec![]), (0, 6, vec![]), (0, 7, b"first".to_vec()), (0, 5, size)];
    assert_eq!(bench.hear(4), all);
    // No port, no event, and what has failed there.
    for (port, event, value) in [(9, 3, 1), (u32::MAX, 6, 1), (0, 99, 1), (0, 3, 0), (0, 0, 0)] {
        bench.say(port, event, value);
    }
    bench.say(0, 6, 1);
    bench.console.resize(WindowSize { rows: 50, cols: 300 });
    assert_eq!(bench.hear(1), [(0, 5, vec![44, 1, 50, 0])]);
    assert!(!bench.interrupt.needs_reset());
}

#[test]
fn a_driver_of_one_port_reads_the_size_from_the_configuration() {
    let mut bench = Bench::new(feature::SIZE);
    let config = |bench: &Bench| {
        let mut data = [0; 8];
        bench.console.read_config(0, &mut data);
        data
    };
    assert_eq!(config(&bench), [80, 0, 24, 0, 2, 0, 0, 0]);
    let before = bench.interrupt.generation();
    bench.console.resize(WindowSize { rows: 1, cols: 2 });
    assert_eq!(config(&bench), [2, 0, 1, 0, 2, 0, 0, 0]);
    assert_ne!(bench.interrupt.generation(), before);
    bench.memory().write_slice(b"hello", GuestAddress(OUT)).unwrap();
    bench.exchange(1, &[Buffer { address: OUT, size: 5 }], &[]);
    assert_eq!(bench.ends[0].output.take(9), b"hello");
    bench.ends[0].input.push(b"key");
    assert_eq!(bench.exchange(0, &[], &[Buffer { address: IN, size: 9 }]), 3);
    assert_eq!(bench.bytes(IN, 3), b"key");
}

#[test]
fn bytes_come_out_in_order_however_they_lie() {
    let mut bench = Bench::open();
    bench.memory().write_slice(b"worldhello ", GuestAddress(OUT)).unwrap();
    let parts = [(OUT + 5, 6), (OUT, 0), (OUT, 5)];
    let parts = parts.map(|(address, size)| Buffer { address, size });
    assert_eq!(bench.exchange(5, &parts, &[]), 0);
    assert_eq!(bench.ends[1].output.take(99), b"hello world");
    assert!(bench.ends[0].output.is_empty());
}

#[test]
fn output_waits_for_room_and_nothing_of_it_is_lost() {
    let mut bench = Bench::open();
    let piece: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    bench.memory().write_slice(&piece, GuestAddress(OUT)).unwrap();
    for _ in 0..4 {
        bench.drivers[5].send(&[Buffer { address: OUT, size: piece.len() as u32 }], &[]);
    }
    bench.notify(5);
    // As many as there is room for are done, and no more.
    let fit = CAPACITY / piece.len();
    for _ in 0..fit {
        bench.done(5);
    }
    let mut received = Vec::new();
    assert!(bench.drivers[5].take().is_none());
    wait_for(|| {
        received.extend(bench.ends[1].output.take(10_000));
        (received.len() == 4 * piece.len()).then_some(())
    });
    assert!(received == piece.repeat(4));
    for _ in fit..4 {
        bench.done(5);
    }
}

#[test]
fn input_waits_for_the_port_to_be_opened_and_for_buffers() {
    let mut bench = Bench::new(feature::MULTIPORT);
    bench.ends[1].input.push(b"abcdefg");
    bench.drivers[4].send(&[], &[Buffer { address: IN, size: 3 }]);
    bench.notify(4);
    // A message that is answered comes after the notification.
    bench.say(1, 6, 0);
    assert!(bench.drivers[4].take().is_none());
    bench.say(1, 6, 1);
    assert_eq!((bench.done(4), bench.bytes(IN, 3)), (3, b"abc".to_vec()));
    let parts = [(IN + 8, 2), (IN, 9)].map(|(address, size)| Buffer { address, size });
    assert_eq!(bench.exchange(4, &[], &parts), 4);
    assert_eq!((bench.bytes(IN + 8, 2), bench.bytes(IN, 2)), (b"de".to_vec(), b"fg".to_vec()));
    bench.drivers[4].send(&[], &[Buffer { address: IN, size: 9 }]);
    bench.notify(4);
    // What comes later is not asked for again.
    bench.ends[1].input.push(b"x");
    assert_eq!((bench.done(4), bench.bytes(IN, 1)), (1, b"x".to_vec()));
}

#[test]
fn what_is_left_at_the_guest_s_end_or_at_a_reset_still_comes() {
    for end in [Console::flush, Console::reset] {
        let mut bench = Bench::open();
        let size = 2 * CAPACITY as u32;
        bench.drivers[5].send(&[Buffer { address: OUT, size }], &[]);
        bench.console.lane.stop();
        bench.drivers[5].send(&[Buffer { address: OUT, size: 5 }], &[]);
        let output = Arc::clone(&bench.ends[1].output);
        let reader = std::thread::spawn(move || {
            let mut total = 0;
            while output.serve(|bytes| total += bytes.len()) {}
            total
        });
        end(&bench.console);
        bench.ends[1].output.close();
        assert_eq!(reader.join().unwrap(), size as usize + 5);
    }
}

#[test]
fn a_closed_host_end_takes_everything() {
    let mut bench = Bench::open();
    bench.ends[1].output.close();
    bench.exchange(5, &[Buffer { address: OUT, size: 3 * CAPACITY as u32 }], &[]);
    assert!(bench.ends[1].output.is_empty());
}

#[test]
fn a_bad_driver_is_asked_for_reset_and_can_begin_anew() {
    for queue in [1, 3, 4, 5] {
        let mut bench = Bench::open();
        bench.ends[1].input.push(b"x");
        let nowhere = [Buffer { address: MEMORY as u64, size: 8 }];
        match queue {
            4 => bench.drivers[queue].send(&[], &nowhere),
            _ => bench.drivers[queue].send(&nowhere, &[]),
        };
        bench.notify(queue);
        wait_for(|| bench.interrupt.needs_reset().then_some(()));
        assert_eq!(bench.drivers[queue].take(), None);
        bench.console.reset();
        bench.interrupt.reset();
        bench.drivers = (0..6)
            .map(|n| Driver::at(Arc::clone(&bench.drivers[0].memory), 0x1000 + n * 0x3000))
            .collect();
        bench.drivers.iter_mut().for_each(|driver| driver.set_available(0));
        bench.activate(0);
        bench.memory().write_slice(b"again", GuestAddress(OUT)).unwrap();
        for used in bench.drivers.iter().map(|driver| driver.rings()[2] + 2) {
            bench.memory().write_obj(0_u16, GuestAddress(used)).unwrap();
        }
        bench.exchange(1, &[Buffer { address: OUT, size: 5 }], &[]);
        assert_eq!(bench.ends[0].output.take(9), b"again");
    }
}

fn anywhere() -> impl Strategy<Value = Buffer> {
    let address = prop_oneof![OUT..OUT + 64, MEMORY as u64 - 2000..MEMORY as u64, any::<u64>()];
    (address, prop_oneof![0_u32..200, any::<u32>()])
        .prop_map(|(address, size)| Buffer { address, size })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_driver_makes_it_panic(
        features in 0_u64..4,
        steps in prop::collection::vec(
            (
                0_usize..6,
                (0_u32..4, 0_u16..9, 0_u16..3),
                prop::collection::vec(anywhere(), 0..4),
                prop::collection::vec(anywhere(), 0..4),
            ),
            1..SIZE as usize,
        ),
    ) {
        let mut bench = Bench::new(features);
        // Nobody takes any of it, and a reset would wait.
        bench.ends.iter().for_each(|ends| ends.output.close());
        for (queue, (port, event, value), readable, writable) in steps {
            let message =
                [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
            bench.memory().write_slice(&message, GuestAddress(OUT)).unwrap();
            bench.drivers[queue].send(&readable, &writable);
            bench.console.notify(queue as u16);
            bench.ends.iter().for_each(|ends| ends.input.push(b"some"));
        }
        bench.console.reset();
    }
}
