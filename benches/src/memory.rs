//! What a running machine costs besides the guest's own memory.
//!
//! The guest's memory is a memfd, and memory for which huge pages are wanted: nothing else is the one or the other. What is resident
//! besides that is what the machine costs.

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

/// The peak of what is resident and not the guest's, in MiB: text, heap and stacks. It is looked at again and again.
pub fn peak(unibody: &Path, engine: &str, limit: Duration) -> anyhow::Result<f64> {
    let script = "dd if=/dev/urandom bs=64k count=64 | sha256sum; echo done";
    let mut child = Command::new(unibody)
        .args(["run", "--root", "none", "--engine", engine, "--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run unibody")?;
    let maps = format!("/proc/{}/smaps", child.id());
    let start = Instant::now();
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        if let Ok(maps) = std::fs::read_to_string(&maps) {
            peak = peak.max(own(&maps));
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

/// What is resident and not the guest's, in KiB, of a process with these mappings.
/// See: Linux, Documentation/filesystems/proc.rst, smaps.
fn own(maps: &str) -> u64 {
    // The flags are what is last of a mapping.
    let mappings = maps.split_inclusive("VmFlags:").zip(maps.split("VmFlags:").skip(1));
    let own = mappings.filter(|(mapping, behind)| {
        let is_memfd = mapping.contains("/memfd:guest-memory");
        let flags = behind.lines().next().unwrap_or_default();
        !is_memfd && flags.split(' ').all(|flag| flag != "hg")
    });
    own.filter_map(|(mapping, _)| kib(mapping, "Rss:")).sum()
}

/// The number of a line as `Rss: 12 kB`, as the kernel has them in files about processes.
pub fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn the_guests_memory_is_not_counted() {
        let mapping = |name: &str, rss: u32, flags: &str| {
            format!(
                "7f00-7f01 rw-p 00000000 00:00 0 {name}\nRss: {rss:>12} kB\nPss: 1 kB\nVmFlags: {flags}\n"
            )
        };
        let maps = [
            mapping("/usr/bin/unibody", 1000, "rd ex mr mw me sd "),
            mapping("/memfd:guest-memory (deleted)", 50_000, "rd wr sh mr mw me ms nr sd "),
            mapping("", 40_000, "rd wr mr mw me nr sd hg "),
            mapping("[heap]", 234, "rd wr mr mw me ac sd "),
        ];
        assert_eq!(own(&maps.concat()), 1234);
    }
}
