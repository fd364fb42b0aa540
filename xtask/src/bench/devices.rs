//! `cargo xtask bench devices --nest`: what virtio devices do on Linux's KVM, beside QEMU's there.
//!
//! The measurements are `benches/src/devices.rs`. They run in the nest, whose clock counts instructions.

use super::kvm::{compile, extra};
use crate::nest::{self, Options};
use anyhow::{Result, ensure};
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
    let options = Options {
        icount: true,
        memory: "3G".to_owned(),
        timeout: Duration::from_secs(1800),
        files,
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let status = nest::boot(&options)?.status;
    ensure!(status == 0, "the measurements in the nest ended with status {status}");
    Ok(())
}
