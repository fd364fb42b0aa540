//! A stock kernel under the modes of the software CPU that shake bugs out (`--jit-mode`): it works as usual.
//!
//! Those that take seconds run each time, all of them in `cargo xtask soak`.

mod support;

use std::time::Duration;

use support::{SOFT, finish_within, text, unibody};

/// Modes, and on how many processors.
const QUICK: [(&str, u32); 4] = [("step", 1), ("nochain", 2), ("tlb=tiny", 1), ("flush=64", 1)];
const ALL: [(&str, u32); 12] = [
    ("step", 2),
    ("nochain", 4),
    ("irq=2", 2),
    ("irq=1000", 4),
    ("tlb=tiny", 2),
    ("tlb=1", 1),
    ("flush=always", 1),
    ("flush=10", 2),
    ("flags=poison", 1),
    ("flags=poison,tlb=tiny", 2),
    ("step,nochain,tlb=tiny", 1),
    ("step,irq=7,tlb=3", 2),
];

/// How long a guest may take; one that drops all translations after each block needs minutes.
const LIMIT: Duration = Duration::from_secs(600);

const SCRIPT: &str = "\
    nproc\n\
    seq 3000 | sha256sum\n\
    seq 200 | awk '{ s += $1 / 3 } END { printf \"%.9f\\n\", s }'\n\
    seq 500 | gzip -c | gzip -dc | sort -rn | md5sum\n\
    n=0; while [ $n -lt 20 ]; do (exit 3) || n=$((n + 1)); done; echo $n\n\
    dmesg | grep -cE 'BUG|Oops|WARNING|Call Trace|lockup|stall' || true\n";

/// What it prints behind the number of processors.
const PRINTED: &str = "\
    2e57c67a8bbe706a08d6638ec67da02b67b3743ae7d35948cbcf8d1f45cae0a5  -\n\
    6700.000000000\n\
    bb7f974aecf7035f804b87f8c21254d6  -\n\
    20\n\
    0\n";

fn works(modes: &str, cpus: u32) {
    let mut command = unibody();
    command.args(SOFT).args(["--jit-mode", modes, "--cpus", &cpus.to_string()]);
    command.args(["--", "sh", "-ec", SCRIPT]);
    let output = finish_within(LIMIT, command, b"");
    let printed = text(&output.stdout);
    assert_eq!(printed, format!("{cpus}\n{PRINTED}"), "{modes}: {}", text(&output.stderr));
}

#[test]
fn a_kernel_works_under_all_modes() {
    let long = std::env::var_os("UNIBODY_LONG").is_some();
    for (modes, cpus) in if long { &ALL[..] } else { &QUICK[..] } {
        let start = std::time::Instant::now();
        works(modes, *cpus);
        println!("{modes} on {cpus}: {:.1?}", start.elapsed());
    }
}
