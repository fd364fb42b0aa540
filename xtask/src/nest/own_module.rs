//! Guests on the project's own module, in the nest: a part of the gate's step, [`check`], and its long form, [`soak`].
//!
//! `own_module.sh` runs the guests of `tests/guests` that are about a machine; then it boots a stock kernel with one processor and with two, as an ordinary user, tries to remove the module under a guest,
//! kills that, removes the module and loads it again; and so on. Then the kernel has to have nothing to complain of.

use super::options::{Extra, Options};
use crate::process;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// What the nest runs.
const SCRIPT: &str = include_str!("own_module.sh");

/// A few rounds. `tests`: the program of the tests that are about a machine.
pub fn check(tests: Extra) -> Result<()> {
    run(tests, 2, Duration::from_secs(480))
}

/// Many.
pub fn soak(tests: Extra) -> Result<()> {
    run(tests, 20, Duration::from_secs(3600))
}

/// On one processor: on two of QEMU's, which are threads, a guest with two of its own hangs, or shuts down, once in some fifty boots. It
/// hangs so with kvm_amd as well, as often.
fn run(tests: Extra, rounds: u32, timeout: Duration) -> Result<()> {
    // BusyBox's has other options, and its shell takes that before any other: the script says the path.
    let setpriv = process::find("setpriv").context("there is no setpriv on this host")?;
    let program = format!("/{}", tests.to);
    let command = ["sh", "-c", SCRIPT, "own_module.sh", &rounds.to_string(), &program];
    let outcome = super::boot(&Options {
        module: true,
        timeout,
        files: vec![Extra { from: setpriv, to: "bin/setpriv".to_owned() }, tests],
        command: command.map(str::to_owned).into(),
        console: "console-module.log",
        ..Options::default()
    })?;
    ensure!(outcome.status == 0, "the module's test ended with status {}", outcome.status);
    Ok(())
}
