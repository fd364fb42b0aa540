//! How soon the host has memory again that a guest has freed (`vmm/src/virtio/balloon.rs`): a guest of 512 MiB fills 400 of them, and frees them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::memory::kib;

/// So much is to be back, in MiB.
const BACK: u64 = 350;
/// After so many seconds.
const ASKED: f64 = 5.0;
/// A guest that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// Says when it is full, and when all of it is freed; goes on when it reads a line.
const SCRIPT: &str = "mount -o remount,size=450m /tmp
    dd if=/dev/zero of=/tmp/large bs=1M count=400 2>/dev/null
    echo full; read go; rm /tmp/large; echo freed; read go";

/// Prints it for the software CPU.
pub fn measure(unibody: &Path) -> anyhow::Result<()> {
    let mut child = Command::new(unibody)
        .args([
            "run", "--root", "none", "--engine", "soft", "--memory", "512M", "--", "sh", "-c",
            SCRIPT,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run unibody")?;
    let seconds = until_it_is_back(&mut child);
    // It is measured; how the guest ends is not what this is about.
    let _ = child.kill();
    child.wait()?;
    println!(
        "{BACK} of 400 MiB that a guest has freed are back after {:.1} seconds (asked: at most {ASKED})",
        seconds?
    );
    Ok(())
}

/// How many seconds after the guest has freed it.
fn until_it_is_back(child: &mut Child) -> anyhow::Result<f64> {
    let mut input = child.stdin.take().context("it is a pipe")?;
    let mut lines = BufReader::new(child.stdout.take().context("it is a pipe")?).lines();
    let mut wait_for = |word: &str| {
        let line = lines.next().context("the guest has ended")??;
        ensure!(line == word, "the guest says '{line}' and not '{word}'");
        Ok(())
    };
    wait_for("full")?;
    let full = resident(child.id())?;
    writeln!(input)?;
    wait_for("freed")?;
    let freed = Instant::now();
    loop {
        let back = full.saturating_sub(resident(child.id())?);
        if back >= BACK << 10 {
            return Ok(freed.elapsed().as_secs_f64());
        }
        if freed.elapsed() >= LIMIT {
            bail!("after {} seconds {} MiB are back", LIMIT.as_secs(), back >> 10);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What of a process is resident, in KiB. See: Linux, Documentation/filesystems/proc.rst, status.
fn resident(process: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    kib(&status, "VmRSS:").context("the guest has ended")
}
