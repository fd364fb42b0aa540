//! The same list of programs under QEMU's software CPU, beside which Unibody's is measured: [`run`].

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::image::Image;
use crate::report::{self, Outcome};

/// The guest's first process there. Reports go to the second serial port, which the kernel does not use.
/// Those that end take a few seconds at most, and some hang.
pub(crate) const INIT: &str = "#!/bin/sh\n\
    mount -t proc proc /proc\n\
    mount -t sysfs sysfs /sys\n\
    mount -t devtmpfs devtmpfs /dev\n\
    LIMIT=40 sh /run-tests >/dev/ttyS1 2>&1\n\
    echo o >/proc/sysrq-trigger\n\
    sleep 60\n";

/// Boots `kernel` with the image and gives how its programs ended. Fails after `limit`.
pub fn run(kernel: &Path, image: &Image, limit: Duration) -> Result<Vec<Outcome>> {
    let report = tempfile_beside(&image.archive);
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-m", "1G", "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-serial", "null", "-serial"]);
    command.arg(format!("file:{}", report.display()));
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(&image.archive);
    command.args(["-append", "console=ttyS0 quiet panic=-1"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().context("cannot start 'qemu-system-x86_64'")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("QEMU did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = std::fs::read(&report)?;
    std::fs::remove_file(&report)?;
    if !status.success() {
        bail!("QEMU failed ({status})");
    }
    Ok(report::outcomes(&String::from_utf8_lossy(&text)))
}

/// A file of this process's own, where the image is.
fn tempfile_beside(archive: &Path) -> std::path::PathBuf {
    archive.with_extension(format!("{}.report", std::process::id()))
}
