//! `cargo xtask bench`: prints the numbers that the project is measured by.
//!
//! - `cargo xtask bench engine` is about the software CPU alone: workloads beside QEMU's TCG and the host;
//! - `cargo xtask bench with-kvm` about QEMU on `unibody with-kvm`, beside its TCG;
//! - `cargo xtask bench kvm` ([`kvm`]) about Linux's KVM.

mod kvm;

use crate::{Command, process, tree};
use anyhow::Result;
use std::process::Command as Process;

/// The command.
pub const COMMAND: Command = Command {
    name: "bench",
    about: "measures: loops, boot beside QEMU, memory [ROUNDS]; engine [ROUNDS] [WORKLOAD…]; with-kvm [ROUNDS]; kvm",
    run,
};

fn run(arguments: &[String]) -> Result<()> {
    if arguments == ["kvm"] {
        return kvm::run();
    }
    let mut build = process::cargo();
    build.args(["build", "--release", "--package", "unibody", "--package", "benches"]);
    process::run(build.current_dir(tree::root()))?;
    let release = tree::target().join("release");
    let mut bench = Process::new(release.join("benches"));
    process::run(bench.arg(release.join("unibody")).args(arguments))
}
