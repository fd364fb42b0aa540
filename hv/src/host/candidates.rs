//! The engines that come into question, and trying them.

use std::path::Path;

use super::{Engine, Readiness, open_kvm};
use crate::Error;
use crate::in_process::InProcess;
use crate::kvm::Kvm;
use crate::probe::{Flaw, Outcome, probe};

/// The engines of this host. `K` is Linux's KVM, but in tests.
pub struct Candidates<K = Kvm> {
    soft: Readiness,
    kvm: Result<K, Readiness>,
    probes: Probes<K>,
}

/// How the engines are tried: tests have clocks of their own.
struct Probes<K> {
    kvm: fn(&K) -> Result<Outcome, Error>,
    soft: fn() -> Result<Outcome, Error>,
}

/// What trying them has found; nothing of those that were not tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Linux's KVM.
    pub kvm: Option<Outcome>,
    /// The software CPU.
    pub soft: Option<Outcome>,
}

impl Candidates {
    /// Looks at this host, with KVM's device at `kvm`.
    #[must_use]
    pub fn open(kvm: &Path) -> Self {
        Self::new(open_kvm(kvm), Probes { kvm: probe, soft: || probe(&InProcess::default()) })
    }
}

impl<K> Candidates<K> {
    fn new(kvm: Result<K, Readiness>, probes: Probes<K>) -> Self {
        // It needs nothing that could be missing.
        Self { soft: Readiness::Ready, kvm, probes }
    }

    /// Whether there is something to be tried before it is used.
    #[must_use]
    pub fn is_kvm_ready(&self) -> bool {
        self.kvm.is_ok()
    }

    /// Tries all.
    pub fn try_all(&mut self) -> Tried {
        Tried { kvm: self.try_kvm(), soft: self.try_soft() }
    }

    /// Tries as many as it takes to know which to take: the software CPU only if KVM is fit.
    pub fn try_until_known(&mut self) -> Tried {
        let kvm = self.try_kvm();
        let fit = kvm.as_ref().is_some_and(Outcome::is_fit);
        Tried { kvm, soft: if fit { self.try_soft() } else { None } }
    }

    fn try_kvm(&mut self) -> Option<Outcome> {
        let result = (self.probes.kvm)(self.kvm.as_ref().ok()?);
        result.map_err(|error| self.kvm = Err(failed(&error))).ok()
    }

    fn try_soft(&mut self) -> Option<Outcome> {
        (self.probes.soft)().map_err(|error| self.soft = failed(&error)).ok()
    }

    /// All of them, with what trying them has found: what [`choose`](super::choose) takes one of.
    #[must_use]
    pub fn engines(&self, tried: Tried) -> Vec<Engine> {
        let kvm = self.kvm.as_ref().err().cloned().unwrap_or(Readiness::Ready);
        vec![Engine::soft(self.soft.clone(), tried.soft), Engine::kvm(kvm, tried.kvm)]
    }

    /// KVM, if it can be used.
    #[must_use]
    pub fn into_kvm(self) -> Option<K> {
        self.kvm.ok()
    }
}

/// A machine could not even be made.
fn failed(error: &Error) -> Readiness {
    Readiness::Failed { reason: error.to_string() }
}

impl Tried {
    /// Whether the same would be found again: if KVM was late, that may be because the host had other
    /// things to do. (A software CPU that was is no faster than a KVM that was not.)
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.kvm.as_ref().is_some_and(|outcome| outcome.flaw() != Some(Flaw::Late))
    }
}

#[cfg(test)]
#[path = "candidates_test.rs"]
mod candidates_test;
