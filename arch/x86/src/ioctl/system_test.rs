//! Test bodies of `system`, `capability` and `msr_index`.

use abi::cap;
use abi::cpuid::{CpuidEntry, CpuidHeader};
use abi::device::DeviceAttr;
use abi::encoding::Encoded;
use abi::ioctl::{
    CHECK_EXTENSION, CREATE_VM, GET_API_VERSION, GET_CPUID2, GET_DEVICE_ATTR, GET_EMULATED_CPUID,
    GET_MSR_FEATURE_INDEX_LIST, GET_MSR_INDEX_LIST, GET_MSRS, GET_SUPPORTED_CPUID,
    GET_SUPPORTED_HV_CPUID, GET_VCPU_MMAP_SIZE, HAS_DEVICE_ATTR, RUN, SET_CPUID2, SET_MSRS,
    X86_GET_MCE_CAP_SUPPORTED, io,
};
use abi::msr::{MsrEntry, MsrListHeader, MsrsHeader};
use selftest::{Failure, Outcome, cases, check, check_eq};
use virt::{Errno, Host};

use super::caller::{ARGUMENT, BAD, Caller};
use super::capability::{self, CAPABILITIES};
use super::interface_test::{Random, scramble};
use super::msr_index;
use super::system::{System, system};
use crate::cpuid::{Instructions, Leaf, Vendor};
use crate::machine_check::MachineCheck;
use crate::msr::index;
use crate::vcpu::scripted::{Fixture, Scripted, TestHost};

/// What the device's calls with an argument in memory are.
const POINTERS: [u32; 8] = [
    GET_SUPPORTED_CPUID,
    GET_EMULATED_CPUID,
    GET_MSR_INDEX_LIST,
    GET_MSR_FEATURE_INDEX_LIST,
    GET_MSRS,
    X86_GET_MCE_CAP_SUPPORTED,
    HAS_DEVICE_ATTR,
    GET_DEVICE_ATTR,
];

/// The descriptor of a new VM.
const VM: u32 = 7;

fn device(caller: &Caller) -> System<TestHost> {
    fn amd(function: u32, _: u32) -> Leaf {
        let word = |text: &[u8; 4]| u32::from_le_bytes(*text);
        match function {
            0 => [0xd, word(b"Auth"), word(b"cAMD"), word(b"enti")],
            _ => [0; 4],
        }
    }
    System {
        host: caller.fixture.host.clone(),
        hardware: amd,
        instructions: Instructions::default(),
        lacks: Instructions::default(),
    }
}

fn ask(caller: &Caller, number: u32, argument: u64) -> Result<u32, Errno> {
    system(&device(caller), number, argument, || Ok(VM))
}

/// Asks for a list, with room for so many; gives what is said that there are, and the first indices.
fn list(caller: &Caller, number: u32, room: u32) -> (Result<u32, Errno>, u32) {
    caller.put(0, &MsrListHeader { nmsrs: room });
    let answer = ask(caller, number, ARGUMENT);
    (answer, caller.at::<MsrListHeader>(0).nmsrs)
}

/// Checks that what a vCPU has in these registers can be set.
fn go_there_and_back(caller: &Caller, indices: &[u32]) -> Outcome {
    let mut vcpu = caller.vcpu()?;
    let count = indices.len() as u32;
    caller.put(0, &MsrsHeader { nmsrs: count, pad: 0 });
    for (n, index) in (0..).zip(indices) {
        let place = MsrsHeader::SIZE as u64 + n * MsrEntry::SIZE as u64;
        caller.put(place, &MsrEntry { index: *index, ..MsrEntry::default() });
    }
    check_eq!(caller.call(&mut vcpu, GET_MSRS), Ok(count));
    let first = caller.bytes(0, 0x400);
    check_eq!(caller.call(&mut vcpu, SET_MSRS), Ok(count));
    check_eq!(caller.call(&mut vcpu, GET_MSRS), Ok(count));
    check!(caller.bytes(0, 0x400) == first);
    let unique = (1..indices.len()).all(|at| !indices[..at].contains(&indices[at]));
    check!(unique, "none is there twice");
    Ok(())
}

cases! {
    fn the_device_tells_its_version_and_makes_machines() {
        let caller = Caller::new()?;
        check_eq!(ask(&caller, GET_API_VERSION, 0), Ok(12));
        check_eq!(ask(&caller, GET_VCPU_MMAP_SIZE, 0), Ok(0x3000));
        check_eq!(ask(&caller, CREATE_VM, 0), Ok(VM));
        for (number, argument) in [
            (GET_API_VERSION, 1), (GET_VCPU_MMAP_SIZE, 1), (CREATE_VM, 1), (CREATE_VM, 1 << 32),
            (RUN, 0), (GET_SUPPORTED_HV_CPUID, ARGUMENT), (GET_CPUID2, ARGUMENT), (io(0xff), 0), (0, 0),
            (CREATE_VM ^ 1 << 8, 0),
        ] {
            let never = || Err(Errno::EIO);
            let answer = system(&device(&caller), number, argument, never);
            check_eq!(answer, Err(Errno::EINVAL), "{number:x}, {argument:x}");
        }
        let full = || Err(Errno::ENOMEM);
        check_eq!(system(&device(&caller), CREATE_VM, 0, full), Err(Errno::ENOMEM));
    }

    fn capabilities_are_known_by_number_once() {
        check!(CAPABILITIES.is_sorted_by(|a, b| a.number < b.number || a.name == "HYPERV_CPUID"));
        let twice = |at: usize| CAPABILITIES[..at].iter().any(|other| other.number == CAPABILITIES[at].number);
        check!((0..CAPABILITIES.len()).all(|at| !twice(at)));
        let caller = Caller::new()?;
        let extension = |number| ask(&caller, CHECK_EXTENSION, number);
        check_eq!(extension(cap::IRQCHIP.into()), Ok(1));
        check_eq!(extension(cap::NR_MEMSLOTS.into()), Ok(512));
        check_eq!(extension(cap::MANUAL_DIRTY_LOG_PROTECT2.into()), Ok(3));
        check_eq!(extension(cap::NESTED_STATE.into()), Ok(0));
        for unknown in [2, 9999, 1 << 32, u64::MAX] {
            check_eq!(extension(unknown), Ok(0), "{unknown}");
        }
        check_eq!(capability::value(cap::XSAVE2.into()), 4096);
    }

    fn what_cpuid_can_answer_can_be_set() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let room = |nent| caller.put(0, &CpuidHeader { nent, padding: 0 });
        room(256);
        check_eq!(ask(&caller, GET_SUPPORTED_CPUID, ARGUMENT), Ok(0));
        let count = caller.at::<CpuidHeader>(0).nent;
        check!(count > 10, "{count}");
        let entry = |n: u32| -> CpuidEntry {
            caller.at(CpuidHeader::SIZE as u64 + u64::from(n) * CpuidEntry::SIZE as u64)
        };
        let leaf1 = (0..count).map(entry).find(|entry| entry.function == 1).unwrap_or_default();
        check_eq!(leaf1.ecx & 1 << 24, 0, "the timer's deadline is told elsewhere");
        check_eq!(leaf1.ecx & 1 << 21, 1 << 21, "x2APIC");
        // KVM's own leaves are those that are KVM's.
        let known: alloc::vec::Vec<_> = (0..count).map(entry).filter(|e| e.function >> 28 == 4).collect();
        check_eq!((known.len(), known[0].function, known[0].eax), (2, 0x4000_0000, 0x4000_0001));
        check_eq!(caller.call(&mut vcpu, SET_CPUID2), Ok(0));
        check_eq!(vcpu.cpuid().vendor(), Vendor::Amd);
        for (nent, answer) in [(count, Ok(0)), (count - 1, Err(Errno::E2BIG)), (0, Err(Errno::E2BIG)), (!0, Ok(0))] {
            room(nent);
            check_eq!(ask(&caller, GET_SUPPORTED_CPUID, ARGUMENT), answer, "{nent}");
        }
    }

    fn nothing_is_emulated_for_who_asks_with_room_and_clean_padding() {
        let caller = Caller::new()?;
        let room = |nent| caller.put(0, &CpuidHeader { nent, padding: 0 });
        let last = CpuidHeader::SIZE as u64 + 2 * CpuidEntry::SIZE as u64;
        caller.put(last, &CpuidEntry { padding: [0, 0, 1], ..CpuidEntry::default() });
        for (nent, answer) in [(0, Err(Errno::E2BIG)), (1, Ok(0)), (2, Ok(0)), (3, Err(Errno::EINVAL))] {
            room(nent);
            check_eq!(ask(&caller, GET_EMULATED_CPUID, ARGUMENT), answer, "{nent}");
        }
        // No more than there may be are looked at.
        caller.put(last, &CpuidEntry::default());
        caller.put(CpuidHeader::SIZE as u64 + 256 * CpuidEntry::SIZE as u64, &[!0_u32; 4]);
        room(!0);
        check_eq!(ask(&caller, GET_EMULATED_CPUID, ARGUMENT), Ok(0));
        check_eq!(caller.at::<CpuidHeader>(0).nent, 0);
        // Padding that is not there is not clean.
        let cut = Fixture::MEMORY - CpuidHeader::SIZE as u64;
        check_eq!(caller.fixture.host.write(cut, &[1, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
        check_eq!(ask(&caller, GET_EMULATED_CPUID, cut), Err(Errno::EINVAL));
    }

    fn what_the_engine_lacks_is_not_said_to_be_supported() {
        let caller = Caller::new()?;
        // x2APIC; SMEP; XSAVEC.
        let lacks = Instructions {
            leaf1_ecx: 1 << 21, leaf7_ebx: 1 << 7, leaf_d1_eax: 1 << 1, ..Instructions::default()
        };
        let engine = Scripted::default();
        *engine.lacks.lock() = lacks;
        let all = device(&caller);
        let less = System::of(all.host.clone(), all.hardware, &engine);
        let supported = |device: &System<TestHost>| {
            caller.put(0, &CpuidHeader { nent: 256, padding: 0 });
            check_eq!(system(device, GET_SUPPORTED_CPUID, ARGUMENT, || Ok(VM)), Ok(0));
            let count = u64::from(caller.at::<CpuidHeader>(0).nent);
            let entry = |n| -> CpuidEntry {
                caller.at(CpuidHeader::SIZE as u64 + n * CpuidEntry::SIZE as u64)
            };
            let find = |function, index| {
                let is = |e: &CpuidEntry| e.function == function && e.index == index;
                (0..count).map(entry).find(is).unwrap_or_default()
            };
            let words = [find(1, 0).ecx >> 21 & 1, find(7, 0).ebx >> 7 & 1, find(0xd, 1).eax];
            Ok::<_, Failure>(words)
        };
        check_eq!(supported(&all)?, [1, 1, 0b111]);
        check_eq!(supported(&less)?, [0, 0, 0b101]);
    }

    fn what_xsave_saves_is_an_attribute() {
        let caller = Caller::new()?;
        let components = DeviceAttr { flags: 0, group: 0, attr: 0, addr: ARGUMENT + 0x100 };
        let asked = |number, attribute: DeviceAttr| {
            caller.put(0, &attribute);
            ask(&caller, number, ARGUMENT)
        };
        check_eq!(asked(HAS_DEVICE_ATTR, components), Ok(0));
        check_eq!(asked(GET_DEVICE_ATTR, components), Ok(0));
        // This host has no AVX.
        check_eq!(caller.at::<u64>(0x100), 0b11);
        check_eq!(asked(GET_DEVICE_ATTR, DeviceAttr { addr: BAD, ..components }), Err(Errno::EFAULT));
        for number in [HAS_DEVICE_ATTR, GET_DEVICE_ATTR] {
            check_eq!(asked(number, DeviceAttr { group: 1, ..components }), Err(Errno::ENXIO));
            check_eq!(asked(number, DeviceAttr { attr: 1, ..components }), Err(Errno::ENXIO));
        }
    }

    fn lists_of_registers_fit_or_say_their_size() {
        let caller = Caller::new()?;
        for (number, indices) in [
            (GET_MSR_INDEX_LIST, msr_index::STATE), (GET_MSR_FEATURE_INDEX_LIST, msr_index::FEATURES),
        ] {
            let count = indices.len() as u32;
            caller.fill(0, &[0xaa; 8]);
            check_eq!(list(&caller, number, count - 1), (Err(Errno::E2BIG), count));
            check_eq!(caller.at::<u32>(4), 0xaaaa_aaaa);
            check_eq!(list(&caller, number, 0), (Err(Errno::E2BIG), count));
            check_eq!(list(&caller, number, count), (Ok(0), count));
            check_eq!(list(&caller, number, !0), (Ok(0), count));
            check_eq!(caller.at::<u32>(4), indices[0]);
            check_eq!(Some(&caller.at::<u32>(4 * u64::from(count))), indices.last());
        }
    }

    fn listed_registers_can_be_saved_and_restored() {
        let caller = Caller::new()?;
        go_there_and_back(&caller, msr_index::STATE)?;
        go_there_and_back(&caller, msr_index::FEATURES)?;
    }

    fn registers_that_tell_features_have_values() {
        let caller = Caller::new()?;
        let features = [
            index::ARCH_CAPABILITIES, index::MICROCODE_REVISION, index::AMD_DE_CFG,
            index::PERF_CAPABILITIES,
        ];
        let all = [&features[..], &[index::PAT, index::AMD_DE_CFG]].concat();
        caller.put(0, &MsrsHeader { nmsrs: 6, pad: 0 });
        for (n, index) in (0..).zip(&all) {
            let entry = MsrEntry { index: *index, reserved: 0, data: 0x55 };
            caller.put(8 + 16 * n, &entry);
        }
        check_eq!(ask(&caller, GET_MSRS, ARGUMENT), Ok(4));
        let value = |n: u64| caller.at::<MsrEntry>(8 + 16 * n).data;
        let stored = crate::msr::Stored::default();
        for (n, index) in (0..).zip(features) {
            check_eq!(Ok(value(n)), stored.read(index), "{index:x}");
        }
        check_eq!((value(4), value(5)), (0x55, 0x55));
        caller.put(0, &MsrsHeader { nmsrs: 256, pad: 0 });
        check_eq!(ask(&caller, GET_MSRS, ARGUMENT), Err(Errno::E2BIG));
        check_eq!(ask(&caller, X86_GET_MCE_CAP_SUPPORTED, ARGUMENT), Ok(0));
        check_eq!(caller.at::<u64>(0), MachineCheck::CAPABILITIES);
    }

    fn addresses_that_the_device_cannot_reach_are_efault() {
        let caller = Caller::new()?;
        for number in POINTERS {
            for address in [BAD, Fixture::MEMORY, u64::MAX, u64::MAX - 7, 1 << 63] {
                check_eq!(ask(&caller, number, address), Err(Errno::EFAULT), "{number:x}, {address:x}");
            }
        }
    }

    fn no_argument_panics_the_device() {
        let caller = Caller::new()?;
        let mut random = Random::new();
        for _ in 0..3000 {
            let seed = random.seed();
            let number = if random.below(4) == 0 {
                random.next() as u32
            } else {
                POINTERS[random.below(POINTERS.len() as u64) as usize]
            };
            scramble(&caller, &mut random);
            let argument = if random.below(4) == 0 { random.next() } else { ARGUMENT };
            let known = [Errno::EINVAL, Errno::E2BIG, Errno::EFAULT, Errno::ENXIO];
            let answer = ask(&caller, number, argument);
            check!(answer.map_or_else(|errno| known.contains(&errno), |_| true), "{number:x}, seed {seed}");
        }
    }
}
