//! Test bodies of [`super::model`].

use alloc::vec::Vec;

use selftest::{Failure, cases, check, check_eq};

use super::{Instructions, Leaf, Model, Table, Vendor, default_table};
use crate::emulate::Feature;

/// An engine that runs everything.
const EVERYTHING: Instructions = Instructions {
    leaf1_ecx: u32::MAX,
    leaf1_edx: u32::MAX,
    leaf7_ebx: u32::MAX,
    leaf7_ecx: u32::MAX,
    leaf7_edx: u32::MAX,
    extended1_ecx: u32::MAX,
    extended1_edx: u32::MAX,
    leaf_d1_eax: u32::MAX,
    extended8_ebx: u32::MAX,
    extended21_eax: u32::MAX,
};

/// In leaf 7's EBX.
const AVX2: u32 = 1 << 5;
/// In leaf 1's ECX.
const SSE42: u32 = 1 << 20;

/// A processor of this maker that has everything.
fn host(name: &'static [u8; 12]) -> impl Fn(u32, u32) -> Leaf {
    move |function, _| match function {
        0 => {
            let word = |at: usize| {
                u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]])
            };
            [0x20, word(0), word(8), word(4)]
        }
        _ => [u32::MAX; 4],
    }
}

fn table(model: &Model, engine: Instructions) -> Result<Table, Failure> {
    let made = default_table(&model.hardware(), engine, 0, 1, 2_000_000);
    crate::vcpu::run_test::host_error(made)
}

cases! {
    fn each_has_a_name_of_its_own() {
        for model in Model::all() {
            check_eq!(Model::named(model.name()), Some(model));
            check_eq!(Model::all().filter(|other| other.name() == model.name()).count(), 1);
        }
        check_eq!(Model::named("unibody"), None);
    }

    fn the_best_is_one_that_host_and_engine_can_be() {
        let best = |name, engine| Model::best(&host(name), engine).name();
        check_eq!(best(b"GenuineIntel", EVERYTHING), "unibody-intel-v3");
        check_eq!(best(b"AuthenticAMD", EVERYTHING), "unibody-amd-v3");
        check_eq!(best(b"HygonGenuine", EVERYTHING), "unibody-amd-v3");
        check_eq!(best(b"CentaurHauls", EVERYTHING), "unibody-amd-v3");
        let no_avx2 = Instructions { leaf7_ebx: !AVX2, ..EVERYTHING };
        check_eq!(best(b"GenuineIntel", no_avx2), "unibody-intel-v2");
        let no_sse42 = Instructions { leaf1_ecx: !SSE42, ..EVERYTHING };
        check_eq!(best(b"AuthenticAMD", no_sse42), "unibody-amd-v1");
        check_eq!(best(b"AuthenticAMD", Instructions::default()), "unibody-amd-v1");
        let old = |function: u32, index: u32| {
            let [eax, ebx, ecx, edx] = host(b"GenuineIntel")(function, index);
            if function == 7 { [eax, ebx & !AVX2, ecx, edx] } else { [eax, ebx, ecx, edx] }
        };
        check_eq!(Model::best(&old, EVERYTHING).name(), "unibody-intel-v2");
        let v3 = Model::named("unibody-intel-v3");
        check_eq!(v3.map(|model| model.runs(&old, EVERYTHING)), Some(false));
    }

    fn it_is_the_same_on_every_host_that_can_be_it() {
        for model in Model::all() {
            let all = table(&model, EVERYTHING)?;
            check_eq!(table(&model, model.instructions())?, all, "{}", model.name());
            let vendor = if model.name().contains("intel") { Vendor::Intel } else { Vendor::Amd };
            check_eq!((all.vendor(), all.physical_bits()), (vendor, 48));
            let brand = (0x8000_0002..=0x8000_0004).flat_map(|function| all.answer(function, 0));
            let brand: Vec<u8> = brand.flat_map(u32::to_le_bytes).collect();
            let level = model.name().as_bytes().last().copied().unwrap_or(0);
            check!(brand.starts_with(b"Unibody virtual processor, x86-64-v") && brand.ends_with(&[0]));
            check_eq!(brand.get(35), Some(&level));
        }
    }

    fn a_level_has_what_it_is_to_have() {
        let has = |name: &str, feature| {
            let model = Model::named(name).unwrap_or_else(|| Model::best(&host(b"GenuineIntel"), Instructions::default()));
            table(&model, EVERYTHING).map(|table| table.features().has(feature))
        };
        for name in ["unibody-intel-v", "unibody-amd-v"] {
            for (feature, first) in [(Feature::Sse42, 2), (Feature::Cmpxchg16b, 2), (Feature::Popcnt, 2),
                (Feature::Avx, 3), (Feature::Bmi2, 3), (Feature::Movbe, 3), (Feature::Lzcnt, 3)] {
                for level in 1..=3 {
                    let name = alloc::format!("{name}{level}");
                    check_eq!(has(&name, feature)?, level >= first, "{name}: {feature:?}");
                }
            }
        }
    }

    fn caches_are_listed_as_each_maker_does() {
        let model = |name| Model::named(name).unwrap_or_else(|| Model::best(&host(b"GenuineIntel"), Instructions::default()));
        let intel = table(&model("unibody-intel-v3"), EVERYTHING)?;
        let sizes = (0..5).map(|index| {
            let [eax, ebx, ecx, _] = intel.answer(4, index);
            let size = ((ebx >> 22) + 1) * ((ebx >> 12 & 0x3ff) + 1) * ((ebx & 0xfff) + 1) * (ecx + 1);
            if eax & 0x1f == 0 { 0 } else { size >> 10 }
        });
        check_eq!(sizes.collect::<Vec<_>>(), [48, 32, 2048, 32768, 0]);
        let amd = table(&model("unibody-amd-v3"), EVERYTHING)?;
        check_eq!(amd.answer(4, 0), [0; 4]);
        check_eq!((amd.answer(0x8000_0005, 0)[2] >> 24, amd.answer(0x8000_0006, 0)[2] >> 16), (32, 512));
    }
}
