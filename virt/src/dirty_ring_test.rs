//! Test bodies of [`crate::dirty_ring`], with its entries as a VMM sees them, and of views that have one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use selftest::{cases, check, check_eq};

use crate::dirty_ring::{DirtyRing, MAX_ENTRIES, RESERVED, check_entries};
use crate::host::Errno;
use crate::ioctl::{DirtyGfns, Mapping};
use crate::memory::{Memory, Slot};

/// Bytes of an entry.
const ENTRY: usize = 16;
const DIRTY: u8 = 1;
const RESET: u8 = 2;

/// Memory that a VMM has mapped.
#[derive(Clone)]
struct Shared(Arc<spin::Mutex<Vec<u8>>>);

impl Shared {
    fn new(entries: u32) -> Self {
        Self(Arc::new(spin::Mutex::new(vec![0; entries as usize * ENTRY])))
    }

    /// The first entries: their flags, slots and pages.
    fn entries(&self, count: usize) -> Vec<(u8, u8, u8)> {
        self.0
            .lock()
            .chunks(ENTRY)
            .take(count)
            .map(|entry| (entry[0], entry[4], entry[8]))
            .collect()
    }

    /// The VMM says that it has collected an entry.
    fn collect(&self, at: usize) {
        self.0.lock()[at * ENTRY] |= RESET;
    }
}

impl Mapping for Shared {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.lock()[offset..offset + bytes.len()]);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        self.0.lock()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

fn ring(entries: u32) -> (Shared, Arc<DirtyRing>) {
    let shared = Shared::new(entries);
    let ring = DirtyRing::new(Box::new(DirtyGfns(shared.clone())), entries);
    (shared, Arc::new(ring))
}

cases! {
    fn a_ring_has_a_size_that_it_may_have() {
        for entries in [0, 1, 512, 1000, 1025, 3 << 9, u64::MAX] {
            check_eq!(check_entries(entries), Err(Errno::EINVAL));
        }
        for entries in [1024, 2048, MAX_ENTRIES] {
            check_eq!(check_entries(entries.into()), Ok(entries));
        }
        check_eq!(check_entries(u64::from(MAX_ENTRIES) * 2), Err(Errno::E2BIG));
        check_eq!(check_entries(1 << 63), Err(Errno::E2BIG));
    }

    fn what_is_put_is_there_until_it_is_given_back() {
        let (shared, ring) = ring(4);
        ring.put(3, 7);
        ring.put(4, 8);
        check_eq!(shared.entries(3), [(DIRTY, 3, 7), (DIRTY, 4, 8), (0, 0, 0)]);
        let reset = |ring: &DirtyRing| {
            let mut all = Vec::new();
            let count = ring.reset(|slot, page| all.push((slot, page)));
            (count, all)
        };
        check_eq!(reset(&ring), (0, vec![]));
        // Only in order.
        shared.collect(1);
        check_eq!(reset(&ring), (0, vec![]));
        shared.collect(0);
        check_eq!(reset(&ring), (2, vec![(3, 7), (4, 8)]));
        check_eq!(shared.entries(2).iter().map(|entry| entry.0).collect::<Vec<_>>(), [0, 0]);
        // What was never filled is not given back, whatever the VMM says.
        shared.collect(2);
        check_eq!(reset(&ring), (0, vec![]));
        // Around.
        for page in 1..=4 {
            ring.put(0, page);
        }
        check_eq!(shared.entries(4), [(DIRTY, 0, 3), (DIRTY, 0, 4), (DIRTY, 0, 1), (DIRTY, 0, 2)]);
        check!(!ring.has_overflowed());
        ring.put(0, 5);
        check!(ring.has_overflowed() && ring.is_nearly_full());
        check_eq!(shared.entries(1), [(DIRTY, 0, 3)]);
    }

    fn it_is_nearly_full_when_the_reserve_is_begun() {
        let (shared, ring) = ring(1024);
        let room = 1024 - RESERVED;
        for page in 0..room {
            check!(!ring.is_nearly_full());
            ring.put(0, page.into());
        }
        check!(ring.is_nearly_full());
        shared.collect(0);
        check_eq!(ring.reset(|_, _| {}), 1);
        check!(!ring.is_nearly_full());
    }

    fn a_view_puts_what_is_marked_for_the_first_time() {
        let memory = Memory::<spin::Mutex<()>>::default();
        let slot = Slot { id: 5, gpa: 0x10_0000, size: 0x10_0000, hva: 0x1000, ..Slot::default() };
        check!(memory.insert(Slot { log_dirty: true, ..slot }).is_ok());
        check!(memory.insert(Slot { id: 6, gpa: 0x40_0000, ..slot }).is_ok());
        let (shared, ring) = ring(8);
        let mut view = memory.view();
        view.set_ring(ring);
        for gpa in [0x10_2000, 0x10_2fff, 0x40_0000, 0x10_0001, 0x10_2000] {
            check!(view.host_address(gpa, true).is_ok());
        }
        // Reads are none of it, and it stays when the slots change.
        check!(view.host_address(0x10_7000, false).is_ok());
        check!(memory.remove(6).is_ok() && view.refresh(&memory));
        check!(view.host_address(0x10_5000, true).is_ok());
        check_eq!(shared.entries(4), [(DIRTY, 5, 2), (DIRTY, 5, 0), (DIRTY, 5, 5), (0, 0, 0)]);
        // Another vCPU's has it already.
        check!(memory.view().host_address(0x10_8000, true).is_ok());
        check!(view.host_address(0x10_8000, true).is_ok());
        check_eq!(shared.entries(4)[3], (0, 0, 0));
    }

    fn a_first_read_is_put_where_it_counts() {
        let memory = Memory::<spin::Mutex<()>>::default();
        memory.count_first_reads();
        let slot = Slot { id: 5, size: 0x10_0000, hva: 0x1000, log_dirty: true, ..Slot::default() };
        check!(memory.insert(slot).is_ok());
        let (shared, ring) = ring(8);
        let mut view = memory.view();
        view.set_ring(ring);
        for gpa in [0x3000, 0x3000, 0x4000] {
            check!(view.host_address(gpa, false).is_ok());
        }
        check_eq!(shared.entries(3), [(DIRTY, 5, 3), (DIRTY, 5, 4), (0, 0, 0)]);
    }
}
