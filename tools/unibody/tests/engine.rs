//! `--engine`: what runs the guest where there is a /dev/kvm that can't, and where there is none.

mod support;

use std::process::Command;

use support::{cache, engine, is_root, outcome, unibody};

/// Runs a guest as nobody on a host whose /dev is made by `kvm`, with `arguments`.
fn run(kvm: &str, arguments: &str) -> (Option<i32>, String, String) {
    script(kvm, &format!("exec $RUN {arguments}"))
}

/// Runs a script on a host whose /dev is made by `kvm`; in both `$RUN` is the program's `run`, as nobody.
fn script(kvm: &str, then: &str) -> (Option<i32>, String, String) {
    // Who reads it has to be able to reach it: nothing was pulled there before the first test did.
    let _ = support::pulled();
    let script = format!(
        "RUN='setpriv --reuid=65534 --regid=65534 --clear-groups \
         env HOME={cache} XDG_CACHE_HOME={cache} {program} run --root none'; \
         mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && \
         mknod -m 444 /dev/urandom c 1 9 && {kvm} && {{ {then}; }}",
        cache = cache().display(),
        program = support::program().display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir("/").env_remove("XDG_RUNTIME_DIR");
    outcome(command)
}

const FORBIDDEN: &str = "touch /dev/kvm && chgrp 3999999999 /dev/kvm && chmod 660 /dev/kvm";
const WHY: &str = "this user may not open /dev/kvm";
const FIX: &str = "sudo usermod -aG 3999999999 $USER, and log in again";

fn can_replace_devices() -> bool {
    if !is_root() {
        eprintln!("only root can put another /dev/kvm in place: not tested");
    }
    is_root()
}

#[test]
fn kvm_is_kvm_or_an_error() {
    if !can_replace_devices() {
        return;
    }
    let told = format!("unibody: cannot use KVM: {WHY}. To use it: {FIX}\n");
    assert_eq!(run(FORBIDDEN, "--engine kvm -- true"), (Some(125), String::new(), told));
    let (status, _, stderr) = run("true", "--engine kvm -- true");
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.starts_with("unibody: cannot use KVM: there is no /dev/kvm"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

/// A device with KVM's number. It need not be there on this host.
const DEVICE: &str = "mknod -m 666 /dev/kvm c 10 232";

/// Nothing of a guest's is asked for by that name.
#[test]
fn a_guest_that_runs_does_not_miss_the_device() {
    if !can_replace_devices() {
        return;
    }
    let shell = "sh -c 'echo up; read word; echo $word'";
    let told = "/dev/told";
    let again = format!(
        "$RUN --engine {} -- {shell} </dev/keys >{told} & exec 3>/dev/keys; \
         until grep -q up {told}; do sleep 0.05; done; rm /dev/kvm && echo gone >&3; exec 3>&-; \
         wait $! && cat {told}",
        engine()
    );
    let made = format!("{DEVICE} && mkfifo -m 666 /dev/keys && touch {told} && chmod 666 {told}");
    assert_eq!(script(&made, &again), (Some(0), "up\ngone\n".into(), String::new()));
}

/// What is remembered of a device is not believed of its place.
#[test]
fn a_device_that_is_gone_or_another_is_seen() {
    if !can_replace_devices() {
        return;
    }
    let run = |steps: &str, arguments: &str| {
        let before =
            format!("{DEVICE} && export XDG_RUNTIME_DIR=/dev/own && mkdir -m 700 /dev/own");
        let first = format!("{before} && chown 65534 /dev/own && $RUN --quiet -- true");
        run(&format!("{first} && {steps}"), arguments)
    };
    let gone = "rm /dev/kvm";
    let (status, stdout, _) = run(gone, "-- echo hi");
    assert_eq!((status, stdout.as_str()), (Some(0), "hi\n"));
    let (status, _, stderr) = run(gone, "--engine kvm -- true");
    assert_eq!(status, Some(125), "{stderr}");
    assert!(stderr.starts_with("unibody: cannot use KVM: there is no /dev/kvm"), "{stderr}");
    let other = "rm /dev/kvm && mknod -m 666 /dev/kvm c 1 3";
    let told = "unibody: /dev/kvm is something else: using the software CPU\n";
    assert_eq!(run(other, "-- echo hi"), (Some(0), "hi\n".into(), told.into()));
}

#[test]
fn what_only_the_software_cpu_can_do_is_not_for_kvm() {
    for option in ["--lockstep", "--no-jit", "--jit-cache=1M"] {
        let mut command = unibody();
        command.args(["run", "--engine", "kvm", option, "--", "true"]);
        let (status, _, stderr) = outcome(command);
        assert_eq!(status, Some(2), "{stderr}");
        let name = option.split('=').next().expect("a name");
        assert!(stderr.contains(name) && stderr.contains("--engine kvm"), "{stderr}");
    }
}

#[test]
fn what_only_kvm_can_do_is_not_for_the_software_cpu() {
    for (arguments, other) in [("--engine=soft", "--engine soft"), ("--no-jit", "--no-jit")] {
        let mut command = unibody();
        command.args(["run", arguments, "--irqchip", "split", "--", "true"]);
        let (status, _, stderr) = outcome(command);
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains("--irqchip is KVM's") && stderr.contains(other), "{stderr}");
    }
}

/// What ends with the software CPU.
mod soft {
    use super::{FIX, FORBIDDEN, WHY, can_replace_devices, run};

    #[test]
    fn a_fall_back_is_said_once_and_not_if_nobody_wants_to_know() {
        if !can_replace_devices() {
            return;
        }
        let ran = |stderr: String| (Some(0), "hi\n".to_string(), stderr);
        let told = format!("unibody: {WHY} ({FIX}): using the software CPU\n");
        assert_eq!(run(FORBIDDEN, "-- echo hi"), ran(told));
        assert_eq!(run(FORBIDDEN, "--quiet -- echo hi"), ran(String::new()));
        // Then there is nothing to fall back from.
        assert_eq!(run("true", "-- echo hi"), ran(String::new()));
    }
}
