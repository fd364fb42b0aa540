//! `benches UNIBODY devices`: what a guest's devices do, beside the same virtio devices of QEMU's, in turns; and `benches UNIBODY devices-on-kvm
//! PROGRAMS FOLDER`, the same on Linux's KVM.
//!
//! Programs in the guest (`benches/devices`) read and write a disk, which is a raw image in the host's memory, and write to a console, whose other
//! end is a pipe that this program reads. They print a line for each way of doing so ([`measured`]).
//!
//! On KVM it is `cargo xtask bench devices --nest` that runs it, where a clock counts instructions: once is enough, and for a shorter time. The
//! programs are compiled already there, and FOLDER is what `unibody pull` has made.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::guest::{Guest, Monitor, Pulled};
use crate::transcript::follow;
use crate::{compile, median};

/// All that is measured.
const MEASURED: [&str; 9] = [
    "sequential-read",
    "sequential-read-32",
    "sequential-write",
    "sequential-write-32",
    "random-read",
    "random-read-32",
    "random-write",
    "random-write-32",
    "console",
];

/// None may be slower than QEMU's, and on the software CPU their geometric mean is to be this.
const ASKED: f64 = 2.0;

/// A file system in memory: what the host's own disk does meanwhile is not what is measured.
const FOLDER: &str = "/dev/shm";

/// A guest that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);

/// What drives both, in the order in which they can be loaded.
const MODULES: [&str; 7] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
];

/// Programs that the guest runs: files of `benches/devices`.
const PROGRAMS: [&str; 2] = ["disk", "console"];

/// Both, and for how long.
struct Comparison<'a> {
    /// What is measured, and what that is beside.
    monitors: [Monitor<'a>; 2],
    /// Of the latter, for people.
    name: &'static str,
    /// Bytes of the disk.
    size: u64,
    /// How long each way of using it is measured.
    seconds: f64,
    rounds: usize,
    /// What the geometric mean is to be.
    asked: Option<f64>,
}

/// Compares both on software CPUs.
pub fn measure(unibody: &Path, rounds: usize) -> anyhow::Result<()> {
    let programs: Vec<PathBuf> = PROGRAMS
        .iter()
        .map(|name| compile::static_program(name, "devices", &[&format!("{name}.c")]))
        .collect::<anyhow::Result<_>>()?;
    let comparison = Comparison {
        monitors: [Monitor::Unibody(unibody), Monitor::Qemu],
        name: "qemu tcg",
        size: 1 << 30,
        seconds: 1.0,
        rounds,
        asked: Some(ASKED),
    };
    comparison.print(&Pulled::find(unibody)?, &programs)
}

/// Compares both on KVM. `programs` is where [`PROGRAMS`] are, `folder` what was pulled.
pub fn measure_on_kvm(unibody: &Path, programs: &Path, folder: &Path) -> anyhow::Result<()> {
    let programs = PROGRAMS.map(|name| programs.join(name));
    let comparison = Comparison {
        monitors: [Monitor::UnibodyKvm(unibody), Monitor::QemuKvm("pc")],
        name: "qemu kvm",
        size: 256 << 20,
        seconds: 0.25,
        rounds: 1,
        asked: None,
    };
    comparison.print(&Pulled::in_folder(folder)?, &programs)
}

impl Comparison<'_> {
    /// Prints, for each way, what both do and their ratio; then the ratios' geometric mean.
    fn print(&self, pulled: &Pulled, programs: &[PathBuf]) -> anyhow::Result<()> {
        let guest = guest(pulled, programs, self.seconds)?;
        let disk = Image::new(self.size)?;
        let mut found: Vec<[Vec<f64>; 2]> = vec![Default::default(); MEASURED.len()];
        let rounds = self.rounds;
        for round in 1..=rounds {
            for (at, monitor) in self.monitors.into_iter().enumerate() {
                eprintln!("round {round} of {rounds}: {}", monitor.name());
                let numbers = numbers(monitor, &guest, &disk.path)?;
                found.iter_mut().zip(numbers).for_each(|(of, number)| of[at].push(number));
            }
        }
        println!(
            "device | unibody | {} | unibody/qemu (median of {rounds} pairs; asked: none below 1)",
            self.name
        );
        let mut logarithms = Vec::new();
        for (name, [ours, qemus]) in MEASURED.into_iter().zip(found) {
            let ratio = median(ours.iter().zip(&qemus).map(|(a, b)| a / b).collect());
            let [ours, qemus] = [ours, qemus].map(|of| in_words(name, median(of)));
            println!("{name:<20} | {ours:>12} | {qemus:>12} | {ratio:.2}");
            logarithms.push(ratio.ln());
        }
        let mean = (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp();
        let asked = self.asked.map(|asked| format!(" (asked: at least {asked})"));
        println!("geometric mean: {mean:.2}{}", asked.unwrap_or_default());
        Ok(())
    }
}

/// The guest that has the programs do all of it.
fn guest(pulled: &Pulled, programs: &[PathBuf], seconds: f64) -> anyhow::Result<Guest> {
    let mut files = Vec::new();
    for (name, program) in PROGRAMS.into_iter().zip(programs) {
        let content = std::fs::read(program);
        let content = content.with_context(|| format!("cannot read '{}'", program.display()))?;
        files.push((name.to_owned(), content));
    }
    for name in MODULES {
        files.push((format!("{name}.ko"), pulled.module(name)?));
    }
    let load = MODULES.map(|name| format!("/bin/busybox insmod /bin/{name}.ko\n")).concat();
    let mount = "/bin/busybox mount -t devtmpfs dev /dev";
    let run = format!(
        "/bin/disk /dev/vda {seconds} || echo disk: status $?\n/bin/console /dev/hvc0 || echo console: status $?"
    );
    let files: Vec<_> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    Guest::new(pulled, "devices", &format!("{load}{mount}\n{run}"), &files)
}

/// What the programs say, in the order of [`MEASURED`].
fn numbers(monitor: Monitor<'_>, guest: &Guest, disk: &Path) -> anyhow::Result<Vec<f64>> {
    let mut command = monitor.command(guest, 1, "quiet");
    let word = |before: &str, behind: &str| {
        let mut word = OsString::from(before);
        word.push(disk);
        word.push(behind);
        word
    };
    match monitor {
        Monitor::Qemu | Monitor::QemuKvm(_) => {
            command.arg("-drive").arg(word("file=", ",format=raw,if=none,id=disk"));
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
            // Its stderr, because its stdout is the serial port's.
            command.args(["-chardev", "file,id=console,path=/dev/stderr"]);
            command.args([
                "-device",
                "virtio-serial-pci",
                "-device",
                "virtconsole,chardev=console",
            ]);
        }
        _ => {
            command.arg("--disk").arg(word("", ",format=raw"));
        }
    }
    let mut numbers = [f64::NAN; MEASURED.len()];
    let transcript = follow(&mut command, LIMIT, |text| {
        if let Some((at, number)) = measured(text) {
            numbers[at] = number;
        }
    })?;
    ensure!(
        numbers.iter().all(|number| number.is_finite()),
        "{}: the guest did not measure all of it:\n{}",
        monitor.name(),
        transcript.tail()
    );
    Ok(numbers.to_vec())
}

/// Reads `device NAME NUMBER`: which of [`MEASURED`], and the number.
fn measured(text: &str) -> Option<(usize, f64)> {
    let mut words = text.trim().strip_prefix("device ")?.split(' ');
    let (name, number) = (words.next()?, words.next()?.parse().ok()?);
    Some((MEASURED.iter().position(|known| *known == name)?, number))
}

fn in_words(name: &str, number: f64) -> String {
    match name.starts_with("random") {
        true => format!("{number:.0} a second"),
        false => format!("{:.1} MB/s", number / 1e6),
    }
}

/// The disk's file, which is all there, and gone at the end.
struct Image {
    path: PathBuf,
}

impl Image {
    fn new(size: u64) -> anyhow::Result<Self> {
        let path = Path::new(FOLDER).join(format!("unibody-bench-{}.img", std::process::id()));
        let failed = || format!("cannot make the disk '{}'", path.display());
        let image = Self { path: path.clone() };
        let mut file = File::create(&path).with_context(failed)?;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0x5a), size), &mut file)
            .with_context(failed)?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::measured;

    #[test]
    fn lines_of_the_program_are_found() {
        assert_eq!(measured("device random-read 1234\r\n"), Some((4, 1234.0)));
        assert_eq!(measured("device sequential-read-32 5e8"), Some((1, 5e8)));
        for other in
            ["disk: status 1", "device random 1", "device random-read", "device random-read x"]
        {
            assert_eq!(measured(other), None, "{other}");
        }
    }
}
