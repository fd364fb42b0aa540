//! Test bodies of memory slots and their logs, as a VMM asks for them: the neutral `slots`, on this architecture.

use abi::cap;
use abi::encoding::Encoded;
use abi::ioctl::{
    CLEAR_DIRTY_LOG, GET_DIRTY_LOG, RESET_DIRTY_RINGS, SET_USER_MEMORY_REGION,
    SET_USER_MEMORY_REGION2,
};
use abi::memory::{
    ClearDirtyLog, DirtyGfn, DirtyLog, MEM_LOG_DIRTY_PAGES, MEM_READONLY, UserspaceMemoryRegion,
    UserspaceMemoryRegion2,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use selftest::{Failure, cases, check, check_eq};
use virt::Errno;
use virt::ioctl::DirtyGfns;

use super::caller::Caller;
use super::run_test::Shared;
use crate::vcpu::run_test::host_error;
use crate::vcpu::scripted::Fixture;

/// A slot of 70 pages, with a log.
const LOGGED: UserspaceMemoryRegion = UserspaceMemoryRegion {
    slot: 3,
    flags: MEM_LOG_DIRTY_PAGES,
    guest_phys_addr: 0x100_0000,
    memory_size: 70 * 0x1000,
    userspace_addr: 0x4000,
};
/// Where its bitmap goes.
const BITMAP: u64 = super::caller::ARGUMENT + 0x100;

fn region(caller: &Caller, region: &UserspaceMemoryRegion) -> Result<u32, Errno> {
    caller.set_vm(SET_USER_MEMORY_REGION, region)
}

/// The guest writes to a page of the slot.
fn dirty(caller: &Caller, page: u64) -> Result<(), Failure> {
    let view = caller.fixture.vm.memory().view();
    let written = view.host_address(LOGGED.guest_phys_addr + page * 0x1000, true);
    host_error(written.map(|_| ()).map_err(|_| Errno::EFAULT))
}

/// Asks for the log.
fn log(caller: &Caller) -> Result<[u64; 2], Errno> {
    caller.fill(0x100, &[0xaa; 24]);
    caller.set_vm(GET_DIRTY_LOG, &DirtyLog { slot: 3, padding1: 0, dirty_bitmap: BITMAP })?;
    Ok(caller.at(0x100))
}

fn clear(caller: &Caller, first_page: u64, num_pages: u32, bits: [u64; 2]) -> Result<u32, Errno> {
    caller.put(0x100, &bits);
    let clear = ClearDirtyLog { slot: 3, num_pages, first_page, dirty_bitmap: BITMAP };
    caller.set_vm(CLEAR_DIRTY_LOG, &clear)
}

cases! {
    fn a_region_is_made_moved_changed_and_removed() {
        let caller = Caller::new()?;
        let slot = |id| caller.fixture.vm.memory().slot(id);
        let made = UserspaceMemoryRegion { flags: MEM_READONLY, ..LOGGED };
        check_eq!(region(&caller, &made), Ok(0));
        check_eq!(slot(3).map(|s| (s.gpa, s.size, s.hva, s.read_only, s.log_dirty)),
            Some((0x100_0000, 70 * 0x1000, 0x4000, true, false)));
        // The same again, elsewhere, with a log, and no more.
        check_eq!(region(&caller, &made), Ok(0));
        let flags = MEM_READONLY | MEM_LOG_DIRTY_PAGES;
        check_eq!(region(&caller, &UserspaceMemoryRegion { guest_phys_addr: 0x200_0000, flags, ..made }), Ok(0));
        check_eq!(slot(3).map(|s| (s.gpa, s.log_dirty)), Some((0x200_0000, true)));
        check_eq!(region(&caller, &UserspaceMemoryRegion { memory_size: 0, ..made }), Ok(0));
        check_eq!(slot(3), None);
        let second = UserspaceMemoryRegion2 {
            slot: 3, flags: 0, guest_phys_addr: 0x100_0000, memory_size: 0x1000, userspace_addr: 0x4000,
            guest_memfd_offset: 9, guest_memfd: 9, ..UserspaceMemoryRegion2::default()
        };
        check_eq!(caller.set_vm(SET_USER_MEMORY_REGION2, &second), Ok(0));
        check!(slot(3).is_some());
        let named = UserspaceMemoryRegion2 { slot: 4, flags: 1 << 2, guest_phys_addr: 0x300_0000, ..second };
        check_eq!(caller.set_vm(SET_USER_MEMORY_REGION2, &named), Err(Errno::EINVAL));
    }

    fn regions_that_cannot_be_are_refused() {
        let caller = Caller::new()?;
        check_eq!(region(&caller, &LOGGED), Ok(0));
        let other = UserspaceMemoryRegion { slot: 4, flags: 0, guest_phys_addr: 0x400_0000, ..LOGGED };
        for (wrong, errno) in [
            (UserspaceMemoryRegion { flags: 4, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { slot: 512, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { slot: 1 << 16, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 0x800, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 0, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: 0x400_0800, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: !0xfff, memory_size: 0x2000, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { userspace_addr: 0x4008, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: 1 << 52, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: (1 << 52) - 0x1000, memory_size: 0x2000, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: 1 << 52, ..LOGGED }, Errno::EINVAL),
            // Not the caller's own, and more than a slot may have.
            (UserspaceMemoryRegion { userspace_addr: 0xffff_8000_0000_0000, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { userspace_addr: 1 << 47, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { userspace_addr: (1 << 47) - 69 * 0x1000, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { userspace_addr: !0xfff, memory_size: 0x1000, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 0, userspace_addr: 1 << 63, ..LOGGED }, Errno::EINVAL),
            (UserspaceMemoryRegion { userspace_addr: 0x1000, memory_size: 0x1000 << 31, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 1 << 43, ..other }, Errno::EINVAL),
            (UserspaceMemoryRegion { guest_phys_addr: 0x100_1000, ..other }, Errno::EEXIST),
            (UserspaceMemoryRegion { guest_phys_addr: 0, ..LOGGED }, Errno::EEXIST),
            (UserspaceMemoryRegion { userspace_addr: 0x5000, ..LOGGED }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 0x1000, ..LOGGED }, Errno::EINVAL),
            (UserspaceMemoryRegion { flags: MEM_READONLY, ..LOGGED }, Errno::EINVAL),
            (UserspaceMemoryRegion { memory_size: 0, userspace_addr: 8, ..LOGGED }, Errno::EINVAL),
        ] {
            check_eq!(region(&caller, &wrong), Err(errno), "{wrong:x?}");
        }
        check_eq!(caller.fixture.vm.memory().view().slots().iter().count(), 2);
        let top = UserspaceMemoryRegion { slot: 511, userspace_addr: (1 << 47) - 70 * 0x1000, ..other };
        check_eq!(region(&caller, &top), Ok(0));
        let large = UserspaceMemoryRegion {
            slot: 6, userspace_addr: 0x1000, guest_phys_addr: 1 << 44, memory_size: 0x1000 * ((1 << 31) - 1), ..other
        };
        check_eq!(region(&caller, &large), Ok(0));
        let last = UserspaceMemoryRegion { slot: 5, guest_phys_addr: (1 << 52) - 0x1000, memory_size: 0x1000, ..other };
        check_eq!(region(&caller, &last), Ok(0));
    }

    fn a_log_is_taken_by_who_asks_for_it() {
        let caller = Caller::new()?;
        check_eq!(log(&caller), Err(Errno::ENOENT));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        for page in [0, 65] {
            dirty(&caller, page)?;
        }
        check_eq!(log(&caller), Ok([1, 2]));
        check_eq!(log(&caller), Ok([0, 0]));
        check_eq!(caller.at::<u64>(0x110), 0xaaaa_aaaa_aaaa_aaaa, "no more than it has");
        for (slot, errno) in [(0, Errno::ENOENT), (5, Errno::ENOENT), (512, Errno::EINVAL), (1 << 16 | 3, Errno::EINVAL)] {
            let ask = DirtyLog { slot, padding1: 0, dirty_bitmap: BITMAP };
            check_eq!(caller.set_vm(GET_DIRTY_LOG, &ask), Err(errno), "{slot}");
        }
        let nowhere = DirtyLog { slot: 3, padding1: 0, dirty_bitmap: Fixture::MEMORY - 8 };
        check_eq!(caller.set_vm(GET_DIRTY_LOG, &nowhere), Err(Errno::EFAULT));
        check_eq!(region(&caller, &UserspaceMemoryRegion { flags: 0, ..LOGGED }), Ok(0));
        check_eq!(log(&caller), Err(Errno::ENOENT));
    }

    fn a_log_that_is_kept_is_cleared_by_hand() {
        let caller = Caller::new()?;
        for wrong in [2, 4, 5] {
            check_eq!(caller.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, wrong), Err(Errno::EINVAL));
        }
        check_eq!(caller.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, 1), Ok(0));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        check_eq!(log(&caller), Ok([0, 0]));
        for page in [3, 7, 64, 69] {
            dirty(&caller, page)?;
        }
        check_eq!(log(&caller), Ok([0x88, 0x21]));
        check_eq!(log(&caller), Ok([0x88, 0x21]));
        let invalidated = || caller.fixture.invalidations();
        let before = invalidated();
        check_eq!(clear(&caller, 0, 64, [0x10, !0]), Ok(0));
        check_eq!((log(&caller), invalidated()), (Ok([0x88, 0x21]), before), "no such mark");
        check_eq!(clear(&caller, 0, 64, [8, !0]), Ok(0));
        check_eq!((log(&caller), invalidated()), (Ok([0x80, 0x21]), before + 1));
        check_eq!(clear(&caller, 64, 6, [1, !0]), Ok(0));
        check_eq!(log(&caller), Ok([0x80, 0x20]));
        check_eq!(clear(&caller, 0, 70, [!0, !0]), Ok(0));
        check_eq!(log(&caller), Ok([0, 0]));
        for (first, count) in [(1, 64), (64, 7), (0, 71), (0, 1), (0, u32::MAX), (128, 0), (!63, 64)] {
            check_eq!(clear(&caller, first, count, [0; 2]), Err(Errno::EINVAL), "{first}, {count}");
        }
        let nowhere = ClearDirtyLog { slot: 3, num_pages: 70, first_page: 0, dirty_bitmap: Fixture::MEMORY - 8 };
        check_eq!(caller.set_vm(CLEAR_DIRTY_LOG, &nowhere), Err(Errno::EFAULT));
        check_eq!(caller.set_vm(CLEAR_DIRTY_LOG, &ClearDirtyLog { slot: 0, ..nowhere }), Err(Errno::ENOENT));
        check_eq!(caller.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, 0), Ok(0));
        dirty(&caller, 1)?;
        check_eq!((log(&caller), log(&caller)), (Ok([2, 0]), Ok([0, 0])));
    }

    fn pages_come_in_rings_or_in_bitmaps() {
        let caller = Caller::new()?;
        check_eq!(caller.vm(RESET_DIRTY_RINGS, 0), Err(Errno::EINVAL));
        for (bytes, errno) in [(0, Errno::EINVAL), (4096, Errno::EINVAL), (0x5000, Errno::EINVAL), (1 << 21, Errno::E2BIG)] {
            check_eq!(caller.enable(cap::DIRTY_LOG_RING, bytes), Err(errno), "{bytes}");
        }
        check_eq!(caller.enable(cap::DIRTY_LOG_RING, 1 << 14), Ok(0));
        for cap in [cap::DIRTY_LOG_RING, cap::DIRTY_LOG_RING_ACQ_REL] {
            check_eq!(caller.enable(cap, 1 << 14), Err(Errno::EINVAL), "once");
        }
        check_eq!(caller.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, 3), Ok(0));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        check_eq!(log(&caller), Err(Errno::ENXIO));
        check_eq!(clear(&caller, 0, 64, [0; 2]), Err(Errno::ENXIO));

        let vm = &caller.fixture.vm;
        check_eq!(vm.ring_entries(), Some(1024));
        let shared = Arc::new(Shared(spin::Mutex::new(vec![0; 1 << 14])));
        let ring = host_error(vm.add_dirty_ring(Box::new(DirtyGfns(Arc::clone(&shared))), 1024))?;
        let mut view = vm.memory().view();
        view.set_ring(ring);
        let write = |page: u64| view.host_address(LOGGED.guest_phys_addr + page * 0x1000, true).is_ok();
        let entry = |n: usize| DirtyGfn::decode(&shared.0.lock()[n * 16..]);
        let gfn = |flags, offset| DirtyGfn { flags, slot: 3, offset };
        let collect = |n: usize, gfn: DirtyGfn| gfn.encode(&mut shared.0.lock()[n * 16..]);
        check!(write(5) && write(69) && write(5));
        check_eq!([entry(0), entry(1), entry(2)], [gfn(1, 5), gfn(1, 69), DirtyGfn::default()]);
        let invalidated = || caller.fixture.invalidations();
        let before = invalidated();
        check_eq!((caller.vm(RESET_DIRTY_RINGS, 0), invalidated()), (Ok(0), before), "none is collected");
        // Another page, and one that is not there, have no mark; the others are told again.
        collect(0, gfn(2, 6));
        collect(1, gfn(3, 1 << 60));
        check_eq!((caller.vm(RESET_DIRTY_RINGS, 0), invalidated()), (Ok(2), before));
        check!(write(5) && write(6));
        check_eq!([entry(2), entry(3)], [gfn(1, 6), DirtyGfn::default()]);
        collect(2, gfn(2, 5));
        check_eq!((caller.vm(RESET_DIRTY_RINGS, 0), invalidated()), (Ok(1), before + 1));
        check!(write(5));
        check_eq!(entry(3), gfn(1, 5));
        collect(3, DirtyGfn { slot: 77, ..gfn(2, 5) });
        check_eq!(caller.vm(RESET_DIRTY_RINGS, 0), Ok(1));

        let with_vcpu = Caller::new()?;
        drop(with_vcpu.vcpu()?);
        check_eq!(with_vcpu.enable(cap::DIRTY_LOG_RING, 1 << 14), Err(Errno::EINVAL));
    }

    fn a_log_may_begin_with_all_pages() {
        let caller = Caller::new()?;
        check_eq!(caller.enable(cap::MANUAL_DIRTY_LOG_PROTECT2, 3), Ok(0));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        check_eq!(log(&caller), Ok([!0, 0x3f]));
        check_eq!(clear(&caller, 0, 64, [!0, 0]), Ok(0));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        check_eq!(log(&caller), Ok([0, 0x3f]), "it is the same log");
        check_eq!(region(&caller, &UserspaceMemoryRegion { flags: 0, ..LOGGED }), Ok(0));
        check_eq!(region(&caller, &LOGGED), Ok(0));
        check_eq!(log(&caller), Ok([!0, 0x3f]));
    }
}
