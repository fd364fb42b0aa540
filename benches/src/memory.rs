//! What a running machine costs besides the guest's own memory.
//!
//! The guest's memory is a memfd: its touched pages are the process's shared memory
//! (`RssShmem`), and everything else is what the machine costs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// Longer than the guest's command ever takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Prints it for the software CPU.
pub fn measure(unibody: &Path) -> anyhow::Result<()> {
    println!("peak resident besides the guest's memory: {:.1} MiB", peak(unibody, "soft", LIMIT)?);
    Ok(())
}

/// The peak of what is resident and not the guest's, in MiB: text, heap and stacks. It is looked at each millisecond.
pub fn peak(unibody: &Path, engine: &str, limit: Duration) -> anyhow::Result<f64> {
    let script = "dd if=/dev/urandom bs=64k count=64 | sha256sum; echo done";
    let mut child = Command::new(unibody)
        .args(["run", "--engine", engine, "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run unibody")?;
    let status = format!("/proc/{}/status", child.id());
    let start = Instant::now();
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let own = kib(&text, "RssAnon:").unwrap_or(0) + kib(&text, "RssFile:").unwrap_or(0);
            peak = peak.max(own);
        }
        if start.elapsed() >= limit {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the guest's command failed or took too long: {output:?}");
    Ok(peak as f64 / 1024.0)
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
