//! A stock kernel to the first line of a command.
//!
//! Unibody and QEMU's TCG boot the same kernel with the same initial file system and
//! command line, in turns, and the time from the program's start to the line is taken. Beside it, the time of a
//! whole `unibody run -- echo`, which has a session with the guest's init on top.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use vmm::boot::cpio::Writer;
use vmm::machine::COMMAND_LINE;

use crate::median;

/// What the guest's command prints first.
const LINE: &str = "first line of the command";

/// What is booted.
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    /// The kernel that `unibody pull` keeps, and a file system with its BusyBox.
    pub fn pulled(unibody: &Path) -> anyhow::Result<Self> {
        let pull = Command::new(unibody).arg("pull").output().context("cannot run unibody pull")?;
        ensure!(pull.status.success(), "{}", String::from_utf8_lossy(&pull.stderr));
        let told = String::from_utf8(pull.stdout)?;
        let folder = told.lines().find_map(|line| line.strip_prefix("folder"));
        let folder = Path::new(folder.context("unibody pull names no folder")?.trim());
        let manifest = std::fs::read(folder.join("manifest.json"))?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        let file = |name: &str| -> anyhow::Result<PathBuf> {
            Ok(folder.join(manifest[name].as_str().context("an entry of the manifest")?))
        };
        let initrd =
            std::env::temp_dir().join(format!("unibody-bench-{}.cpio", std::process::id()));
        std::fs::write(&initrd, archive(&std::fs::read(file("busybox")?)?)?)?;
        Ok(Self { kernel: file("kernel")?, initrd })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.initrd);
    }
}

fn archive(busybox: &[u8]) -> anyhow::Result<Vec<u8>> {
    let script = format!("#!/bin/busybox sh\necho '{LINE}'\n/bin/busybox poweroff -f\n");
    let mut archive = Writer::new();
    archive.directory("bin", 0o755)?;
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    archive.file("first", 0o755, script.as_bytes())?;
    Ok(archive.finish())
}

/// Prints the times of both and their ratio.
pub fn measure(unibody: &Path, guest: &Guest, rounds: usize) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    let mut qemus = Vec::new();
    let mut commands = Vec::new();
    for _ in 0..rounds {
        ours.push(first_line(&mut unibody_command(unibody, guest))?);
        qemus.push(first_line(&mut qemu_command(guest))?);
        commands.push(whole_command(unibody)?);
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
    println!("unibody run -- echo:    {:.2} s from start to exit", median(commands));
    Ok(())
}

fn unibody_command(unibody: &Path, guest: &Guest) -> Command {
    let mut command = Command::new(unibody);
    command.args(["run", "--memory", "512M", "--cmdline", "rdinit=/first"]);
    command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
    command
}

fn qemu_command(guest: &Guest) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot"]);
    command.arg("-append").arg(format!("{COMMAND_LINE} rdinit=/first"));
    command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
    command
}

/// Seconds until the program prints the line, on either stream.
fn first_line(command: &mut Command) -> anyhow::Result<f64> {
    let (reader, writer) = std::io::pipe()?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    // The command keeps a copy of the pipe's end: without it the reader sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut told = Vec::new();
    let mut seconds = None;
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if seconds.is_none() && String::from_utf8_lossy(&line).contains(LINE) {
            seconds = Some(start.elapsed().as_secs_f64());
        }
        told.append(&mut line);
    }
    child.wait()?;
    match seconds {
        Some(seconds) => Ok(seconds),
        None => bail!("the guest did not get that far:\n{}", String::from_utf8_lossy(&told)),
    }
}

fn whole_command(unibody: &Path) -> anyhow::Result<f64> {
    let start = Instant::now();
    let output = Command::new(unibody).args(["run", "--", "echo", LINE]).output()?;
    ensure!(output.stdout == format!("{LINE}\n").as_bytes(), "{output:?}");
    Ok(start.elapsed().as_secs_f64())
}
