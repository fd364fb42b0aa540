//! Tests of the balloon: what is given back, what is not, and a driver that keeps to no rule.

use std::time::{Duration, Instant};

use hv::Event;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::driver::{Driver, MEMORY};

/// Where the pages are that tests give back, and numbers of such.
const PAGES: u64 = 0x1_0000;
const NUMBERS: u64 = 0x8000;

struct Bench {
    device: Balloon,
    driver: Driver,
    interrupt: Arc<Interrupt>,
}

impl Bench {
    /// A device of which the driver uses one queue. All of memory from its pages on is filled with sevens.
    fn new(queue: usize, features: u64, poison: u32) -> Self {
        let (device, driver) = (Balloon::new().unwrap(), Driver::new());
        let sevens = vec![7; MEMORY - PAGES as usize];
        driver.memory.write_slice(&sevens, GuestAddress(PAGES)).unwrap();
        let interrupt = Arc::new(Interrupt::new(QUEUES, Arc::new(|_| {}), Arc::new(|_| {})));
        let mut queues: Vec<_> = (0..QUEUES).map(|_| None).collect();
        queues[queue] = Some(driver.queue(Arc::clone(&interrupt)));
        device.write_config(at::POISON, &poison.to_le_bytes());
        device.activate(Active { queues, features, interrupt: Arc::clone(&interrupt) });
        Self { device, driver, interrupt }
    }

    /// Sends a chain, and waits until it is done; `false`: until a reset is asked for.
    fn send(&mut self, readable: &[Buffer], writable: &[Buffer]) -> bool {
        self.driver.send(readable, writable);
        self.device.queue_event(0).unwrap().signal();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.driver.take() {
                Some((_, written)) => {
                    assert_eq!(written, 0);
                    return true;
                }
                None if self.interrupt.needs_reset() => return false,
                None => assert!(Instant::now() < until, "nothing comes"),
            }
            std::thread::yield_now();
        }
    }

    /// Which of the first pages are zero.
    fn zeroes(&self) -> Vec<u64> {
        let is_zero = |page: &u64| {
            let address = GuestAddress(PAGES + page * PAGE);
            let mut bytes = [0; PAGE as usize];
            self.driver.memory.read_slice(&mut bytes, address).unwrap();
            bytes.iter().all(|byte| *byte == 0)
        };
        (0..16).filter(is_zero).collect()
    }
}

fn pages(first: u64, count: u32) -> Buffer {
    Buffer { address: PAGES + first * PAGE, size: count * PAGE as u32 }
}

#[test]
fn reported_pages_are_given_back() {
    for queue in [2, 4] {
        let mut bench = Bench::new(queue, feature::REPORTING, 0);
        assert!(bench.send(&[], &[pages(1, 2), pages(5, 1)]));
        assert_eq!(bench.zeroes(), [1, 2, 5]);
        assert!(
            bench.send(&[], &[Buffer { address: PAGES + 8 * PAGE - 1, size: 3 * PAGE as u32 }])
        );
        assert_eq!(bench.zeroes(), [1, 2, 5, 8, 9], "no page of which a part is reported");
        // What is only read is no report.
        assert!(bench.send(&[pages(11, 1)], &[]));
        assert_eq!(bench.zeroes(), [1, 2, 5, 8, 9]);
    }
}

#[test]
fn pages_that_the_guest_has_filled_keep_their_bytes() {
    for (features, poison, given_back) in [
        (feature::PAGE_POISON, 0xaaaa_aaaa, false),
        (feature::PAGE_POISON, 0, true),
        (0, 0xaaaa_aaaa, true),
    ] {
        let mut bench = Bench::new(4, feature::REPORTING | features, poison);
        assert!(bench.send(&[], &[pages(0, 1)]));
        assert_eq!(bench.zeroes() == [0], given_back);
    }
}

#[test]
fn pages_in_the_balloon_are_given_back() {
    let mut bench = Bench::new(INFLATE, 0, 0);
    let number = |page: u64| ((PAGES / PAGE + page) as u32).to_le_bytes();
    let numbers = [number(3), number(0), u32::MAX.to_le_bytes(), number(2)].concat();
    bench.driver.memory.write_slice(&numbers, GuestAddress(NUMBERS)).unwrap();
    // A number that is cut off is none.
    assert!(bench.send(&[Buffer { address: NUMBERS, size: 15 }], &[]));
    assert_eq!(bench.zeroes(), [0, 3]);
    assert!(bench.send(&[Buffer { address: NUMBERS, size: 16 }], &[]));
    assert_eq!(bench.zeroes(), [0, 2, 3]);
}

#[test]
fn pages_that_leave_the_balloon_are_left_alone() {
    let mut bench = Bench::new(DEFLATE, 0, 0);
    let number = ((PAGES / PAGE) as u32).to_le_bytes();
    bench.driver.memory.write_slice(&number, GuestAddress(NUMBERS)).unwrap();
    assert!(bench.send(&[Buffer { address: NUMBERS, size: 4 }], &[]));
    assert_eq!(bench.zeroes(), [0_u64; 0]);
}

#[test]
fn a_range_outside_of_memory_has_it_ask_for_reset() {
    let mut bench = Bench::new(4, feature::REPORTING, 0);
    assert!(!bench.send(&[], &[Buffer { address: MEMORY as u64 - PAGE, size: 2 * PAGE as u32 }]));
    bench.device.reset();
}

#[test]
fn the_configuration_keeps_what_the_driver_may_write() {
    let device = Balloon::new().unwrap();
    device.write_config(0, &[0xff; 4]);
    device.write_config(at::ACTUAL, &[1, 2, 3, 4]);
    device.write_config(at::POISON, &[5, 6, 7, 8]);
    for (offset, size) in [(4, 0), (4, 1), (4, 8), (12, 5), (8, 4), (16, 4), (u64::MAX, 4)] {
        device.write_config(offset, &vec![0xee; size]);
    }
    let mut config = [0; CONFIG];
    device.read_config(0, &mut config);
    assert_eq!(config, [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8]);
    let mut rest = [0_u8; 8];
    for (offset, expected) in [(14, [7, 8, 0, 0]), (16, [0; 4]), (u64::MAX, [0; 4])] {
        device.read_config(offset, &mut rest);
        assert_eq!(rest[..4], expected, "{offset}");
        rest.fill(0);
    }
    device.reset();
    device.read_config(0, &mut config);
    assert_eq!(config, [0; CONFIG]);
}

/// A buffer anywhere in memory, or around its end.
fn anywhere() -> impl Strategy<Value = Buffer> {
    let address =
        prop_oneof![8 => PAGES..MEMORY as u64, 1 => MEMORY as u64 - 6000..MEMORY as u64 + 600];
    let size = prop_oneof![8 => 0_u32..0x8000, 1 => any::<u32>()];
    (address, size).prop_map(|(address, size)| Buffer { address, size })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_driver_sends_makes_it_lose_what_was_not_named(
        queue in 0..QUEUES,
        chains in prop::collection::vec(
            (prop::collection::vec(anywhere(), 0..5), prop::collection::vec(anywhere(), 0..5)),
            1..8,
        ),
    ) {
        let mut bench = Bench::new(queue, feature::REPORTING, 0);
        let mut named = vec![false; MEMORY];
        for (readable, writable) in chains {
            // All numbers of pages in memory are those of no page: 0x07070707.
            for buffer in &writable {
                let end = (buffer.address + u64::from(buffer.size)).min(MEMORY as u64) as usize;
                let start = (buffer.address as usize).min(end);
                named[start..end].fill(queue >= 2);
            }
            if !bench.send(&readable, &writable) {
                break;
            }
        }
        let mut bytes = vec![0; MEMORY - PAGES as usize];
        bench.driver.memory.read_slice(&mut bytes, GuestAddress(PAGES)).unwrap();
        let lost = bytes.iter().zip(&named[PAGES as usize..]);
        prop_assert!(lost.into_iter().all(|(byte, named)| *byte == 7 || *named));
    }
}
