//! The nest's machine: its processor, its ports, its clock, and one run of it.

use super::options::Options;
use super::outcome::{Outcome, judge};
use super::output::Output;
use crate::{qemu, tree};
use anyhow::{Context, Result, anyhow};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What there is of hardware virtualization: SVM, with nested paging.
const PROCESSOR: &str = "max,+svm";

/// `nokaslr`: what is where decides which instructions are executed. Whatever the kernel does not
/// survive ends the machine.
///
/// `nohz=off highres=off`: where guests run, QEMU's processor now and then sleeps on with an interrupt of its timer pending. A kernel
/// that sets the timer from one time to the next would sleep forever; a periodic one comes again.
const PARAMETERS: &str = "console=ttyS0 nokaslr panic=-1 oops=panic nohz=off highres=off";

/// The serial ports: file, and line. Each has its own, for a PC's fourth port shares the second's, and
/// the third the first's, and QEMU's chip sees an edge of two only once.
const PORTS: [(&str, &str); 4] = [(CONSOLE, "4"), (STDOUT, "3"), (STDERR, "5"), (TOLD, "7")];
pub const CONSOLE: &str = "console.log";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";
const TOLD: &str = "told";
const DISK: &str = "disk";

/// This process's runs so far.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// The lines of the console and of QEMU that an error shows.
const TAIL: usize = 40;

/// Boots the kernel, and gives on what the command prints until it ends.
pub fn run(
    kernel: &Path,
    initramfs: &[u8],
    options: &Options,
    stdout: impl Write,
    stderr: impl Write,
) -> Result<Outcome> {
    let directory = Directory::create()?;
    let file = directory.write("initramfs.cpio", initramfs)?;
    let log = directory.write("qemu.log", &[])?;
    let mut stdout = Output::create(&directory.path.join(STDOUT), STDOUT, stdout)?;
    let mut stderr = Output::create(&directory.path.join(STDERR), STDERR, stderr)?;
    let parameters = format!("{PARAMETERS} {}", options.append);
    let mut machine = qemu::machine(kernel, &file, parameters.trim_end());
    describe(&mut machine, options)?;
    if let Some(size) = &options.disk {
        add_disk(&mut machine, &directory, size)?;
    }
    let log = File::create(&log).context("cannot create QEMU's log")?;
    machine.current_dir(&directory.path);
    machine.stdout(log.try_clone().context("cannot share QEMU's log")?).stderr(log);
    let mut give_on = || stdout.copy().and_then(|()| stderr.copy());
    let ended = qemu::run(&mut machine, options.timeout, &mut give_on);
    // The rest comes through whatever happened.
    let ended = give_on().and(ended);
    let told = directory.read(TOLD);
    let outcome = ended.and_then(|ended| judge(&told, ended, options.timeout));
    let tails = directory.tail("qemu.log") + &directory.tail(CONSOLE);
    let console = directory.keep_console(options.console)?;
    let end = match tails.as_str() {
        "" => "is empty: has it enough --memory?".to_owned(),
        tails => format!("ended with:\n{tails}"),
    };
    outcome.map_err(|error| {
        let command = options.command.join(" ");
        let console = console.display();
        anyhow!("cannot run '{command}' in the nest: {error:#}\nIts console ({console}) {end}")
    })
}

/// Adds to a machine of QEMU's what makes it the nest. Its files are in the current directory.
fn describe(machine: &mut Command, options: &Options) -> Result<()> {
    machine.args(["-cpu", PROCESSOR, "-smp", &options.cpus.to_string(), "-m", &options.memory]);
    if options.nodes > 1 {
        let part = bytes(&options.memory)? / u64::from(options.nodes);
        for node in 0..options.nodes {
            machine.args(["-object", &format!("memory-backend-ram,id=node{node},size={part}")]);
            machine.args(["-numa", &format!("node,nodeid={node},memdev=node{node}")]);
        }
    }
    for (index, (file, line)) in PORTS.iter().enumerate() {
        machine.args(["-chardev", &format!("file,id=port{index},path={file}")]);
        let port = format!("isa-serial,chardev=port{index},index={index},irq={line}");
        machine.args(["-device", &port]);
    }
    if options.icount {
        // An instruction is a nanosecond, and the time that the processor would sleep is skipped.
        machine.args(["-icount", "shift=0,sleep=off", "-seed", "1"]);
        machine.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
    }
    Ok(())
}

/// A disk whose driver is part of the stock kernel. It takes the space that is written to.
fn add_disk(machine: &mut Command, directory: &Directory, size: &str) -> Result<()> {
    let file = directory.write(DISK, &[])?;
    let file = File::options().write(true).open(file).context("cannot open the disk")?;
    file.set_len(bytes(size)?).context("cannot give the disk its size")?;
    machine.args(["-drive", &format!("if=none,id=disk,format=raw,cache=unsafe,file={DISK}")]);
    machine.args(["-device", "nvme,serial=nest,drive=disk"]);
    Ok(())
}

/// Of a size as 512M or 4G.
fn bytes(size: &str) -> Result<u64> {
    let (digits, shift) = match size.strip_suffix('G') {
        Some(digits) => (digits, 30),
        None => (size.trim_end_matches('M'), 20),
    };
    let count: u64 = digits.parse().with_context(|| format!("'{size}' is no size"))?;
    Ok(count << shift)
}

/// The files of one run. Removed with it.
struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Runs at the same time have their own. What a run that was killed has left is removed.
    fn create() -> Result<Directory> {
        let runs = nest().join("runs");
        for run in fs::read_dir(&runs).into_iter().flatten().flatten() {
            let name = run.file_name();
            let process = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                // It takes space, nothing else.
                let _ = fs::remove_dir_all(run.path());
            }
        }
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let path = runs.join(format!("{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create '{}'", path.display()))?;
        Ok(Directory { path })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write '{}'", path.display()))?;
        Ok(path)
    }

    /// The text of a file; of none, if QEMU did not come to making it.
    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn tail(&self, name: &str) -> String {
        let text = self.read(name);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL)..];
        last.iter().map(|line| format!("  {}\n", line.trim_end())).collect()
    }

    /// Puts the console's log where the next run's of that name will be.
    fn keep_console(&self, name: &str) -> Result<PathBuf> {
        let kept = nest().join(name);
        let log = self.path.join(CONSOLE);
        if log.exists() {
            fs::rename(log, &kept).with_context(|| format!("cannot write '{}'", kept.display()))?;
        }
        Ok(kept)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If it can't be removed now, the next run will.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where the nest's files are.
fn nest() -> PathBuf {
    tree::target().join("nest")
}
