use std::time::Duration;

use hv::probe::Finding;

use super::super::module::{Finding as Found, State as Far};
use super::*;

/// A report on a machine that is not this one.
pub(in super::super) fn report() -> Report {
    let kvm = host::Engine {
        name: "kvm",
        about: "Linux's /dev/kvm",
        readiness: Readiness::NotPermitted { group: None },
        outcome: None,
    };
    let fix = Some("sudo usermod -aG kvm $USER, and log in again".into());
    let seen = |check| match check {
        hv::probe::Check::Atomic => Seen::Wrong("it shut down".into()),
        hv::probe::Check::Loop => Seen::Nothing,
        _ => Seen::Right,
    };
    let findings = hv::probe::Check::ALL.map(|check| Finding { check, seen: seen(check) });
    let outcome = Outcome {
        findings: findings.into(),
        speed: Some(412_345_678),
        elapsed: Duration::from_micros(9_250),
    };
    let soft = host::Engine {
        name: "soft",
        about: "the software CPU",
        readiness: Readiness::Ready,
        outcome: Some(outcome),
    };
    Report {
        format: FORMAT,
        version: "1.2.3",
        processor: Some(Processor {
            vendor: "AuthenticAMD".into(),
            model: "AMD EPYC 7B13".into(),
            level: 3,
            guest_level: 2,
            guest_has: vec![
                "extension00",
                "extension01",
                "extension02",
                "extension03",
                "extension04",
                "extension05",
                "extension06",
            ],
            guest_lacks: vec!["avx", "avx2"],
        }),
        engines: vec![soft.into(), Engine { fix, ..kvm.into() }],
        choice: Some(Choice { engine: "soft", reason: "it needs nothing" }),
        module: Module {
            state: Far::NotReady,
            detail: "not loaded",
            findings: vec![
                Found {
                    name: "processor",
                    right: true,
                    detail: "AuthenticAMD with SVM".into(),
                    fix: None,
                },
                Found {
                    name: "file",
                    right: false,
                    detail: "unknown to modprobe".into(),
                    fix: Some("sudo depmod -a".into()),
                },
            ],
        },
        memory: Some(Memory { total: 4 << 30, available: 3 << 29 }),
        cores: 2,
        distribution: Distribution {
            name: Some("Debian GNU/Linux 12 (bookworm)".into()),
            has_apt: true,
        },
        cache: Cache {
            folder: Some("/home/me/.cache/unibody".into()),
            kernel: Some("6.1.0-56-cloud-amd64".into()),
            size: 64 << 20,
        },
    }
}

/// Scripts rely on these names: a change of them is a new format.
#[test]
fn the_json_has_the_names_of_its_format() {
    let json = serde_json::to_value(report()).unwrap();
    let expected = serde_json::json!({
        "format": 1,
        "version": "1.2.3",
        "processor": {
            "vendor": "AuthenticAMD",
            "model": "AMD EPYC 7B13",
            "level": 3,
            "guest_level": 2,
            "guest_has": [
                "extension00", "extension01", "extension02", "extension03", "extension04",
                "extension05", "extension06"
            ],
            "guest_lacks": ["avx", "avx2"]
        },
        "engines": [
            {
                "name": "soft", "about": "the software CPU", "state": "ready",
                "detail": "ready", "fix": null,
                "probe": {
                    "checks": [
                        { "name": "ring 0", "result": "right", "detail": null },
                        { "name": "paging", "result": "right", "detail": null },
                        { "name": "interrupt", "result": "right", "detail": null },
                        { "name": "port I/O", "result": "right", "detail": null },
                        { "name": "cmpxchg16b", "result": "wrong", "detail": "it shut down" },
                        { "name": "loop", "result": "nothing", "detail": null }
                    ],
                    "instructions_per_second": 412_345_678,
                    "milliseconds": 9.25
                }
            },
            {
                "name": "kvm", "about": "Linux's /dev/kvm", "state": "not-permitted",
                "detail": "present, but not permitted",
                "fix": "sudo usermod -aG kvm $USER, and log in again",
                "probe": null
            }
        ],
        "choice": { "engine": "soft", "reason": "it needs nothing" },
        "module": {
            "state": "not-ready",
            "detail": "not loaded",
            "findings": [
                {
                    "name": "processor", "right": true,
                    "detail": "AuthenticAMD with SVM", "fix": null
                },
                {
                    "name": "file", "right": false,
                    "detail": "unknown to modprobe", "fix": "sudo depmod -a"
                }
            ]
        },
        "memory": { "total": 4_294_967_296_u64, "available": 1_610_612_736_u64 },
        "cores": 2,
        "distribution": { "name": "Debian GNU/Linux 12 (bookworm)", "has_apt": true },
        "cache": {
            "folder": "/home/me/.cache/unibody",
            "kernel": "6.1.0-56-cloud-amd64",
            "size": 67_108_864
        }
    });
    assert_eq!(json, expected);
}

#[test]
fn an_engine_s_state_is_told() {
    let outcome = |speed| {
        let findings = hv::probe::Check::ALL.map(|check| Finding { check, seen: Seen::Right });
        let elapsed = Duration::from_millis(9);
        Some(Outcome { findings: findings.into(), speed: Some(speed), elapsed })
    };
    let state = |readiness, outcome| {
        Engine::from(host::Engine::at(host::Device::Kvm, readiness, outcome)).state
    };
    assert_eq!(state(Readiness::Ready, outcome(1 << 30)), State::Ready);
    assert_eq!(state(Readiness::Ready, outcome(1_000_000)), State::Unfit);
    assert_eq!(state(Readiness::NotPermitted { group: None }, None), State::NotPermitted);
    assert_eq!(state(Readiness::Absent { virtualization: true }, None), State::Absent);
    assert_eq!(state(Readiness::NotKvm, None), State::Failed);
    assert_eq!(state(Readiness::Failed { reason: "no such device".into() }, None), State::Failed);
    let soft = host::Engine::soft(Readiness::Ready, outcome(1_000_000));
    assert_eq!(Engine::from(soft).state, State::Ready, "it is what is left");
}

#[test]
fn the_size_of_a_folder_is_that_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
    std::fs::write(folder.path().join("a/one"), [0; 100]).unwrap();
    std::fs::write(folder.path().join("a/b/two"), [0; 23]).unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
    assert_eq!(size_of(&folder.path().join("a")), 123);
    assert!(size_of(folder.path()) < 200, "links are not followed");
    assert_eq!(size_of(&folder.path().join("missing")), 0);
}
