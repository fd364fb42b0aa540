//! Test bodies of `cpuid`.

use abi::cpuid::{CpuidEntry, CpuidHeader, FLAG_SIGNIFICANT_INDEX};
use abi::encoding::Encoded;
use abi::ioctl::{GET_CPUID2, SET_CPUID2};
use selftest::{Failure, cases, check, check_eq};
use virt::Errno;

use super::caller::Caller;
use crate::cpuid::{Instructions, Table};
use crate::emulate::Feature;
use crate::mmu::Limits;
use crate::msr::index;
use crate::regs::{Regs, SysReg, cr4};
use crate::vcpu::run_test::{TestVcpu, engine, out};
use crate::vcpu::{Answer, Exit};

const HEADER: u64 = CpuidHeader::SIZE as u64;
const ENTRY: u64 = CpuidEntry::SIZE as u64;

fn set(caller: &Caller, vcpu: &mut TestVcpu, entries: &[CpuidEntry]) -> Result<u32, Errno> {
    caller.put(0, &CpuidHeader { nent: entries.len() as u32, padding: 0 });
    for (n, entry) in (0..).zip(entries) {
        caller.put(HEADER + n * ENTRY, entry);
    }
    caller.call(vcpu, SET_CPUID2)
}

fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
    CpuidEntry { function, eax, ebx, ecx, edx, ..CpuidEntry::default() }
}

cases! {
    fn a_table_goes_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let own = vcpu.cpuid().clone();
        let count = own.entries().len() as u32;
        caller.put(0, &CpuidHeader { nent: 256, padding: 0 });
        check_eq!(caller.call(&mut vcpu, GET_CPUID2), Ok(0));
        check_eq!(caller.at::<CpuidHeader>(0).nent, count);
        let mut other = caller.vcpu()?;
        other.set_cpuid(Table::default());
        check_eq!(caller.call(&mut other, SET_CPUID2), Ok(0));
        check!(*other.cpuid() == own);
    }

    fn room_for_less_than_there_is_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let count = vcpu.cpuid().entries().len() as u32;
        for (nent, answer) in [(count, Ok(0)), (count - 1, Err(Errno::E2BIG)), (0, Err(Errno::E2BIG))] {
            caller.put(0, &CpuidHeader { nent, padding: 0 });
            check_eq!(caller.call(&mut vcpu, GET_CPUID2), answer);
        }
    }

    fn more_entries_than_there_may_be_are_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for nent in [257, !0] {
            caller.refused(&mut vcpu, SET_CPUID2, &CpuidHeader { nent, padding: 0 }, Errno::E2BIG)?;
        }
        let many: alloc::vec::Vec<_> = (0..256).map(|n| leaf(n + 1, [n; 4])).collect();
        check_eq!(set(&caller, &mut vcpu, &many), Ok(0));
        check_eq!(vcpu.cpuid().get(256, 0), Some([255; 4]));
        check_eq!(set(&caller, &mut vcpu, &[]), Ok(0));
        check!(vcpu.cpuid().entries().is_empty());
    }

    fn an_index_counts_if_it_is_said_to() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let indexed = |index, value| CpuidEntry {
            index,
            flags: FLAG_SIGNIFICANT_INDEX,
            ..leaf(0x14, [value; 4])
        };
        let entries = [indexed(0, 5), indexed(1, 6), CpuidEntry { index: 9, ..leaf(2, [7; 4]) }];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        let table = vcpu.cpuid();
        check_eq!((table.get(0x14, 0), table.get(0x14, 1)), (Some([5; 4]), Some([6; 4])));
        check_eq!((table.get(0x14, 2), table.get(2, 3)), (None, Some([7; 4])));
        caller.put(0, &CpuidHeader { nent: 3, padding: 0 });
        check_eq!(caller.call(&mut vcpu, GET_CPUID2), Ok(0));
        check_eq!(caller.at::<CpuidEntry>(HEADER + ENTRY), entries[1]);
        check_eq!(caller.at::<CpuidEntry>(HEADER + 2 * ENTRY), leaf(2, [7; 4]));
    }

    fn a_width_of_addresses_that_cannot_be_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for (width, answer) in [(48, Ok(0)), (57, Ok(0)), (0, Ok(0)), (47, Err(Errno::EINVAL))] {
            let widths = leaf(0x8000_0008, [width << 8 | 40, 0, 0, 0]);
            let before = vcpu.cpuid().clone();
            check_eq!(set(&caller, &mut vcpu, &[widths]), answer);
            check_eq!(*vcpu.cpuid() == before, answer.is_err());
        }
    }

    fn the_vcpu_and_its_local_apic_offer_what_the_table_says() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check!(vcpu.lapic().config().x2apic && vcpu.lapic().config().tsc_deadline);
        let entries = [leaf(1, [0, 0, 1 << 21 | 1 << 28, 0]), leaf(0x8000_0008, [36, 0, 0, 0])];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        check!(vcpu.cpuid().features().has(Feature::Avx));
        let config = vcpu.lapic().config();
        check_eq!((config.x2apic, config.tsc_deadline, config.physical_bits), (true, false, 36));
        check_eq!((config.id, config.bootstrap), (0, true));
    }

    fn the_engine_knows_which_bits_of_an_address_there_are() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        for (bits, gib_pages) in [(46, true), (36, false)] {
            let pages = leaf(0x8000_0001, [0, 0, 0, u32::from(gib_pages) << 26]);
            let entries = [pages, leaf(0x8000_0008, [48 << 8 | bits, 0, 0, 0])];
            check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
            check_eq!(vcpu.engine().limits, Limits { phys_bits: bits as u8, gib_pages });
        }
    }

    fn what_depends_on_the_state_is_told_as_it_is() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let states = CpuidEntry { flags: FLAG_SIGNIFICANT_INDEX, ..leaf(0xd, [7, 832, 832, 0]) };
        let entries = [leaf(1, [0, 0, 3 << 26, 1 << 9]), states];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        let told = |vcpu: &mut TestVcpu| {
            caller.put(0, &CpuidHeader { nent: 2, padding: 0 });
            check_eq!(caller.call(vcpu, GET_CPUID2), Ok(0));
            let (first, states): (CpuidEntry, CpuidEntry) = (caller.at(HEADER), caller.at(HEADER + ENTRY));
            Ok::<_, Failure>((first.ecx, first.edx, states.ebx))
        };
        check_eq!(told(&mut vcpu)?, (1 << 26, 1 << 9, 576));
        engine(&mut vcpu).set_cr4(cr4::PAE | cr4::OSXSAVE);
        engine(&mut vcpu).set_sysreg(SysReg::Xcr0, 7);
        check_eq!(vcpu.write_msr(index::APIC_BASE, 0xfee0_0000), Ok(()));
        check_eq!(told(&mut vcpu)?, (3 << 26, 0, 832));
        // What it was told is no change.
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(told(&mut vcpu)?.0, 3 << 26);
        check_eq!(caller.call(&mut vcpu, SET_CPUID2), Ok(0));
    }

    fn what_has_run_stays_what_it_is() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let entries = [leaf(7, [1, 2, 3, 4]), leaf(0x8000_0008, [48 << 8 | 40, 0, 0, 0])];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        // To complete an exit is not to run.
        check_eq!(vcpu.finish(Answer::None), None);
        check_eq!(set(&caller, &mut vcpu, &entries[..1]), Ok(0));
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        for changed in [&[leaf(7, [1, 1, 3, 4]), entries[1]][..], &entries[..1], &[]] {
            check_eq!(set(&caller, &mut vcpu, changed), Err(Errno::EINVAL));
        }
        check_eq!(vcpu.cpuid().get(7, 0), Some([1, 2, 3, 4]));
    }

    fn the_same_is_the_same_where_the_engine_lacks_some_of_it() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let lacks = Instructions { leaf7_ebx: 2, ..Instructions::default() };
        *caller.fixture.vm.arch().machine().engine.lacks.lock() = lacks;
        let entries = [leaf(7, [1, 6, 3, 4])];
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        check_eq!(vcpu.cpuid().get(7, 0), Some([1, 4, 3, 4]));
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(set(&caller, &mut vcpu, &entries), Ok(0));
        check_eq!(set(&caller, &mut vcpu, &[leaf(7, [1, 4, 3, 4])]), Ok(0));
        check_eq!(set(&caller, &mut vcpu, &[leaf(7, [1, 2, 3, 4])]), Err(Errno::EINVAL));
    }
}
