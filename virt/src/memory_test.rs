//! Test bodies of [`crate::memory`] and [`crate::routing`].

use alloc::vec::Vec;

use selftest::{cases, check, check_eq};

use crate::host::Errno;
use crate::memory::{Memory, Slot, Unreached};
use crate::routing::{Pin, Route, Routes};

type TestMemory = Memory<spin::Mutex<()>>;

fn slot(id: u32, gpa: u64, size: u64) -> Slot {
    Slot { id, gpa, size, hva: 0x10_0000_u64.wrapping_add(gpa), read_only: false }
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
