//! Test bodies of [`super::accesses`], and of what the run loop writes to memory whose slots change or are logged.

use alloc::sync::Arc;

use selftest::{cases, check, check_eq};
use virt::host::{Expire, Host, Timer};
use virt::memory::Slot;

use super::accesses::Accesses;
use super::scripted::{Fixture, TestHost};
use crate::msr::index;
use crate::pvclock::TimeInfo;

/// Ends an access when it expires.
struct End(Accesses);

impl Expire for End {
    fn expired(&self) {
        self.0.end();
    }
}

/// Where the guest has its clock.
const CLOCK: u64 = 0x6fe0;
const ON: u64 = CLOCK | 1;

cases! {
    fn who_changes_slots_waits_for_the_accesses_under_way() {
        let (host, accesses) = (TestHost::default(), Accesses::default());
        accesses.wait(&host);
        accesses.during(|| ());
        accesses.wait(&host);
        // The host's time passes when somebody waits.
        for end in [100, 200] {
            let timer = host.timer(Arc::new(End(accesses.clone())));
            accesses.begin();
            accesses.begin();
            let Ok(timer) = timer else { check!(false, "a timer"); return Ok(()) };
            timer.arm(host.now() + end);
            let started = host.now();
            accesses.during(|| ());
            accesses.end();
            accesses.wait(&host);
            check_eq!(host.now(), started + end);
        }
    }

    fn the_run_loops_next_access_sees_what_has_changed() {
        let Ok(fixture) = Fixture::new(1) else { check!(false, "a machine"); return Ok(()) };
        let Ok(mut vcpu) = fixture.vcpu(0) else { check!(false, "a vCPU"); return Ok(()) };
        let mut bytes = [0; TimeInfo::SIZE];
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, ON).is_ok());
        // The same bytes are elsewhere now.
        check_eq!(fixture.vm.move_slot(0, 0x10_0000), Ok(()));
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, ON).is_err());
        check_eq!(fixture.host.write(CLOCK, &bytes), Ok(()));
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, 0x10_0000 + ON).is_ok());
        check_eq!(fixture.host.read(CLOCK, &mut bytes), Ok(()));
        check!(bytes != [0; TimeInfo::SIZE]);
        check_eq!(fixture.vm.remove_slot(0), Ok(()));
        let read_only = Slot { size: Fixture::MEMORY, read_only: true, ..Slot::default() };
        check_eq!(fixture.vm.add_slot(read_only), Ok(()));
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, ON).is_err());
    }

    fn what_the_run_loop_writes_is_logged() {
        let Ok(fixture) = Fixture::new(1) else { check!(false, "a machine"); return Ok(()) };
        let Ok(mut vcpu) = fixture.vcpu(0) else { check!(false, "a vCPU"); return Ok(()) };
        let invalidated = &fixture.vm.arch().machine().engine.invalidated;
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, ON).is_ok());
        check_eq!(fixture.vm.log_dirty(0, true), Ok(()));
        check_eq!(invalidated.lock().last().copied(), Some((0, Fixture::MEMORY)));
        invalidated.lock().clear();
        let taken = || fixture.vm.take_dirty(0).map(|taken| (taken.len(), taken.first().copied()));
        let words = (Fixture::MEMORY / 0x1000 / 64) as usize;
        check_eq!(taken(), Ok((words, Some(0))));
        // Nothing to be dropped by the engine.
        check_eq!(invalidated.lock().len(), 0);
        for _ in 0..2 {
            check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, ON).is_ok());
            check_eq!(taken(), Ok((words, Some(1 << 6))));
            check_eq!(invalidated.lock().pop(), Some((0, Fixture::MEMORY)));
            check_eq!(taken(), Ok((words, Some(0))));
        }
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, 0x6ff1).is_ok());
        check_eq!(taken(), Ok((words, Some(0b11 << 6))));
    }

    fn a_write_through_a_view_is_logged_whether_or_not_the_view_is_new() {
        let Ok(fixture) = Fixture::new(1) else { check!(false, "a machine"); return Ok(()) };
        check_eq!(fixture.vm.log_dirty(0, true), Ok(()));
        let view = fixture.vm.memory().view();
        check_eq!(fixture.vm.move_slot(0, 0x1000), Ok(()));
        check_eq!(view.write(&fixture.host, 0x3ffe, &[1; 0x1004]), Ok(()));
        check_eq!(view.compare_exchange(&fixture.host, 0x8000, 4, 1, 2), Ok(0));
        let taken = fixture.vm.take_dirty(0);
        check_eq!(taken.as_deref().map(|words| words.first().copied()), Ok(Some(0b11_1000)));
        check_eq!(view.compare_exchange(&fixture.host, 0x8000, 4, 0, 2), Ok(0));
        check_eq!(view.write(&fixture.host, 0x5000, &[]), Ok(()));
        let taken = fixture.vm.take_dirty(0);
        check_eq!(taken.as_deref().map(|words| words.first().copied()), Ok(Some(1 << 8)));
    }
}
