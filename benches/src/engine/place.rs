//! Where the program runs: a [`Place`]; what it says there: [`Places`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::lines;
use super::table::ASKED;
use crate::guest::{Guest, Monitor, Pulled};
use crate::transcript::{Transcript, follow};

/// What all workloads take is a few seconds; a guest that hangs must not keep the others waiting.
const LIMIT: Duration = Duration::from_secs(240);

/// A file system in memory, as the guest's initial one is.
const HOST_FOLDER: &str = "/dev/shm";

/// Where the program runs.
#[derive(Clone, Copy)]
pub enum Place {
    /// On the processor itself.
    Host,
    /// In a guest of the program to be measured.
    Unibody,
    /// In a guest of QEMU's TCG.
    Qemu,
}

/// All of them, in the order in which they take turns.
pub const PLACES: [Place; 3] = [Place::Host, Place::Unibody, Place::Qemu];

impl Place {
    /// How the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Unibody => "unibody",
            Self::Qemu => "qemu",
        }
    }
}

/// The program, and the guests that it is the only subject of.
pub struct Places<'a> {
    unibody: &'a Path,
    program: PathBuf,
    names: Vec<String>,
    timed: Guest,
    paired: Guest,
}

impl<'a> Places<'a> {
    /// Makes the guests that run the workloads with those names, or all.
    pub fn new(
        unibody: &'a Path,
        program: &Path,
        pulled: &Pulled,
        names: &[String],
    ) -> anyhow::Result<Self> {
        let content = std::fs::read(program)
            .with_context(|| format!("cannot read '{}'", program.display()))?;
        let guest = |name: &str, arguments: &str| {
            let script = format!("/bin/workloads {arguments} || echo workloads: status $?");
            Guest::new(pulled, name, &script, &[("workloads", &content)])
        };
        Ok(Self {
            unibody,
            program: program.into(),
            names: names.to_vec(),
            timed: guest("timed", &names.join(" "))?,
            paired: guest("paired", "--pair")?,
        })
    }

    /// The workloads' names and times. If some are missing, says so on stderr.
    pub fn times(&self, place: Place) -> anyhow::Result<Vec<(String, f64)>> {
        let mut times = Vec::new();
        let mut command = self.command(place, &self.timed, 1, &self.names)?;
        let transcript = follow(&mut command, LIMIT, |line| {
            if let Some((name, time)) = lines::workload(line) {
                times.push((name.to_owned(), time));
            }
        })?;
        let expected = ASKED.iter().map(|(name, _)| *name);
        let expected =
            expected.filter(|name| self.names.is_empty() || self.names.iter().any(|n| n == name));
        let missing: Vec<&str> =
            expected.filter(|name| !times.iter().any(|(found, _)| found == name)).collect();
        if !missing.is_empty() {
            warn(place, &missing.join(", "), &transcript);
        }
        Ok(times)
    }

    /// How much more two processes do on two CPUs than one. Without an answer, says so on stderr.
    pub fn speedup(&self, place: Place) -> anyhow::Result<Option<f64>> {
        let mut speedup = None;
        let mut command = self.command(place, &self.paired, 2, &["--pair".to_owned()])?;
        let transcript = follow(&mut command, LIMIT, |line| {
            speedup = speedup.or(lines::speedup(line));
        })?;
        if speedup.is_none() {
            warn(place, "two processes at once", &transcript);
        }
        Ok(speedup)
    }

    fn command(
        &self,
        place: Place,
        guest: &Guest,
        cpus: usize,
        arguments: &[String],
    ) -> anyhow::Result<Command> {
        let monitor = match place {
            Place::Host => {
                ensure!(Path::new(HOST_FOLDER).is_dir(), "there is no tmpfs at '{HOST_FOLDER}'");
                let mut command = Command::new(&self.program);
                command.current_dir(HOST_FOLDER).args(arguments);
                return Ok(command);
            }
            Place::Unibody => Monitor::Unibody(self.unibody),
            Place::Qemu => Monitor::Qemu,
        };
        // The kernel's own lines would be in the middle of the program's.
        Ok(monitor.command(guest, cpus, "quiet"))
    }
}

fn warn(place: Place, what: &str, transcript: &Transcript) {
    eprintln!("{}: no time of {what}; the last lines were:\n{}", place.name(), transcript.tail());
}
