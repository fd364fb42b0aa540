//! What the doctor finds: [`Report`], as `unibody doctor --json` prints it.
//!
//! Scripts read it. A field keeps its name and meaning as long as [`FORMAT`] keeps its
//! number; new fields may come. Sizes are in bytes.

use std::fs;
use std::path::Path;

use hv::host::{self, Candidates, Readiness};
use hv::probe::{Outcome, Seen};
use serde::Serialize;

use super::module::Module;
use super::system;
use crate::engine::{self, words};
use crate::pull::command::user_store;

/// Of the structure.
const FORMAT: u32 = 1;

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) format: u32,
    /// Unibody's version.
    pub(super) version: &'static str,
    /// Null if no guest could be made to look at.
    pub(super) processor: Option<Processor>,
    /// All engines, whether they can be used or not.
    pub(super) engines: Vec<Engine>,
    /// The engine that `--engine auto` takes; null if none can run a guest.
    pub(super) choice: Option<Choice>,
    /// The project's own module, whether it is loaded or not.
    pub(super) module: Module,
    /// Null if Linux does not tell.
    pub(super) memory: Option<Memory>,
    /// Processors that this process may use.
    pub(super) cores: usize,
    /// Where `unibody pull` would get a kernel from.
    pub(super) distribution: Distribution,
    /// What was pulled.
    pub(super) cache: Cache,
}

/// The host's processor.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Processor {
    /// As CPUID says it.
    pub(super) vendor: String,
    /// As CPUID says it.
    pub(super) model: String,
    /// Level of x86-64: 1 to 4.
    pub(super) level: u8,
    /// The level that a guest has.
    pub(super) guest_level: u8,
    /// Extensions that a guest gets, with the names of /proc/cpuinfo.
    pub(super) guest_has: Vec<&'static str>,
    /// Extensions that the host has, and a guest does not get.
    pub(super) guest_lacks: Vec<&'static str>,
}

/// A way to run guests.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Engine {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) about: &'static str,
    /// Whether it can be used.
    pub(super) state: State,
    /// The same in words.
    pub(super) detail: String,
    /// What would make it usable; null if nothing would, or nothing has to.
    pub(super) fix: Option<String>,
    /// What a tiny guest has shown; null if none was run.
    pub(super) probe: Option<Probe>,
}

/// What a tiny guest has shown.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probe {
    /// What was tried, in this order.
    pub(super) checks: Vec<Check>,
    /// Null if it did not come to that.
    pub(super) instructions_per_second: Option<u64>,
    /// How long all took.
    pub(super) milliseconds: f64,
}

/// Something that was tried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    /// Its name.
    pub(super) name: &'static str,
    /// What came of it.
    pub(super) result: CheckResult,
    /// What was wrong; null if nothing was.
    pub(super) detail: Option<String>,
}

/// What came of something that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CheckResult {
    /// It was right.
    Right,
    /// It was not.
    Wrong,
    /// It did not come that far, or not in time.
    Nothing,
}

/// Whether an engine can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It runs guests.
    Ready,
    /// It is there, but too slow, or does something wrongly.
    Unfit,
    /// It is not there.
    Absent,
    /// It is there, and this user may not use it.
    NotPermitted,
    /// It is there and does not work.
    Failed,
}

/// The engine that is taken.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Choice {
    /// Its name.
    pub(super) engine: &'static str,
    /// Why it is taken.
    pub(super) reason: &'static str,
}

/// The host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Memory {
    /// All of it.
    pub(super) total: u64,
    /// What a new process can have without swapping.
    pub(super) available: u64,
}

/// The distribution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Distribution {
    /// As it calls itself; null if it does not.
    pub(super) name: Option<String>,
    /// Whether there is apt-get, with which `unibody pull` works.
    pub(super) has_apt: bool,
}

/// What was pulled.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cache {
    /// Where it is, or would be; null if the environment does not say where caches are.
    pub(super) folder: Option<String>,
    /// The release of the kernel that was pulled; null if there is none.
    pub(super) kernel: Option<String>,
    /// What the folder takes.
    pub(super) size: u64,
}

impl Report {
    /// Looks at this machine.
    pub(super) fn of_this_machine() -> Self {
        let mut candidates = Candidates::open();
        let tried = engine::try_anew(&mut candidates);
        let engines = candidates.engines(tried);
        let choice = host::choose(&engines);
        let processor = host::processor().ok().map(Processor::from);
        let its_device = |engine: &&host::Engine| engine.device() == Some(host::Device::Unibody);
        let module = Module::new(
            &host::Module::look(),
            processor.as_ref().map(|processor| processor.vendor.as_str()),
            engines.iter().find(its_device).map_or(&Readiness::NotKvm, |engine| &engine.readiness),
        );
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            processor,
            module,
            choice: choice.map(|host::Choice { engine, reason }| Choice { engine, reason }),
            engines: engines.into_iter().map(Engine::from).collect(),
            memory: system::memory(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            distribution: system::distribution(),
            cache: Cache::of_this_user(),
        }
    }
}

impl From<host::Processor> for Processor {
    fn from(found: host::Processor) -> Self {
        let names = |wanted: fn(&host::Extension) -> bool| {
            let wanted = found.extensions.iter().filter(|extension| wanted(extension));
            wanted.map(|extension| extension.name).collect()
        };
        Self {
            guest_has: names(|extension| extension.guest),
            guest_lacks: names(|extension| !extension.guest),
            level: found.level,
            guest_level: found.guest_level,
            vendor: found.vendor,
            model: found.model,
        }
    }
}

impl From<host::Engine> for Engine {
    fn from(found: host::Engine) -> Self {
        let detail = words::detail(&found);
        let fix = found.device().and_then(|device| words::fix(&found.readiness, device));
        Self {
            name: found.name,
            about: found.about,
            state: State::of(&found),
            detail,
            fix,
            probe: found.outcome.map(Probe::from),
        }
    }
}

impl State {
    fn of(engine: &host::Engine) -> Self {
        match engine.readiness {
            // The software CPU is what is left, however slow.
            Readiness::Ready if engine.name != "soft" && !engine.is_fit() => Self::Unfit,
            Readiness::Ready => Self::Ready,
            Readiness::Absent { .. } => Self::Absent,
            Readiness::NotPermitted { .. } => Self::NotPermitted,
            Readiness::NotKvm | Readiness::Failed { .. } => Self::Failed,
        }
    }
}

impl From<Outcome> for Probe {
    fn from(outcome: Outcome) -> Self {
        let checks = outcome.findings.into_iter().map(|finding| {
            let (result, detail) = match finding.seen {
                Seen::Right => (CheckResult::Right, None),
                Seen::Wrong(what) => (CheckResult::Wrong, Some(what)),
                Seen::Nothing => (CheckResult::Nothing, None),
            };
            Check { name: finding.check.name(), result, detail }
        });
        Self {
            checks: checks.collect(),
            instructions_per_second: outcome.speed,
            milliseconds: outcome.elapsed.as_micros() as f64 / 1000.0,
        }
    }
}

impl Cache {
    fn of_this_user() -> Self {
        let Ok(store) = user_store() else {
            return Self { folder: None, kernel: None, size: 0 };
        };
        Self {
            folder: Some(store.root().display().to_string()),
            kernel: store.current().map(|guest| guest.manifest.release),
            size: size_of(store.root()),
        }
    }
}

/// What the files below `path` take. What can't be read is not counted.
fn size_of(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size_of(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
#[path = "report_test.rs"]
pub(super) mod report_test;
