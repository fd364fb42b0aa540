//! Programs in C for guests: [`static_program`], compiled with the host's compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Compiles a static program, because a guest's initial file system has no libraries, beside this program, in cargo's target folder, and
/// says where it is. `sources` are files in this crate's `folder`.
pub fn static_program(name: &str, folder: &str, sources: &[&str]) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let program = own.with_file_name(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    gcc.args(sources.iter().map(|file| folder.join(file)));
    let output = gcc.output().context("cannot run gcc (`cargo xtask setup` installs it)")?;
    ensure!(
        output.status.success(),
        "gcc cannot compile what is in '{}':\n{}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(program)
}
