//! The guest that is measured, for both monitors: [`Guest`], made of what is [`Pulled`], run by a [`Monitor`].
//!
//! Kernel, initial file system, command line and size are the same under both, so that what differs is theirs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use vmm::boot::cpio::Writer;
use vmm::machine::COMMAND_LINE;

/// What `unibody pull` keeps.
pub struct Pulled {
    kernel: PathBuf,
    busybox: Vec<u8>,
}

impl Pulled {
    /// Asks `unibody pull`, which fetches it if it is not there.
    pub fn find(unibody: &Path) -> anyhow::Result<Self> {
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
        Ok(Self { kernel: file("kernel")?, busybox: std::fs::read(file("busybox")?)? })
    }
}

/// A kernel and an initial file system with BusyBox. Its first process is a script, after which the guest is off.
pub struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Guest {
    /// Writes the file system: `script` is lines for BusyBox's shell, `programs` are added to `/bin`.
    ///
    /// `name` tells the guests of one process apart.
    pub fn new(
        pulled: &Pulled,
        name: &str,
        script: &str,
        programs: &[(&str, &[u8])],
    ) -> anyhow::Result<Self> {
        let initrd =
            std::env::temp_dir().join(format!("unibody-bench-{}-{name}.cpio", std::process::id()));
        std::fs::write(&initrd, archive(&pulled.busybox, script, programs)?)
            .with_context(|| format!("cannot write '{}'", initrd.display()))?;
        Ok(Self { kernel: pulled.kernel.clone(), initrd })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.initrd);
    }
}

fn archive(busybox: &[u8], script: &str, programs: &[(&str, &[u8])]) -> anyhow::Result<Vec<u8>> {
    let script = format!("#!/bin/busybox sh\n{script}\n/bin/busybox poweroff -f\n");
    let mut archive = Writer::new();
    archive.directory("bin", 0o755)?;
    archive.directory("dev", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    for (name, content) in programs {
        archive.file(&format!("bin/{name}"), 0o755, content)?;
    }
    archive.file("first", 0o755, script.as_bytes())?;
    Ok(archive.finish())
}

/// What runs a guest.
#[derive(Clone, Copy)]
pub enum Monitor<'a> {
    /// The program to be measured.
    Unibody(&'a Path),
    /// `qemu-system-x86_64` with TCG, and all that it can emulate.
    Qemu,
}

impl Monitor<'_> {
    /// The command that boots the guest with 0.5 GiB, its console on the command's output.
    ///
    /// `words` are added to the kernel's command line.
    pub fn command(self, guest: &Guest, cpus: usize, words: &str) -> Command {
        let words = format!("rdinit=/first {words}");
        let mut command;
        match self {
            Self::Unibody(program) => {
                command = Command::new(program);
                command.args([
                    "run",
                    "--engine",
                    "soft",
                    "--memory",
                    "512M",
                    "--cpus",
                    &cpus.to_string(),
                ]);
                command.args(["--cmdline", words.trim()]);
                command.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
            }
            Self::Qemu => {
                command = Command::new("qemu-system-x86_64");
                command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512"]);
                command.args(["-smp", &cpus.to_string(), "-nographic", "-no-reboot"]);
                command.arg("-append").arg(format!("{COMMAND_LINE} {}", words.trim()));
                command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
            }
        }
        command
    }
}
