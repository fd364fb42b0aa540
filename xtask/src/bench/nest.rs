//! Measurements in the nest, whose clock counts instructions: [`measure`], and what is taken there.

use crate::nest::{self, Extra, Options};
use crate::{process, tree};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Has a script measure there, on the machine that the options say.
pub fn measure(script: &str, machine: Options) -> Result<()> {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    nest::succeed("the measurements", &Options { icount: true, command, ..machine })
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
