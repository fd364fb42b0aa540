//! A stock kernel under load on four processors: stress-ng's stressors that verify what they do, floating point in many
//! processes, modules that come and go; and afterwards the kernel has found nothing wrong.
//!
//! Each stressor runs for some seconds; with `UNIBODY_LONG` set, as `cargo xtask soak` does, for minutes.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{finish_within, pulled, shelf, text, unibody};
use userland::{debian, own};

/// stress-ng's options for each load: four processes, or threads, in all.
///
/// Of what computes not all methods: some are compiled for certain models of processors, and take a model that has
/// AVX-512 to have it in a guest, too.
const LOADS: [&str; 12] = [
    "--cpu 4 --cpu-method int64longdouble",
    "--cpu 4 --cpu-method crc16",
    "--cpu 4 --cpu-method phi",
    "--cpu 4 --cpu-method sieve",
    "--vm 2 --vm-bytes 48M --vm-populate",
    "--fork 4",
    "--switch 4",
    "--futex 4",
    "--mmap 2 --mmap-bytes 32M",
    "--pipe 4",
    "--kill 2 --sigq 2",
    "--clone 1 --timer 1 --mremap 1 --mremap-bytes 8M --madvise 1",
];

/// How long each lasts.
const SECONDS: u32 = 3;
const LONG_SECONDS: u32 = 240;

/// How long all may take.
const LIMIT: Duration = Duration::from_secs(300);
const LONG_LIMIT: Duration = Duration::from_secs(3600);

/// Modules that are loaded and removed meanwhile: a device, and code that uses vector registers in the kernel.
const MODULES: [&str; 2] = ["kernel/drivers/net/dummy.ko", "kernel/crypto/xor.ko"];

/// Rounds of the processes that compute with floating point: long enough for each to be interrupted by signals.
const ROUNDS: u32 = 5_000_000;

/// The hash of the numbers to 50,000, each with a space and a `z` behind it, in lines.
const PIPED: &str = "05ce57a102298596fad1998b5899618baec451b23db42d0557d7bb017569298d";

/// What no kernel says when all is well.
const COMPLAINTS: [&str; 14] = [
    "BUG",
    "Oops",
    "WARNING",
    "Call Trace",
    "RIP:",
    "lockup",
    "stall",
    "blocked for more than",
    "nobody cared",
    "segfault",
    "general protection",
    "invalid opcode",
    "unstable",
    "Bad page",
];

/// What runs in the guest.
const SCRIPT: &str = include_str!("soak.sh");

/// What the guest has beside Debian's packages: programs of our own, and the kernel's modules.
fn files(programs: &Path, pulled: &Path) -> Vec<PathBuf> {
    let modules = pulled.join("lib/modules");
    let release = fs::read_dir(&modules).expect("it was pulled").next().expect("of one kernel");
    let release = release.expect("it was pulled").path();
    let ours = ["clocks", "floating", "shootdowns"].map(|name| programs.join(name));
    ours.into_iter().chain(MODULES.map(|module| release.join(module))).collect()
}

/// What each process prints that computes with floating point, on the host.
fn alone(programs: &Path) -> Vec<String> {
    let mut command = Command::new(programs.join("floating"));
    command.args(["0", &ROUNDS.to_string()]);
    text(&finish_within(LIMIT, command, b"").stdout).lines().map(String::from).collect()
}

/// The number behind the word that a line of the output starts with.
fn number(output: &str, name: &str) -> u64 {
    let mut lines = output.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let found = lines.next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    found.unwrap_or_else(|| panic!("no number '{name}': {output}"))
}

#[test]
fn four_processors_under_load_do_all_right_and_the_kernel_has_nothing_to_complain_of() {
    let (seconds, limit) = match std::env::var_os("UNIBODY_LONG") {
        Some(_) => (LONG_SECONDS, LONG_LIMIT),
        None => (SECONDS, LIMIT),
    };
    let pulled = pulled();
    let programs = own::build(&shelf(), &pulled.join("bin/busybox")).expect("it can be built");
    let files = files(&programs.folder, &pulled);
    let root = debian::stress(&shelf(), &files).expect("packages can be had and unpacked");
    let mut command = unibody();
    command
        .args(support::run())
        .args(["--cpus", "4", "--memory", "1G", "--initrd"])
        .arg(&root.archive);
    command.args(["--", "/bin/sh", "-ec", SCRIPT, "soak.sh"]);
    command.args([&ROUNDS.to_string(), &seconds.to_string()]).args(LOADS);
    let output = finish_within(limit, command, b"");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    println!("{stdout}");
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");

    for load in LOADS {
        assert!(stdout.contains(&format!("done {load}\n")), "{load}: {stdout}{stderr}");
    }
    assert_eq!(stdout.matches(&format!("storm {}\n", 2 * 99 * 100 / 2)).count(), 2, "{stdout}");
    assert_eq!(stdout.matches(PIPED).count(), 2, "{stdout}");
    assert!(
        stdout.lines().any(|line| line.starts_with("rounds 30 ") && line.ends_with(" stale 0"))
    );
    assert!(stdout.contains(" backward 0 missed 0\n"), "{stdout}");
    for name in ["floats", "modules"] {
        assert!(!stdout.contains(&format!("{name} ended with")), "{stdout}{stderr}");
    }
    assert!(number(&stdout, "modules") >= 3, "{stdout}");
    // Two processes in a round compute the same.
    let each = 2 * number(&stdout, "floats");
    for result in alone(&programs.folder) {
        assert!(stdout.contains(&format!(" {each} {result}\n")), "{each} {result}: {stdout}");
    }
    for line in stderr.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}\n{stderr}");
    }
    assert!(stderr.contains("Run /init"), "the kernel's messages: {stderr}");
}
