use std::time::Duration;

use hv::probe::{Check, Finding, Outcome, Seen};

use super::*;

fn tried(speed: u64, atomic: Seen) -> Engine {
    let findings = Check::ALL.map(|check| Finding {
        check,
        seen: if check == Check::Atomic { atomic.clone() } else { Seen::Right },
    });
    let elapsed = Duration::from_millis(10);
    let outcome = Outcome { findings: findings.into(), speed: Some(speed), elapsed };
    Engine::at(Device::Kvm, Readiness::Ready, Some(outcome))
}

fn refused(readiness: Readiness) -> Engine {
    Engine::at(Device::Kvm, readiness, None)
}

#[test]
fn a_fall_back_is_told_in_one_line_with_its_reason() {
    let wrong = || Seen::Wrong("it shut down".into());
    for (engine, told) in [
        (
            tried(1_049_000, wrong()),
            "/dev/kvm runs guests too slowly (1 million instructions a second)",
        ),
        (tried(1 << 31, wrong()), "/dev/kvm runs guests wrongly (cmpxchg16b: it shut down)"),
        (
            tried(1 << 31, Seen::Nothing),
            "/dev/kvm runs guests too slowly (it was not done with a small one in time)",
        ),
        (tried(40_000_000, Seen::Right), "/dev/kvm is slower here"),
        (
            refused(Readiness::NotPermitted { group: Some(4_000_000_000) }),
            "this user may not open /dev/kvm (sudo usermod -aG 4000000000 $USER, and log in again)",
        ),
        (
            refused(Readiness::NotPermitted { group: Some(0) }),
            "this user may not open /dev/kvm (unibody doctor shows the udev rule that lets it)",
        ),
        (refused(Readiness::NotKvm), "/dev/kvm is something else"),
        (
            refused(Readiness::Failed { reason: "no such device".into() }),
            "/dev/kvm does not work (no such device)",
        ),
    ] {
        assert_eq!(fallback(&engine).as_deref(), Some(told));
    }
}

#[test]
fn nothing_is_fallen_back_from_where_there_is_none() {
    assert_eq!(fallback(&refused(Readiness::Absent { virtualization: true })), None);
    assert_eq!(fallback(&Engine::soft(Readiness::Ready, None)), None);
}

#[test]
fn a_kvm_that_can_not_be_used_is_told_with_what_to_do() {
    // No group may open the device: it takes a rule, and the group in it.
    let udev = fix(&Readiness::NotPermitted { group: None }, Device::Kvm).unwrap();
    for part in ["/etc/udev/rules.d/", "GROUP=\"kvm\"", "usermod -aG kvm"] {
        assert!(udev.contains(part), "{udev}");
    }
    assert_eq!(fix(&Readiness::NotPermitted { group: Some(0) }, Device::Kvm), Some(udev));
    let nameless = fix(&Readiness::NotPermitted { group: Some(4_000_000_000) }, Device::Kvm);
    assert_eq!(nameless.unwrap(), "sudo usermod -aG 4000000000 $USER, and log in again");
    assert!(
        fix(&Readiness::Absent { virtualization: true }, Device::Kvm).unwrap().contains("modprobe")
    );
    assert_eq!(fix(&Readiness::Absent { virtualization: false }, Device::Kvm), None);
    assert_eq!(fix(&Readiness::NotKvm, Device::Kvm), None);
}

#[test]
fn what_the_processor_lacks_is_what_the_device_takes() {
    let absent = Readiness::Absent { virtualization: false };
    for (device, lack) in [
        (Device::Kvm, "the processor does not virtualize here"),
        (Device::Unibody, "the processor has no SVM here"),
    ] {
        assert_eq!(detail(&Engine::at(device, absent.clone(), None)), format!("absent: {lack}"));
        let told = format!("there is no {}, and {lack}", device.path());
        assert_eq!(refusal(&absent, device), told);
        assert_eq!(fix(&absent, device), None);
    }
    let present = Readiness::Absent { virtualization: true };
    assert!(fix(&present, Device::Unibody).unwrap().contains("modprobe unibody"));
    let closed = fix(&Readiness::NotPermitted { group: Some(0) }, Device::Unibody).unwrap();
    assert!(
        closed.contains("chgrp kvm /dev/unibody") && closed.contains("usermod -aG kvm"),
        "{closed}"
    );
}

#[test]
fn what_is_slow_is_not_fit_but_the_software_cpu_is_what_is_left() {
    let mut engine = tried(1_000_000, Seen::Right);
    let told = "present, but not fit: it runs guests too slowly (1 million instructions a second)";
    assert_eq!(detail(&engine), told);
    engine.name = "soft";
    assert_eq!(detail(&engine), "ready");
    assert_eq!(detail(&tried(1 << 31, Seen::Right)), "ready");
}

#[test]
fn speeds_are_told_in_round_numbers() {
    for (speed, told) in [
        (7, "7 instructions a second"),
        (123_456, "123 thousand instructions a second"),
        (1_499_999, "1 million instructions a second"),
        (2_999_999_999, "3000 million instructions a second"),
    ] {
        assert_eq!(pace(speed), told);
    }
}

#[test]
fn a_group_is_found_by_its_number() {
    let text = "root:x:0:\nbroken\n:x:104:\nkvm:x:104:me,you\n";
    assert_eq!(name_in(text, 104).as_deref(), Some("kvm"));
    assert_eq!(name_in(text, 1), None);
}
