use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::Bytes;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// A ring that the host is expected to have, its event, and memory in two regions.
fn ring(most: u16) -> Option<(IoRing<u32>, EventFd, Arc<GuestMemoryMmap>)> {
    let event = EventFd::new().unwrap();
    let regions = [(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x2000)];
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
    let ring = IoRing::new(most, &event);
    let says = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match ring {
        Ok(ring) => Some((ring, event, memory)),
        // Whoever has switched it off has no use for these.
        Err(_) if says.is_ok_and(|says| says.trim() != "0") => None,
        Err(error) => panic!("{error}"),
    }
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// The next one, by its event.
fn wait(ring: &mut IoRing<u32>, event: &EventFd) -> (u32, io::Result<u64>) {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(taken) = ring.take() {
            return taken;
        }
        assert!(Instant::now() < until, "nothing comes");
        let mut one = [PollFd::new(event, PollFlags::IN)];
        poll(&mut one, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        let _ = event.take();
    }
}

#[test]
fn bytes_go_both_ways_and_ranges_may_cross_regions() {
    let Some((mut ring, event, memory)) = ring(4) else { return };
    let file = file(&[[1; 0x1000], [2; 0x1000]].concat());
    let ranges = [(GuestAddress(0x1ff0), 0x20), (GuestAddress(0x100), 0x10)];
    let at = (Arc::clone(&file), 0xff0);
    assert_eq!(ring.transfer(Direction::Read, at, &memory, ranges, 7), Ok(()));
    ring.submit().unwrap();
    let (owner, result) = wait(&mut ring, &event);
    assert_eq!((owner, result.unwrap(), ring.len()), (7, 0x30, 0));
    let mut bytes = [0; 0x20];
    memory.read_slice(&mut bytes, GuestAddress(0x1ff0)).unwrap();
    assert_eq!(bytes, [[1; 16], [2; 16]].concat()[..]);

    memory.write_slice(&[9; 0x20], GuestAddress(0x1ff0)).unwrap();
    let at = (Arc::clone(&file), 0x10);
    ring.transfer(Direction::Write, at, &memory, [ranges[0]], 8).unwrap();
    ring.submit().unwrap();
    assert_eq!(wait(&mut ring, &event).1.unwrap(), 0x20);
    let mut bytes = [0; 0x22];
    file.read_exact_at(&mut bytes, 0xf).unwrap();
    assert_eq!((bytes[0], bytes[1], bytes[0x20], bytes[0x21]), (1, 9, 9, 1));
    ring.sync(file, 9).unwrap();
    ring.submit().unwrap();
    assert_eq!(wait(&mut ring, &event).0, 9);
}

#[test]
fn what_the_kernel_refuses_and_what_there_is_no_more_of_are_told() {
    let Some((mut ring, event, memory)) = ring(4) else { return };
    let range = [(GuestAddress(0), 0x1000)];
    // A file that is not open for writing.
    let file = Arc::new(File::open("/proc/self/exe").unwrap());
    let at = (Arc::clone(&file), 0);
    ring.transfer(Direction::Write, at, &memory, range, 1).unwrap();
    ring.submit().unwrap();
    assert!(wait(&mut ring, &event).1.is_err());
    // What has no medium.
    let (pipe, _writer) = std::io::pipe().unwrap();
    let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(pipe)));
    ring.sync(pipe, 2).unwrap();
    ring.submit().unwrap();
    assert!(wait(&mut ring, &event).1.is_err());
    let short = self::file(&[5; 100]);
    ring.transfer(Direction::Read, (short, 0), &memory, range, 3).unwrap();
    ring.submit().unwrap();
    assert_eq!(wait(&mut ring, &event).1.unwrap(), 100);
}

#[test]
fn there_are_no_more_than_there_may_be_and_none_outside_of_memory() {
    let Some((mut ring, _event, memory)) = ring(2) else { return };
    let file = file(&[0; 0x1000]);
    let start = |ring: &mut IoRing<u32>, address, owner| {
        let range = [(GuestAddress(address), 0x10)];
        ring.transfer(Direction::Read, (Arc::clone(&file), 0), &memory, range, owner)
    };
    assert_eq!(start(&mut ring, 0x3ff8, 1), Err(1), "there is no such memory");
    assert_eq!([2, 3, 4].map(|owner| start(&mut ring, 0, owner)), [Ok(()), Ok(()), Err(4)]);
    assert_eq!(ring.len(), 2);
}

#[test]
fn one_that_is_dropped_has_waited() {
    let Some((mut ring, _event, memory)) = ring(4) else { return };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = Arc::new(File::from(std::os::fd::OwnedFd::from(reader)));
    let range = [(GuestAddress(0), 3)];
    // Of a pipe: the kernel waits until somebody writes.
    ring.transfer(Direction::Read, (reader, u64::MAX), &memory, range, 1).unwrap();
    // It is given to the kernel in any case.
    let others = Arc::strong_count(&memory);
    let dropping = std::thread::spawn(move || drop(ring));
    std::thread::yield_now();
    assert_eq!(Arc::strong_count(&memory), others, "the mapping is held");
    writer.write_all(b"abc").unwrap();
    dropping.join().unwrap();
    let mut bytes = [0; 3];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    assert_eq!((&bytes, Arc::strong_count(&memory)), (b"abc", 1));
}

#[test]
fn the_event_tells_of_what_is_done_unless_it_is_not_wanted() {
    let Some((mut ring, event, memory)) = ring(4) else { return };
    let file = file(&[0; 0x1000]);
    let range = [(GuestAddress(0), 0x10)];
    ring.stop_events();
    ring.transfer(Direction::Read, (Arc::clone(&file), 0), &memory, range, 1).unwrap();
    ring.submit().unwrap();
    let until = Instant::now() + LIMIT;
    while ring.ring.completion().is_empty() {
        assert!(Instant::now() < until, "nothing comes");
        std::thread::yield_now();
    }
    assert_eq!(event.take(), 0);
    assert!(ring.want_events(), "there is something already");
    assert_eq!(ring.take().map(|(owner, _)| owner), Some(1));
    assert!(!ring.want_events());
    ring.transfer(Direction::Read, (file, 0), &memory, range, 2).unwrap();
    ring.submit().unwrap();
    assert_eq!(wait(&mut ring, &event).0, 2);
}
