//! The kernel's own tests of x86 in a guest, beside what they come to under QEMU's software CPU: that is measured
//! again with `UNIBODY_LONG` set, as `cargo xtask soak` does.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{finish_within, pulled, shelf, text, unibody};
use userland::image::Image;
use userland::report::{self, Outcome};
use userland::{qemu, selftests};

/// Those that fail in a guest, and why. ARCHITECTURE.md says it too.
const FAIL: [(&str, &str); 1] =
    [("amx_64", "tests AMX, which is beyond x86-64-v3: a guest has none, whatever the host has")];

/// Those that fail under QEMU 7.2. What `cargo xtask soak` looks at again: now and then one of them keeps
/// QEMU from ever ending.
const FAIL_UNDER_QEMU: [&str; 5] =
    ["amx_64", "mov_ss_trap_64", "sigreturn_32", "sysret_ss_attrs_64", "test_syscall_vdso_32"];

/// How long the whole list may take: one of the programs makes millions of traced system calls.
const LIMIT: Duration = Duration::from_secs(400);

/// The kernel that was pulled.
fn kernel(pulled: &Path) -> PathBuf {
    let entries = fs::read_dir(pulled.join("boot")).expect("it was pulled");
    let mut files = entries.map(|entry| entry.expect("it was pulled").path());
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    files.find(is_kernel).expect("there is a kernel")
}

/// Runs the list in a guest.
fn run(image: &Image) -> Vec<Outcome> {
    let mut command = unibody();
    command.args(support::run()).args(["--memory", "1G", "--initrd"]).arg(&image.archive);
    command.args(["--", "/bin/sh", Image::SCRIPT]);
    let output = finish_within(LIMIT, command, b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    report::outcomes(&text(&output.stdout))
}

/// The names of those that failed, in order.
fn failed(outcomes: &[Outcome]) -> Vec<&str> {
    let failed = outcomes.iter().filter(|outcome| !outcome.passed());
    let mut names: Vec<&str> = failed.map(|outcome| outcome.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_kernels_tests_of_x86_pass_as_far_as_is_said_and_no_fewer_than_under_qemu() {
    let pulled = pulled();
    let image = selftests::build(&shelf(), &pulled.join("bin/busybox")).expect("it can be built");
    let built = fs::read_dir(&image.programs).expect("they were built").count();
    let ours = run(&image);
    assert_eq!(ours.len(), built);
    for outcome in &ours {
        let reason = FAIL.iter().find(|(name, _)| *name == outcome.name);
        match reason {
            Some((_, reason)) => assert!(!outcome.passed(), "passes, though it {reason}"),
            None => assert!(outcome.passed(), "{}: {}", outcome.name, outcome.output),
        }
    }
    for name in failed(&ours) {
        assert!(FAIL_UNDER_QEMU.contains(&name), "{name} passes under QEMU");
    }
    if std::env::var_os("UNIBODY_LONG").is_some() {
        let theirs = qemu::run(&kernel(&pulled), &image, LIMIT).expect("QEMU runs");
        assert_eq!(theirs.len(), built);
        assert_eq!(failed(&theirs), FAIL_UNDER_QEMU);
    }
}
