//! `cargo xtask bench kvm`: what `unibody run` costs on Linux's KVM.
//!
//! The measurements are `benches/src/kvm/mod.rs`. They run in the nest, whose clock counts instructions, with what they
//! need beside them: the bare loop `benches/kvm/bare.c`, and QEMU with its firmware.

use crate::nest::{self, Extra, Options};
use crate::{process, tree};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
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

/// A file, and where it goes.
pub fn extra(from: PathBuf, to: &str) -> Extra {
    Extra { from, to: to.to_owned() }
}

/// Compiles a program of a folder of `benches`.
pub fn compile(folder: &str, name: &str) -> Result<PathBuf> {
    let source: &Path = &tree::root().join(format!("benches/{folder}/{name}.c"));
    let folder = tree::target().join("nest");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = folder.join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
    process::run(&mut gcc)?;
    Ok(program)
}
