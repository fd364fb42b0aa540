use super::*;

/// A report on a machine that is not this one.
pub(in super::super) fn report() -> Report {
    let kvm = host::Engine {
        name: "kvm",
        about: "Linux's /dev/kvm",
        readiness: Readiness::NotPermitted { group: None },
    };
    let fix = Some("sudo usermod -aG kvm $USER, and log in again".into());
    let soft =
        host::Engine { name: "soft", about: "the software CPU", readiness: Readiness::Ready };
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
                "detail": "ready", "fix": null
            },
            {
                "name": "kvm", "about": "Linux's /dev/kvm", "state": "not-permitted",
                "detail": "present, but not permitted",
                "fix": "sudo usermod -aG kvm $USER, and log in again"
            }
        ],
        "choice": { "engine": "soft", "reason": "it needs nothing" },
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

fn engine(readiness: Readiness) -> Engine {
    host::Engine { name: "kvm", about: "", readiness }.into()
}

#[test]
fn an_engine_that_can_not_be_used_is_told_with_what_to_do() {
    // No group may open the device: it takes a rule, and the group in it.
    let fix = engine(Readiness::NotPermitted { group: None }).fix.unwrap();
    for part in ["/etc/udev/rules.d/", "GROUP=\"kvm\"", "usermod -aG kvm"] {
        assert!(fix.contains(part), "{fix}");
    }
    assert_eq!(engine(Readiness::NotPermitted { group: Some(0) }).fix.unwrap(), fix);
    let nameless = engine(Readiness::NotPermitted { group: Some(4_000_000_000) });
    assert_eq!(nameless.fix.unwrap(), "sudo usermod -aG 4000000000 $USER, and log in again");

    let absent = engine(Readiness::Absent { virtualization: true });
    assert!(absent.state == State::Absent && absent.fix.unwrap().contains("modprobe"));
    let hopeless = engine(Readiness::Absent { virtualization: false });
    assert!(hopeless.state == State::Absent && hopeless.fix.is_none());
    let failed = engine(Readiness::Failed { reason: "no such device".into() });
    assert_eq!(failed.detail, "present, but does not work: no such device");
    let present = engine(Readiness::NotUsedYet);
    assert_eq!(present.detail, "present; not used yet by this version");
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
