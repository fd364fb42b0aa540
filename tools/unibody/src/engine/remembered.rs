//! What trying KVM and the module has found, in a small file of the user's, so that they are tried once: a boot, what devices there
//! are, a user and a version of Unibody ([`Key`]).
//!
//! It is in `$XDG_RUNTIME_DIR/unibody`, or else where `unibody pull` keeps what it gets. Whatever is not
//! as it should be in there is as good as nothing, and is replaced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hv::host::{Device, Tried};
use hv::probe::{Check, Finding, Outcome, Seen};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::pull::store::Store;

/// Of the file. One with another number is of another Unibody, and not used.
const FORMAT: u32 = 2;
const FILE: &str = "engines.json";
/// More than any such file has.
const MAX_SIZE: u64 = 16 << 10;

/// What the outcome depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    version: String,
    boot: String,
    user: u32,
    devices: Vec<Node>,
}

/// A device node as it is now: another driver makes another one, or changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    path: PathBuf,
    number: u64,
    file_system: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Key {
    /// Of this host's devices, for this user, now; none if the system does not tell.
    pub(crate) fn of_this_host() -> Option<Self> {
        Self::of(&Device::ALL.map(|device| Path::new(device.path())))
    }

    /// Of those of these devices that are there, if any is.
    fn of(devices: &[&Path]) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let devices: Vec<_> = devices.iter().filter_map(|device| Node::of(device)).collect();
        (!devices.is_empty()).then(|| Self {
            version: env!("CARGO_PKG_VERSION").into(),
            boot: boot.trim().into(),
            user: geteuid().as_raw(),
            devices,
        })
    }
}

impl Node {
    fn of(device: &Path) -> Option<Self> {
        let data = fs::metadata(device).ok()?;
        Some(Self {
            path: device.into(),
            number: data.rdev(),
            file_system: data.dev(),
            inode: data.ino(),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// The folder of the file.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// This user's; none if the environment does not say where.
    pub(crate) fn of_this_user() -> Option<Self> {
        Self::of_user(|name| std::env::var_os(name).map(Into::into))
    }

    fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        // See: XDG Base Directory Specification: it has to be absolute, and the user's own.
        let runtime = variable("XDG_RUNTIME_DIR").filter(|path| path.is_absolute() && is_own(path));
        let runtime = runtime.map(|path| path.join("unibody"));
        runtime.or_else(|| Some(Store::of_user(variable).ok()?.root().into())).map(Self)
    }

    /// What was kept for `key`, if that is all right.
    pub(crate) fn recall(&self, key: &Key) -> Option<Tried> {
        let bytes = self.read().ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        if kept.format != FORMAT || kept.key != *key {
            return None;
        }
        let devices = kept.devices.into_iter().map(|(name, kept)| {
            let device = Device::ALL.into_iter().find(|device| device.name() == name)?;
            Some((device, kept.outcome()?))
        });
        let devices = devices.collect::<Option<Vec<_>>>().filter(|devices| !devices.is_empty())?;
        let soft = kept.soft.map(|soft| soft.outcome().ok_or(())).transpose().ok()?;
        Some(Tried { devices, soft })
    }

    /// Others' files are not believed, and nothing else than a file is waited for.
    fn read(&self) -> io::Result<Vec<u8>> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(self.0.join(FILE))?;
        let data = file.metadata()?;
        let mine = data.uid() == geteuid().as_raw() && data.mode() & 0o022 == 0;
        if !data.is_file() || !mine || data.len() > MAX_SIZE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Replaces what is kept. Whoever reads at the same time finds the one or the other, whole.
    pub(crate) fn keep(&self, key: &Key, tried: &Tried) -> io::Result<()> {
        if tried.devices.is_empty() {
            return Ok(());
        }
        let devices =
            tried.devices.iter().map(|(device, outcome)| (device.name().into(), outcome.into()));
        let kept = Kept {
            format: FORMAT,
            key: key.clone(),
            devices: devices.collect(),
            soft: tried.soft.as_ref().map(Into::into),
        };
        let bytes = serde_json::to_vec_pretty(&kept)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        if !is_own(&self.0) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let partial = self.0.join(format!("{FILE}.{}", std::process::id()));
        let written =
            write_new(&partial, &bytes).and_then(|()| fs::rename(&partial, self.0.join(FILE)));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written
    }
}

fn is_own(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|data| data.is_dir() && data.uid() == geteuid().as_raw())
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?.write_all(bytes)
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    key: Key,
    /// By the names of the devices.
    devices: Vec<(String, KeptOutcome)>,
    soft: Option<KeptOutcome>,
}

/// An [`Outcome`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptOutcome {
    /// Of each check, in their order.
    checks: Vec<KeptFinding>,
    speed: Option<u64>,
    microseconds: u64,
}

/// A [`Finding`]: right, wrong in this way, or nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFinding {
    name: String,
    right: bool,
    wrong: Option<String>,
}

impl From<&Outcome> for KeptOutcome {
    fn from(outcome: &Outcome) -> Self {
        let checks = outcome.findings.iter().map(|finding| KeptFinding {
            name: finding.check.name().into(),
            right: finding.seen == Seen::Right,
            wrong: match &finding.seen {
                Seen::Wrong(what) => Some(what.clone()),
                Seen::Right | Seen::Nothing => None,
            },
        });
        Self {
            checks: checks.collect(),
            speed: outcome.speed,
            microseconds: outcome.elapsed.as_micros() as u64,
        }
    }
}

impl KeptOutcome {
    /// None if that was none of Unibody's.
    fn outcome(self) -> Option<Outcome> {
        if self.checks.len() != Check::ALL.len() {
            return None;
        }
        let findings = Check::ALL.into_iter().zip(self.checks);
        let findings = findings.map(|(check, kept)| {
            let seen = match (kept.right, kept.wrong) {
                (true, None) => Seen::Right,
                (false, None) => Seen::Nothing,
                // It goes to a terminal.
                (false, Some(what)) if !what.contains(char::is_control) => Seen::Wrong(what),
                _ => return None,
            };
            (kept.name == check.name()).then_some(Finding { check, seen })
        });
        Some(Outcome {
            findings: findings.collect::<Option<_>>()?,
            speed: self.speed,
            elapsed: Duration::from_micros(self.microseconds),
        })
    }
}

#[cfg(test)]
#[path = "remembered_test.rs"]
mod remembered_test;
