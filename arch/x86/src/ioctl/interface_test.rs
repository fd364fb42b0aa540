//! Test bodies of the ioctls as a whole, and of `clock` and `absent`.

use abi::cap;
use abi::device::{DeviceAttr, EnableCap};
use abi::encoding::Encoded;
use abi::ioctl::{
    ENABLE_CAP, GET_CPUID2, GET_DEVICE_ATTR, GET_MSRS, GET_NESTED_STATE, GET_REGS, GET_TSC_KHZ,
    HAS_DEVICE_ATTR, KVMCLOCK_CTRL, NMI, RUN, SET_CPUID2, SET_DEVICE_ATTR, SET_MSRS,
    SET_NESTED_STATE, SET_TSC_KHZ, SMI, argument_size, io,
};
use abi::nested::{NestedState, STATE_NESTED_FORMAT_SVM, STATE_NESTED_GIF_SET};
use alloc::vec;
use selftest::{Outcome, cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::{ARGUMENT, BAD, Caller, PAIRS, POINTERS, snapshot};
use crate::cpuid::Table;
use crate::msr::index;
use crate::vcpu::Answer;
use crate::vcpu::run_test::{TestVcpu, engine, out};
use crate::vcpu::scripted::Fixture;

/// Numbers that are as good as random: a xorshift generator.
pub(super) struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// What makes it go on from here.
    pub fn seed(&self) -> u64 {
        self.0
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// More than any argument has.
const ROOM: usize = 0x3000;

/// Something for an argument: noise, a few bytes of it, or what is there with a few bytes of it.
pub(super) fn scramble(caller: &Caller, random: &mut Random) {
    let kind = random.below(3);
    if kind == 0 {
        let noise: alloc::vec::Vec<u8> =
            (0..ROOM / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        caller.fill(0, &noise);
    } else {
        if kind == 1 {
            caller.fill(0, &vec![0; ROOM]);
        }
        for _ in 0..random.below(6) {
            // Mostly near the beginning.
            let room = [16, 512, ROOM as u64][random.below(3) as usize];
            caller.fill(random.below(room - 8), &[random.next() as u8]);
        }
    }
}

/// Gets something, and sets it with a few bytes of noise in it.
fn set_what_was_got(
    caller: &Caller,
    vcpu: &mut TestVcpu,
    [get, set]: [u32; 2],
    random: &mut Random,
) -> Outcome {
    let seed = random.seed();
    // Room for as many entries, or as much state, as there may be.
    caller.put(0, &[255_u32, 4096]);
    if get == GET_MSRS {
        for n in 0..255 {
            caller.put(
                8 + 16 * n,
                &[[index::STAR, index::APIC_BASE][random.below(2) as usize], 0, 0, 0],
            );
        }
    }
    check!(caller.call(vcpu, get).is_ok(), "{get:x}, seed {seed}");
    let room = [16, 64, 512, 4096][random.below(4) as usize];
    for _ in 0..random.below(4) {
        let byte = if random.below(2) == 0 { 0 } else { random.next() as u8 };
        caller.fill(random.below(room), &[byte]);
    }
    call(caller, vcpu, set, seed)
}

/// Makes a call; if it is refused nothing may have changed.
fn call(caller: &Caller, vcpu: &mut TestVcpu, number: u32, seed: u64) -> Outcome {
    let before = snapshot(vcpu);
    if let Err(errno) = caller.call(vcpu, number) {
        let known = [Errno::EINVAL, Errno::E2BIG, Errno::ENXIO, Errno::EBUSY, Errno::EFAULT];
        check!(known.contains(&errno), "{number:x}: {errno:?}, seed {seed}");
        check!(snapshot(vcpu) == before, "{number:x} was refused, seed {seed}");
    }
    Ok(())
}

cases! {
    fn no_argument_panics_and_what_is_refused_changes_nothing() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut random = Random::new();
        for _ in 0..3000 {
            let seed = random.seed();
            let number = POINTERS[random.below(POINTERS.len() as u64) as usize];
            scramble(&caller, &mut random);
            call(&caller, &mut vcpu, number, seed)?;
            let pair = PAIRS[random.below(PAIRS.len() as u64) as usize];
            set_what_was_got(&caller, &mut vcpu, pair, &mut random)?;
            if random.below(8) == 0 {
                caller.fixture.vm.arch().machine().post(0, 1 << random.below(7));
                engine(&mut vcpu).then(out);
                // It may wait for something that never comes: then this is to come out.
                caller.fixture.vm.arch().machine().post(0, crate::vcpu::inbox::request::EXIT);
                vcpu.run(Answer::None);
            }
        }
    }

    fn addresses_that_cannot_be_reached_are_efault() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        caller.fill(0, &vec![0; ROOM]);
        for number in POINTERS {
            for address in [BAD, Fixture::MEMORY, u64::MAX, u64::MAX - 7, 1 << 63] {
                let before = snapshot(&mut vcpu);
                check_eq!(Caller::call_with(&mut vcpu, number, address), Err(Errno::EFAULT), "{number:x}");
                check!(snapshot(&mut vcpu) == before, "{number:x} was refused");
            }
        }
    }

    fn arguments_end_where_their_number_says() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        // What has entries behind it is elsewhere.
        let with_entries = [GET_MSRS, SET_MSRS, GET_CPUID2, SET_CPUID2];
        for number in POINTERS.into_iter().filter(|number| !with_entries.contains(number)) {
            let place = Fixture::MEMORY - argument_size(number) as u64;
            let zeros = vec![0; argument_size(number)];
            check_eq!(caller.fixture.host.write(place, &zeros), Ok(()));
            let answer = Caller::call_with(&mut vcpu, number, place);
            check!(answer != Err(Errno::EFAULT), "{number:x}");
            let answer = Caller::call_with(&mut vcpu, number, place + 1);
            check_eq!(answer, Err(Errno::EFAULT), "{number:x}");
        }
    }

    fn numbers_that_are_not_known_are_einval() {
        let (_caller, mut vcpu) = Caller::with_vcpu()?;
        // Not here, of another size, another letter, and none at all.
        let unknown = [RUN, SMI, GET_REGS ^ 1 << 16, GET_REGS ^ 1 << 8, io(0xff), 0, !0];
        for number in unknown {
            check_eq!(Caller::call_with(&mut vcpu, number, ARGUMENT), Err(Errno::EINVAL), "{number:x}");
        }
        check_eq!(Caller::call_with(&mut vcpu, NMI, BAD), Ok(0));
    }

    fn the_counter_has_the_hosts_frequency() {
        let (_caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(Caller::call_with(&mut vcpu, GET_TSC_KHZ, 0), Ok(1_000_000));
        for (khz, answer) in [
            (0, Ok(0)), (1_000_000, Ok(0)), (1_000_250, Ok(0)), (999_750, Ok(0)),
            (1_000_251, Err(Errno::EINVAL)), (999_749, Err(Errno::EINVAL)), (1, Err(Errno::EINVAL)),
            (u64::from(u32::MAX), Err(Errno::EINVAL)),
        ] {
            check_eq!(Caller::call_with(&mut vcpu, SET_TSC_KHZ, khz), answer, "{khz}");
        }
    }

    fn a_guest_with_a_clock_is_told_of_a_pause() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        const CLOCK: u64 = 0x6fe0;
        check_eq!(Caller::call_with(&mut vcpu, KVMCLOCK_CTRL, 0), Err(Errno::EINVAL));
        check!(vcpu.write_msr(index::KVM_SYSTEM_TIME_NEW, CLOCK | 1).is_ok());
        let look = || {
            let mut bytes = [0; 32];
            caller.fixture.host.read(CLOCK, &mut bytes).map(|()| (u32::decode(&bytes), bytes[29]))
        };
        check_eq!(look(), Ok((2, 1)));
        check_eq!(Caller::call_with(&mut vcpu, KVMCLOCK_CTRL, 0), Ok(0));
        check_eq!(look(), Ok((4, 3)));
        check_eq!(caller.fixture.vm.remove_slot(0), Ok(()));
        check_eq!(Caller::call_with(&mut vcpu, KVMCLOCK_CTRL, 0), Err(Errno::EFAULT));
    }

    fn there_is_no_nested_state() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let ask = |size| NestedState { flags: 7, format: 9, size, hdr: [5; 15] };
        check_eq!(caller.set(&mut vcpu, GET_NESTED_STATE, &ask(127)), Err(Errno::E2BIG));
        check_eq!(caller.at::<NestedState>(0), ask(128));
        check_eq!(caller.set(&mut vcpu, GET_NESTED_STATE, &ask(4096)), Ok(0));
        let empty: NestedState = caller.at(0);
        check_eq!((empty.flags, empty.format, empty.size, empty.hdr[0]), (0, 0, 128, !0));
        check_eq!(caller.call(&mut vcpu, SET_NESTED_STATE), Ok(0));
        let svm = NestedState {
            flags: STATE_NESTED_GIF_SET, format: STATE_NESTED_FORMAT_SVM, hdr: [0; 15], ..empty
        };
        check_eq!(caller.set(&mut vcpu, SET_NESTED_STATE, &svm), Ok(0));
        for state in [
            NestedState { size: 127, ..empty }, NestedState { flags: 1, ..empty },
            NestedState { hdr: [0; 15], ..empty }, NestedState { format: 2, ..empty },
            NestedState { flags: 1, ..svm },
        ] {
            caller.refused(&mut vcpu, SET_NESTED_STATE, &state, Errno::EINVAL)?;
        }
    }

    fn kvms_registers_are_there_as_cpuid_says_if_that_is_asked() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let enforce = |value| EnableCap { cap: cap::ENFORCE_PV_FEATURE_CPUID, flags: 0, args: [value, 0, 0, 0], pad: [0; 64] };
        let first = [index::KVM_WALL_CLOCK, index::KVM_SYSTEM_TIME];
        let second = [index::KVM_WALL_CLOCK_NEW, index::KVM_SYSTEM_TIME_NEW];
        let there = |vcpu: &mut TestVcpu, numbers: &[u32], answer: bool| -> Outcome {
            for number in numbers {
                check_eq!((vcpu.read_msr(*number).is_ok(), vcpu.write_msr(*number, 0).is_ok()), (answer, answer), "{number:x}");
            }
            Ok(())
        };
        vcpu.set_cpuid(Table::default());
        there(&mut vcpu, &first, true)?;
        check_eq!(caller.set(&mut vcpu, ENABLE_CAP, &enforce(1)), Ok(0));
        there(&mut vcpu, &first, false)?;
        there(&mut vcpu, &second, false)?;
        check!(vcpu.read_msr(index::PAT).is_ok());
        for (features, of_first, of_second) in [(1, true, false), (8, false, true), (9, true, true)] {
            let mut table = Table::default();
            check_eq!(table.set(0x4000_0001, None, [features, 0, 0, 0]), Ok(()));
            vcpu.set_cpuid(table);
            there(&mut vcpu, &first, of_first)?;
            there(&mut vcpu, &second, of_second)?;
        }
        vcpu.set_cpuid(Table::default());
        check_eq!(caller.set(&mut vcpu, ENABLE_CAP, &enforce(0)), Ok(0));
        there(&mut vcpu, &second, true)?;
        for wrong in [EnableCap { flags: 1, ..enforce(1) }, EnableCap { cap: cap::IRQCHIP, ..enforce(1) }] {
            caller.refused(&mut vcpu, ENABLE_CAP, &wrong, Errno::EINVAL)?;
        }
    }

    fn the_counters_offset_is_an_attribute() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        const PLACE: u64 = ARGUMENT + 0x100;
        let offset = DeviceAttr { flags: 0, group: 0, attr: 0, addr: PLACE };
        check_eq!(caller.set(&mut vcpu, HAS_DEVICE_ATTR, &offset), Ok(0));
        caller.put(0x100, &0x5555_u64);
        check_eq!(caller.set(&mut vcpu, SET_DEVICE_ATTR, &offset), Ok(0));
        check_eq!(vcpu.read_msr(index::TSC), Ok(caller.fixture.host.tsc() + 0x5555));
        check_eq!(vcpu.read_msr(index::TSC_ADJUST), Ok(0));
        caller.put(0x100, &0_u64);
        check_eq!(caller.set(&mut vcpu, GET_DEVICE_ATTR, &offset), Ok(0));
        check_eq!(caller.at::<u64>(0x100), 0x5555);
        for number in [HAS_DEVICE_ATTR, GET_DEVICE_ATTR, SET_DEVICE_ATTR] {
            for wrong in [DeviceAttr { group: 1, ..offset }, DeviceAttr { attr: 1, ..offset }] {
                caller.refused(&mut vcpu, number, &wrong, Errno::ENXIO)?;
            }
        }
        for number in [GET_DEVICE_ATTR, SET_DEVICE_ATTR] {
            caller.refused(&mut vcpu, number, &DeviceAttr { addr: BAD, ..offset }, Errno::EFAULT)?;
        }
    }
}
