//! Linux's own KVM: [`Kvm`] on a device such as `/dev/kvm`, by `kvm-ioctls`.
//!
//! The chips (both 8259s, 8254, I/O APIC, local APICs) are the kernel's, or all but the local APICs are here ([`crate::Irqchip`]).
//! What it takes is looked at when the device is opened, so that a machine is not half made before something turns out to be
//! lacking.
//!
//! - [`vm`]: memory, interrupts, pause and kicks;
//! - [`vcpu`]: the run loop, from KVM's exits to ours;
//! - `registers`: the neutral state from and to KVM's structures; `transfer`, the ioctls that carry them;
//! - `debug`: what a debugger wants, and events that are injected;
//! - `events`: ioeventfds and irqfds, which the kernel serves;
//! - `split`: the chips that are not the kernel's; `ioctl`, what `kvm-ioctls` lacks;
//! - `stuck`: why it does not go on with a vCPU;
//! - `kick`: the signal that brings a vCPU's thread out of the guest; `watch` has those come out that halt for good.
//!
//! `kvm-ioctls` is safe but for what it can't know: how long memory stays, and what a union has.
//!
//! See: Linux, Documentation/virt/kvm/api.rst.

mod debug;
mod events;
mod ioctl;
mod kick;
mod registers;
mod split;
mod stuck;
mod transfer;
pub mod vcpu;
pub mod vm;
mod watch;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arch_x86::cpuid::Leaf;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm as Device};

use crate::{Error, Hypervisor, VmConfig};
use vm::KvmVm;

/// The version of KVM's interface, the only one there ever was.
const API_VERSION: i32 = 12;

/// What is needed, and what Linux calls it.
const NEEDED: [(Cap, &str); 18] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Hlt, "KVM_CAP_HLT"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::UserNmi, "KVM_CAP_USER_NMI"),
    (Cap::SetGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
];

/// Linux's number for `KVM_CAP_TSC_DEADLINE_TIMER`, which `KVM_GET_SUPPORTED_CPUID` does not tell.
const TSC_DEADLINE_TIMER: u64 = 72;

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, or may not be opened.
    #[error("cannot open {}: {error}", device.display())]
    Open {
        /// The device.
        device: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is something else.
    #[error("{} is not KVM", device.display())]
    NotKvm {
        /// The device.
        device: PathBuf,
    },
    /// Another version of the interface.
    #[error("{} has version {version} of KVM's interface, and not {API_VERSION}", device.display())]
    Version {
        /// The device.
        device: PathBuf,
        /// What it has.
        version: i32,
    },
    /// Something that is needed is not there.
    #[error("{} lacks {name}: the host's kernel is too old, or built without it", device.display())]
    Lacks {
        /// The device.
        device: PathBuf,
        /// What Linux calls it.
        name: &'static str,
    },
    /// It does not tell what it can virtualize.
    #[error("{} does not tell which CPUID it supports: {error}", device.display())]
    Cpuid {
        /// The device.
        device: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A device of KVM's.
pub struct Kvm {
    name: &'static str,
    device: Device,
    supported: Arc<Supported>,
}

/// What a guest's processor may be told, as the kernel says.
struct Supported {
    cpuid: CpuId,
    deadline: bool,
}

impl Supported {
    /// The answer to a question; zeros if there is none.
    fn leaf(&self, function: u32, index: u32) -> Leaf {
        let entries = self.cpuid.as_slice().iter();
        let is_it = |e: &&kvm_bindings::kvm_cpuid_entry2| {
            let counts = e.flags & kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            e.function == function && (!counts || e.index == index)
        };
        entries.clone().find(is_it).map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    }
}

/// Whether a device, which says this of itself, is one that guests can be run on.
fn look_at(path: &Path, version: i32, has: impl Fn(Cap) -> bool) -> Result<(), OpenError> {
    let device = path.to_path_buf();
    match version {
        API_VERSION => {}
        // It knows no such ioctl.
        ..0 => return Err(OpenError::NotKvm { device }),
        _ => return Err(OpenError::Version { device, version }),
    }
    match NEEDED.into_iter().find(|(cap, _)| !has(*cap)) {
        Some((_, name)) => Err(OpenError::Lacks { device, name }),
        None => Ok(()),
    }
}

impl Kvm {
    /// Opens a device and looks whether it has what is needed.
    ///
    /// # Errors
    /// [`OpenError`], the first that is found.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let device = path.to_path_buf();
        let open = |error| OpenError::Open { device: device.clone(), error };
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| open(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let kvm = Device::new_with_path(&name).map_err(|errno| open(errno.into()))?;
        look_at(path, kvm.get_api_version(), |cap| kvm.check_extension(cap))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|errno| OpenError::Cpuid { device, error: errno.into() })?;
        let deadline = kvm.check_extension_raw(TSC_DEADLINE_TIMER) > 0;
        let supported = Arc::new(Supported { cpuid, deadline });
        Ok(Self { name: "kvm", device: kvm, supported })
    }

    /// The same, under another name: what is behind the device is not Linux's own.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

impl Hypervisor for Kvm {
    type Vm = KvmVm;

    fn name(&self) -> &'static str {
        self.name
    }

    fn create_vm(&self, config: VmConfig) -> Result<KvmVm, Error> {
        KvmVm::new(&self.device, self.name, Arc::clone(&self.supported), config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(version: i32, has: impl Fn(Cap) -> bool) -> String {
        look_at(Path::new("/dev/kvm"), version, has).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_kvm_or_another_version_is_told() {
        assert!(look_at(Path::new("/dev/kvm"), API_VERSION, |_| true).is_ok());
        assert_eq!(refused(-1, |_| true), "/dev/kvm is not KVM");
        for version in [0, 11, 13] {
            let told = format!("/dev/kvm has version {version} of KVM's interface, and not 12");
            assert_eq!(refused(version, |_| true), told);
        }
    }

    /// Each that is needed, whichever it is.
    #[test]
    fn what_is_lacking_is_named() {
        for (lacking, name) in NEEDED {
            let told = refused(API_VERSION, |cap| cap as u32 != lacking as u32);
            assert!(told.starts_with(&format!("/dev/kvm lacks {name}: ")), "{told}");
        }
        // The first, of several.
        assert!(refused(API_VERSION, |_| false).contains("lacks KVM_CAP_USER_MEMORY"));
    }
}
