//! What the tests in the nest need of this host: the tests' programs, built and without what debuggers read, programs that they
//! call and BusyBox lacks, and what `userland` builds.

use super::{Extra, FOLDER, all};
use crate::{process, tree};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use userland::{Shelf, own};

/// Programs that the end-to-end tests call. BusyBox's of these names have other options, or are not there; and its shell takes
/// its own before any other.
const CALLED: [&str; 11] = [
    "e2fsck",
    "mkfs.ext4",
    "mkfs.xfs",
    "prlimit",
    "qemu-img",
    "qemu-io",
    "script",
    "setpriv",
    "sh",
    "unshare",
    "xfs_repair",
];

/// All files.
pub fn files() -> Result<Vec<Extra>> {
    let mut files = tests()?;
    for name in CALLED {
        let from =
            process::find(name).with_context(|| format!("there is no {name} on this host"))?;
        files.push(Extra { from, to: format!("bin/{name}") });
    }
    files.push(own_programs()?);
    Ok(files)
}

/// Builds the tests.
fn tests() -> Result<Vec<Extra>> {
    let mut cargo = process::cargo();
    cargo.current_dir(tree::root());
    cargo.args(["test", "--quiet", "--locked", "--no-run", "--message-format", "json"]);
    let packages: BTreeSet<&str> = all().map(|program| program.package).collect();
    for package in packages {
        cargo.args(["--package", package]);
    }
    for program in all() {
        cargo.args(["--test", program.name]);
    }
    let output = process::capture(&mut cargo)?;
    let said = String::from_utf8(output.stdout).context("cargo's words are not UTF-8")?;

    let folder = tree::target().join("nest/tests");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create '{}'", folder.display()))?;
    let program = |name: &str| {
        let built = said.lines().find_map(|line| executable(line, name));
        let built =
            built.with_context(|| format!("cargo names no program of the tests '{name}'"))?;
        let from = folder.join(name);
        strip(&built, &from)?;
        Ok(Extra { from, to: format!("{FOLDER}/{name}") })
    };
    all().map(|test| program(test.name)).collect()
}

/// What a line of cargo's says was built, if it is the test `name`.
fn executable(line: &str, name: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let is_test = target["name"] == name && target["kind"][0] == "test";
    message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
}

/// Copies a program without what debuggers read, which is most of it.
pub fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    process::run(strip.arg("-o").arg(to).arg(from))
}

/// Builds the initial file system that `smp` and others boot, as they would themselves, where they look for it.
fn own_programs() -> Result<Extra> {
    let built = tree::target().join("nest/built");
    let busybox = crate::initramfs::busybox().context("no static busybox")?;
    let from = own::build(&Shelf::new(&built)?, &busybox)?.archive;
    let to = from.strip_prefix(&built).context("it is on its shelf")?.display().to_string();
    Ok(Extra { from, to: format!("{FOLDER}/built/{to}") })
}

#[cfg(test)]
mod tests {
    use super::executable;
    use std::path::PathBuf;

    #[test]
    fn the_program_of_a_test_is_found() {
        let found = |line| executable(line, "engine");
        let built = r#"{"target":{"name":"engine","kind":["test"]},"executable":"/a/b"}"#;
        assert_eq!(found(built), Some(PathBuf::from("/a/b")));
        let library = r#"{"target":{"name":"engine","kind":["lib"]},"executable":"/a"}"#;
        assert_eq!(found(library), None);
        let other = r#"{"target":{"name":"other","kind":["test"]},"executable":"/a"}"#;
        assert_eq!(found(other), None);
        assert_eq!(found("words"), None);
    }
}
