//! The program with the workloads: [`build`], from `benches/workloads`, with the host's compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Where the sources are.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/workloads");

/// What is compiled: a static program, because a guest's initial file system has no libraries.
const FILES: [&str; 5] = ["main.c", "integer.c", "sha256.c", "vector.c", "kernel.c"];

/// Compiles it beside this program, in cargo's target folder, and says where it is.
pub fn build() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = own.with_file_name("workloads");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    gcc.args(FILES.map(|file| Path::new(SOURCES).join(file)));
    let output = gcc.output().context("cannot run gcc (`cargo xtask setup` installs it)")?;
    ensure!(
        output.status.success(),
        "gcc cannot compile the workloads in '{SOURCES}':\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(program)
}
