//! What this host offers to run guests on: [`engines`], which of them is taken ([`choose`]), and the
//! [`Processor`].
//!
//! Nothing here is asked for on the way of a guest: it is what a person is told.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::in_process::InProcess;
use crate::{Error, Hypervisor, Vm, VmConfig};

pub use processor::{Extension, Processor};

mod processor;

/// Linux's own KVM.
const KVM: &str = "/dev/kvm";

/// A way to run guests, as this host offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The name that `--engine` knows it by, or will.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Whether it can be used.
    pub readiness: Readiness,
}

/// Whether an engine can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It runs guests: a virtual machine was made.
    Ready,
    /// The device can be opened, but this version does not use it yet.
    NotUsedYet,
    /// There is no such device.
    Absent {
        /// Whether the processor has what it takes (VMX or SVM).
        virtualization: bool,
    },
    /// The device is there, and this user may not open it.
    NotPermitted {
        /// The group whose members may.
        group: Option<u32>,
    },
    /// It is there and does not work.
    Failed {
        /// Why.
        reason: String,
    },
}

/// The engine that is taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub engine: &'static str,
    /// In one line.
    pub reason: &'static str,
}

/// Looks at all engines, the fastest last.
#[must_use]
pub fn engines() -> Vec<Engine> {
    let soft = match guest_cpuid() {
        Ok(_) => Readiness::Ready,
        Err(error) => Readiness::Failed { reason: error.to_string() },
    };
    vec![
        Engine {
            name: InProcess::default().name(),
            about: "the software CPU: any x86-64 Linux machine, no privilege",
            readiness: soft,
        },
        Engine {
            name: "kvm",
            about: "the processor's virtualization, through Linux's /dev/kvm",
            readiness: device(Path::new(KVM), processor::has_virtualization()),
        },
    ]
}

/// Takes the one of `engines` that guests are run on, if any can be.
#[must_use]
pub fn choose(engines: &[Engine]) -> Option<Choice> {
    let ready = engines.iter().find(|engine| engine.readiness == Readiness::Ready)?;
    let reason = "it needs nothing, and this version runs guests on no other";
    Some(Choice { engine: ready.name, reason })
}

/// Looks at the processor, and at what of it a guest gets.
///
/// # Errors
/// When no guest can be made to look at.
pub fn processor() -> Result<Processor, Error> {
    Ok(Processor::new(&guest_cpuid()?))
}

/// What a guest is told about its processor.
fn guest_cpuid() -> Result<crate::x86::Cpuid, Error> {
    let vm = InProcess::INTERPRETER.create_vm(VmConfig { cpus: 1 })?;
    Ok(vm.create_vcpu(0)?.cpuid().clone())
}

/// Tries to open a device for reading and writing.
fn device(path: &Path, virtualization: bool) -> Readiness {
    match File::options().read(true).write(true).open(path) {
        Ok(_) => Readiness::NotUsedYet,
        Err(error) if error.kind() == ErrorKind::NotFound => Readiness::Absent { virtualization },
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Readiness::NotPermitted { group: path.metadata().ok().and_then(|data| group(&data)) }
        }
        Err(error) => Readiness::Failed { reason: plain(&error) },
    }
}

/// The group that may read and write.
fn group(data: &Metadata) -> Option<u32> {
    (data.mode() & 0o060 == 0o060).then(|| data.gid())
}

/// The error without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_software_cpu_is_ready_and_taken() {
        let engines = engines();
        let names: Vec<_> = engines.iter().map(|engine| engine.name).collect();
        assert_eq!(names, ["soft", "kvm"]);
        assert_eq!(engines[0].readiness, Readiness::Ready);
        assert_eq!(choose(&engines).map(|choice| choice.engine), Some("soft"));
    }

    #[test]
    fn an_engine_that_does_not_work_is_not_taken() {
        let mut engines = engines();
        engines[0].readiness = Readiness::Failed { reason: "no timers".into() };
        assert_eq!(choose(&engines), None);
    }

    #[test]
    fn a_device_is_tried() {
        let here = |path| device(Path::new(path), true);
        assert_eq!(here("/dev/null"), Readiness::NotUsedYet);
        assert_eq!(here("/no/such/device"), Readiness::Absent { virtualization: true });
        assert_eq!(here("/dev"), Readiness::Failed { reason: "is a directory".into() });
    }

    #[test]
    fn the_group_that_may_is_told_and_no_other() {
        // Every system has it: root's own, and for nobody else to write.
        let data = Path::new("/proc/self/mem").metadata().unwrap();
        assert_eq!(group(&data), None);
        let data = Path::new("/dev/null").metadata().unwrap();
        assert_eq!(group(&data), Some(data.gid()));
    }
}
