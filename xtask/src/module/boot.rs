//! A stock kernel under QEMU that loads the module, and what it said.

use super::kernel::Headers;
use super::lists::Lists;
use crate::initramfs::{busybox, cpio::Archive};
use crate::{qemu, tree};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::{self, File};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

/// How long the machine may run: several times what it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whatever the kernel does not survive ends the machine.
///
/// `slub_debug=F`: the kernel's heap is checked, and does not use CMPXCHG16B. Behind that of QEMU 7.2 RFLAGS may be garbage, with TF and NT
/// in it; who looks at a flag at once, as older kernels do, does not notice.
const PARAMETERS: &str = "console=ttyS0 panic=-1 oops=panic slub_debug=F";

/// The first process: loads the module, opens its device, unloads it, ends.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /unibody.ko
echo \"test: insmod gave $?\"
/bin/busybox head -c 0 /dev/unibody
echo \"test: open gave $?\"
/bin/busybox rmmod unibody
echo \"test: rmmod gave $?\"
/bin/busybox poweroff -f
";

/// What the kernel writes when something is wrong with it or with the module.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops:",
    "kernel BUG at",
    "Kernel panic",
    "disagrees about version",
    "Unknown symbol",
];

/// How the module's own run of the bodies went.
pub struct Report {
    /// What ran.
    pub lists: Lists,
    /// The line about the deepest stack.
    pub stack: String,
}

/// Boots the kernel that the headers are of, and loads the module in it.
pub fn boot(headers: &Headers, module: &Path) -> Result<Report> {
    let directory = tree::target().join("module/boot");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create '{}'", directory.display()))?;
    let kernel = headers.image()?;
    let initramfs = directory.join("initramfs.cpio");
    fs::write(&initramfs, archive(module)?)
        .with_context(|| format!("cannot write '{}'", initramfs.display()))?;
    let console = directory.join("console.log");
    let status = run_machine(&kernel, &initramfs, &console)?;
    let text =
        fs::read(&console).with_context(|| format!("cannot read '{}'", console.display()))?;
    let text = String::from_utf8_lossy(&text);
    judge(&text, status).map_err(|error| anyhow!("{error} (its console: {})", console.display()))
}

/// The initramfs.
fn archive(module: &Path) -> Result<Vec<u8>> {
    let busybox = busybox().context("no static busybox: apt-get install busybox-static")?;
    let read =
        |file: &Path| fs::read(file).with_context(|| format!("cannot read '{}'", file.display()));
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &read(&busybox)?);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("unibody.ko", 0o644, &read(module)?);
    Ok(archive.finish())
}

/// Runs the machine until it ends. `None`: it had to be ended.
fn run_machine(kernel: &Path, initramfs: &Path, console: &Path) -> Result<Option<ExitStatus>> {
    let log =
        File::create(console).with_context(|| format!("cannot create '{}'", console.display()))?;
    let mut machine = qemu::machine(kernel, initramfs, PARAMETERS);
    machine
        .args(["-cpu", "max", "-smp", "2", "-m", "256", "-serial", "stdio"])
        .stdout(log.try_clone().context("cannot share the console's log")?)
        .stderr(log);
    qemu::run(&mut machine, PATIENCE, || Ok(()))
}

/// Reads the console.
fn judge(console: &str, status: Option<ExitStatus>) -> Result<Report> {
    let report = judge_module(console, status);
    if report.is_err() {
        // All that the module said, for what went wrong may take several
        // lines; but once: insmod tries a load that failed again.
        for line in console.lines().filter(|line| line.contains("unibody: ")) {
            eprintln!("{}", line.trim());
            if line.contains(" run, ") {
                break;
            }
        }
    }
    report
}

fn judge_module(console: &str, status: Option<ExitStatus>) -> Result<Report> {
    for line in console.lines() {
        if let Some(complaint) = COMPLAINTS.iter().find(|complaint| line.contains(**complaint)) {
            bail!("the kernel complains ({complaint}): {}", line.trim());
        }
    }
    let Some(status) = status else {
        bail!("the machine did not end within {} s", PATIENCE.as_secs());
    };
    ensure!(status.success(), "QEMU failed ({status}): {}", console.trim());
    let said: Vec<&str> = console
        .lines()
        .filter_map(|line| line.split_once("unibody: selftest: "))
        .map(|(_, text)| text.trim())
        .collect();
    let Some((run, failed)) = said.iter().find_map(|line| tally(line)) else {
        bail!("the module did not say how its tests went");
    };
    ensure!(failed == 0, "{failed} of {run} test bodies failed in the kernel");
    let report = Report { lists: lists(&said), stack: stack(&said) };
    ensure!(
        run == report.lists.bodies(),
        "the kernel's log lost lines: it lists {} bodies of {run}",
        report.lists.bodies()
    );
    for step in ["insmod", "open", "rmmod"] {
        ensure!(console.contains(&format!("test: {step} gave 0")), "{step} failed");
    }
    Ok(report)
}

/// Takes `12 run, 3 failed` apart.
fn tally(line: &str) -> Option<(usize, usize)> {
    let (run, failed) = line.strip_suffix(" failed")?.split_once(" run, ")?;
    Some((run.parse().ok()?, failed.parse().ok()?))
}

/// Gathers the lines `virt::memory_test: 7 bodies`.
fn lists(said: &[&str]) -> Lists {
    let mut lists = Lists::default();
    for line in said {
        let Some((file, count)) =
            line.strip_suffix(" bodies").and_then(|line| line.rsplit_once(": "))
        else {
            continue;
        };
        if let Ok(count) = count.parse::<usize>() {
            *lists.files.entry(file.to_owned()).or_default() += count;
        }
    }
    lists
}

/// The line about the deepest stack.
fn stack(said: &[&str]) -> String {
    said.iter()
        .find(|line| line.starts_with("stack "))
        .map_or_else(String::new, |line| (*line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::judge;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const GOOD: &str = "[    2.1] unibody: selftest: virt::memory_test: 7 bodies\r\n\
        [    2.2] unibody: selftest: stack 900 bytes at most, by virt::memory_test::overlaps\r\n\
        [    2.2] unibody: selftest: 7 run, 0 failed\r\n\
        test: insmod gave 0\r\ntest: open gave 0\r\ntest: rmmod gave 0\r\n";

    fn ended() -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(0))
    }

    #[test]
    fn a_good_run_is_counted() {
        let report = judge(GOOD, ended()).expect("all is well");
        assert_eq!(report.lists.bodies(), 7);
        assert_eq!(report.lists.files["virt::memory_test"], 7);
        assert!(report.stack.starts_with("stack 900"));
    }

    #[test]
    fn failures_complaints_and_silence_are_not_success() {
        assert!(judge("", ended()).is_err());
        assert!(judge(GOOD, None).is_err());
        assert!(judge(&GOOD.replace("0 failed", "1 failed"), ended()).is_err());
        assert!(judge(&GOOD.replace("7 run", "8 run"), ended()).is_err());
        assert!(judge(&GOOD.replace("rmmod gave 0", "rmmod gave 1"), ended()).is_err());
        assert!(
            judge(&format!("{GOOD}[    2.3] BUG: unable to handle page fault"), ended()).is_err()
        );
    }
}
