//! `cargo xtask bench module`: what an exit, a page, an interrupt between vCPUs and a boot cost on the project's own module, beside Linux's kvm_amd.
//!
//! The exits and the pages are `benches/kvm/exits.c`'s, the interrupts `benches/kvm/ipi.c`'s; both know nothing of what is behind the device. Both run in one nest, whose clock
//! counts instructions, one after the other: only one of the two modules can have the processor.

use super::kvm::{compile, extra};
use crate::nest::{self, Options};
use anyhow::{Result, ensure};
use std::time::Duration;

/// What the nest runs.
const SCRIPT: &str = include_str!("module.sh");

/// Prints the table.
pub fn run() -> Result<()> {
    let options = Options {
        icount: true,
        module: true,
        timeout: Duration::from_secs(900),
        files: vec![
            extra(compile("kvm", "exits")?, "bin/exits"),
            extra(compile("kvm", "ipi")?, "bin/ipi"),
        ],
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let status = nest::boot(&options)?.status;
    ensure!(status == 0, "the measurements in the nest ended with status {status}");
    Ok(())
}
