//! A stock kernel to the first line of a command.
//!
//! Unibody and QEMU's TCG boot the same kernel with the same initial file system and
//! command line, in turns, and the time from the program's start to the line is taken. Beside it, the time of a
//! whole `unibody run -- echo`, which has a session with the guest's init on top, with BusyBox's root and with the host's.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::guest::{Guest, Monitor, Pulled};
use crate::median;
use crate::transcript::follow;

/// What the guest's command prints first.
const LINE: &str = "first line of the command";

/// How many times as long a start with the host's root may take as one without.
const ASKED_OF_ROOT: f64 = 1.3;

/// A boot that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// The guest that prints the line.
pub fn guest(pulled: &Pulled) -> anyhow::Result<Guest> {
    Guest::new(pulled, "boot", &format!("echo '{LINE}'"), &[])
}

/// Prints the times of both and their ratio.
pub fn measure(unibody: &Path, guest: &Guest, rounds: usize) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    let mut qemus = Vec::new();
    let (mut commands, mut in_hosts_root) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(first_line(Monitor::Unibody(unibody), guest)?);
        qemus.push(first_line(Monitor::Qemu, guest)?);
        commands.push(whole_command(unibody, "none")?);
        in_hosts_root.push(whole_command(unibody, "/")?);
    }
    let ratios = ours.iter().zip(&qemus).map(|(a, b)| a / b).collect();
    println!(
        "boot to the first line: unibody {:.2} s, qemu tcg {:.2} s",
        median(ours),
        median(qemus)
    );
    println!(
        "boot to the first line: unibody / qemu {:.2} (median of {rounds} pairs)",
        median(ratios)
    );
    let ratios = in_hosts_root.iter().zip(&commands).map(|(a, b)| a / b).collect();
    println!(
        "unibody run -- echo:    {:.2} s from start to exit; with the host's root {:.2} times that (asked {ASKED_OF_ROOT})",
        median(commands),
        median(ratios)
    );
    Ok(())
}

/// Seconds from the monitor's start until the guest, with one CPU, has printed the line.
pub fn first_line(monitor: Monitor<'_>, guest: &Guest) -> anyhow::Result<f64> {
    first_line_within(LIMIT, monitor, guest)
}

/// The same; a boot that takes longer than `limit` has failed.
pub fn first_line_within(
    limit: Duration,
    monitor: Monitor<'_>,
    guest: &Guest,
) -> anyhow::Result<f64> {
    until_first_line(limit, &mut monitor.command(guest, 1, ""), |_| ())
}

/// The same of a monitor's command; passes on each line.
fn until_first_line(
    limit: Duration,
    command: &mut Command,
    mut each: impl FnMut(&str),
) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut seconds = None;
    let transcript = follow(command, limit, |line| {
        each(line);
        if seconds.is_none() && line.contains(LINE) {
            seconds = Some(start.elapsed().as_secs_f64());
        }
    })?;
    match seconds {
        Some(seconds) => Ok(seconds),
        None => bail!("the guest did not get that far:\n{}", transcript.tail()),
    }
}

/// What translating code costs in a boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Translation {
    /// Instructions that were translated.
    pub instructions: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bytes of translated code at the end.
    pub bytes: f64,
    /// As a part of the time to the first line.
    pub share: f64,
}

/// Boots once more with Unibody, in a run that counts: that is somewhat slower. `None` if nothing is translated.
pub fn translation(unibody: &Path, guest: &Guest) -> anyhow::Result<Option<Translation>> {
    let mut told = None;
    let mut command = Monitor::Unibody(unibody).command(guest, 1, "");
    command.arg("--verbose");
    let boot =
        until_first_line(LIMIT, &mut command, |line| told = told.or_else(|| translated(line)))?;
    Ok(told.map(|[instructions, seconds, bytes]| Translation {
        instructions,
        seconds,
        bytes,
        share: seconds / boot,
    }))
}

/// The numbers of the line that says how many instructions were translated, in which time, to how many bytes.
fn translated(line: &str) -> Option<[f64; 3]> {
    let (_, rest) = line.split_once("unibody: ")?;
    let (instructions, rest) = rest.split_once(" instructions were translated in ")?;
    let (seconds, rest) = rest.split_once(" seconds, the code takes ")?;
    let (bytes, _) = rest.split_once(" bytes")?;
    Some([instructions.parse().ok()?, seconds.parse().ok()?, bytes.parse().ok()?])
}

fn whole_command(unibody: &Path, root: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    let words = ["run", "--root", root, "--engine", "soft", "--", "/bin/echo", LINE];
    let output = Command::new(unibody).args(words).output()?;
    ensure!(output.stdout == format!("{LINE}\n").as_bytes(), "{output:?}");
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::translated;

    #[test]
    fn the_line_about_translation_is_found() {
        let line = "unibody: 1234 instructions were translated in 0.056000 seconds, the code takes 78 bytes";
        assert_eq!(translated(line), Some([1234.0, 0.056, 78.0]));
        assert_eq!(translated("unibody: the guest executed 1234 instructions"), None);
        assert_eq!(translated("unibody: x instructions were translated in 1 seconds"), None);
    }
}
