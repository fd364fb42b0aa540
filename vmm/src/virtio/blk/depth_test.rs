//! Several requests at once, as whoever does them: the host's kernel, or threads.

use std::fs::File as HostFile;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use hv::Event;
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageOpenOptions};
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, VolatileSlice};

use super::*;
use crate::disk::{Format, Options, SECTOR};
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::Buffer;
use crate::virtio::queue::driver::{Driver, wait_for};

/// How many are under way at once.
const DEPTH: usize = 32;
/// Sectors that one of them may be about, in a part of the disk that is its own.
const PART: u64 = 16;
const SECTORS: u64 = DEPTH as u64 * PART;
/// Where their headers, their states and their data are in the guest's memory.
const HEADERS: u64 = 0x8000;
const STATUSES: u64 = 0x9000;
const DATA: u64 = 0x1_0000;
/// What says of a request that it is not answered.
const UNANSWERED: u8 = 0xee;

#[derive(Clone, Copy, Debug)]
enum Image {
    Raw,
    Direct,
    Ephemeral,
    Qcow2,
    DirectQcow2,
    /// Over a raw one.
    Backed,
}

fn storage(path: &Path) -> File {
    drop(HostFile::create_new(path).unwrap());
    File::open(StorageOpenOptions::new().filename(path).write(true)).unwrap()
}

/// Makes one, whose sectors hold their numbers but for a qcow2 image's without a backing file, which are zero.
fn make(folder: &Path, image: Image) -> Options {
    let (path, size) = (folder.join("disk"), SECTORS * SECTOR);
    let format = match image {
        Image::Qcow2 | Image::DirectQcow2 | Image::Backed => Format::Qcow2,
        _ => Format::Raw,
    };
    let numbers: Vec<u8> = (0..size).map(|at| (at / SECTOR) as u8).collect();
    match image {
        Image::Qcow2 | Image::DirectQcow2 => {
            Qcow2::<File>::create_builder(storage(&path)).size(size).create().unwrap()
        }
        Image::Backed => {
            let base = folder.join("base");
            std::fs::write(&base, numbers).unwrap();
            let base = base.to_str().unwrap().to_owned();
            let top = Qcow2::<File>::create_builder(storage(&path));
            top.size(size).backing(base, "raw".into()).create().unwrap();
        }
        _ => std::fs::write(&path, numbers).unwrap(),
    }
    Options {
        path,
        format: Some(format),
        read_only: false,
        ephemeral: matches!(image, Image::Ephemeral),
        direct: matches!(image, Image::Direct | Image::DirectQcow2),
    }
}

/// A device with a driver that has `DEPTH` requests at once.
struct Bench {
    device: Blk,
    disk: Arc<Disk>,
    driver: Driver,
    interrupt: Arc<Interrupt>,
}

impl Bench {
    fn new(options: &Options, is_ring: bool, inline: bool) -> Self {
        // A file system that cannot do without its page cache is as good here with it.
        let disk = Disk::open(options)
            .or_else(|_| Disk::open(&Options { direct: false, ..options.clone() }));
        let disk = Arc::new(disk.unwrap());
        let device = Blk::new(Arc::clone(&disk), "serial", 1, inline).unwrap();
        let device = if is_ring { device } else { device.without_ring() };
        let interrupt = Arc::new(Interrupt::new(1, Arc::new(|_| {}), Arc::new(|_| {})));
        let mut bench = Self { device, disk, driver: Driver::new().sized(256), interrupt };
        bench.activate();
        bench
    }

    fn activate(&mut self) {
        self.driver = Driver::new().sized(256);
        let queues = vec![Some(self.driver.queue(Arc::clone(&self.interrupt)))];
        // With flushes: else each write is one.
        let (features, interrupt) = (feature::FLUSH, Arc::clone(&self.interrupt));
        self.device.activate(Active { queues, features, interrupt });
    }

    fn memory(&self) -> &GuestMemoryMmap {
        &self.driver.memory
    }

    fn data(number: usize) -> u64 {
        DATA + number as u64 * PART * SECTOR
    }

    /// Puts a request into the queue, with so many bytes of its data.
    fn send(&mut self, number: usize, kind: u32, sector: u64, size: u64) {
        let (header, status) = (HEADERS + 16 * number as u64, STATUSES + number as u64);
        self.memory().write_obj(u64::from(kind).to_le(), GuestAddress(header)).unwrap();
        self.memory().write_obj(sector.to_le(), GuestAddress(header + 8)).unwrap();
        self.memory().write_obj(UNANSWERED, GuestAddress(status)).unwrap();
        let header = Buffer { address: header, size: 16 };
        let status = Buffer { address: status, size: 1 };
        // In two pieces, if it can be.
        let (first, address) = (size / 2 / SECTOR * SECTOR, Self::data(number));
        let data = [(address, first), (address + first, size - first)];
        let data = data.into_iter().filter(|(_, size)| *size > 0);
        let data = data.map(|(address, size)| Buffer { address, size: size as u32 });
        let data: Vec<_> = data.collect();
        match kind {
            0 => self.driver.send(&[header], &[&data[..], &[status]].concat()),
            _ => self.driver.send(&[&[header], &data[..]].concat(), &[status]),
        };
    }

    fn notify(&self) {
        match self.device.queue_event(0) {
            Some(event) => event.signal(),
            None => self.device.notify(0),
        }
    }

    /// Waits until so many are answered.
    fn wait(&mut self, count: usize) {
        for _ in 0..count {
            wait_for(|| self.driver.take());
        }
    }

    fn status(&self, number: usize) -> u8 {
        self.memory().read_obj(GuestAddress(STATUSES + number as u64)).unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Read,
    Write(u8),
    Zero,
    Discard,
    Flush,
}

fn operation() -> impl Strategy<Value = (Operation, u64, u64)> {
    let kind = prop_oneof![
        4 => Just(Operation::Read),
        4 => any::<u8>().prop_map(Operation::Write),
        1 => Just(Operation::Zero),
        1 => Just(Operation::Discard),
        1 => Just(Operation::Flush),
    ];
    // Pages are where the host's page cache and a direct access make a difference.
    let range = prop_oneof![
        Just((0, PART)),
        Just((8, 8)),
        (0..PART).prop_flat_map(|first| (Just(first), 1..=PART - first)),
    ];
    (kind, range).prop_map(|(kind, (first, count))| (kind, first, count))
}

/// Has each of some requests be done in its own part, all at once, and compares with a model: a value for each sector, where that is known.
fn round(bench: &mut Bench, model: &mut [Option<u8>], operations: &[(Operation, u64, u64)]) {
    for (number, (operation, first, count)) in operations.iter().enumerate() {
        let (sector, size) = (number as u64 * PART + first, count * SECTOR);
        let at = GuestAddress(Bench::data(number));
        match operation {
            Operation::Read => bench.send(number, 0, sector, size),
            Operation::Write(value) => {
                bench.memory().write_slice(&vec![*value; size as usize], at).unwrap();
                bench.send(number, 1, sector, size);
            }
            Operation::Zero | Operation::Discard => {
                bench.memory().write_obj(sector.to_le(), at).unwrap();
                let count = [(*count as u32).to_le(), 0];
                bench.memory().write_obj(count, GuestAddress(at.0 + 8)).unwrap();
                let kind = if matches!(operation, Operation::Zero) { 13 } else { 11 };
                bench.send(number, kind, 0, 16);
            }
            Operation::Flush => bench.send(number, 4, 0, 0),
        }
        // Now and then it begins before all are there.
        if number == operations.len() / 3 {
            bench.notify();
        }
    }
    bench.notify();
    bench.wait(operations.len());
    for (number, (operation, first, count)) in operations.iter().enumerate() {
        assert_eq!(bench.status(number), 0, "{operation:?}");
        let from = number * PART as usize + *first as usize;
        let known = &mut model[from..from + *count as usize];
        match operation {
            Operation::Read => {
                for (at, value) in known.iter().enumerate() {
                    let mut sector = [0; SECTOR as usize];
                    let place = GuestAddress(Bench::data(number) + at as u64 * SECTOR);
                    bench.memory().read_slice(&mut sector, place).unwrap();
                    assert!(value.is_none_or(|value| sector == [value; 512]), "{number}: {at}");
                }
            }
            Operation::Write(value) => known.fill(Some(*value)),
            Operation::Zero => known.fill(Some(0)),
            Operation::Discard => known.fill(None),
            Operation::Flush => (),
        }
    }
}

fn image() -> impl Strategy<Value = Image> {
    prop_oneof![
        Just(Image::Raw),
        Just(Image::Direct),
        Just(Image::Ephemeral),
        Just(Image::Qcow2),
        Just(Image::DirectQcow2),
        Just(Image::Backed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_with_many_requests_at_once_is_as_a_model_of_it(
        image in image(),
        is_ring in any::<bool>(),
        inline in any::<bool>(),
        rounds in prop::collection::vec(prop::collection::vec(operation(), DEPTH), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = make(folder.path(), image);
        let is_empty = matches!(image, Image::Qcow2 | Image::DirectQcow2);
        let first = |sector: u64| if is_empty { 0 } else { sector as u8 };
        let mut model: Vec<_> = (0..SECTORS).map(|sector| Some(first(sector))).collect();
        let mut bench = Bench::new(&options, is_ring, inline);
        for operations in &rounds {
            round(&mut bench, &mut model, operations);
            bench.device.reset();
            bench.activate();
        }
        drop(bench);
        // What is ephemeral is gone, and all else is there.
        if !options.ephemeral {
            let disk = Disk::open(&options).unwrap();
            let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
            disk.read(&[VolatileSlice::from(&mut bytes[..])], 0).unwrap();
            for (number, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                let known = model[number];
                let is_it = known.is_none_or(|value| sector == [value; 512]);
                prop_assert!(is_it, "sector {number}: {known:?}, and is {}", sector[0]);
            }
        }
    }
}

/// Both who do requests, on a queue's thread and a vCPU's.
fn everyone(mut test: impl FnMut(bool, bool)) {
    for is_ring in [true, false] {
        for inline in [true, false] {
            test(is_ring, inline);
        }
    }
}

#[test]
fn a_reset_waits_for_what_is_under_way() {
    for image in [Image::Direct, Image::Raw, Image::Backed] {
        everyone(|is_ring, inline| {
            let folder = tempfile::tempdir().unwrap();
            let mut bench = Bench::new(&make(folder.path(), image), is_ring, inline);
            for _ in 0..8 {
                for number in 0..DEPTH {
                    let kind = (number % 2) as u32;
                    bench.send(number, kind, number as u64 * PART, PART * SECTOR);
                }
                bench.notify();
                bench.device.reset();
                // Nobody has the guest's memory, and nobody writes to it.
                assert_eq!(Arc::strong_count(&bench.driver.memory), 1);
                bench.activate();
            }
        });
    }
}

#[test]
fn a_file_that_becomes_shorter_meanwhile_is_an_error() {
    for image in [Image::Raw, Image::Direct, Image::Backed] {
        everyone(|is_ring, inline| {
            let folder = tempfile::tempdir().unwrap();
            let options = make(folder.path(), image);
            let mut bench = Bench::new(&options, is_ring, inline);
            let name = if matches!(image, Image::Backed) { "base" } else { "disk" };
            let file = HostFile::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_len(SECTORS * SECTOR / 2).unwrap();
            for number in 0..DEPTH {
                bench.send(number, 0, number as u64 * PART, PART * SECTOR);
            }
            bench.notify();
            bench.wait(DEPTH);
            // Nothing is invented for what is gone; the rest is there, or is not given any more.
            for number in 0..DEPTH {
                let is_gone = number >= DEPTH / 2;
                assert!(bench.status(number) == 1 || !is_gone && bench.status(number) == 0);
            }
            // Nor when the file is as long again.
            file.set_len(SECTORS * SECTOR).unwrap();
            bench.send(0, 0, SECTORS - 1, SECTOR);
            bench.notify();
            bench.wait(1);
            assert_eq!(bench.status(0), 1);
            assert!(bench.disk.flush().is_err());
        });
    }
}

#[test]
fn what_the_host_cannot_write_is_an_error_for_each_who_asks() {
    everyone(|is_ring, inline| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = HostFile::from(memfd_create("disk", flags).unwrap());
        memory.set_len(SECTORS * SECTOR).unwrap();
        let options = Options {
            path: PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd())),
            format: Some(Format::Raw),
            read_only: false,
            ephemeral: false,
            direct: false,
        };
        let mut bench = Bench::new(&options, is_ring, inline);
        fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();
        for number in 0..DEPTH {
            bench.send(number, (number % 2) as u32, number as u64 * PART, PART * SECTOR);
        }
        bench.notify();
        bench.wait(DEPTH);
        for number in 0..DEPTH {
            assert_eq!(bench.status(number), (number % 2) as u8);
        }
    });
}

#[test]
fn a_disk_that_becomes_larger_goes_on_with_what_it_does() {
    everyone(|is_ring, inline| {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(&make(folder.path(), Image::Direct), is_ring, inline);
        let file = HostFile::options().write(true).open(folder.path().join("disk")).unwrap();
        for size in 1..8 {
            for number in 0..DEPTH {
                bench.send(number, (number % 2) as u32, number as u64 * PART, PART * SECTOR);
            }
            bench.notify();
            file.set_len((SECTORS + size * PART) * SECTOR).unwrap();
            wait_for(|| {
                bench.disk.grow();
                (bench.disk.size() == (SECTORS + size * PART) * SECTOR).then_some(())
            });
            bench.wait(DEPTH);
            assert!((0..DEPTH).all(|number| bench.status(number) == 0));
            bench.send(0, 0, SECTORS + (size - 1) * PART, PART * SECTOR);
            bench.notify();
            bench.wait(1);
            assert_eq!(bench.status(0), 0, "what is new is there");
        }
    });
}

/// A queue of its own, whose requests are taken by hand.
struct Hand {
    bench: Bench,
    driver: Driver,
    queue: crate::virtio::queue::Virtqueue,
    under_way: UnderWay,
    _folder: tempfile::TempDir,
}

impl Hand {
    fn new(is_ring: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Bench::new(&make(folder.path(), Image::Raw), is_ring, false);
        let disk = Arc::clone(&bench.disk);
        let target = Target { disk, serial: [0; 20], writes_through: false };
        let under_way = UnderWay::new(target, hv::EventFd::new().unwrap(), is_ring, 2);
        let driver = Driver::at(Arc::clone(&bench.driver.memory), 0x4000).sized(256);
        let queue = driver.queue(Arc::clone(&bench.interrupt));
        Self { bench, driver, queue, under_way, _folder: folder }
    }

    /// Takes a request of no data, or one that reads the first sector.
    fn add(&mut self, kind: u32) {
        let memory = Arc::clone(&self.driver.memory);
        memory.write_obj(u64::from(kind).to_le(), GuestAddress(HEADERS)).unwrap();
        memory.write_obj(0_u64, GuestAddress(HEADERS + 8)).unwrap();
        let header = Buffer { address: HEADERS, size: 16 };
        let data = Buffer { address: DATA, size: SECTOR as u32 };
        let status = Buffer { address: STATUSES, size: 1 };
        match kind {
            0 => self.driver.send(&[header], &[data, status]),
            _ => self.driver.send(&[header], &[status]),
        };
        let chain = self.queue.pop().unwrap().unwrap();
        let request = request::Request::read(&memory, &chain).unwrap();
        self.under_way.add(under_way::Taken { chain, request, memory }, None);
    }

    fn wait(&mut self) {
        let answer = wait_for(|| self.under_way.finished());
        assert_eq!((answer.1.is_ok(), self.bench.interrupt.needs_reset()), (true, false));
    }
}

#[test]
fn who_is_alone_is_served_by_the_queues_thread_itself() {
    let mut hand = Hand::new(false);
    hand.add(0);
    assert!(hand.under_way.go());
    hand.wait();
    // Several are not, nor is one that takes long.
    hand.add(0);
    hand.add(0);
    assert!(!hand.under_way.go());
    (0..2).for_each(|_| hand.wait());
    hand.add(4);
    assert!(!hand.under_way.go());
    hand.wait();
    // Nor is one that others followed, until there is nothing for once.
    hand.under_way.crowd();
    hand.add(0);
    assert!(!hand.under_way.go());
    hand.wait();
    assert!(!hand.under_way.go());
    hand.add(0);
    assert!(hand.under_way.go());
    hand.wait();
}

#[test]
fn a_driver_that_does_not_wait_for_answers_gets_no_more_at_once_than_a_queue_holds() {
    for is_ring in [true, false] {
        let mut hand = Hand::new(is_ring);
        for count in 0..usize::from(QUEUE_SIZE) {
            assert!(!hand.under_way.is_full(), "{count}");
            hand.add(4);
        }
        assert!(hand.under_way.is_full());
        hand.under_way.go();
        hand.wait();
        assert!(!hand.under_way.is_full());
    }
}
