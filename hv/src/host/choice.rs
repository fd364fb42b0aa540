//! Which engine is taken.

use super::{Engine, Readiness, SOFT};
use crate::probe::Outcome;

/// The engine that is taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub engine: &'static str,
    /// In one line.
    pub reason: &'static str,
}

/// Takes the fastest of those that are fit; the software CPU if none is, which needs no probe for that.
#[must_use]
pub fn choose(engines: &[Engine]) -> Option<Choice> {
    let (soft, others): (Vec<_>, Vec<_>) = engines.iter().partition(|engine| engine.name == SOFT);
    let soft = soft.into_iter().find(|engine| engine.readiness == Readiness::Ready);
    let fit = others.iter().filter(|engine| engine.is_fit());
    let fastest = fit.max_by_key(|engine| speed(engine));
    let (engine, reason) = match (fastest, soft) {
        (Some(other), soft) if soft.is_none_or(|soft| speed(other) >= speed(soft)) => {
            (other.name, "the fastest that does all right")
        }
        (Some(_), _) => (SOFT, "the fastest that does all right"),
        (None, None) => return None,
        (None, Some(_)) if others.iter().any(|other| other.readiness == Readiness::Ready) => {
            (SOFT, "it needs nothing, and nothing else here is fit")
        }
        (None, Some(_)) => (SOFT, "it needs nothing, and nothing else here can be used"),
    };
    Some(Choice { engine, reason })
}

fn speed(engine: &Engine) -> u64 {
    engine.outcome.as_ref().and_then(|outcome: &Outcome| outcome.speed).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::Device;
    use crate::probe::{Check, Finding, Seen};

    fn outcome(speed: u64, seen: Seen) -> Option<Outcome> {
        let findings = Check::ALL.map(|check| Finding { check, seen: seen.clone() });
        Some(Outcome { findings: findings.into(), speed: Some(speed), elapsed: Duration::ZERO })
    }

    fn soft(speed: u64) -> Engine {
        Engine::soft(Readiness::Ready, outcome(speed, Seen::Right))
    }

    fn kvm(speed: u64, seen: Seen) -> Engine {
        Engine::at(Device::Kvm, Readiness::Ready, outcome(speed, seen))
    }

    fn chosen(engines: &[Engine]) -> Option<&'static str> {
        choose(engines).map(|choice| choice.engine)
    }

    #[test]
    fn the_fastest_of_the_fit_is_taken() {
        let fast = || kvm(3_000_000_000, Seen::Right);
        assert_eq!(chosen(&[soft(400_000_000), fast()]), Some("kvm"));
        assert_eq!(chosen(&[soft(400_000_000), kvm(40_000_000, Seen::Right)]), Some("soft"));
        // An unfit software CPU does not matter: it is what is left.
        assert_eq!(chosen(&[soft(1_000), fast()]), Some("kvm"));
        let broken = Engine::soft(Readiness::Failed { reason: "no timers".into() }, None);
        assert_eq!(chosen(&[broken.clone(), fast()]), Some("kvm"));
        assert_eq!(chosen(&[broken, kvm(1_000_000, Seen::Right)]), None);
    }

    #[test]
    fn what_is_not_fit_loses_however_fast() {
        let soft = Engine::soft(Readiness::Ready, None);
        for kvm in [
            kvm(1_000_000, Seen::Right),
            kvm(3_000_000_000, Seen::Wrong("it shut down".into())),
            kvm(3_000_000_000, Seen::Nothing),
            Engine::at(Device::Kvm, Readiness::Ready, None),
        ] {
            let choice = choose(&[soft.clone(), kvm]).unwrap();
            assert_eq!((choice.engine, choice.reason.contains("fit")), ("soft", true));
        }
        for readiness in [
            Readiness::Absent { virtualization: true },
            Readiness::NotPermitted { group: None },
            Readiness::NotKvm,
            Readiness::Failed { reason: String::new() },
        ] {
            let outcome = outcome(3_000_000_000, Seen::Right);
            let kvm = Engine::at(Device::Kvm, readiness, outcome);
            assert_eq!(chosen(&[soft.clone(), kvm]), Some("soft"));
        }
        assert_eq!(chosen(&[]), None);
    }
}
