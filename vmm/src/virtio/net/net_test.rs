//! Tests of the device: frames through its queues, at a cable that the test has the other end of; and a driver that keeps to no rule.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, mpsc};

use hv::Event;
use proptest::prelude::*;
use rustix::event::PollFlags;
use vm_memory::{Bytes, GuestAddress};

use super::link::{HEADER, Header, Link};
use super::*;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, MEMORY, wait_for};

/// Where the test's guest has its frames, from it and to it.
const OUT: u64 = 0x2_0000;
const IN: u64 = 0x6_0000;

type Sent = (Header, Vec<u8>);

/// What the test has of the cable.
#[derive(Clone)]
struct Ends {
    to_guest: Arc<Mutex<VecDeque<Sent>>>,
    from_guest: mpsc::Sender<Sent>,
    event: EventFd,
}

struct Rope {
    ends: Ends,
    pairs: u16,
    used: AtomicU16,
}

impl Cable for Rope {
    fn features(&self) -> u64 {
        feature::CSUM
    }

    fn mtu(&self) -> Option<u16> {
        Some(9000)
    }

    fn pairs(&self) -> u16 {
        self.pairs
    }

    fn open(&self, _features: u64) -> io::Result<Vec<Box<dyn Link>>> {
        let link = |_| {
            let (ends, current) = (self.ends.clone(), Default::default());
            Box::new(RopeLink { ends, current }) as Box<dyn Link>
        };
        Ok((0..self.pairs).map(link).collect())
    }

    fn set_pairs(&self, count: u16) -> io::Result<()> {
        if !(1..=self.pairs).contains(&count) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.used.store(count, Ordering::Release);
        Ok(())
    }
}

struct RopeLink {
    ends: Ends,
    current: Sent,
}

impl Link for RopeLink {
    fn send(&mut self, header: &Header, frame: &[u8]) -> bool {
        self.ends.from_guest.send((*header, frame.to_vec())).is_ok()
    }

    fn receive(&mut self) -> bool {
        let next = self.ends.to_guest.lock().unwrap().pop_front();
        next.map(|next| self.current = next).is_some()
    }

    fn frame(&self) -> (Header, &[u8]) {
        (self.current.0, &self.current.1)
    }

    fn wake(&mut self) {
        let _ = self.ends.event.take();
    }

    fn interest(&self, _guest_has_room: bool, _was_full: bool) -> (BorrowedFd<'_>, PollFlags) {
        (self.ends.event.as_fd(), PollFlags::IN)
    }
}

struct Bench {
    device: Net,
    rope: Arc<Rope>,
    to_guest: Driver,
    from_guest: Driver,
    control: Driver,
    interrupt: Arc<Interrupt>,
    heard: mpsc::Receiver<Sent>,
}

impl Bench {
    fn new(pairs: u16, features: u64) -> Self {
        let (told, heard) = mpsc::channel();
        let event = EventFd::new().unwrap();
        let ends = Ends { to_guest: Arc::default(), from_guest: told, event };
        let rope = Arc::new(Rope { ends, pairs, used: AtomicU16::new(1) });
        let device = Net::new([2, 0, 0, 0, 0, 1], Arc::clone(&rope) as Arc<dyn Cable>).unwrap();
        let count = device.queue_sizes().len();
        let interrupt = Arc::new(Interrupt::new(count, Arc::new(|_| {}), Arc::new(|_| {})));
        let to_guest = Driver::new();
        let from_guest = Driver::at(Arc::clone(&to_guest.memory), 0x8000);
        let control = Driver::at(Arc::clone(&to_guest.memory), 0x1_0000);
        let mut queues: Vec<_> = (0..count).map(|_| None).collect();
        let queue = |driver: &Driver| Some(driver.queue(Arc::clone(&interrupt)));
        (queues[0], queues[1]) = (queue(&to_guest), queue(&from_guest));
        if pairs > 1 {
            queues[count - 1] = queue(&control);
        }
        device.activate(Active { queues, features, interrupt: Arc::clone(&interrupt) });
        Self { device, rope, to_guest, from_guest, control, interrupt, heard }
    }

    fn kick(&self, queue: u16) {
        self.device.queue_event(queue).unwrap().signal();
    }

    /// The host sends a frame.
    fn give(&self, frame: Vec<u8>) {
        let header = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0xff, 0xff];
        self.rope.ends.to_guest.lock().unwrap().push_back((header, frame));
        self.rope.ends.event.signal();
    }
}

fn buffer(address: u64, size: u32) -> Buffer {
    Buffer { address, size }
}

#[test]
fn the_guests_frame_goes_out_with_its_header() {
    let mut bench = Bench::new(1, 0);
    let header = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0];
    let bytes = [&header[..], &[0xab; 1000]].concat();
    bench.from_guest.memory.write_slice(&bytes, GuestAddress(OUT)).unwrap();
    // In pieces, not where header and frame meet.
    let pieces = [buffer(OUT, 5), buffer(OUT + 5, 100), buffer(OUT + 105, 907)];
    bench.from_guest.send(&pieces, &[]);
    bench.kick(1);
    assert_eq!(bench.heard.recv().unwrap(), (header, vec![0xab; 1000]));
    let from_guest = &mut bench.from_guest;
    assert_eq!(wait_for(|| from_guest.take()), (0, 0));
}

#[test]
fn a_frame_for_the_guest_takes_as_many_buffers_as_it_needs() {
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    let frame: Vec<u8> = (0..250).collect();
    bench.give(frame.clone());
    let mut heads = Vec::new();
    for number in 0..2 {
        heads.push(bench.to_guest.send(&[], &[buffer(IN + number * 0x1000, 100)]));
        bench.kick(0);
    }
    assert_eq!(bench.to_guest.take(), None, "it does not fit yet");
    heads.push(bench.to_guest.send(&[], &[buffer(IN + 0x2000, 20), buffer(IN + 0x3000, 100)]));
    bench.kick(0);
    let mut got = Vec::new();
    for (number, size) in [(0, 100), (1, 100), (2, 62)] {
        let to_guest = &mut bench.to_guest;
        assert_eq!(wait_for(|| to_guest.take()), (u32::from(heads[number]), size));
        let mut bytes = vec![0; size as usize];
        let at = GuestAddress(IN + number as u64 * 0x1000);
        to_guest.memory.read_slice(&mut bytes, at).unwrap();
        if number == 2 {
            to_guest.memory.read_slice(&mut bytes[20..], GuestAddress(IN + 0x3000)).unwrap();
        }
        got.extend(bytes);
    }
    assert_eq!(got[..HEADER], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 3, 0], "three buffers");
    assert!(got[HEADER..] == frame);
    assert_eq!(bench.to_guest.take(), None);
}

#[test]
fn without_such_buffers_a_frame_that_does_not_fit_is_lost_and_the_next_one_is_not() {
    let mut bench = Bench::new(1, 0);
    bench.to_guest.send(&[], &[buffer(IN, 100)]);
    bench.give(vec![1; 89]);
    bench.give(vec![2; 88]);
    let to_guest = &mut bench.to_guest;
    assert_eq!(wait_for(|| to_guest.take()), (0, 100));
    let mut bytes = [0; 100];
    to_guest.memory.read_slice(&mut bytes, GuestAddress(IN)).unwrap();
    assert_eq!((bytes[HEADER - 2], bytes[HEADER], bytes[99]), (1, 2, 2));
}

#[test]
fn the_configuration_tells_what_the_cable_has() {
    let bench = Bench::new(3, 0);
    assert_eq!(bench.device.config(), [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0x28, 0x23]);
    assert_eq!(bench.device.queue_sizes(), [1024, 256, 1024, 256, 1024, 256, 16]);
    let several = feature::MQ | feature::CTRL_VQ;
    assert_eq!(bench.device.features() & several, several);
    let one = Bench::new(1, 0);
    assert_eq!(one.device.features() & several, 0);
    assert_ne!(one.device.features() & feature::CSUM, 0, "the cable's");
}

#[test]
fn the_driver_says_how_many_pairs_it_uses() {
    let mut bench = Bench::new(3, feature::MQ | feature::CTRL_VQ);
    for (command, answer, used) in [
        (&[4, 0, 2, 0][..], 0, 2),
        (&[4, 0, 0, 0], 1, 2),
        (&[4, 0, 4, 0], 1, 2),
        (&[4, 0, 3], 1, 2),
        (&[1, 0, 3, 0], 1, 2),
        (&[4, 0, 3, 0], 0, 3),
    ] {
        bench.control.memory.write_slice(command, GuestAddress(OUT)).unwrap();
        bench.control.send(&[buffer(OUT, command.len() as u32)], &[buffer(IN, 1)]);
        bench.kick(6);
        let control = &mut bench.control;
        assert_eq!(wait_for(|| control.take()).1, 1);
        assert_eq!(control.memory.read_obj::<u8>(GuestAddress(IN)).unwrap(), answer, "{command:?}");
        assert_eq!(bench.rope.used.load(Ordering::Acquire), used);
    }
}

#[test]
fn buffers_without_room_for_a_header_have_it_ask_for_reset() {
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    bench.from_guest.send(&[buffer(OUT, 11)], &[]);
    bench.kick(1);
    wait_for(|| bench.interrupt.needs_reset().then_some(()));
    let mut bench = Bench::new(1, feature::MRG_RXBUF);
    bench.to_guest.send(&[], &[buffer(IN, 11)]);
    bench.give(vec![1]);
    wait_for(|| bench.interrupt.needs_reset().then_some(()));
    assert_eq!(bench.to_guest.take(), None);
    bench.device.reset();
}

#[test]
fn a_frame_longer_than_any_is_lost() {
    let mut bench = Bench::new(1, 0);
    let most = (HEADER + link::MOST) as u32;
    for (size, heard) in [(most + 1, None), (most, Some(link::MOST))] {
        bench.from_guest.send(&[buffer(OUT, size)], &[]);
        bench.kick(1);
        let from_guest = &mut bench.from_guest;
        wait_for(|| from_guest.take());
        assert_eq!(bench.heard.try_recv().ok().map(|(_, frame)| frame.len()), heard);
    }
}

fn anywhere() -> impl Strategy<Value = Buffer> {
    let address =
        prop_oneof![8 => OUT..MEMORY as u64, 1 => MEMORY as u64 - 600..MEMORY as u64 + 600];
    (address, 0_u32..400).prop_map(|(address, size)| Buffer { address, size })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_chain_makes_it_panic(
        mergeable in any::<bool>(),
        chains in prop::collection::vec(
            (0..3_u16, prop::collection::vec(anywhere(), 0..4), prop::collection::vec(anywhere(), 0..4), 0..3000_usize),
            1..8,
        ),
    ) {
        let mut bench = Bench::new(2, feature::MQ | feature::CTRL_VQ | if mergeable { feature::MRG_RXBUF } else { 0 });
        for (queue, readable, writable, size) in chains {
            bench.give(vec![3; size]);
            let driver = [&mut bench.to_guest, &mut bench.from_guest, &mut bench.control];
            let [to_guest, from_guest, control] = driver;
            let driver = [to_guest, from_guest, control].into_iter().nth(queue.into()).unwrap();
            driver.send(&readable, &writable);
            let number = if queue == 2 { 4 } else { queue };
            bench.device.queue_event(number).unwrap().signal();
            if queue > 0 {
                // It is done, or a reset is asked for.
                let interrupt = &bench.interrupt;
                wait_for(|| driver.take().map(drop).or(interrupt.needs_reset().then_some(())));
            }
            if bench.interrupt.needs_reset() {
                break;
            }
        }
        bench.device.reset();
    }
}
