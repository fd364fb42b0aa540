//! What this host offers to run guests on: [`Candidates`], which are tried with a guest
//! ([`probe`](mod@crate::probe)), which of them is taken ([`choose`]), the [`Processor`], and what there is of the project's own
//! [`Module`].
//!
//! Nothing here is asked for on the way of a guest: it is what is looked at before.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::host_error::explain;
use crate::in_process::InProcess;
use crate::kvm::{Kvm, OpenError};
use crate::probe::Outcome;
use crate::{Error, Hypervisor, Irqchip, Vm, VmConfig};

pub use candidates::{Candidates, Tried};
pub use choice::{Choice, choose};
pub use module::Module;
pub use processor::{Extension, Processor};

mod candidates;
mod choice;
pub mod module;
mod processor;

/// A device with KVM's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Linux's own KVM.
    Kvm,
    /// The project's own module.
    Unibody,
}

impl Device {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Kvm, Self::Unibody];

    /// The name that `--engine` knows what is behind it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Unibody => "unibody",
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Kvm => "/dev/kvm",
            Self::Unibody => "/dev/unibody",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Kvm => "the processor's virtualization, through Linux's /dev/kvm",
            Self::Unibody => "the processor's SVM, through Unibody's own module",
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn open(self) -> Result<Kvm, Readiness> {
        self.open_at(Path::new(self.path()))
    }

    fn open_at(self, path: &Path) -> Result<Kvm, Readiness> {
        let opened = Kvm::open(path).map(|kvm| kvm.named(self.name()));
        opened.map_err(|error| match error {
            OpenError::Open { error, .. } => self.not_opened(path, &error),
            OpenError::NotKvm { .. } => Readiness::NotKvm,
            other => Readiness::Failed { reason: other.to_string() },
        })
    }

    /// Why it could not be opened.
    fn not_opened(self, path: &Path, error: &io::Error) -> Readiness {
        match error.kind() {
            ErrorKind::NotFound => Readiness::Absent {
                virtualization: match self {
                    Self::Kvm => processor::has_virtualization(),
                    Self::Unibody => processor::has_svm(),
                },
            },
            ErrorKind::PermissionDenied => Readiness::NotPermitted {
                group: path.metadata().ok().and_then(|data| group(&data)),
            },
            _ => Readiness::Failed { reason: explain(error) },
        }
    }
}

/// A way to run guests, as this host offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// The name that `--engine` knows it by.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Whether it can be used.
    pub readiness: Readiness,
    /// What trying it has found, if it was tried.
    pub outcome: Option<Outcome>,
}

impl Engine {
    /// The software CPU.
    #[must_use]
    pub fn soft(readiness: Readiness, outcome: Option<Outcome>) -> Self {
        let about = "the software CPU: any x86-64 Linux machine, no privilege";
        Self { name: SOFT, about, readiness, outcome }
    }

    /// What is behind a device.
    #[must_use]
    pub fn at(device: Device, readiness: Readiness, outcome: Option<Outcome>) -> Self {
        Self { name: device.name(), about: device.about(), readiness, outcome }
    }

    /// The device that it is behind, if it is behind one.
    #[must_use]
    pub fn device(&self) -> Option<Device> {
        Device::ALL.into_iter().find(|device| device.name() == self.name)
    }

    /// Whether it can be used, and was seen to do all right and fast enough.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.readiness == Readiness::Ready && self.outcome.as_ref().is_some_and(Outcome::is_fit)
    }
}

/// The name of the software CPU, on which guests are run where nothing better is.
const SOFT: &str = "soft";

/// Whether an engine can be used. Whether it should be is another matter: see [`Engine::outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can be: the device can be opened, and has what is needed.
    Ready,
    /// There is no such device.
    Absent {
        /// Whether the processor has what it takes (VMX or SVM; for the project's own module, SVM).
        virtualization: bool,
    },
    /// The device is there, and this user may not open it.
    NotPermitted {
        /// The group whose members may.
        group: Option<u32>,
    },
    /// What is there is something else.
    NotKvm,
    /// It is there and does not work.
    Failed {
        /// Why.
        reason: String,
    },
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
    let vm = InProcess::INTERPRETER.create_vm(VmConfig { cpus: 1, irqchip: Irqchip::default() })?;
    Ok(vm.create_vcpu(0)?.cpuid().clone())
}

/// The group that may read and write.
fn group(data: &Metadata) -> Option<u32> {
    (data.mode() & 0o060 == 0o060).then(|| data.gid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_opened() {
        for device in Device::ALL {
            let refused = |path| device.open_at(Path::new(path)).err();
            assert_eq!(refused("/dev/null"), Some(Readiness::NotKvm));
            assert!(matches!(refused("/no/such/device"), Some(Readiness::Absent { .. })));
            assert_eq!(
                refused("/dev"),
                Some(Readiness::Failed { reason: "is a directory".into() })
            );
        }
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
