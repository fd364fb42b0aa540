//! Whether the project's own module can be used here: what was found of it, and what to do.

use std::path::Path;

use hv::host::module::{Installed, Rival, Virtualization};
use hv::host::{self, Device, Readiness};
use serde::Serialize;

use crate::engine::words;

/// How it is built and loaded: a section of the README.
const HOW: &str = "\"Its own kernel module\" in README.md";

/// The module, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Module {
    /// How far it is.
    pub(super) state: State,
    /// The same in words.
    pub(super) detail: &'static str,
    /// What was found, one thing after the other.
    pub(super) findings: Vec<Finding>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// It is loaded.
    Loaded,
    /// It is not, and nothing seems to keep it from that.
    Loadable,
    /// Something is to be done first.
    NotReady,
    /// This machine cannot load it, whatever is done.
    Impossible,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether it is as the module needs it.
    pub(super) right: bool,
    /// What was found.
    pub(super) detail: String,
    /// What to do; null if nothing has to be, or nothing helps.
    pub(super) fix: Option<String>,
}

impl Finding {
    fn new(name: &'static str, right: bool, detail: impl Into<String>, fix: Option<&str>) -> Self {
        Self { name, right, detail: detail.into(), fix: fix.map(Into::into) }
    }
}

impl Module {
    /// What it is from what was seen. `processor`: its vendor; `readiness`: of the module's device.
    pub(super) fn new(
        found: &host::Module,
        processor: Option<&str>,
        readiness: &Readiness,
    ) -> Self {
        let processor = of_processor(found.virtualization, processor.unwrap_or("a processor"));
        let (is_possible, is_loaded) = (processor.right, found.device.is_some());
        let is_hopeless = !is_possible && processor.fix.is_none();
        let mut findings = vec![processor];
        if is_loaded {
            findings.extend(found.device.as_deref().map(|device| of_device(device, readiness)));
        } else if is_possible {
            findings.extend([of_headers(found), of_file(found)]);
            findings.extend(found.wants_signature.then(of_signature));
        }
        if is_possible {
            findings.push(of_rival(found.rival));
        }
        // What is not there may be built; who has the processor may give it up.
        let is_ready = findings.iter().all(|finding| finding.right || finding.name == HEADERS);
        let (state, detail) = match (is_loaded, is_hopeless, is_ready) {
            (true, ..) => (State::Loaded, "loaded"),
            (_, true, _) => (State::Impossible, "not loaded, and it cannot be on this machine"),
            (_, _, true) => (State::Loadable, "not loaded: sudo modprobe unibody does that"),
            _ => (State::NotReady, "not loaded: something is to be done first"),
        };
        Self { state, detail, findings }
    }
}

/// They are needed only to build it.
const HEADERS: &str = "headers";

fn of_processor(virtualization: Virtualization, vendor: &str) -> Finding {
    let firmware =
        "switch SVM on in the firmware's setup (it may be called AMD-V or virtualization)";
    let (right, detail, fix) = match virtualization {
        Virtualization::Svm => (true, "SVM with nested paging", None),
        Virtualization::NoNestedPaging => (false, "SVM, but no nested paging", None),
        Virtualization::Disabled => {
            (false, "SVM, but the firmware has switched it off", Some(firmware))
        }
        Virtualization::Vmx => (false, "VMX, for which the module has no engine yet", None),
        Virtualization::None => {
            let outside = "in a virtual machine: have its hypervisor offer nested virtualization";
            (false, "neither SVM nor VMX", Some(outside))
        }
    };
    Finding::new("processor", right, format!("{vendor}: {detail}"), fix)
}

fn of_headers(found: &host::Module) -> Finding {
    let release = &found.release;
    if found.has_headers {
        return Finding::new(HEADERS, true, format!("of Linux {release}: there"), None);
    }
    let detail = format!("of Linux {release}: not there, and it is built with them");
    let fix = format!("install them; on Debian: sudo apt-get install linux-headers-{release}");
    Finding::new(HEADERS, false, detail, Some(&fix))
}

fn of_file(found: &host::Module) -> Finding {
    match &found.installed {
        Some(Installed { path, listed: true }) => {
            Finding::new("file", true, path.display().to_string(), None)
        }
        Some(Installed { path, listed: false }) => {
            let detail = format!("{}, where modprobe does not know of it", path.display());
            Finding::new("file", false, detail, Some("sudo depmod -a"))
        }
        None => {
            let detail = format!("none below /lib/modules/{}", found.release);
            let fix = format!("build and install it: {HOW}");
            Finding::new("file", false, detail, Some(&fix))
        }
    }
}

fn of_signature() -> Finding {
    let detail = "this kernel loads only modules that are signed (Secure Boot, or lockdown)";
    let fix =
        "sign it with a key that the firmware has: DKMS makes one, and mokutil --import takes it";
    // Whether this one is signed nobody knows before it is loaded.
    Finding::new("signature", true, detail, Some(fix))
}

fn of_rival(rival: Rival) -> Finding {
    let (right, detail, fix) = match rival {
        Rival::Absent => (true, "not loaded", None),
        Rival::Idle => (true, "loaded, and not in use: the processor is free", None),
        Rival::Used => (
            false,
            "loaded, and in use: while it has a virtual machine the module can have none",
            Some("end KVM's virtual machines"),
        ),
        Rival::Holds => (
            false,
            "loaded, and has the processor as long as it is",
            Some("sudo modprobe -r kvm_amd; or load kvm with enable_virt_at_load=0"),
        ),
    };
    Finding::new("kvm_amd", right, detail, fix)
}

fn of_device(device: &Path, readiness: &Readiness) -> Finding {
    let path = device.display();
    if device != Path::new(Device::Unibody.path()) {
        // Whether it can be used is said of that engine.
        return Finding::new("device", true, format!("{path}, as the module was told"), None);
    }
    let (right, detail) = match readiness {
        Readiness::Ready => (true, format!("{path}, which this user may open")),
        Readiness::NotPermitted { .. } => (false, format!("{path}, which this user may not open")),
        other => (false, words::refusal(other, Device::Unibody)),
    };
    let fix = words::fix(readiness, Device::Unibody).filter(|_| !right);
    Finding::new("device", right, detail, fix.as_deref())
}

#[cfg(test)]
#[path = "module_test.rs"]
mod module_test;
