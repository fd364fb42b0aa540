//! Test bodies of [`crate::memory`], [`crate::dirty_log`] and [`crate::routing`].

use alloc::vec;
use alloc::vec::Vec;

use selftest::{cases, check, check_eq};

use crate::dirty_log::DirtyLog;
use crate::host::Errno;
use crate::memory::{Memory, Slot, Slots, Unreached, View};
use crate::routing::{Pin, Route, Routes};

type TestMemory = Memory<spin::Mutex<()>>;

fn slot(id: u32, gpa: u64, size: u64) -> Slot {
    Slot { id, gpa, size, hva: 0x10_0000_u64.wrapping_add(gpa), ..Slot::default() }
}

cases! {
    fn a_slot_maps_its_range_and_nothing_else() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(slot(0, 0x4000, 0x2000)), Ok(()));
        let view = memory.view();
        check_eq!(view.host_address(0x3fff, false), Err(Unreached::NoSlot { gpa: 0x3fff }));
        check_eq!(view.host_address(0x4000, true), Ok((0x10_4000, 0x2000)));
        check_eq!(view.host_address(0x5fff, true), Ok((0x10_5fff, 1)));
        check_eq!(view.host_address(0x6000, false), Err(Unreached::NoSlot { gpa: 0x6000 }));
    }

    fn slots_are_refused_that_wrap_overlap_or_split_pages() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(slot(0, 0x4000, 0x2000)), Ok(()));
        check_eq!(memory.insert(slot(0, 0x8000, 0x1000)), Err(Errno::EEXIST));
        check_eq!(memory.insert(slot(1, 0x5000, 0x1000)), Err(Errno::EEXIST));
        check_eq!(memory.insert(slot(1, 0x3000, 0x2000)), Err(Errno::EEXIST));
        check_eq!(memory.insert(slot(1, 0x6000, 0x800)), Err(Errno::EINVAL));
        check_eq!(memory.insert(slot(1, 0x6800, 0x1000)), Err(Errno::EINVAL));
        check_eq!(memory.insert(slot(1, 0x6000, 0)), Err(Errno::EINVAL));
        check_eq!(memory.insert(slot(1, !0xfff, 0x2000)), Err(Errno::EINVAL));
        check_eq!(memory.insert(slot(1, 0x6000, 0x1000)), Ok(()));
    }

    fn a_read_only_slot_is_not_memory_for_writes() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(Slot { read_only: true, ..slot(3, 0, 0x1000) }), Ok(()));
        let view = memory.view();
        check_eq!(view.host_address(8, false), Ok((0x10_0008, 0xff8)));
        check_eq!(view.host_address(8, true), Err(Unreached::NoSlot { gpa: 8 }));
    }

    fn a_view_sees_a_change_only_when_refreshed() {
        let memory = TestMemory::default();
        let mut view = memory.view();
        check_eq!(memory.insert(slot(0, 0, 0x1000)), Ok(()));
        check!(view.host_address(0, false).is_err());
        check!(view.refresh(&memory));
        check!(view.host_address(0, false).is_ok());
        check!(!view.refresh(&memory));
        check_eq!(memory.remove(0), Ok(slot(0, 0, 0x1000)));
        check_eq!(memory.remove(0), Err(Errno::ENOENT));
        check!(view.refresh(&memory));
        check!(view.host_address(0, false).is_err());
    }

    fn a_view_finds_each_slot_whichever_it_found_last() {
        let memory = TestMemory::default();
        for (id, gpa) in [(0, 0x4000), (1, 0x6000), (2, 0xa000)] {
            check_eq!(memory.insert(slot(id, gpa, 0x2000)), Ok(()));
        }
        let mut view = memory.view();
        let places = [0x4000, 0x5fff, 0x6000, 0x8000, 0xbfff];
        let find = |view: &View, gpa| view.host_address(gpa, false).ok().map(|(hva, _)| hva);
        let there = |gpa| (gpa != 0x8000).then_some(0x10_0000 + gpa);
        for first in places {
            for second in places {
                check_eq!(find(&view, first), there(first));
                check_eq!(find(&view, second), there(second), "after {first:#x}");
            }
        }
        check_eq!(find(&view, 0xa000), Some(0x10_a000));
        check_eq!(memory.remove(1), Ok(slot(1, 0x6000, 0x2000)));
        check_eq!(memory.remove(2), Ok(slot(2, 0xa000, 0x2000)));
        check!(view.refresh(&memory));
        check_eq!([0x4000, 0x6000, 0xa000].map(|gpa| find(&view, gpa)), [Some(0x10_4000), None, None]);
    }

    fn a_slot_that_is_moved_is_the_same_elsewhere() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(slot(0, 0x4000, 0x2000)), Ok(()));
        check_eq!(memory.insert(slot(1, 0x8000, 0x1000)), Ok(()));
        let there = |gpa| memory.view().host_address(gpa, true).ok();
        check_eq!(memory.relocate(0, 0x7000), Err(Errno::EEXIST));
        check_eq!(memory.relocate(0, 0x9800), Err(Errno::EINVAL));
        check_eq!(memory.relocate(0, !0xfff), Err(Errno::EINVAL));
        check_eq!(memory.relocate(2, 0xa000), Err(Errno::ENOENT));
        check_eq!(there(0x4000), Some((0x10_4000, 0x2000)), "as before");
        // It is not in its own way.
        check_eq!(memory.relocate(0, 0x5000), Ok(slot(0, 0x4000, 0x2000)));
        check_eq!((there(0x4fff), there(0x5000), there(0x6000)),
            (None, Some((0x10_4000, 0x2000)), Some((0x10_5000, 0x1000))));
        check_eq!(memory.relocate(0, 0x1_0000), Ok(Slot { gpa: 0x5000, ..slot(0, 0x4000, 0x2000) }));
        check_eq!(there(0x6000), None);
        let order: Vec<_> = memory.view().slots().iter().map(|slot| slot.id).collect();
        check_eq!(order, [1, 0]);
    }

    fn slots_have_a_size_and_a_number_that_are_limited() {
        let memory = TestMemory::default();
        let pages = 1 << 31;
        // Nothing of that size is allocated, logged or not.
        for log_dirty in [false, true] {
            let large = Slot { hva: 0, log_dirty, ..slot(0, 0, pages * 0x1000) };
            check_eq!(memory.insert(large), Err(Errno::EINVAL));
            let larger = Slot { hva: 0, log_dirty, ..slot(0, 0, !0xfff) };
            check_eq!(memory.insert(larger), Err(Errno::EINVAL));
        }
        check_eq!(memory.insert(Slot { hva: 0, ..slot(0, 0, (pages - 1) * 0x1000) }), Ok(()));
        for id in 1..Slots::MAX as u32 {
            let gpa = pages * 0x1000 + u64::from(id) * 0x1000;
            check_eq!(memory.insert(Slot { hva: 0, ..slot(id, gpa, 0x1000) }), Ok(()));
        }
        check_eq!(memory.insert(Slot { hva: 0, ..slot(1000, 1 << 60, 0x1000) }), Err(Errno::EINVAL));
        check!(memory.remove(5).is_ok());
        check_eq!(memory.insert(Slot { hva: 0, ..slot(1000, 1 << 60, 0x1000) }), Ok(()));
    }

    /// Who gets an address to write to may write to that page unseen, and to no other.
    fn an_address_to_write_to_marks_its_page() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(Slot { log_dirty: true, ..slot(0, 0x4000, 0x4_2000) }), Ok(()));
        check_eq!(memory.insert(slot(1, 0x10_0000, 0x1000)), Ok(()));
        let view = memory.view();
        let Ok((_, log)) = memory.log(0) else { check!(false, "a log"); return Ok(()) };
        check_eq!(log.take(), Ok(vec![0, 0]));
        check_eq!(view.host_address(0x5008, false), Ok((0x10_5008, 0x4_0ff8)));
        check_eq!(log.take(), Ok(vec![0, 0]), "reads are not logged");
        check_eq!(view.host_address(0x5008, true), Ok((0x10_5008, 0xff8)));
        check_eq!(view.host_address(0x4_5fff, true), Ok((0x14_5fff, 1)));
        check_eq!(log.take(), Ok(vec![0b10, 0b10]));
        check_eq!(log.take(), Ok(vec![0, 0]), "taken");
        check!(!view.is_freely_written(0x5000) && view.is_freely_written(0x10_0000));
        check!(!view.is_freely_written(0), "nothing is there");
        check_eq!(memory.log(1).map(|_| ()), Err(Errno::ENOENT));
        check_eq!(memory.log(2).map(|_| ()), Err(Errno::ENOENT));
    }

    /// As with Linux's KVM, if that is wanted.
    fn the_first_read_of_a_page_may_mark_it() {
        let memory = TestMemory::default();
        let logged = |id, gpa| Slot { log_dirty: true, ..slot(id, gpa, 0x4_2000) };
        check_eq!(memory.insert(logged(0, 0)), Ok(()));
        memory.count_first_reads();
        check_eq!(memory.insert(logged(1, 0x10_0000)), Ok(()));
        check_eq!(memory.insert(Slot { read_only: true, ..logged(2, 0x20_0000) }), Ok(()));
        let read = |offset: u64| {
            let view = memory.view();
            let reads = [0, 0x10_0000, 0x20_0000].map(|gpa| view.host_address(gpa + offset, false).is_ok());
            reads == [true; 3]
        };
        let taken = |id| memory.log(id).and_then(|(_, log)| log.take());
        check!(read(0x1008) && read(0x1010) && read(0x4_1fff));
        check_eq!(taken(0), Ok(vec![0, 0]), "it was there before");
        check_eq!(taken(1), Ok(vec![0b10, 0b10]));
        check_eq!(taken(2), Ok(vec![0, 0]), "nobody writes there");
        check!(read(0x1008) && read(0x2000));
        check_eq!(taken(1), Ok(vec![0b100, 0]), "once");
        check!(memory.set_log(0, false).is_ok() && memory.set_log(0, true).is_ok() && read(0x1000));
        check_eq!(taken(0), Ok(vec![0b10, 0]), "a new one");
    }

    fn a_log_is_the_same_until_it_is_switched_off() {
        let memory = TestMemory::default();
        check_eq!(memory.insert(slot(0, 0x4000, 0x2000)), Ok(()));
        let old = memory.view();
        check_eq!(memory.set_log(0, true), Ok(Slot { log_dirty: true, ..slot(0, 0x4000, 0x2000) }));
        let view = memory.view();
        check!(old.is_freely_written(0x4000) && !view.is_freely_written(0x4000));
        let taken = || memory.log(0).and_then(|(_, log)| log.take());
        check!(view.host_address(0x4000, true).is_ok());
        // Switched on again, moved, and other slots: it is still there, also for those who have not seen that.
        check!(memory.set_log(0, true).is_ok());
        check!(memory.relocate(0, 0x8000).is_ok());
        check_eq!(memory.insert(slot(1, 0x4000, 0x1000)), Ok(()));
        check!(view.host_address(0x5000, true).is_ok());
        check_eq!(taken(), Ok(vec![0b11]));
        check!(memory.view().host_address(0x8000, true).is_ok());
        check!(memory.set_log(0, false).is_ok());
        check_eq!(taken(), Err(Errno::ENOENT));
        check!(memory.set_log(0, true).is_ok());
        check_eq!(taken(), Ok(vec![0]), "a new one");
        check_eq!(memory.set_log(7, true), Err(Errno::ENOENT));
    }

    fn a_log_marks_what_is_in_it() {
        let Ok(log) = DirtyLog::new(65, false) else { check!(false, "a log"); return Ok(()) };
        log.mark(62, 64, |_| {});
        log.mark(200, 300, |_| {});
        check_eq!(log.take(), Ok(vec![0b11 << 62, 1]));
        check_eq!(DirtyLog::new(u64::MAX, false).map(|_| ()), Err(Errno::ENOMEM));
    }

    fn a_gsi_leads_to_all_of_its_routes() {
        let mut routes = Routes::default();
        let pin = |chip, number| Route::Pin(Pin { chip, number });
        let msi = Route::Msi { address: 0xfee0_0000, data: 0x41 };
        check_eq!(routes.add(4, pin(0, 4)), Ok(()));
        check_eq!(routes.add(24, msi), Ok(()));
        check_eq!(routes.add(4, pin(2, 4)), Ok(()));
        check_eq!(routes.of(4).collect::<Vec<_>>(), [pin(0, 4), pin(2, 4)]);
        check_eq!(routes.of(24).collect::<Vec<_>>(), [msi]);
        check_eq!(routes.of(5).count(), 0);
    }
}
