use std::time::{Duration, Instant};

use hv::Event;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::disk::{Format, Options};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, MEMORY};

const SECTORS: u64 = 128;
/// Where a test's request has its header, data and status.
const HEADER: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const STATUS: u64 = 0x9000;

struct Bench {
    device: Blk,
    driver: Driver,
    interrupt: Arc<Interrupt>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(inline: bool, read_only: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let bytes: Vec<u8> = (0..SECTORS * SECTOR).map(|at| (at / SECTOR) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        let format = Some(Format::Raw);
        let options = Options { path, format, read_only, ephemeral: false, direct: false };
        let disk = Arc::new(Disk::open(&options).unwrap());
        let device = Blk::new(disk, "serial-1", 1, inline).unwrap();
        let interrupt = Arc::new(Interrupt::new(1, Arc::new(|_| {}), Arc::new(|_| {})));
        let driver = Driver::new();
        let queues = vec![Some(driver.queue(Arc::clone(&interrupt)))];
        device.activate(Active { queues, features: 0, interrupt: Arc::clone(&interrupt) });
        Self { device, driver, interrupt, folder }
    }

    /// Puts a request into the queue: what the device reads behind the header, and what it writes before the status.
    fn send(&mut self, kind: u32, sector: u64, readable: &[Buffer], writable: &[Buffer]) {
        let memory = &self.driver.memory;
        memory.write_obj(u64::from(kind).to_le(), GuestAddress(HEADER)).unwrap();
        memory.write_obj(sector.to_le(), GuestAddress(HEADER + 8)).unwrap();
        memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        let header = [Buffer { address: HEADER, size: 16 }];
        let status = [Buffer { address: STATUS, size: 1 }];
        self.driver.send(&[&header, readable].concat(), &[writable, &status].concat());
        match self.device.queue_event(0) {
            Some(event) => event.signal(),
            None => self.device.notify(0),
        }
    }

    /// Waits until it is done: the status, and how many bytes were written.
    fn wait(&mut self) -> (u8, u32) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some((_, written)) = self.driver.take() {
                return (self.driver.memory.read_obj(GuestAddress(STATUS)).unwrap(), written);
            }
            assert!(Instant::now() < until, "nothing comes");
            std::thread::yield_now();
        }
    }

    fn ask(
        &mut self,
        kind: u32,
        sector: u64,
        readable: &[Buffer],
        writable: &[Buffer],
    ) -> (u8, u32) {
        self.send(kind, sector, readable, writable);
        self.wait()
    }

    fn data(&self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        self.driver.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
        bytes
    }
}

fn data(size: u32) -> [Buffer; 1] {
    [Buffer { address: DATA, size }]
}

#[test]
fn sectors_are_read_and_written_on_either_thread() {
    for inline in [false, true] {
        let mut bench = Bench::new(inline, false);
        // The second one is no short request, if that makes a difference.
        for (sector, size) in [(3_u64, 1024_u32), (0, (SECTORS * SECTOR) as u32)] {
            assert_eq!(bench.ask(0, sector, &[], &data(size)), (0, size + 1));
            let found = bench.data(size as usize);
            let expected: Vec<u8> =
                (0..u64::from(size)).map(|at| (sector + at / SECTOR) as u8).collect();
            assert!(found == expected);
        }
        bench.driver.memory.write_slice(&[0x5a; 512], GuestAddress(DATA)).unwrap();
        assert_eq!(bench.ask(1, 7, &data(512), &[]), (0, 1));
        assert_eq!(bench.ask(4, 0, &[], &[]), (0, 1));
        assert_eq!(bench.ask(0, 6, &[], &data(1024)), (0, 1025));
        assert_eq!(bench.data(1024), [[6; 512], [0x5a; 512]].concat());
        bench.device.reset();
    }
}

#[test]
fn what_is_not_on_the_disk_is_an_error() {
    let mut bench = Bench::new(true, false);
    for (sector, size) in
        [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX >> 9, 512), (0, 100)]
    {
        assert_eq!(bench.ask(0, sector, &[], &data(size)).0, 1, "{sector} {size}");
        assert_eq!(bench.ask(1, sector, &data(size), &[]).0, 1);
    }
    assert!(!bench.interrupt.needs_reset());
}

#[test]
fn what_there_is_not_is_not_supported() {
    let mut bench = Bench::new(true, false);
    for kind in [2, 3, 5, 7, 9, 14, u32::MAX] {
        assert_eq!(bench.ask(kind, 0, &[], &data(512)), (2, 1));
    }
    assert_eq!(bench.ask(8, 0, &[], &data(20)), (0, 21));
    assert_eq!(bench.data(9), b"serial-1\0");
}

#[test]
fn ranges_are_discarded_and_set_to_zero() {
    let mut bench = Bench::new(true, false);
    let range = |bench: &Bench, sector: u64, count: u32, flags: u32| {
        bench.driver.memory.write_obj(sector.to_le(), GuestAddress(DATA)).unwrap();
        bench
            .driver
            .memory
            .write_obj([count.to_le(), flags.to_le()], GuestAddress(DATA + 8))
            .unwrap();
    };
    range(&bench, 2, 2, 0);
    assert_eq!(bench.ask(13, 0, &data(16), &[]), (0, 1));
    assert_eq!(bench.ask(0, 1, &[], &data(2048)).0, 0);
    assert_eq!(bench.data(2048), [[1; 512], [0; 512], [0; 512], [4; 512]].concat());
    range(&bench, 8, 8, 0);
    assert_eq!(bench.ask(11, 0, &data(16), &[]).0, 0);
    for (sector, count, flags, kind, expected) in [
        (SECTORS, 1, 0, 11, 1),
        (0, u32::MAX, 0, 13, 1),
        (u64::MAX, 1, 0, 13, 1),
        (0, 1, 1, 11, 2),
        (0, 1, 2, 13, 2),
    ] {
        range(&bench, sector, count, flags);
        assert_eq!(bench.ask(kind, 0, &data(16), &[]).0, expected);
    }
    assert_eq!(bench.ask(11, 0, &data(15), &[]).0, 1);
}

#[test]
fn a_disk_that_is_read_only_is_not_written_to() {
    let mut bench = Bench::new(true, true);
    assert_eq!(bench.device.features() & feature::READ_ONLY, feature::READ_ONLY);
    for kind in [1, 11, 13] {
        assert_eq!(bench.ask(kind, 0, &data(512), &[]).0, 1);
    }
    assert_eq!(bench.ask(0, 5, &[], &data(512)).0, 0);
    assert_eq!(bench.data(1), [5]);
}

#[test]
fn a_request_that_is_none_has_the_device_ask_for_reset() {
    let header = Buffer { address: HEADER, size: 16 };
    let status = Buffer { address: STATUS, size: 1 };
    let outside = Buffer { address: MEMORY as u64, size: 512 };
    let wrong: [(&[Buffer], &[Buffer]); 4] = [
        (&[Buffer { size: 15, ..header }], &[status]),
        (&[header], &[]),
        (&[], &[status]),
        (&[header, outside], &[status]),
    ];
    for (readable, writable) in wrong {
        for inline in [false, true] {
            let mut bench = Bench::new(inline, false);
            bench.driver.send(readable, writable);
            match bench.device.queue_event(0) {
                Some(event) => event.signal(),
                None => bench.device.notify(0),
            }
            let until = Instant::now() + Duration::from_secs(20);
            while !bench.interrupt.needs_reset() {
                assert!(Instant::now() < until, "it does not ask");
                std::thread::yield_now();
            }
            assert_eq!(bench.driver.take(), None);
            bench.device.reset();
        }
    }
}

#[test]
fn the_configuration_tells_its_size() {
    let bench = Bench::new(true, false);
    let mut capacity = [0; 8];
    bench.device.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    for offset in [56, 59, 60, 4096, u64::MAX] {
        bench.device.read_config(offset, &mut [0; 8]);
    }
}

#[test]
fn the_driver_is_told_when_the_disk_becomes_larger() {
    let bench = Bench::new(true, false);
    let before = bench.interrupt.generation();
    let capacity = || {
        let mut capacity = [0; 8];
        bench.device.read_config(0, &mut capacity);
        u64::from_le_bytes(capacity)
    };
    let file = std::fs::File::options().write(true).open(bench.folder.path().join("disk")).unwrap();
    // Half a sector is none.
    file.set_len(2 * SECTORS * SECTOR + 256).unwrap();
    drop(file);
    let until = Instant::now() + Duration::from_secs(20);
    while bench.interrupt.generation() == before {
        assert!(Instant::now() < until, "it is not told");
        std::thread::yield_now();
    }
    assert_eq!(capacity(), 2 * SECTORS);
}

#[test]
fn a_disk_that_becomes_shorter_fails_and_does_not_invent_zeroes() {
    let mut bench = Bench::new(true, false);
    let file = std::fs::File::options().write(true).open(bench.folder.path().join("disk")).unwrap();
    file.set_len(SECTORS * SECTOR / 2).unwrap();
    assert_eq!(bench.ask(0, SECTORS - 1, &[], &data(512)).0, 1);
    assert_eq!(bench.ask(1, SECTORS - 1, &data(512), &[]).0, 1);
    assert_eq!(bench.ask(4, 0, &[], &[]).0, 1);
    // Nor does it when it is as long again, without what was there.
    file.set_len(SECTORS * SECTOR).unwrap();
    assert_eq!(bench.ask(0, SECTORS - 1, &[], &data(512)).0, 1);
    assert!(!bench.interrupt.needs_reset());
}

/// A buffer anywhere in memory, or around its end.
fn anywhere() -> impl Strategy<Value = Buffer> {
    let address =
        prop_oneof![8 => 0x8000..MEMORY as u64, 1 => MEMORY as u64 - 600..MEMORY as u64 + 600];
    (address, 0_u32..2000).prop_map(|(address, size)| Buffer { address, size })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_request_makes_it_panic(
        requests in prop::collection::vec(
            (
                prop_oneof![Just(0_u32), Just(1), Just(4), Just(8), Just(11), Just(13), any::<u32>()],
                prop_oneof![0..SECTORS + 2, any::<u64>()],
                prop::collection::vec(anywhere(), 0..5),
                prop::collection::vec(anywhere(), 0..5),
            ),
            1..8,
        ),
    ) {
        let mut bench = Bench::new(true, false);
        for (kind, sector, readable, writable) in requests {
            bench.send(kind, sector, &readable, &writable);
            // It is answered, or a reset is asked for; what is not short, by the thread.
            let until = Instant::now() + Duration::from_secs(20);
            let mut is_answered = false;
            while !is_answered && !bench.interrupt.needs_reset() {
                prop_assert!(Instant::now() < until, "neither comes");
                is_answered = bench.driver.take().is_some();
            }
            if !is_answered {
                break;
            }
        }
    }
}
