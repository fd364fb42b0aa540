use std::time::Duration;

use super::*;
use crate::host::choose;
use crate::probe::scripted::{Scripted, tried};
use crate::probe::{Check, Finding, Seen};

/// How often a second the software CPU goes round in the loop here.
const SOFT: u64 = 60_000_000;

fn candidates(kvm: Result<Scripted, Readiness>) -> Candidates<Scripted> {
    two(kvm, Err(Readiness::Absent { virtualization: false }))
}

fn two(
    kvm: Result<Scripted, Readiness>,
    unibody: Result<Scripted, Readiness>,
) -> Candidates<Scripted> {
    let devices = vec![(Device::Kvm, kvm), (Device::Unibody, unibody)];
    Candidates::new(devices, Probes { device: tried, soft: || tried(&Scripted::right(SOFT)) })
}

fn chosen(candidates: &Candidates<Scripted>, tried: Tried) -> &'static str {
    choose(&candidates.engines(tried)).unwrap().engine
}

#[test]
fn what_emulates_an_instruction_at_a_time_is_tried_and_loses() {
    let mut candidates = candidates(Ok(Scripted::right(140_000)));
    let tried = candidates.try_until_known();
    assert!(!tried.devices[0].1.is_fit() && tried.soft.is_none());
    assert_eq!(chosen(&candidates, tried), "soft");
    assert!(candidates.into_device(Device::Kvm).is_some(), "whoever insists can have it");
}

#[test]
fn what_is_fit_is_compared() {
    for (rounds_a_second, engine) in [(5 * SOFT, "kvm"), (SOFT / 2, "soft")] {
        let mut candidates = candidates(Ok(Scripted::right(rounds_a_second)));
        let tried = candidates.try_until_known();
        let (kvm, soft) = (&tried.devices[0].1, tried.soft.as_ref().unwrap());
        assert_eq!(kvm.speed > soft.speed, engine == "kvm", "{tried:?}");
        assert!(kvm.is_fit());
        assert_eq!(chosen(&candidates, tried), engine);
    }
}

#[test]
fn what_makes_no_machine_has_failed() {
    let mut candidates = candidates(Ok(Scripted::new(Vec::new())));
    let tried = candidates.try_all();
    assert!(tried.devices.is_empty() && tried.soft.is_some());
    let reason = "cannot make vCPU 0: no room".to_string();
    assert_eq!(candidates.engines(tried)[1].readiness, Readiness::Failed { reason });
    assert!(!candidates.is_any_device_ready() && candidates.into_device(Device::Kvm).is_none());
}

#[test]
fn what_is_not_there_is_not_tried() {
    let absent = Readiness::Absent { virtualization: false };
    let mut candidates = candidates(Err(absent.clone()));
    let tried = candidates.try_until_known();
    assert_eq!(tried, Tried::default());
    let engines = candidates.engines(tried);
    let names: Vec<_> = engines.iter().map(|engine| engine.name).collect();
    assert_eq!(names, ["soft", "kvm", "unibody"]);
    assert_eq!((&engines[0].readiness, &engines[1].readiness), (&Readiness::Ready, &absent));
    assert_eq!(choose(&engines).unwrap().engine, "soft");
}

#[test]
fn what_was_late_may_not_be_so_again() {
    let outcome = |seen: Seen| {
        let findings = Check::ALL.map(|check| Finding { check, seen: seen.clone() }).into();
        Outcome { findings, speed: Some(1 << 30), elapsed: Duration::ZERO }
    };
    let (right, late) = (outcome(Seen::Right), outcome(Seen::Nothing));
    let wrong = outcome(Seen::Wrong(String::new()));
    let found = |kvm: &Outcome| Tried { devices: vec![(Device::Kvm, kvm.clone())], soft: None };
    assert!(!found(&late).is_lasting());
    assert!(Tried { soft: Some(late.clone()), ..found(&right) }.is_lasting());
    assert!(found(&wrong).is_lasting());
    assert!(!Tried::default().is_lasting());
    let both = vec![(Device::Kvm, right), (Device::Unibody, late)];
    assert!(!Tried { devices: both, soft: None }.is_lasting());
}

#[test]
fn the_faster_device_is_taken() {
    let right = |speed| Ok(Scripted::right(speed));
    for (kvm, unibody, engine) in [
        (right(5 * SOFT), right(9 * SOFT), "unibody"),
        (right(9 * SOFT), right(5 * SOFT), "kvm"),
        (right(140_000), right(5 * SOFT), "unibody"),
        (Err(Readiness::NotKvm), right(5 * SOFT), "unibody"),
        (right(140_000), right(SOFT / 2), "soft"),
    ] {
        let mut candidates = two(kvm, unibody);
        let tried = candidates.try_until_known();
        assert_eq!(chosen(&candidates, tried.clone()), engine);
        let found = candidates.engines(tried).into_iter().find(|found| found.name == engine);
        let device = found.and_then(|found| found.device());
        assert_eq!(device.map(Device::name), (engine != "soft").then_some(engine));
        assert!(device.is_none_or(|device| candidates.into_device(device).is_some()));
    }
}
