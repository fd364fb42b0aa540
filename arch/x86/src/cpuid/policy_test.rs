//! Test bodies of the CPUID policy and of [`super::Table`].

use selftest::{cases, check, check_eq};

use super::{Instructions, Leaf, Table, default_table};
use crate::emulate::Feature;

/// A processor that has everything, of the vendor that `leaf0` names.
fn everything(vendor: &'static [u8; 12]) -> impl Fn(u32, u32) -> Leaf {
    move |function, _| {
        let word = |at: usize| {
            u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
        };
        match function {
            0 | 0x8000_0000 => [u32::MAX, word(0), word(8), word(4)],
            0x8000_0008 => [0x3030, 0, 0, 0],
            _ => [u32::MAX; 4],
        }
    }
}

/// More than there are caches.
const MANY: u32 = 100;
const POPCNT: u32 = 1 << 23;
const AVX: u32 = 1 << 28;

fn engine() -> Instructions {
    Instructions { leaf1_ecx: POPCNT, ..Instructions::default() }
}

cases! {
    fn an_instruction_is_offered_when_engine_and_host_have_it() {
        let table = default_table(&everything(b"AuthenticAMD"), engine(), 0, 1, 1)
            .unwrap_or_default();
        let ecx = table.answer(1, 0)[2];
        check!(ecx & POPCNT != 0);
        check!(ecx & AVX == 0);
        check!(table.features().has(Feature::Popcnt));
        let without = |function: u32, _: u32| match function {
            0 => everything(b"AuthenticAMD")(0, 0),
            _ => [0; 4],
        };
        let table = default_table(&without, engine(), 0, 1, 1).unwrap_or_default();
        check!(table.answer(1, 0)[2] & POPCNT == 0);
        // What is emulated does not depend on the host: x2APIC and TSC deadline.
        check_eq!(table.answer(1, 0)[2] >> 21 & 0b1001, 0b1001);
    }

    fn the_vendor_is_the_hosts_and_the_hypervisor_is_kvm() {
        for vendor in [b"AuthenticAMD", b"GenuineIntel"] {
            let host = everything(vendor);
            let table = default_table(&host, engine(), 0, 1, 2_500_000).unwrap_or_default();
            check_eq!(table.answer(0, 0)[1..], host(0, 0)[1..]);
            check_eq!(table.answer(0x4000_0000, 0)[1].to_le_bytes(), *b"KVMK");
            check_eq!(table.answer(0x4000_0010, 0)[0], 2_500_000);
        }
    }

    fn intel_repeats_the_highest_basic_leaf_and_amd_answers_zeros() {
        let intel = default_table(&everything(b"GenuineIntel"), engine(), 0, 1, 3_000_000)
            .unwrap_or_default();
        check_eq!(intel.answer(0x17, 0), intel.answer(0x16, 0));
        check_eq!(intel.answer(0x16, 0)[0], 3000);
        let amd = default_table(&everything(b"AuthenticAMD"), engine(), 0, 1, 3_000_000)
            .unwrap_or_default();
        check_eq!(amd.answer(0x17, 0), [0; 4]);
        check_eq!(amd.answer(0x8000_0021, 0)[0] >> 8 & 1, 1);
    }

    fn encodings_are_the_vendors() {
        for (vendor, amd) in [(b"AuthenticAMD", true), (b"HygonGenuine", true), (b"GenuineIntel", false)] {
            let table = default_table(&everything(vendor), engine(), 0, 1, 1).unwrap_or_default();
            check_eq!(table.features().has(Feature::AmdEncodings), amd);
            // AltMovCr8, which is one of them.
            check_eq!(table.answer(0x8000_0001, 0)[2] >> 4 & 1 != 0, amd);
        }
    }

    fn only_intel_has_leaf_7s_last_subleaf() {
        for (vendor, last, control) in [(b"GenuineIntel", 2, 1 << 4), (b"AuthenticAMD", 0, 0)] {
            let table = default_table(&everything(vendor), engine(), 0, 1, 1).unwrap_or_default();
            check_eq!(table.answer(7, 0)[0], last);
            check_eq!(table.answer(7, 2), [0, 0, 0, control]);
        }
    }

    fn the_saved_state_has_the_upper_halves_with_avx_only() {
        for (offered, answers) in [
            (POPCNT, [[3, 576, 576, 0], [7, 576, 0, 0], [0; 4]]),
            (AVX, [[7, 832, 832, 0], [7, 832, 0, 0], [256, 576, 0, 0]]),
        ] {
            let engine = Instructions { leaf1_ecx: offered, ..Instructions::default() };
            let table = default_table(&everything(b"GenuineIntel"), engine, 0, 1, 1)
                .unwrap_or_default();
            for (index, answer) in (0..).zip(answers) {
                check_eq!(table.answer(0xd, index), answer);
            }
            check_eq!(table.answer(0xd, 3), [0; 4]);
        }
    }

    fn the_topology_names_each_processor() {
        let table = default_table(&everything(b"AuthenticAMD"), engine(), 3, 5, 1)
            .unwrap_or_default();
        check_eq!(table.answer(1, 0)[1] >> 24, 3);
        check_eq!(table.answer(0xb, 1)[0], 3);
        check_eq!(table.answer(0xb, 1)[1], 5);
        check_eq!(table.answer(0x8000_0008, 0)[2], 3 << 12 | 4);
    }

    fn an_amd_guest_need_not_clear_what_the_last_x87_instruction_left() {
        for (vendor, error_pointers) in [(b"AuthenticAMD", 1 << 2), (b"GenuineIntel", 0)] {
            let table = default_table(&everything(vendor), engine(), 0, 1, 1).unwrap_or_default();
            check_eq!(table.answer(0x8000_0008, 0)[1] & 1 << 2, error_pointers);
        }
    }

    fn the_caches_are_the_hosts_and_shared_by_the_guests_processors() {
        let host = |function: u32, index: u32| match (function, index) {
            (0, _) => everything(b"GenuineIntel")(0, 0),
            // Data of the first level, the third level, no more. 15 or 31 processors share them.
            (4, 0) => [15 << 26 | 1 << 14 | 1 << 5 | 1, 0x02c0_003f, 63, 0],
            (4, 1) => [15 << 26 | 31 << 14 | 3 << 5 | 3, 0x03c0_003f, 0x7fff, 4],
            _ => [0; 4],
        };
        let table = default_table(&host, engine(), 0, 3, 1).unwrap_or_default();
        check_eq!(table.answer(4, 0), [3 << 26 | 1 << 5 | 1, 0x02c0_003f, 63, 0]);
        check_eq!(table.answer(4, 1), [3 << 26 | 2 << 14 | 3 << 5 | 3, 0x03c0_003f, 0x7fff, 4]);
        check_eq!(table.answer(4, 2), [0; 4]);
        check_eq!(table.answer(4, MANY), [0; 4]);
    }

    fn an_entry_replaces_the_one_to_the_same_question_and_tables_are_bounded() {
        let mut table = Table::default();
        check!(table.set(7, Some(0), [1; 4]).is_ok());
        check!(table.set(7, Some(0), [2; 4]).is_ok());
        check_eq!(table.entries().len(), 1);
        check_eq!(table.get(7, 0), Some([2; 4]));
        check_eq!(table.get(7, 1), None);
        for function in 0..2 * Table::MAX as u32 {
            let _ = table.set(function, None, [0; 4]);
        }
        check_eq!(table.entries().len(), Table::MAX);
    }
}
