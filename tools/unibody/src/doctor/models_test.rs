//! `docs/cpu-models.md` says what the models are. It is made here: with `UNIBODY_UPDATE=1` the test writes it.

use std::fmt::Write;
use std::fs;

use hv::interface::{Model, default_table};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cpu-models.md");

const HEAD: &str = "\
# Processors that programs are offered

What `unibody with-kvm` offers a program's guests (`KVM_GET_SUPPORTED_CPUID`) is one of these models, which are the same on every
host: the best one of the host's maker whose instructions the host has, or the one that `--cpu` names. `unibody doctor --kvm` says
which it is. `--cpu host` offers what the host's processor has, as far as the software CPU runs it.

The levels are those of the System V ABI: v1 is x86-64 with SSE2, v2 has SSE4.2, v3 has AVX2, BMI and FMA, and AES, PCLMULQDQ, RDRAND, RDSEED
and ADX beside. What the software CPU does by itself (paging features, x2APIC, XSAVE, fast strings) is offered with all of them.
MAXPHYADDR is 48.

These are the answers for one vCPU. `TSC` stands for what depends on how fast the host's TSC is: its frequency, and nothing else, is
the host's. The program chooses of this what it has a vCPU answer (`KVM_SET_CPUID2`), and which vCPU has which APIC ID.

This file is made from `arch/x86/src/cpuid/`: `UNIBODY_UPDATE=1 cargo test -p unibody models`.
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    for model in Model::all() {
        let table = |tsc_khz| {
            let made = default_table(&model.hardware(), model.instructions(), 0, 1, tsc_khz);
            made.expect("there is memory").entries().to_vec()
        };
        let title = model.name();
        writeln!(
            text,
            "\n## {title}\n\n| leaf | index | EAX | EBX | ECX | EDX |\n|---|---|---|---|---|---|"
        )
        .expect("a string");
        for (one, other) in table(2_000_000).iter().zip(&table(3_000_000)) {
            let index = one.index.map_or(String::new(), |index| index.to_string());
            let words = one.leaf.iter().zip(&other.leaf).map(|(one, other)| {
                if one == other { format!("{one:08x}") } else { "TSC".to_owned() }
            });
            let words: Vec<String> = words.collect();
            writeln!(text, "| {:#x} | {index} | {} |", one.function, words.join(" | "))
                .expect("a string");
        }
    }
    text
}

#[test]
fn the_document_says_what_the_models_are() {
    let made = document();
    if std::env::var_os("UNIBODY_UPDATE").is_some() {
        fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"))
            .expect("it can be made");
        fs::write(FILE, &made).expect("it can be written");
    }
    let said = fs::read_to_string(FILE).expect("it is there");
    assert!(said == made, "docs/cpu-models.md is not of these models: make it anew, as it says");
}
