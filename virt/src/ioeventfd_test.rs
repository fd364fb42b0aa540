//! Test bodies of [`crate::ioeventfd`].

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use selftest::{cases, check, check_eq};

use crate::host::{Errno, Event};
use crate::ioeventfd::{IoAddress, IoEventFd, IoEventFds, MAX};

type TestEvents = IoEventFds<spin::Mutex<()>, TestEvent>;

/// Counts.
#[derive(Clone, Debug, Default)]
struct TestEvent(Arc<AtomicU64>);

impl TestEvent {
    fn count(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl PartialEq for TestEvent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Event for TestEvent {
    fn signal(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

const PORT: IoAddress = IoAddress::Port(0xd0);
const MMIO: IoAddress = IoAddress::Mmio(0xfe00_0000);

fn one(at: IoAddress, size: u8, data: Option<u64>) -> IoEventFd<TestEvent> {
    IoEventFd { at, size, data, event: TestEvent::default() }
}

cases! {
    fn a_write_signals_if_address_and_size_are_right() {
        let all = TestEvents::default();
        let (port, mmio) = (one(PORT, 2, None), one(MMIO, 8, None));
        check_eq!(all.add(port.clone()), Ok(()));
        check_eq!(all.add(mmio.clone()), Ok(()));
        let mut view = all.view();
        check!(view.write(&all, PORT, &[1, 2]));
        check!(!view.write(&all, PORT, &[1]));
        check!(!view.write(&all, PORT, &[1; 4]));
        check!(!view.write(&all, IoAddress::Port(0xd1), &[1, 2]));
        check!(!view.write(&all, IoAddress::Mmio(0xd0), &[1, 2]));
        check_eq!((port.event.count(), mmio.event.count()), (1, 0));
        check!(view.write(&all, MMIO, &[0; 8]));
        check!(!view.write(&all, MMIO, &[0; 2]));
        check_eq!((port.event.count(), mmio.event.count()), (0, 1));
        check!(view.covers(&all, PORT) && view.covers(&all, MMIO));
        check!(!view.covers(&all, IoAddress::Port(0xcf)));
    }

    fn one_of_any_size_is_for_all() {
        let all = TestEvents::default();
        let any = one(MMIO, 0, None);
        check_eq!(all.add(any.clone()), Ok(()));
        let mut view = all.view();
        for size in [1, 2, 3, 4, 8] {
            check!(view.write(&all, MMIO, &[0xff; 8][..size]));
        }
        check_eq!(any.event.count(), 5);
    }

    fn a_value_chooses_among_several() {
        let all = TestEvents::default();
        let (first, second) = (one(PORT, 4, Some(0x0403_0201)), one(PORT, 4, Some(5)));
        check_eq!(all.add(first.clone()), Ok(()));
        check_eq!(all.add(second.clone()), Ok(()));
        let mut view = all.view();
        check!(view.write(&all, PORT, &[1, 2, 3, 4]));
        check!(view.write(&all, PORT, &[5, 0, 0, 0]));
        check!(view.write(&all, PORT, &[5, 0, 0, 0]));
        check!(!view.write(&all, PORT, &[5, 0, 0, 1]));
        check!(!view.write(&all, PORT, &[5]));
        check_eq!((first.event.count(), second.event.count()), (1, 2));
    }

    fn two_for_one_write_are_refused() {
        let all = TestEvents::default();
        check_eq!(all.add(one(PORT, 4, Some(1))), Ok(()));
        check_eq!(all.add(one(PORT, 4, Some(1))), Err(Errno::EEXIST));
        check_eq!(all.add(one(PORT, 4, None)), Err(Errno::EEXIST));
        check_eq!(all.add(one(PORT, 0, None)), Err(Errno::EEXIST));
        check_eq!(all.add(one(PORT, 4, Some(2))), Ok(()));
        check_eq!(all.add(one(PORT, 2, None)), Ok(()));
        check_eq!(all.add(one(IoAddress::Mmio(0xd0), 0, None)), Ok(()));
    }

    fn what_no_write_can_be_is_refused() {
        let all = TestEvents::default();
        for size in [3, 5, 16] {
            check_eq!(all.add(one(PORT, size, None)), Err(Errno::EINVAL));
        }
        check_eq!(all.add(one(MMIO, 0, Some(0))), Err(Errno::EINVAL));
        check_eq!(all.add(one(IoAddress::Mmio(u64::MAX - 3), 4, None)), Err(Errno::EINVAL));
        check_eq!(all.add(one(IoAddress::Mmio(u64::MAX - 4), 4, None)), Ok(()));
        check_eq!(all.add(one(IoAddress::Port(u16::MAX), 4, None)), Ok(()));
    }

    fn a_view_follows_what_is_added_and_removed() {
        let all = TestEvents::default();
        let mut view = all.view();
        let (first, second) = (one(PORT, 1, None), one(PORT, 1, None));
        check!(!view.write(&all, PORT, &[0]));
        check_eq!(all.add(first.clone()), Ok(()));
        check!(view.write(&all, PORT, &[0]));
        // As it, but for another event.
        check_eq!(all.remove(&second), Err(Errno::ENOENT));
        check_eq!(all.remove(&first), Ok(()));
        check!(!view.write(&all, PORT, &[0]));
        check_eq!(all.remove(&first), Err(Errno::ENOENT));
        // Nobody keeps the event.
        check_eq!(Arc::strong_count(&first.event.0), 1);
    }

    fn there_are_not_more_than_so_many() {
        let all = TestEvents::default();
        for port in 0..MAX as u16 {
            check_eq!(all.add(one(IoAddress::Port(port), 1, None)), Ok(()));
        }
        check_eq!(all.add(one(MMIO, 1, None)), Err(Errno::ENOSPC));
    }
}
