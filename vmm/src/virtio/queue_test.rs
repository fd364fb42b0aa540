use std::sync::Mutex;

use proptest::prelude::*;
use vm_memory::Bytes;

use super::driver::{Descriptor, Driver, INDIRECT, MEMORY, NEXT, SIZE, WRITE};
use super::*;

/// What a device interrupts by, and how often it did.
fn interrupt() -> (Arc<Interrupt>, Arc<Mutex<u32>>) {
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let line = Arc::new(move |level| {
        if level {
            *counted.lock().unwrap() += 1;
        }
    });
    (Arc::new(Interrupt::new(1, line, Arc::new(|_| {}))), count)
}

fn buffer(address: u64, size: u32) -> Buffer {
    Buffer { address, size }
}

#[test]
fn chains_come_and_go_in_order() {
    let mut driver = Driver::new();
    let (interrupt, count) = interrupt();
    let mut queue = driver.queue(interrupt);
    assert_eq!(queue.pop(), Ok(None));
    for round in 0..40_u32 {
        let head = driver.send(&[buffer(0x8000, 16)], &[buffer(0x9000, 100), buffer(0xa000, 1)]);
        assert_eq!(queue.has_next(), Ok(true));
        let chain = queue.pop().unwrap().unwrap();
        assert_eq!(queue.has_next(), Ok(false));
        assert_eq!(chain.head, head);
        assert_eq!(chain.readable, [buffer(0x8000, 16)]);
        assert_eq!(chain.writable, [buffer(0x9000, 100), buffer(0xa000, 1)]);
        assert_eq!(queue.pop(), Ok(None));
        queue.push(&chain, round).unwrap();
        queue.tell().unwrap();
        assert_eq!(driver.take(), Some((head.into(), round)));
        assert_eq!(*count.lock().unwrap(), round + 1);
    }
}

#[test]
fn chains_that_come_together_count_each_for_who_waits_for_one_of_them() {
    let mut driver = Driver::new();
    let (interrupt, count) = interrupt();
    let mut queue = driver.queue_with_events(interrupt);
    let mut index = 0_u16;
    // Past the ring's end, and with one that waits for the first, one of the middle, the last, and none of them.
    for (together, wanted, is_told) in [(3, 0, 1), (3, 1, 1), (5, 4, 1), (5, 5, 0), (4, -1, 0)] {
        driver.want_event(index.wrapping_add_signed(wanted));
        let mut chains = Vec::new();
        for size in 0..together {
            driver.send(&[], &[buffer(0x9000, 100)]);
            chains.push((queue.pop().unwrap().unwrap(), size));
        }
        assert_eq!(driver.take(), None);
        let before = *count.lock().unwrap();
        queue.push_together(&chains).unwrap();
        queue.tell().unwrap();
        assert_eq!(*count.lock().unwrap() - before, is_told, "{together} {wanted}");
        for (chain, size) in &chains {
            assert_eq!(driver.take(), Some((chain.head.into(), *size)));
        }
        assert_eq!(driver.take(), None);
        index = index.wrapping_add(together as u16);
    }
}

#[test]
fn what_is_written_is_told_before_the_driver_is() {
    let mut driver = Driver::new();
    let told: Arc<Mutex<Vec<_>>> = Arc::default();
    let writes = Arc::clone(&told);
    let wrote: Wrote = Arc::new(move |start, size| writes.lock().unwrap().push((start, size)));
    let mut queue = driver.queue_that_tells(interrupt().0, wrote);
    driver.send(&[buffer(0x8000, 16)], &[buffer(0x9000, 100), buffer(0xa000, 1)]);
    let chain = queue.pop().unwrap().unwrap();
    assert!(told.lock().unwrap().is_empty());
    queue.push(&chain, 7).unwrap();
    let ring = (driver.rings()[2], 6 + 8 * u64::from(SIZE));
    assert_eq!(*told.lock().unwrap(), [(0x9000, 100), (0xa000, 1), ring]);
}

#[test]
fn a_chain_may_be_in_a_table_of_its_own() {
    let mut driver = Driver::new();
    let mut queue = driver.queue(interrupt().0);
    let table = 0x2_0000;
    let [read, write] = [(0x8000, NEXT, 1), (0x9000, WRITE, 0)]
        .map(|(address, flags, next)| Descriptor { address, size: 8, flags, next });
    driver.describe(table, 0, read);
    driver.describe(table, 1, write);
    let refers = Descriptor { address: table, size: 32, flags: INDIRECT, next: 0 };
    driver.describe(driver.rings()[0], 3, refers);
    driver.offer(3);
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(
        (chain.readable, chain.writable),
        (vec![buffer(0x8000, 8)], vec![buffer(0x9000, 8)])
    );
}

#[test]
fn what_no_driver_may_do_is_broken() {
    let end = MEMORY as u64;
    let descriptor = |address, flags, next| Descriptor { address, size: 16, flags, next };
    let wrong: [(&str, Vec<Descriptor>); 10] = [
        ("a loop", vec![descriptor(0x8000, NEXT, 0)]),
        ("a loop of two", vec![descriptor(0x8000, NEXT, 1), descriptor(0x8000, NEXT, 0)]),
        ("a next that there is not", vec![descriptor(0x8000, NEXT, SIZE)]),
        ("outside of memory", vec![descriptor(end - 15, 0, 0)]),
        ("far outside of memory", vec![descriptor(u64::MAX - 3, WRITE, 0)]),
        (
            "to read behind to write",
            vec![descriptor(0x8000, WRITE | NEXT, 1), descriptor(0x9000, 0, 0)],
        ),
        (
            "a table of an odd size",
            vec![Descriptor { size: 17, ..descriptor(0x8000, INDIRECT, 0) }],
        ),
        ("a table that is nowhere", vec![descriptor(end, INDIRECT, 0)]),
        ("a table of nothing", vec![Descriptor { size: 0, ..descriptor(0x8000, INDIRECT, 0) }]),
        (
            "something behind a table",
            vec![descriptor(0x2_0000, INDIRECT | NEXT, 1), descriptor(0x9000, 0, 0)],
        ),
    ];
    for (what, descriptors) in wrong {
        let mut driver = Driver::new();
        let mut queue = driver.queue(interrupt().0);
        for (number, descriptor) in (0..).zip(descriptors) {
            driver.describe(driver.rings()[0], number, descriptor);
        }
        driver.offer(0);
        assert_eq!(queue.pop(), Err(Broken), "{what}");
    }
}

#[test]
fn what_no_driver_may_have_in_a_table_of_its_own_is_broken() {
    let table = 0x2_0000;
    let descriptor = |address, flags, next| Descriptor { address, size: 16, flags, next };
    for (what, first) in [
        ("a loop", descriptor(0x8000, NEXT, 0)),
        ("what the table has not", descriptor(0x8000, NEXT, 1)),
        ("another table", descriptor(table, INDIRECT, 0)),
    ] {
        let mut driver = Driver::new();
        let mut queue = driver.queue(interrupt().0);
        driver.describe(table, 0, first);
        // It is not the table's any more, and would be the chain's end.
        driver.describe(table, 1, descriptor(0x9000, 0, 0));
        driver.describe(driver.rings()[0], 0, descriptor(table, INDIRECT, 0));
        driver.offer(0);
        assert_eq!(queue.pop(), Err(Broken), "{what}");
    }
}

#[test]
fn a_chain_may_begin_in_the_ring_and_end_in_a_table() {
    let mut driver = Driver::new();
    let mut queue = driver.queue(interrupt().0);
    let descriptor = |address, flags, next| Descriptor { address, size: 16, flags, next };
    driver.describe(0x2_0000, 0, descriptor(0x9000, WRITE, 0));
    driver.describe(driver.rings()[0], 0, descriptor(0x8000, NEXT, 1));
    driver.describe(driver.rings()[0], 1, descriptor(0x2_0000, INDIRECT, 0));
    driver.offer(0);
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(
        (chain.readable, chain.writable),
        (vec![buffer(0x8000, 16)], vec![buffer(0x9000, 16)])
    );
}

#[test]
fn a_chain_may_not_be_of_more_than_4_gib() {
    let mut driver = Driver::new();
    let mut queue = driver.queue(interrupt().0);
    for (number, flags) in [(0, NEXT), (1, 0)] {
        let size = u32::MAX;
        driver.describe(driver.rings()[0], number, Descriptor { address: 0, size, flags, next: 1 });
    }
    driver.offer(0);
    assert_eq!(queue.pop(), Err(Broken));
}

#[test]
fn an_index_that_jumps_is_broken() {
    let mut driver = Driver::new();
    let mut queue = driver.queue(interrupt().0);
    driver.set_available(SIZE + 1);
    assert_eq!(queue.pop(), Err(Broken));
    let mut driver = Driver::new();
    let mut queue = driver.queue(interrupt().0);
    driver.offer(SIZE);
    assert_eq!(queue.pop(), Err(Broken), "a head that there is not");
}

#[test]
fn serving_ends_when_there_is_no_more_and_tells_once() {
    let mut driver = Driver::new();
    let (interrupt, count) = interrupt();
    let mut queue = driver.queue(interrupt);
    for _ in 0..5 {
        driver.send(&[], &[buffer(0x8000, 4)]);
    }
    let served = queue.serve(|memory, chain| {
        Ok(Served::Written(write(memory, &chain.writable, b"abcdef")? as u32))
    });
    assert_eq!(served, Ok(false));
    let sizes: Vec<_> = std::iter::from_fn(|| driver.take()).map(|(_, size)| size).collect();
    assert_eq!(sizes, [4; 5]);
    assert_eq!(*count.lock().unwrap(), 1);
    assert_eq!(driver.memory.read_obj::<[u8; 6]>(GuestAddress(0x8000)).unwrap(), *b"abcd\0\0");
}

#[test]
fn a_driver_that_adds_more_and_more_is_not_served_for_ever() {
    let mut driver = Driver::new();
    let (interrupt, count) = interrupt();
    let mut queue = driver.queue(interrupt);
    driver.send(&[], &[buffer(0x8000, 4)]);
    let mut served = 0;
    let more = queue.serve(|_, _| {
        served += 1;
        driver.send(&[], &[buffer(0x8000, 4)]);
        Ok(Served::Written(0))
    });
    assert_eq!((more, served), (Ok(true), SIZE));
    assert_eq!(*count.lock().unwrap(), 1, "it is told of those");
}

#[test]
fn what_is_left_for_later_comes_next() {
    let mut driver = Driver::new();
    let (interrupt, count) = interrupt();
    let mut queue = driver.queue(interrupt);
    let heads = [1, 2, 3].map(|size| driver.send(&[], &[buffer(0x8000, size)]));
    let more = queue.serve(|_, chain| match chain.writable[0].size {
        2 => Ok(Served::Later),
        size => Ok(Served::Written(size)),
    });
    assert_eq!((more, *count.lock().unwrap()), (Ok(true), 1));
    assert_eq!((driver.take(), driver.take()), (Some((heads[0].into(), 1)), None));
    assert_eq!(queue.serve(|_, chain| Ok(Served::Written(chain.writable[0].size))), Ok(false));
    assert_eq!(driver.take(), Some((heads[1].into(), 2)));
    assert_eq!(driver.take(), Some((heads[2].into(), 3)));
}

#[test]
fn rings_that_are_nowhere_are_no_queue() {
    let driver = Driver::new();
    let far = Driver::at(Arc::clone(&driver.memory), MEMORY as u64 - 0x1000);
    let mut queue = Queue::new(SIZE).unwrap();
    let [descriptors, available, used] = far.rings().map(GuestAddress);
    queue.try_set_desc_table_address(descriptors).unwrap();
    queue.try_set_avail_ring_address(available).unwrap();
    queue.try_set_used_ring_address(used).unwrap();
    queue.set_ready(true);
    assert!(
        Virtqueue::new(0, queue, Arc::clone(&driver.memory), interrupt().0, Arc::new(|_, _| {}))
            .is_err()
    );
}

proptest! {
    #[test]
    fn a_part_is_what_the_bytes_say(
        sizes in prop::collection::vec(0_u32..5, 0..6),
        offset in 0_u64..24,
        size in 0_u64..24,
    ) {
        let buffers: Vec<_> = (0..).map(|n| n * 0x100).zip(&sizes).map(|(at, size)| buffer(at, *size)).collect();
        let bytes = |buffers: &[Buffer]| -> Vec<u64> {
            buffers.iter().flat_map(|one| one.address..one.address + u64::from(one.size)).collect()
        };
        let expected: Vec<_> = bytes(&buffers).into_iter().skip(offset as usize).take(size as usize).collect();
        prop_assert_eq!(bytes(&part(&buffers, offset, size)), expected);
    }

    #[test]
    fn no_rings_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0x200), available in any::<u16>()) {
        let mut driver = Driver::new();
        let mut queue = driver.queue(interrupt().0);
        driver.memory.write_slice(&bytes[..0x100], GuestAddress(driver.rings()[0])).unwrap();
        driver.memory.write_slice(&bytes[0x100..], GuestAddress(driver.rings()[1])).unwrap();
        driver.set_available(available % (SIZE + 2));
        let mut left = 3 * SIZE;
        while let Ok(Some(chain)) = queue.pop() {
            queue.push(&chain, 0).unwrap();
            left -= 1;
            prop_assert!(left > 0, "it ends");
        }
    }
}
