//! The engines that come into question, and trying them.

use super::{Device, Engine, Readiness};
use crate::Error;
use crate::in_process::InProcess;
use crate::kvm::Kvm;
use crate::probe::{Flaw, Outcome, probe};

/// The engines of this host. `K` is what is behind a device, but in tests.
pub struct Candidates<K = Kvm> {
    soft: Readiness,
    devices: Vec<(Device, Result<K, Readiness>)>,
    probes: Probes<K>,
}

/// How the engines are tried: tests have clocks of their own.
struct Probes<K> {
    device: fn(&K) -> Result<Outcome, Error>,
    soft: fn() -> Result<Outcome, Error>,
}

/// What trying them has found; nothing of those that were not tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// What is behind devices.
    pub devices: Vec<(Device, Outcome)>,
    /// The software CPU.
    pub soft: Option<Outcome>,
}

impl Candidates {
    /// Looks at this host.
    #[must_use]
    pub fn open() -> Self {
        let devices = Device::ALL.map(|device| (device, device.open()));
        Self::new(devices.into(), Probes { device: probe, soft: || probe(&InProcess::default()) })
    }
}

impl<K> Candidates<K> {
    fn new(devices: Vec<(Device, Result<K, Readiness>)>, probes: Probes<K>) -> Self {
        // It needs nothing that could be missing.
        Self { soft: Readiness::Ready, devices, probes }
    }

    /// Whether there is something to be tried before it is used.
    #[must_use]
    pub fn is_any_device_ready(&self) -> bool {
        self.devices.iter().any(|(_, opened)| opened.is_ok())
    }

    /// Tries all.
    pub fn try_all(&mut self) -> Tried {
        Tried { devices: self.try_devices(), soft: self.try_soft() }
    }

    /// Tries as many as it takes to know which to take: the software CPU only if another is fit.
    pub fn try_until_known(&mut self) -> Tried {
        let devices = self.try_devices();
        let is_any_fit = devices.iter().any(|(_, outcome)| outcome.is_fit());
        Tried { devices, soft: if is_any_fit { self.try_soft() } else { None } }
    }

    fn try_devices(&mut self) -> Vec<(Device, Outcome)> {
        let mut tried = Vec::new();
        for (device, opened) in &mut self.devices {
            match opened.as_ref().ok().map(self.probes.device) {
                Some(Ok(outcome)) => tried.push((*device, outcome)),
                Some(Err(error)) => *opened = Err(failed(&error)),
                None => {}
            }
        }
        tried
    }

    fn try_soft(&mut self) -> Option<Outcome> {
        (self.probes.soft)().map_err(|error| self.soft = failed(&error)).ok()
    }

    /// All of them, with what trying them has found: what [`choose`](super::choose) takes one of.
    #[must_use]
    pub fn engines(&self, mut tried: Tried) -> Vec<Engine> {
        let mut engines = vec![Engine::soft(self.soft.clone(), tried.soft.take())];
        for (device, opened) in &self.devices {
            let at = tried.devices.iter().position(|(tried, _)| tried == device);
            let outcome = at.map(|at| tried.devices.swap_remove(at).1);
            let readiness = opened.as_ref().err().cloned().unwrap_or(Readiness::Ready);
            engines.push(Engine::at(*device, readiness, outcome));
        }
        engines
    }

    /// What is behind a device, if it can be used.
    #[must_use]
    pub fn into_device(self, wanted: Device) -> Option<K> {
        let mut devices = self.devices.into_iter();
        devices.find(|(device, _)| *device == wanted).and_then(|(_, opened)| opened.ok())
    }
}

/// A machine could not even be made.
fn failed(error: &Error) -> Readiness {
    Readiness::Failed { reason: error.to_string() }
}

impl Tried {
    /// Whether the same would be found again: if a device was late, that may be because the host had other
    /// things to do. (A software CPU that was is no faster than a device that was not.)
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        let is_late = |outcome: &Outcome| outcome.flaw() == Some(Flaw::Late);
        !self.devices.is_empty() && !self.devices.iter().any(|(_, outcome)| is_late(outcome))
    }
}

#[cfg(test)]
#[path = "candidates_test.rs"]
mod candidates_test;
