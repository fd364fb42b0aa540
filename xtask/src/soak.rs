//! `cargo xtask soak`: the long forms of tests whose short forms run in every gate.
//!
//! A test with a long form reads how long from the environment:
//! - `UNIBODY_CASES`: how many cases a differential test makes, from `UNIBODY_SEED`, which is
//!   another one each time unless it is set;
//! - `PROPTEST_CASES`: how many cases a property test makes;
//! - `UNIBODY_LONG`: a test of other people's programs runs all that are meant, loads last for
//!   minutes, a kernel boots under all modes of the software CPU, and its own tests run under QEMU, too.
//!
//! Last come all tests of the nest (`xtask/src/nest/gate.rs`).

use crate::{Command, nest, process, tree};
use anyhow::Result;
use std::time::{SystemTime, UNIX_EPOCH};

/// The command.
pub const COMMAND: Command =
    Command { name: "soak", about: "the long forms of tests, for hours [CASES]", run };

/// Cases of a differential test, unless said otherwise.
const CASES: &str = "10000000";
/// Cases of each property test.
const PROPERTIES: &str = "20000";

fn run(arguments: &[String]) -> Result<()> {
    let cases = arguments.first().map_or(CASES, String::as_str);
    let mut differential = process::cargo();
    differential.args(["test", "--release", "--package", "differential", "--", "--nocapture"]);
    if std::env::var_os("UNIBODY_SEED").is_none() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        differential.env("UNIBODY_SEED", now.as_secs().to_string());
    }
    process::run(differential.env("UNIBODY_CASES", cases).current_dir(tree::root()))?;
    let mut properties = process::cargo();
    properties.args([
        "test",
        "--release",
        "--package",
        "vmm",
        "--package",
        "unibody",
        "--lib",
        "--bins",
    ]);
    properties.args(["--package", "guest-protocol"]);
    process::run(properties.env("PROPTEST_CASES", PROPERTIES).current_dir(tree::root()))?;
    let mut programs = process::cargo();
    programs.args(["test", "--release", "--package", "unibody"]);
    programs.args([
        "--test",
        "debian",
        "--test",
        "soak",
        "--test",
        "modes",
        "--test",
        "selftests",
        "--test",
        "kvm_selftests",
    ]);
    programs.args(["--", "--nocapture", "--test-threads", "1"]);
    process::run(programs.env("UNIBODY_LONG", "1").current_dir(tree::root()))?;
    nest::soak()
}
