use super::*;

/// A machine that has all, and does not have it loaded.
fn found() -> host::Module {
    host::Module {
        device: None,
        virtualization: Virtualization::Svm,
        release: "6.1.0-9-test".into(),
        has_headers: true,
        installed: Some(Installed {
            path: "/lib/modules/x/updates/unibody.ko".into(),
            listed: true,
        }),
        wants_signature: false,
        rival: Rival::Absent,
    }
}

const ABSENT: Readiness = Readiness::Absent { virtualization: true };

fn report(found: &host::Module, readiness: &Readiness) -> Module {
    Module::new(found, Some("AuthenticAMD"), readiness)
}

/// What of a finding is told: whether it is right, its words, and what to do.
fn told<'a>(module: &'a Module, name: &str) -> (bool, &'a str, &'a str) {
    let finding = module.findings.iter().find(|finding| finding.name == name).expect("it is told");
    (finding.right, &finding.detail, finding.fix.as_deref().unwrap_or(""))
}

#[test]
fn what_is_there_can_be_loaded() {
    let module = report(&found(), &ABSENT);
    assert_eq!(
        (module.state, module.detail),
        (State::Loadable, "not loaded: sudo modprobe unibody does that")
    );
    let names: Vec<_> = module.findings.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["processor", "headers", "file", "kvm_amd"]);
    assert_eq!(told(&module, "processor"), (true, "AuthenticAMD: SVM with nested paging", ""));
    // What was built elsewhere needs no headers.
    let module = report(&host::Module { has_headers: false, ..found() }, &ABSENT);
    assert_eq!(module.state, State::Loadable);
    let (right, detail, fix) = told(&module, "headers");
    assert!(!right && detail.contains("6.1.0-9-test: not there"), "{detail}");
    assert!(fix.contains("linux-headers-6.1.0-9-test"), "{fix}");
}

#[test]
fn a_processor_that_cannot_is_named_and_nothing_else_is_asked_for() {
    for (virtualization, detail, fix) in [
        (Virtualization::Vmx, "VMX, for which the module has no engine yet", ""),
        (Virtualization::Disabled, "firmware has switched it off", "switch SVM on"),
        (Virtualization::NoNestedPaging, "no nested paging", ""),
        (Virtualization::None, "neither SVM nor VMX", "nested virtualization"),
    ] {
        let module = report(&host::Module { virtualization, ..found() }, &ABSENT);
        let state = if fix.is_empty() { State::Impossible } else { State::NotReady };
        assert_eq!((module.state, module.findings.len()), (state, 1));
        let (right, says, advises) = told(&module, "processor");
        assert!(!right && says.contains(detail) && advises.contains(fix), "{says}: {advises}");
        assert_eq!(advises.is_empty(), fix.is_empty());
    }
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let module = report(&host::Module { installed: None, ..found() }, &ABSENT);
    assert_eq!(module.state, State::NotReady);
    let (right, detail, fix) = told(&module, "file");
    assert!(!right && fix.contains("README.md"), "{fix}");
    assert_eq!(detail, "none below /lib/modules/6.1.0-9-test");
    let installed =
        Some(Installed { path: "/lib/modules/x/extra/unibody.ko".into(), listed: false });
    let module = report(&host::Module { installed, ..found() }, &ABSENT);
    assert_eq!((module.state, told(&module, "file").2), (State::NotReady, "sudo depmod -a"));
    let module = report(&host::Module { wants_signature: true, ..found() }, &ABSENT);
    assert_eq!(module.state, State::Loadable, "it may be signed");
    assert!(told(&module, "signature").2.contains("mokutil"));
}

#[test]
fn who_has_the_processor_is_told_whether_it_is_loaded_or_not() {
    for (rival, right, fix) in [
        (Rival::Absent, true, ""),
        (Rival::Idle, true, ""),
        (Rival::Used, false, "end KVM's virtual machines"),
        (Rival::Holds, false, "modprobe -r kvm_amd"),
    ] {
        let state = if right { State::Loadable } else { State::NotReady };
        assert_eq!(report(&host::Module { rival, ..found() }, &ABSENT).state, state);
        let device = Some("/dev/unibody".into());
        let module = report(&host::Module { rival, device, ..found() }, &Readiness::Ready);
        assert_eq!(module.state, State::Loaded);
        let (is_right, _, advises) = told(&module, "kvm_amd");
        assert!(is_right == right && advises.contains(fix), "{advises}");
        assert_eq!(advises.is_empty(), right);
    }
}

#[test]
fn a_device_that_is_not_this_users_is_told_with_what_to_do() {
    let loaded = |path: &str| host::Module { device: Some(path.into()), ..found() };
    let module = report(&loaded("/dev/unibody"), &Readiness::Ready);
    assert_eq!(told(&module, "device"), (true, "/dev/unibody, which this user may open", ""));
    let denied = Readiness::NotPermitted { group: None };
    let module = report(&loaded("/dev/unibody"), &denied);
    let (right, detail, fix) = told(&module, "device");
    assert!(!right && detail.contains("may not open"), "{detail}");
    assert!(fix.contains("chgrp kvm /dev/unibody") && fix.contains("chmod 660"), "{fix}");
    let module = report(&loaded("/dev/unibody"), &ABSENT);
    assert!(told(&module, "device").1.contains("there is no /dev/unibody"));
    let module = report(&loaded("/dev/kvm"), &ABSENT);
    assert_eq!(told(&module, "device"), (true, "/dev/kvm, as the module was told", ""));
}
