//! Valgrind's tests of single instructions (`none/tests/*/insn_*.def` of its sources): [`build`].
//!
//! A `.def` file lists cases: an instruction, what its operands hold before, and what they and the flags
//! are after. A script of Valgrind's makes a C program of it, which prints a line for each case.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Apt;
use crate::image::Image;
use crate::{Shelf, command};

/// Valgrind's names of the architectures, and the compiler's options for them.
///
/// Without optimisation and position independence the cases have all registers to themselves.
const ARCHITECTURES: [(&str, &[&str]); 2] =
    [("amd64", &["-m64", "-O1"]), ("x86", &["-m32", "-O0", "-fno-pie", "-mssse3"])];

/// Builds all of them.
pub fn build(shelf: &Shelf, busybox: &Path) -> Result<Image> {
    let kept = shelf.get("valgrind-2", |folder| {
        let work = folder.join("source");
        fs::create_dir(&work)?;
        let archive = Apt::new(&work.join("apt"))?.source("valgrind")?;
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&work);
        tar.args(["--strip-components=1", "--wildcards"]);
        command::run(tar.args(["*/none/tests/amd64", "*/none/tests/x86", "*/tests", "*/include"]))?;
        fs::create_dir(folder.join("programs"))?;
        for (name, options) in ARCHITECTURES {
            for definition in definitions(&work.join("none/tests").join(name))? {
                compile(&definition, name, options, folder)?;
            }
        }
        fs::remove_dir_all(&work)?;
        Image::make(folder, busybox, 60)
    })?;
    Ok(Image::in_folder(&kept))
}

fn definitions(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "def") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Makes `programs/ARCHITECTURE-NAME` of a definition.
fn compile(definition: &Path, architecture: &str, options: &[&str], folder: &Path) -> Result<()> {
    let name = definition.file_stem().context("it has a name")?.to_string_lossy();
    let source = definition.with_extension("c");
    let tests = definition.parent().context("it is in a folder")?;
    let make = "perl \"$1\" <\"$2\" >\"$3\"";
    let mut generate = Command::new("sh");
    generate.args(["-c", make, "sh"]).arg(tests.join("gen_insn_test.pl"));
    command::run(generate.arg(definition).arg(&source))?;
    let mut gcc = Command::new("gcc");
    gcc.args(options)
        .args(["-w", "-static", "-fno-stack-protector", "-I"])
        .arg(tests.join("../../.."));
    gcc.arg("-o").arg(folder.join("programs").join(format!("{architecture}-{name}")));
    command::run(gcc.arg(&source).arg("-lm"))?;
    Ok(())
}

/// The cases that passed, of a program's output.
#[must_use]
pub fn passed(output: &str) -> Vec<&str> {
    output.lines().filter_map(|line| line.trim().strip_suffix(" ... ok")).collect()
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn cases_that_passed_are_told_from_others() {
        let output = "addb_1 ... ok\r\n  eax0 = 1\naddb_2 ... not ok\naddb_3 ... ok\n";
        assert_eq!(passed(output), ["addb_1", "addb_3"]);
    }
}
