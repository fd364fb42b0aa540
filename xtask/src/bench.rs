//! `cargo xtask bench`: prints the numbers that the project is measured by.
//!
//! - `cargo xtask bench engine` is about the software CPU alone: workloads beside QEMU's TCG and the host;
//! - `cargo xtask bench devices` about virtio devices on the software CPU, beside QEMU's on its TCG; with `--nest` ([`devices`]) on Linux's KVM;
//! - `cargo xtask bench with-kvm` about QEMU on `unibody with-kvm`, beside its TCG;
//! - `cargo xtask bench kvm` ([`kvm`]) about Linux's KVM;
//! - `cargo xtask bench module` ([`module`]) about the project's own module, beside that.

mod devices;
mod kvm;
mod module;

use crate::{Command, process, tree};
use anyhow::Result;
use std::process::Command as Process;

/// The command.
pub const COMMAND: Command = Command {
    name: "bench",
    about: "measures: loops, boot beside QEMU, memory [ROUNDS]; engine [ROUNDS] [WORKLOAD…]; devices [ROUNDS]; devices --nest; with-kvm [ROUNDS]; kvm; module",
    run,
};

fn run(arguments: &[String]) -> Result<()> {
    if arguments == ["kvm"] {
        return kvm::run();
    }
    if arguments == ["devices", "--nest"] {
        return devices::run();
    }
    if arguments == ["module"] {
        return module::run();
    }
    let mut build = process::cargo();
    build.args(["build", "--release", "--package", "unibody", "--package", "benches"]);
    process::run(build.current_dir(tree::root()))?;
    let release = tree::target().join("release");
    let mut bench = Process::new(release.join("benches"));
    process::run(bench.arg(release.join("unibody")).args(arguments))
}
