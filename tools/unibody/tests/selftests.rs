//! The kernel's own tests of x86 in a guest, beside the same under QEMU's software CPU.

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
    command.args(["run", "--memory", "1G", "--initrd"]).arg(&image.archive);
    command.args(["--", "/bin/sh", Image::SCRIPT]);
    let output = finish_within(LIMIT, command, b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    report::outcomes(&text(&output.stdout))
}

/// The names of those for `bits` that passed.
fn passed<'a>(outcomes: &'a [Outcome], bits: &str) -> Vec<&'a str> {
    let of_bits = outcomes.iter().filter(|outcome| outcome.name.ends_with(bits));
    of_bits.filter(|outcome| outcome.passed()).map(|outcome| outcome.name.as_str()).collect()
}

#[test]
fn the_kernels_tests_of_x86_pass_as_far_as_is_said_and_no_fewer_than_under_qemu() {
    let pulled = pulled();
    let image = selftests::build(&shelf(), &pulled.join("bin/busybox")).expect("it can be built");
    let ours = run(&image);
    let theirs = qemu::run(&kernel(&pulled), &image, LIMIT).expect("QEMU runs");
    let built = fs::read_dir(&image.programs).expect("they were built").count();
    assert_eq!((ours.len(), theirs.len()), (built, built));
    for outcome in &ours {
        let reason = FAIL.iter().find(|(name, _)| *name == outcome.name);
        match reason {
            Some((_, reason)) => assert!(!outcome.passed(), "passes, though it {reason}"),
            None => assert!(outcome.passed(), "{}: {}", outcome.name, outcome.output),
        }
    }
    for bits in ["_32", "_64"] {
        let (ours, theirs) = (passed(&ours, bits), passed(&theirs, bits));
        println!("{bits}: {} pass, {} under QEMU", ours.len(), theirs.len());
        assert!(ours.len() >= theirs.len(), "QEMU: {theirs:?}");
    }
}
