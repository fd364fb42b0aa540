use std::time::Duration;

use super::*;
use crate::host::choose;
use crate::probe::scripted::{Scripted, tried};
use crate::probe::{Check, Finding, Seen};

/// How often a second the software CPU goes round in the loop here.
const SOFT: u64 = 60_000_000;

fn candidates(kvm: Result<Scripted, Readiness>) -> Candidates<Scripted> {
    Candidates::new(kvm, Probes { kvm: tried, soft: || tried(&Scripted::right(SOFT)) })
}

fn chosen(candidates: &Candidates<Scripted>, tried: Tried) -> &'static str {
    choose(&candidates.engines(tried)).unwrap().engine
}

#[test]
fn what_emulates_an_instruction_at_a_time_is_tried_and_loses() {
    let mut candidates = candidates(Ok(Scripted::right(140_000)));
    let tried = candidates.try_until_known();
    assert!(!tried.kvm.as_ref().unwrap().is_fit() && tried.soft.is_none());
    assert_eq!(chosen(&candidates, tried), "soft");
    assert!(candidates.into_kvm().is_some(), "whoever insists can have it");
}

#[test]
fn what_is_fit_is_compared() {
    for (rounds_a_second, engine) in [(5 * SOFT, "kvm"), (SOFT / 2, "soft")] {
        let mut candidates = candidates(Ok(Scripted::right(rounds_a_second)));
        let tried = candidates.try_until_known();
        let speed = |outcome: &Option<Outcome>| outcome.as_ref().unwrap().speed.unwrap();
        assert_eq!(speed(&tried.kvm) > speed(&tried.soft), engine == "kvm", "{tried:?}");
        assert!(tried.kvm.as_ref().unwrap().is_fit());
        assert_eq!(chosen(&candidates, tried), engine);
    }
}

#[test]
fn what_makes_no_machine_has_failed() {
    let mut candidates = candidates(Ok(Scripted::new(Vec::new())));
    let tried = candidates.try_all();
    assert!(tried.kvm.is_none() && tried.soft.is_some());
    let reason = "cannot make vCPU 0: no room".to_string();
    assert_eq!(candidates.engines(tried)[1].readiness, Readiness::Failed { reason });
    assert!(!candidates.is_kvm_ready() && candidates.into_kvm().is_none());
}

#[test]
fn what_is_not_there_is_not_tried() {
    let absent = Readiness::Absent { virtualization: false };
    let mut candidates = candidates(Err(absent.clone()));
    let tried = candidates.try_until_known();
    assert_eq!(tried, Tried::default());
    let engines = candidates.engines(tried);
    assert_eq!(engines.iter().map(|engine| engine.name).collect::<Vec<_>>(), ["soft", "kvm"]);
    assert_eq!((&engines[0].readiness, &engines[1].readiness), (&Readiness::Ready, &absent));
    assert_eq!(choose(&engines).unwrap().engine, "soft");
}

#[test]
fn what_was_late_may_not_be_so_again() {
    let outcome = |seen: Seen| {
        let findings = Check::ALL.map(|check| Finding { check, seen: seen.clone() }).into();
        Some(Outcome { findings, speed: Some(1 << 30), elapsed: Duration::ZERO })
    };
    let (right, late) = (outcome(Seen::Right), outcome(Seen::Nothing));
    let wrong = outcome(Seen::Wrong(String::new()));
    assert!(!Tried { kvm: late.clone(), soft: None }.is_lasting());
    assert!(Tried { kvm: right, soft: late }.is_lasting());
    assert!(Tried { kvm: wrong, soft: None }.is_lasting());
    assert!(!Tried::default().is_lasting());
}
