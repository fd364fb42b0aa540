//! Guests on the project's own module, in the nest: a part of the gate's step, [`check`], and its long form, [`soak`].
//!
//! `own_module.sh` runs the guests of `tests/guests` that are about a machine; then it boots a stock kernel with one processor and with two, as an ordinary user, tries to remove the module under a guest,
//! kills that, removes the module and loads it again; and so on. A guest is traced; beside kvm_amd, of which the processor is while that has a VM,
//! there is none. As `/dev/kvm` it runs the kernel's own tests of KVM that
//! `docs/kvm-selftests.md` says pass on it, and Debian's QEMU. Then the kernel has to have nothing to complain of.

use super::options::{Extra, Options};
use crate::process;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use userland::kvm_selftests::table::{self, End};
use userland::{Shelf, kvm_selftests};

/// GCC's library, where Debian has it.
const GCC: &str = "/lib/x86_64-linux-gnu/libgcc_s.so.1";

/// What the nest runs.
const SCRIPT: &str = include_str!("own_module.sh");

/// A few rounds. `tests`: the program of the tests that are about a machine.
pub fn check(tests: Extra) -> Result<()> {
    run(tests, 2, Duration::from_secs(900))
}

/// Many.
pub fn soak(tests: Extra) -> Result<()> {
    run(tests, 20, Duration::from_secs(3600))
}

/// On one processor: on two of QEMU's, which are threads, a guest with two of its own hangs, or shuts down, once in some fifty boots. With
/// kvm_amd it hangs as well; that it shuts down was seen on the module only, and is not explained.
fn run(tests: Extra, rounds: u32, timeout: Duration) -> Result<()> {
    // BusyBox's has other options, and its shell takes that before any other: the script says the path.
    let setpriv = process::find("setpriv").context("there is no setpriv on this host")?;
    let (programs, calls) = selftests()?;
    let mut command = ["sh", "-c", SCRIPT, "own_module.sh"].map(str::to_owned).to_vec();
    command.extend([rounds.to_string(), format!("/{}", tests.to)]);
    command.extend(calls);
    let mut files = super::qemu()?;
    files.extend([Extra { from: setpriv, to: "bin/setpriv".to_owned() }, tests]);
    files.extend(programs);
    let outcome = super::boot(&Options {
        module: true,
        memory: "3G".to_owned(),
        timeout,
        files,
        command,
        console: "console-module.log",
        ..Options::default()
    })?;
    ensure!(outcome.status == 0, "the module's test ended with status {}", outcome.status);
    Ok(())
}

/// The kernel's tests of KVM that pass on the module, by the table; and a call of each: seconds, path and parameters.
fn selftests() -> Result<(Vec<Extra>, Vec<String>)> {
    let shelf = Shelf::new(&userland::shelf::folder()?.join("built"))?;
    let programs = kvm_selftests::build(&shelf)?;
    // What ends a thread loads it.
    let mut files = vec![Extra { from: GCC.into(), to: GCC.trim_start_matches('/').to_owned() }];
    let mut calls = Vec::new();
    for line in table::read(table::DOCUMENT)? {
        if line.module == Some(End::Pass) {
            let to = format!("nest/kvm-selftests/{}", line.name);
            let seconds = line.limit.as_secs();
            calls.push(format!("{seconds} /{to} {}", line.parameters.join(" ")));
            files.push(Extra { from: programs.join(&line.name), to });
        }
    }
    Ok((files, calls))
}
