//! Test bodies of `msr`.

use abi::encoding::Encoded;
use abi::ioctl::{GET_MSRS, SET_MSRS, X86_SETUP_MCE};
use abi::msr::{MsrEntry, MsrsHeader};
use selftest::{cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::{ARGUMENT, Caller};
use crate::msr::index;
use crate::pvclock::TimeInfo;
use crate::regs::Regs;
use crate::vcpu::run_test::TestVcpu;
use crate::vcpu::scripted::Fixture;

const MCG_CAP: u32 = 0x179;
const HEADER: u64 = MsrsHeader::SIZE as u64;
const ENTRY: u64 = MsrEntry::SIZE as u64;

fn put(caller: &Caller, entries: &[(u32, u64)]) {
    caller.put(0, &MsrsHeader { nmsrs: entries.len() as u32, pad: 0 });
    for (n, (index, data)) in (0..).zip(entries) {
        let entry = MsrEntry { index: *index, reserved: 0, data: *data };
        caller.put(HEADER + n * ENTRY, &entry);
    }
}

fn set(caller: &Caller, vcpu: &mut TestVcpu, entries: &[(u32, u64)]) -> Result<u32, Errno> {
    put(caller, entries);
    caller.call(vcpu, SET_MSRS)
}

fn value(caller: &Caller, n: u64) -> u64 {
    caller.at::<MsrEntry>(HEADER + n * ENTRY).data
}

/// Sets one register; gives what it is then.
fn set_one(caller: &Caller, vcpu: &mut TestVcpu, index: u32, data: u64) -> Option<u64> {
    let done = set(caller, vcpu, &[(index, data)]);
    put(caller, &[(index, 0)]);
    (done == Ok(1) && caller.call(vcpu, GET_MSRS) == Ok(1)).then(|| value(caller, 0))
}

/// What VMMs set before the guest starts, and save.
const USUAL: [(u32, u64); 14] = [
    (index::SYSENTER_CS, 0x10),
    (index::SYSENTER_ESP, 0xffff_8000_0000_1000),
    (index::SYSENTER_EIP, 0xffff_8000_0000_2000),
    (index::STAR, 0x0023_0010_0000_0000),
    (index::LSTAR, 0xffff_8000_0000_3000),
    (index::CSTAR, 0xffff_8000_0000_4000),
    (index::SFMASK, 0x4_7700),
    (index::KERNEL_GS_BASE, 0xffff_8000_0000_5000),
    (index::TSC_AUX, 3),
    (index::MISC_ENABLE, 1),
    (index::MTRR_DEFAULT_TYPE, 0x806),
    (index::PAT, 0x0007_0406_0007_0406),
    (index::MTRR_FIX64K, 0x0606_0606_0606_0606),
    (index::SPEC_CTRL, 1),
];

cases! {
    fn registers_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(set(&caller, &mut vcpu, &USUAL), Ok(14));
        let mut other = caller.vcpu()?;
        let zeroed = USUAL.map(|(index, _)| (index, 0));
        put(&caller, &zeroed);
        check_eq!(caller.call(&mut vcpu, GET_MSRS), Ok(14));
        check_eq!(caller.call(&mut other, SET_MSRS), Ok(14));
        put(&caller, &zeroed);
        check_eq!(caller.call(&mut other, GET_MSRS), Ok(14));
        for (n, (index, data)) in (0..).zip(USUAL) {
            check_eq!(value(&caller, n), data, "register {index:x}");
        }
    }

    fn the_count_ends_before_the_first_that_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let unknown = (0xdead_beef, 7);
        let entries = [(index::TSC_AUX, 5), unknown, (index::LSTAR, 0x1000)];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(1));
        check_eq!(vcpu.engine().sysreg(crate::regs::SysReg::TscAux), 5);
        check_eq!(vcpu.engine().sysreg(crate::regs::SysReg::Lstar), 0);
        put(&caller, &[(index::TSC_AUX, 0), unknown, (index::LSTAR, 9)]);
        check_eq!(caller.call(&mut vcpu, GET_MSRS), Ok(1));
        check_eq!((value(&caller, 0), value(&caller, 1), value(&caller, 2)), (5, 7, 9));
        // A value that cannot be, and none at all.
        check_eq!(set(&caller, &mut vcpu, &[(index::LSTAR, 1 << 60)]), Ok(0));
        check_eq!(set(&caller, &mut vcpu, &[]), Ok(0));
        check_eq!(caller.call(&mut vcpu, GET_MSRS), Ok(0));
    }

    fn there_are_less_than_256_in_a_call() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for (count, answer) in [(255, Ok(255)), (256, Err(Errno::E2BIG)), (!0, Err(Errno::E2BIG))] {
            for n in 0..255 {
                let entry = MsrEntry { index: index::STAR, reserved: 0, data: n };
                caller.put(HEADER + n * ENTRY, &entry);
            }
            caller.put(0, &MsrsHeader { nmsrs: count, pad: 0 });
            check_eq!(caller.call(&mut vcpu, SET_MSRS), answer);
            check_eq!(caller.call(&mut vcpu, GET_MSRS), answer);
        }
        // The entries are beyond what is there.
        let place = Fixture::MEMORY - HEADER;
        check_eq!(caller.fixture.host.write(place, &1_u32.to_le_bytes()), Ok(()));
        for number in [GET_MSRS, SET_MSRS] {
            check_eq!(Caller::call_with(&mut vcpu, number, place), Err(Errno::EFAULT));
        }
        check!(place > ARGUMENT);
    }

    fn a_wall_clock_that_was_never_asked_for_is_restored_to_nowhere() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.fixture.host.write(0, &[0xaa; 12]), Ok(()));
        for index in [index::KVM_WALL_CLOCK, index::KVM_WALL_CLOCK_NEW] {
            check_eq!(set_one(&caller, &mut vcpu, index, 0), Some(0));
        }
        let mut bytes = [0; 12];
        check_eq!(caller.fixture.host.read(0, &mut bytes), Ok(()));
        check_eq!(bytes, [0xaa; 12]);
        check_eq!(set_one(&caller, &mut vcpu, index::KVM_WALL_CLOCK, 0x40), Some(0x40));
    }

    fn what_a_guest_may_not_write_can_be_restored() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let constants = [
            index::MTRR_CAP, index::PLATFORM_INFO, index::FEATURE_CONTROL, MCG_CAP,
            index::ARCH_CAPABILITIES, index::AMD_VM_CR, index::MICROCODE_REVISION,
        ];
        for number in constants {
            let Ok(own) = vcpu.read_msr(number) else { check!(false, "{number:x}"); return Ok(()) };
            check_eq!(set_one(&caller, &mut vcpu, number, own), Some(own), "{number:x}");
        }
        check_eq!(set_one(&caller, &mut vcpu, index::MTRR_CAP, 1), None);
        // Less is true as well.
        check_eq!(set_one(&caller, &mut vcpu, index::ARCH_CAPABILITIES, 1), Some(1));
        check_eq!(set_one(&caller, &mut vcpu, index::ARCH_CAPABILITIES, 1 << 50), None);
        check_eq!(set_one(&caller, &mut vcpu, index::MCG_STATUS, 5), Some(5));
        check!(vcpu.write_msr(index::MCG_STATUS, 5).is_err());
        // From x2APIC mode to xAPIC mode.
        for base in [0xfee0_0d00, 0xfee0_0900] {
            check_eq!(set_one(&caller, &mut vcpu, index::APIC_BASE, base), Some(base));
        }
    }

    fn machine_check_banks_are_set_up() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        caller.refused(&mut vcpu, X86_SETUP_MCE, &33_u64, Errno::EINVAL)?;
        check_eq!(caller.set(&mut vcpu, X86_SETUP_MCE, &0x100_010a_u64), Ok(0));
        check_eq!(set_one(&caller, &mut vcpu, MCG_CAP, 0x100_010a), Some(0x100_010a));
        check_eq!(set_one(&caller, &mut vcpu, 0x425, 9), Some(9));
        check!(vcpu.write_msr(0x425, 9).is_err());
        check_eq!(set_one(&caller, &mut vcpu, 0x428, 0), None);
        // The guest sees them, too.
        check_eq!(vcpu.read_msr(0x400), Ok(!0));
    }

    fn the_counter_and_its_adjustment_are_restored_each_by_itself() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let hour = 3_600_000_000_000;
        check_eq!(set_one(&caller, &mut vcpu, index::TSC, hour), Some(hour));
        check_eq!(set_one(&caller, &mut vcpu, index::TSC_ADJUST, 77), Some(77));
        check_eq!(vcpu.read_msr(index::TSC), Ok(hour));
        // To the guest they are one.
        check_eq!(vcpu.write_msr(index::TSC, hour + 10), Ok(()));
        check_eq!(vcpu.read_msr(index::TSC_ADJUST), Ok(87));
        check_eq!(vcpu.write_msr(index::TSC_ADJUST, 0), Ok(()));
        check_eq!(vcpu.read_msr(index::TSC), Ok(hour - 77));
    }

    fn counters_of_two_that_are_restored_are_the_same() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let hour = 3_600_000_000_000;
        check_eq!(set_one(&caller, &mut vcpu, index::TSC, hour), Some(hour));
        let timer = virt::host::Timer::arm;
        let host = &caller.fixture.host;
        let Ok(alarm) = host.timer(alloc::sync::Arc::new(Nobody)) else {
            check!(false, "a timer");
            return Ok(());
        };
        timer(&alarm, host.now() + 5000);
        check!(host.let_time_pass());
        let mut other = caller.vcpu()?;
        check_eq!(set_one(&caller, &mut other, index::TSC, hour), Some(hour + 5000));
        check_eq!(vcpu.read_msr(index::TSC), other.read_msr(index::TSC));
    }

    fn a_clock_that_is_there_follows_the_counter() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        const CLOCK: u64 = 0x6fe0;
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, CLOCK | 1).is_ok());
        let stamp = || {
            let mut bytes = [0; TimeInfo::SIZE];
            let read = caller.fixture.host.read(CLOCK, &mut bytes);
            read.map(|()| u64::decode(&bytes[8..]))
        };
        check_eq!(stamp(), Ok(0));
        check_eq!(set_one(&caller, &mut vcpu, index::TSC, 1 << 50), Some(1 << 50));
        check_eq!(stamp(), Ok(1 << 50));
    }
}

/// Does nothing when time passes.
struct Nobody;

impl virt::host::Expire for Nobody {
    fn expired(&self) {}
}
