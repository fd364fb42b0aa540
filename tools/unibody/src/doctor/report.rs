//! What the doctor finds: [`Report`], as `unibody doctor --json` prints it.
//!
//! Scripts read it. A field keeps its name and meaning as long as [`FORMAT`] keeps its
//! number; new fields may come. Sizes are in bytes.

use std::fs;
use std::path::Path;

use hv::host::{self, Readiness};
use serde::Serialize;

use super::system;
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
}

/// Whether an engine can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It runs guests.
    Ready,
    /// It is there, but this version does not use it yet.
    NotUsedYet,
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
        let engines = host::engines();
        let choice = host::choose(&engines);
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            processor: host::processor().ok().map(Processor::from),
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

const UDEV: &str = "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' \
     | sudo tee /etc/udev/rules.d/65-kvm.rules && sudo udevadm control --reload \
     && sudo udevadm trigger --name-match=kvm";

impl From<host::Engine> for Engine {
    fn from(found: host::Engine) -> Self {
        let (state, detail, fix) = match found.readiness {
            Readiness::Ready => (State::Ready, "ready".into(), None),
            Readiness::NotUsedYet => {
                (State::NotUsedYet, "present; not used yet by this version".into(), None)
            }
            Readiness::Absent { virtualization: true } => (
                State::Absent,
                "absent, though the processor can virtualize".into(),
                Some(
                    "sudo modprobe -a kvm_intel kvm_amd; in a container: --device /dev/kvm".into(),
                ),
            ),
            Readiness::Absent { virtualization: false } => {
                (State::Absent, "absent: the processor does not virtualize here".into(), None)
            }
            Readiness::NotPermitted { group } => {
                (State::NotPermitted, "present, but not permitted".into(), Some(permit(group)))
            }
            Readiness::Failed { reason } => {
                (State::Failed, format!("present, but does not work: {reason}"), None)
            }
        };
        Self { name: found.name, about: found.about, state, detail, fix }
    }
}

/// What lets this user open /dev/kvm, which the members of `group` may.
fn permit(group: Option<u32>) -> String {
    let member = |name: &str| format!("sudo usermod -aG {name} $USER, and log in again");
    match group.filter(|id| *id != 0).map(|id| system::group_name(id).unwrap_or(id.to_string())) {
        Some(name) => member(&name),
        None => format!("{UDEV}; then {}", member("kvm")),
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
