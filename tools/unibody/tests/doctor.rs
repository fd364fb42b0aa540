//! `unibody doctor`: on whatever machine the tests run.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{as_user, cache, is_root, outcome, own_folder, unibody};

fn doctor(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = unibody();
    command.arg("doctor").args(arguments);
    outcome(command)
}

#[test]
fn the_page_has_its_sections() {
    let (status, stdout, stderr) = doctor(&[]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    for section in ["Processor", "Engines", "Module", "Machine", "Distribution", "Cache"] {
        assert!(stdout.lines().any(|line| line == section), "{stdout}");
    }
    for name in [
        "vendor",
        "model",
        "level",
        "a guest has",
        "soft",
        "kvm",
        "choice",
        "state",
        "processor",
        "memory",
        "cores",
        "pull",
        "folder",
        "kernel",
        "size",
    ] {
        let start = format!("  {name}");
        assert!(stdout.lines().any(|line| line.starts_with(&start)), "{name}: {stdout}");
    }
}

#[test]
fn the_json_has_its_fields() {
    let (status, stdout, stderr) = doctor(&["--json"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(report["format"], 1);
    let choice = report["choice"]["engine"].as_str().expect("a name");
    assert!(["soft", "kvm"].contains(&choice), "{choice}");
    assert_eq!(report["engines"][0]["state"], "ready");
    assert_eq!(report["engines"][1]["name"], "kvm");
    let probe = &report["engines"][0]["probe"];
    let checks = probe["checks"].as_array().expect("a list");
    assert_eq!(checks[0]["name"], "ring 0");
    // How many of them are done in time depends on what else the machine does.
    assert!(checks.iter().all(|check| check["result"] != "wrong"), "{stdout}");
    assert!(probe["milliseconds"].as_f64() > Some(0.0));
    assert!(report["memory"]["total"].as_u64() >= report["memory"]["available"].as_u64());
    assert!(report["cores"].as_u64() >= Some(1));
    let has = report["processor"]["guest_has"].as_array().expect("a list");
    assert!(has.iter().any(|name| name == "nx"), "{stdout}");
    assert!(report["distribution"]["has_apt"].is_boolean());
    let module = &report["module"];
    let states = ["loaded", "loadable", "not-ready", "impossible"];
    assert!(module["state"].as_str().is_some_and(|state| states.contains(&state)), "{stdout}");
    assert_eq!(module["findings"][0]["name"], "processor");
    let is_right = module["findings"][0]["right"] == true;
    assert!(is_right || module["state"] != "loadable", "{stdout}");
    let folder = cache().join("unibody");
    assert_eq!(report["cache"]["folder"], folder.to_str().expect("plain"));
}

#[test]
fn an_empty_cache_and_no_network_are_no_failure() {
    let prefix: &[&str] = if is_root() { &["unshare", "--net"] } else { &[] };
    let mut command = as_user(&own_folder("nothing-is-pulled"), prefix);
    command.arg("doctor");
    let (status, stdout, _) = outcome(command);
    assert_eq!(status, Some(0), "{stdout}");
    assert!(stdout.contains("nothing is pulled yet"), "{stdout}");
}

/// Runs the doctor as nobody where /dev/kvm, of this mode, belongs to a group of this number.
fn doctor_with_kvm(mode: &str, group: u32) -> String {
    // A plain file in its place is enough: it is opened, and no more.
    let script = format!(
        "mount -t tmpfs none /dev && touch /dev/kvm /dev/null && chmod 666 /dev/null && \
         chgrp {group} /dev/kvm && chmod {mode} /dev/kvm && \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups {} doctor",
        support::program().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir("/");
    let (status, stdout, stderr) = outcome(command);
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    stdout
}

#[test]
fn a_kvm_that_is_not_permitted_is_told_with_the_fix() {
    if !is_root() {
        eprintln!("only root can put another /dev/kvm in place: not tested");
        return;
    }
    let page = doctor_with_kvm("600", 0);
    for part in ["kvm          present, but not permitted", "udev", "usermod -aG kvm $USER"] {
        assert!(page.contains(part), "'{part}' is not in:\n{page}");
    }
    let page = doctor_with_kvm("660", 3_999_999_999);
    assert!(page.contains("to use it: sudo usermod -aG 3999999999 $USER"), "{page}");
    let page = doctor_with_kvm("666", 0);
    assert!(page.contains("kvm          something else is in its place"), "{page}");
}

#[test]
fn what_programs_find_at_dev_kvm_is_listed() {
    let (status, page, stderr) = doctor(&["--kvm"]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    for line in ["  KVM_CAP_USER_MEMORY", "  KVM_CREATE_VM", "  KVM_RUN", "  KVM_CAP_X86_SMM"] {
        assert!(page.lines().any(|found| found.starts_with(line)), "{line}: {page}");
    }
    let (status, json, _) = doctor(&["--kvm", "--json"]);
    assert_eq!(status, Some(0));
    let interface: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(interface["format"], 1);
    let find = |list: &str, name: &str| {
        let all = interface[list].as_array().expect("a list").iter();
        all.clone().find(|one| one["name"] == name).cloned().expect("it is there")
    };
    assert_eq!(find("capabilities", "KVM_CAP_USER_MEMORY")["value"], 1);
    assert_eq!(find("capabilities", "KVM_CAP_X86_SMM")["value"], 0);
    assert_eq!(find("ioctls", "KVM_RUN")["number"], 0xae80);
    assert_eq!(find("ioctls", "KVM_RUN")["of"], "vcpu");
}
