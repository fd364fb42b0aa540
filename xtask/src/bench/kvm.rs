//! `cargo xtask bench kvm`: what `unibody run` costs on Linux's KVM.
//!
//! The measurements are `benches/src/kvm/mod.rs`. They run in the nest, whose clock counts instructions, with what they
//! need beside them: the bare loop `benches/kvm/bare.c`, and QEMU with its firmware.

use super::nest::{compile, extra, measure};
use crate::nest::{self, Options};
use anyhow::Result;
use std::time::Duration;

/// What the nest runs. `benches` reads the kernel's tracing.
const SCRIPT: &str = "mount -t tracefs tracefs /sys/kernel/tracing &&
    exec benches /bin/unibody kvm /bin/bare ~/.cache/unibody/current";

/// Prints the numbers.
pub fn run() -> Result<()> {
    let mut files = nest::qemu()?;
    files.extend([
        extra(nest::build("benches")?, "bin/benches"),
        extra(compile("kvm", "bare")?, "bin/bare"),
    ]);
    let timeout = Duration::from_secs(1800);
    measure(SCRIPT, Options { memory: "3G".to_owned(), timeout, files, ..Options::default() })
}
