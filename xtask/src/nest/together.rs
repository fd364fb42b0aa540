//! Two machines at once: QEMU's processor is one thread, and the host has more.

use super::Nest;
use super::options::Options;
use anyhow::{Context, Result, ensure};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::thread;

/// Boots both, and waits for both. Each has a name, for people. What the second prints comes when both have ended, so that none of one's
/// lines are in the middle of the other's.
///
/// # Errors
/// When one cannot be booted, or its command ends with another status than 0.
pub fn run(machines: [(&str, &Options); 2]) -> Result<()> {
    let [first, second] = machines.map(|(_, options)| Nest::prepare(options));
    let (first, second) = (first?, second?);
    let mut printed = (Vec::new(), Vec::new());
    let ended = thread::scope(|scope| {
        let second = scope.spawn(|| second.boot(&mut printed.0, &mut printed.1));
        let first = first.boot(io::stdout(), io::stderr());
        [first, second.join().unwrap_or_else(|panic| resume_unwind(panic))]
    });
    io::stdout().write_all(&printed.0).context("cannot write to stdout")?;
    io::stderr().write_all(&printed.1).context("cannot write to stderr")?;
    for ((name, _), outcome) in machines.into_iter().zip(ended) {
        let status = outcome.with_context(|| name.to_owned())?.status;
        ensure!(status == 0, "{name} ended with status {status}");
    }
    Ok(())
}
