//! `cargo xtask bench devices --nest`: what virtio devices do on Linux's KVM, beside QEMU's there.
//!
//! The measurements are `benches/src/devices.rs`. They run in the nest, whose clock counts instructions. QEMU's fault with EVENTINJ
//! (`nest/own_module.rs`) may have a guest stand still there.

use super::nest::{compile, extra, measure};
use crate::nest::{self, Options};
use anyhow::Result;
use std::time::Duration;

/// What the nest runs.
const SCRIPT: &str =
    "exec benches /bin/unibody devices-on-kvm /nest/devices ~/.cache/unibody/current";

/// Prints the table.
pub fn run() -> Result<()> {
    let mut files = nest::qemu()?;
    files.push(extra(nest::build("benches")?, "bin/benches"));
    for name in ["disk", "console"] {
        files.push(extra(compile("devices", name)?, &format!("nest/devices/{name}")));
    }
    let timeout = Duration::from_secs(1800);
    measure(SCRIPT, Options { memory: "3G".to_owned(), timeout, files, ..Options::default() })
}
