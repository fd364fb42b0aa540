//! What only hardware virtualization can show, as a step of the gate: [`check`].
//!
//! The guests of `tests/guests` that are about a machine, and `unibody run` itself, on the nest's KVM.

use super::options::{Extra, Options};
use crate::{process, tree};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// What the nest runs: the guests, then the program that people use. Each line of the latter is a
/// command whose output and status are looked at.
const SCRIPT: &str = include_str!("gate.sh");

/// Runs the tests.
pub fn check() -> Result<()> {
    let guests = Extra { from: guests()?, to: "bin/guests".to_owned() };
    let options = Options {
        icount: false,
        cpus: 1,
        memory: "3G".to_owned(),
        timeout: Duration::from_secs(400),
        files: vec![guests],
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
    };
    match super::boot(&options)?.status {
        0 => Ok(()),
        status => bail!("the tests in the nest ended with status {status}"),
    }
}

/// Builds the program of `tests/guests`.
fn guests() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.current_dir(tree::root());
    cargo.args(["test", "--quiet", "--locked", "--package", "guests", "--test", "architecture"]);
    let output = process::capture(cargo.args(["--no-run", "--message-format", "json"]))?;
    let lines = String::from_utf8(output.stdout).context("cargo's words are not UTF-8")?;
    lines.lines().find_map(executable).context("cargo names no program of tests/guests")
}

/// What a line of cargo's says was built, if it is a test.
fn executable(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["target"]["name"] == "architecture";
    message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::executable;
    use std::path::PathBuf;

    #[test]
    fn the_program_of_the_test_is_found() {
        let built = r#"{"reason":"compiler-artifact","target":{"name":"architecture"},"executable":"/a/b"}"#;
        assert_eq!(executable(built), Some(PathBuf::from("/a/b")));
        let library = r#"{"target":{"name":"architecture"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"target":{"name":"other"},"executable":"/a"}"#), None);
        assert_eq!(executable("words"), None);
    }
}
