//! How an engine's state is told to people.

use std::fs;

use hv::host::{Device, Engine, Readiness};
use hv::probe::Flaw;

const UDEV: &str = "echo 'KERNEL==\"kvm\", GROUP=\"kvm\", MODE=\"0660\"' \
     | sudo tee /etc/udev/rules.d/65-kvm.rules && sudo udevadm control --reload \
     && sudo udevadm trigger --name-match=kvm";

/// Whether an engine can be used, in a few words.
pub(crate) fn detail(engine: &Engine) -> String {
    match &engine.readiness {
        Readiness::Ready => match engine.outcome.as_ref().and_then(|outcome| outcome.flaw()) {
            // Slow or not, it is what is left.
            Some(flaw) if engine.name != "soft" => {
                format!("present, but not fit: it {}", defect(&flaw))
            }
            _ => "ready".into(),
        },
        Readiness::Absent { virtualization: true } => {
            "absent, though the processor can virtualize".into()
        }
        Readiness::Absent { virtualization: false } => {
            format!("absent: the processor {}", lack(engine.device()))
        }
        Readiness::NotPermitted { .. } => "present, but not permitted".into(),
        Readiness::NotKvm => "something else is in its place".into(),
        Readiness::Failed { reason } => format!("present, but does not work: {reason}"),
    }
}

/// What the processor is not, or has not, that a device takes.
const fn lack(device: Option<Device>) -> &'static str {
    match device {
        Some(Device::Unibody) => "has no SVM here",
        _ => "does not virtualize here",
    }
}

/// Why what is at a device can't be used, after "cannot use KVM".
pub(crate) fn refusal(readiness: &Readiness, device: Device) -> String {
    let (what, device) = (lack(Some(device)), device.path());
    match readiness {
        Readiness::Ready => "it is ready".into(),
        Readiness::Absent { virtualization: true } => {
            format!("there is no {device}, though the processor can virtualize")
        }
        Readiness::Absent { virtualization: false } => {
            format!("there is no {device}, and the processor {what}")
        }
        Readiness::NotPermitted { .. } => format!("this user may not open {device}"),
        Readiness::NotKvm => format!("{device} is something else"),
        Readiness::Failed { reason } => format!("{device} does not work ({reason})"),
    }
}

/// What would make an engine usable, if anything would.
pub(crate) fn fix(readiness: &Readiness, device: Device) -> Option<String> {
    match readiness {
        Readiness::Absent { virtualization: true } if device == Device::Unibody => {
            Some("sudo modprobe -r kvm_amd && sudo modprobe unibody, where it is installed".into())
        }
        Readiness::Absent { virtualization: true } => {
            Some("sudo modprobe -a kvm_intel kvm_amd; in a container: --device /dev/kvm".into())
        }
        Readiness::NotPermitted { group } => Some(match permitted_group(*group) {
            Some(name) => join(&name),
            None if device == Device::Unibody => {
                let path = device.path();
                format!("sudo chgrp kvm {path} && sudo chmod 660 {path}; then {}", join("kvm"))
            }
            None => format!("{UDEV}; then {}", join("kvm")),
        }),
        _ => None,
    }
}

/// Why guests are not run on this engine although it is there, if that is so.
pub(crate) fn fallback(engine: &Engine) -> Option<String> {
    let device = engine.device()?;
    match &engine.readiness {
        Readiness::Absent { .. } => None,
        Readiness::Ready => {
            let flaw = engine.outcome.as_ref().and_then(|outcome| outcome.flaw());
            Some(flaw.map_or(format!("{} is slower here", device.path()), |flaw| {
                format!("{} {}", device.path(), defect(&flaw))
            }))
        }
        refused @ Readiness::NotPermitted { group } => {
            let fix = permitted_group(*group)
                .map_or("unibody doctor shows the udev rule that lets it".into(), |name| {
                    join(&name)
                });
            Some(format!("{} ({fix})", refusal(refused, device)))
        }
        other => Some(refusal(other, device)),
    }
}

/// What is wrong with an engine, after its name.
fn defect(flaw: &Flaw) -> String {
    match flaw {
        Flaw::Slow(speed) => format!("runs guests too slowly ({})", pace(*speed)),
        Flaw::Wrong(check, what) => format!("runs guests wrongly ({}: {what})", check.name()),
        Flaw::Late => "runs guests too slowly (it was not done with a small one in time)".into(),
    }
}

/// A speed.
pub(crate) fn pace(instructions: u64) -> String {
    let number = match instructions {
        0..10_000 => instructions.to_string(),
        10_000..1_000_000 => format!("{} thousand", instructions / 1_000),
        _ => format!("{} million", (instructions + 500_000) / 1_000_000),
    };
    format!("{number} instructions a second")
}

/// The group whose members may open the device, if that is one that people are made members of.
fn permitted_group(group: Option<u32>) -> Option<String> {
    let group = group.filter(|id| *id != 0)?;
    Some(group_name(group).unwrap_or(group.to_string()))
}

fn join(group: &str) -> String {
    format!("sudo usermod -aG {group} $USER, and log in again")
}

fn group_name(id: u32) -> Option<String> {
    name_in(&fs::read_to_string("/etc/group").ok()?, id)
}

/// See: group(5).
fn name_in(text: &str, id: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_string())
    })
}

#[cfg(test)]
#[path = "words_test.rs"]
mod words_test;
