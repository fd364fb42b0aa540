//! The guest that is measured, for both monitors: [`Guest`], made of what is [`Pulled`], run by a [`Monitor`].
//!
//! Kernel, initial file system, command line and size are the same under both, so that what differs is theirs. Each has the kernel as
//! it starts it for those who use it: Unibody unpacked, as `unibody pull` keeps it, QEMU with its own decompressor.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use vmm::boot::cpio::Writer;
use vmm::machine::COMMAND_LINE;

/// What `unibody pull` keeps.
pub struct Pulled {
    kernel: PathBuf,
    /// What `unibody run` boots: the same, unpacked.
    unpacked: PathBuf,
    busybox: Vec<u8>,
    modules: PathBuf,
}

impl Pulled {
    /// Asks `unibody pull`, which fetches it if it is not there.
    pub fn find(unibody: &Path) -> anyhow::Result<Self> {
        let pull = Command::new(unibody).arg("pull").output().context("cannot run unibody pull")?;
        ensure!(pull.status.success(), "{}", String::from_utf8_lossy(&pull.stderr));
        let told = String::from_utf8(pull.stdout)?;
        let folder = told.lines().find_map(|line| line.strip_prefix("folder"));
        Self::in_folder(Path::new(folder.context("unibody pull names no folder")?.trim()))
    }

    /// Takes what a folder has, which was pulled before.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let manifest = std::fs::read(folder.join("manifest.json"))?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        let file = |name: &str| -> anyhow::Result<PathBuf> {
            Ok(folder.join(manifest[name].as_str().context("an entry of the manifest")?))
        };
        Ok(Self {
            kernel: file("kernel")?,
            unpacked: file("unpacked").or_else(|_| file("kernel"))?,
            busybox: std::fs::read(file("busybox")?)?,
            modules: folder.join("lib/modules"),
        })
    }

    /// The content of a module of the kernel's, by the name of its file without `.ko`.
    pub fn module(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let file = format!("{name}.ko");
        let path = find(&self.modules, &file)
            .with_context(|| format!("there is no {file} in '{}'", self.modules.display()))?;
        std::fs::read(&path).with_context(|| format!("cannot read '{}'", path.display()))
    }
}

/// The file of that name in a folder, or below it.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.ends_with(name).then_some(path),
    })
}

/// A kernel and an initial file system with BusyBox. Its first process is a script, after which the guest is off.
pub struct Guest {
    kernel: PathBuf,
    unpacked: PathBuf,
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
        Ok(Self { kernel: pulled.kernel.clone(), unpacked: pulled.unpacked.clone(), initrd })
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
    /// The program to be measured, with the software CPU.
    Unibody(&'a Path),
    /// The same with Linux's KVM.
    UnibodyKvm(&'a Path),
    /// `qemu-system-x86_64` with TCG, and all that it can emulate.
    Qemu,
    /// `qemu-system-x86_64` with Linux's KVM and the machine that it starts fastest.
    Microvm,
    /// `qemu-system-x86_64` with a machine of this name and Linux's KVM.
    QemuKvm(&'a str),
    /// `qemu-system-x86_64` with a machine of this name and TCG.
    QemuTcg(&'a str),
    /// The same with `/dev/kvm` of `unibody with-kvm`.
    QemuWithKvm(&'a Path, &'a str),
}

impl Monitor<'_> {
    /// How the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unibody(_) | Self::UnibodyKvm(_) => "unibody",
            Self::Qemu | Self::Microvm | Self::QemuKvm(_) | Self::QemuTcg(_) => "qemu",
            Self::QemuWithKvm(..) => "qemu with-kvm",
        }
    }

    /// The command that boots the guest with 0.5 GiB, its console on the command's output.
    ///
    /// `words` are added to the kernel's command line.
    pub fn command(self, guest: &Guest, cpus: usize, words: &str) -> Command {
        let words = format!("rdinit=/first {words}");
        let (words, cpus) = (words.trim(), cpus.to_string());
        let mut command = self.program();
        match self {
            Self::Unibody(_) | Self::UnibodyKvm(_) => {
                command.args(["--cpus", &cpus, "--cmdline", words]);
                command.arg("--kernel").arg(&guest.unpacked).arg("--initrd").arg(&guest.initrd);
            }
            _ => {
                command.args(["-smp", &cpus, "-append", &format!("{COMMAND_LINE} {words}")]);
                command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
            }
        }
        command
    }

    /// The command that boots a Multiboot kernel, which has a port to end by: see QEMU's isa-debug-exit.
    pub fn small_kernel(self, kernel: &Path) -> Command {
        let mut command = self.program();
        match self {
            Self::Unibody(_) | Self::UnibodyKvm(_) => {
                command.args(["--isa-debug-exit", "--kernel"]).arg(kernel);
            }
            _ => {
                command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel"]);
                command.arg(kernel);
            }
        }
        command
    }

    /// The program, and the options that all guests have.
    fn program(self) -> Command {
        let unibody = |program: &Path, engine| {
            let mut command = Command::new(program);
            command.args(["run", "--engine", engine, "--memory", "512M"]);
            command
        };
        const QEMU: &str = "qemu-system-x86_64";
        /// Nothing but a serial port, which is the console.
        const BARE: [&str; 6] =
            ["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"];
        let qemu_by = |mut command: Command, options: &[&str]| {
            command.args(options).args(["-m", "512", "-no-reboot"]);
            command
        };
        let qemu = |options: &[&str]| qemu_by(Command::new(QEMU), options);
        let on_kvm = |machine| {
            qemu(&[&["-machine", machine, "-accel", "kvm", "-cpu", "host"], &BARE[..]].concat())
        };
        match self {
            Self::Unibody(program) => unibody(program, "soft"),
            Self::UnibodyKvm(program) => unibody(program, "kvm"),
            Self::Qemu => qemu(&["-accel", "tcg,thread=multi", "-cpu", "max", "-nographic"]),
            Self::Microvm => on_kvm("microvm"),
            Self::QemuKvm(machine) => on_kvm(machine),
            Self::QemuTcg(machine) => qemu(
                &[&["-machine", machine, "-accel", "tcg,thread=multi", "-cpu", "max"], &BARE[..]]
                    .concat(),
            ),
            Self::QemuWithKvm(program, machine) => {
                let mut command = Command::new(program);
                command.args(["with-kvm", "--", QEMU]);
                qemu_by(
                    command,
                    &[&["-machine", machine, "-accel", "kvm", "-cpu", "host"], &BARE[..]].concat(),
                )
            }
        }
    }
}
