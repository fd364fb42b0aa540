use std::time::Duration;

use super::*;
use crate::host::choose;
use crate::probe::scripted::Scripted;
use crate::probe::{Check, Finding, Seen};

fn chosen(candidates: &Candidates<Scripted>, tried: Tried) -> &'static str {
    choose(&candidates.engines(tried)).unwrap().engine
}

#[test]
fn what_emulates_an_instruction_at_a_time_is_tried_and_loses() {
    let mut candidates = Candidates::new(Ok(Scripted::right(140_000)));
    let tried = candidates.try_until_known();
    assert!(!tried.kvm.as_ref().unwrap().is_fit() && tried.soft.is_none());
    assert_eq!(chosen(&candidates, tried), "soft");
    assert!(candidates.into_kvm().is_some(), "whoever insists can have it");
}

#[test]
fn what_is_fit_is_compared() {
    let mut candidates = Candidates::new(Ok(Scripted::right(3_000_000_000)));
    let tried = candidates.try_until_known();
    // Unless the machine that runs the tests is too busy for anything.
    if tried.kvm.as_ref().unwrap().is_fit() {
        assert!(tried.soft.is_some());
        assert_eq!(chosen(&candidates, tried), "kvm");
    }
}

#[test]
fn what_makes_no_machine_has_failed() {
    let mut candidates = Candidates::new(Ok(Scripted(Vec::new())));
    let tried = candidates.try_all();
    assert!(tried.kvm.is_none() && tried.soft.is_some());
    let reason = "cannot make vCPU 0: no room".to_string();
    assert_eq!(candidates.engines(tried)[1].readiness, Readiness::Failed { reason });
    assert!(!candidates.is_kvm_ready() && candidates.into_kvm().is_none());
}

#[test]
fn what_is_not_there_is_not_tried() {
    let absent = Readiness::Absent { virtualization: false };
    let mut candidates = Candidates::<Scripted>::new(Err(absent.clone()));
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
