//! `cargo xtask soak`: the long forms of tests whose short forms run in every gate, or of those [`PARTS`] of them that are named.
//!
//! A test with a long form reads how long from the environment:
//! - `UNIBODY_CASES`: how many cases a differential test makes, from `UNIBODY_SEED`, which is
//!   another one each time unless it is set;
//! - `PROPTEST_CASES`: how many cases a property test makes;
//! - `UNIBODY_KILLS`: how often a guest that writes to a disk is killed;
//! - `UNIBODY_LONG`: a test of other people's programs runs all that are meant, loads last for
//!   minutes, who writes to a disk is killed at many more points, a kernel boots under all modes of the software CPU, and its own tests run under QEMU, too.
//!
//! Last come all tests of the nest (`xtask/src/nest/gate.rs`), and there the project's own module.

use crate::{Command, nest, process, tree};
use anyhow::{Result, bail};
use std::time::{SystemTime, UNIX_EPOCH};

/// The command.
pub const COMMAND: Command = Command {
    name: "soak",
    about: "the long forms of tests, for hours [CASES] [differential properties programs disks nest module]",
    run,
};

/// Cases of a differential test, unless said otherwise.
const CASES: &str = "10000000";
/// Cases of each property test.
const PROPERTIES: &str = "20000";

/// Of a guest that writes to a disk, for each format.
const KILLS: &str = "50";

/// One of the long forms, by its name.
type Part = (&'static str, fn(&str) -> Result<()>);

/// All of them, in the order in which they run.
const PARTS: [Part; 6] = [
    ("differential", differential),
    ("properties", |_| properties()),
    ("programs", |_| programs()),
    ("disks", |_| disks()),
    ("nest", |_| nest::soak()),
    ("module", |_| nest::soak_module()),
];

fn run(arguments: &[String]) -> Result<()> {
    let (cases, names) = match arguments.split_first() {
        Some((first, rest)) if first.parse::<u64>().is_ok() => (first.as_str(), rest),
        _ => (CASES, arguments),
    };
    for name in names {
        if !PARTS.iter().any(|part| part.0 == name) {
            bail!(
                "there is no part '{name}': it is one of {}",
                PARTS.map(|part| part.0).join(", ")
            );
        }
    }
    for (name, part) in PARTS {
        if names.is_empty() || names.iter().any(|other| other == name) {
            part(cases)?;
        }
    }
    Ok(())
}

/// The software CPU beside the processor.
fn differential(cases: &str) -> Result<()> {
    let mut differential = process::cargo();
    differential.args(["test", "--release", "--package", "differential", "--", "--nocapture"]);
    if std::env::var_os("UNIBODY_SEED").is_none() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        differential.env("UNIBODY_SEED", now.as_secs().to_string());
    }
    process::run(differential.env("UNIBODY_CASES", cases).current_dir(tree::root()))
}

/// What holds of any input.
fn properties() -> Result<()> {
    let mut properties = process::cargo();
    properties.args(["test", "--release", "--package", "vmm", "--package", "unibody"]);
    properties.args(["--package", "guest-protocol", "--lib", "--bins"]);
    process::run(properties.env("PROPTEST_CASES", PROPERTIES).current_dir(tree::root()))
}

/// Who writes to an image is killed, often: the program with a guest, and a process without.
fn disks() -> Result<()> {
    for [package, test, name] in
        [["unibody", "disk", "nothing_that_was_acknowledged"], ["vmm", "qcow2", "killed"]]
    {
        let mut disks = process::cargo();
        disks.args(["test", "--release", "--package", package, "--test", test]);
        disks.args(["--", "--nocapture", "--test-threads", "1", name]);
        disks.env("UNIBODY_LONG", "1").env("UNIBODY_KILLS", KILLS);
        process::run(disks.current_dir(tree::root()))?;
    }
    Ok(())
}

/// Other people's programs, kernels and loads.
fn programs() -> Result<()> {
    let mut programs = process::cargo();
    programs.args(["test", "--release", "--package", "unibody"]);
    for test in ["debian", "soak", "modes", "selftests", "kvm_selftests"] {
        programs.args(["--test", test]);
    }
    programs.args(["--", "--nocapture", "--test-threads", "1"]);
    process::run(programs.env("UNIBODY_LONG", "1").current_dir(tree::root()))
}
