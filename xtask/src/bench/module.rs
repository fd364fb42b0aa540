//! `cargo xtask bench module`: what an exit, a page, an interrupt between vCPUs and a boot cost on the project's own module, beside Linux's kvm_amd.
//!
//! The exits and the pages are `benches/kvm/exits.c`'s, the interrupts `benches/kvm/ipi.c`'s; both know nothing of what is behind the device. Both run in one nest, whose clock
//! counts instructions, one after the other: only one of the two modules can have the processor.

use super::nest::{compile, extra, measure};
use crate::nest::Options;
use anyhow::Result;
use std::time::Duration;

/// What the nest runs.
const SCRIPT: &str = include_str!("module.sh");

/// Prints the table.
pub fn run() -> Result<()> {
    let programs =
        ["exits", "ipi"].map(|name| Ok(extra(compile("kvm", name)?, &format!("bin/{name}"))));
    let files = programs.into_iter().collect::<Result<_>>()?;
    let timeout = Duration::from_secs(900);
    measure(SCRIPT, Options { module: true, timeout, files, ..Options::default() })
}
