//! The kernel's own tests of KVM under `unibody with-kvm`, against the table in `docs/kvm-selftests.md`: with `UNIBODY_LONG` set, as
//! `cargo xtask soak` does, all of them.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use support::{as_user, cache, finish_within, shelf, text};
use userland::kvm_selftests::{self, table};

use table::{End, Expected};

/// How many run at a time: what each starts of threads comes to about one processor.
const AT_A_TIME: usize = 2;

/// Runs one of them; says what is not as expected.
fn run(expected: &Expected, programs: &Path) -> Option<String> {
    let seconds = expected.limit.as_secs().to_string();
    // Some of them have children, which are to end with them.
    let mut command = as_user(&cache(), &["timeout", "--signal=KILL", &seconds]);
    command.args(["with-kvm", "--"]).arg(programs.join(&expected.name)).args(&expected.parameters);
    let output = finish_within(expected.limit + Duration::from_secs(10), command, b"");
    let said = text(&output.stdout) + &text(&output.stderr);
    expected.difference(End::of(output.status.code()), &said)
}

#[test]
fn the_kernels_tests_of_kvm_come_to_what_the_document_says() {
    let programs = kvm_selftests::build(&shelf()).expect("they can be built");
    let mut table = table::read(table::DOCUMENT).expect("it can be read");
    let built = fs::read_dir(&programs).expect("they were built");
    let built = built.map(|entry| entry.expect("it was built").file_name().into_string());
    let built: BTreeSet<String> = built.map(|name| name.expect("a plain name")).collect();
    let named: BTreeSet<String> = table.iter().map(|line| line.name.clone()).collect();
    assert_eq!(built, named);
    let is_long = std::env::var_os("UNIBODY_LONG").is_some();
    table.retain(|line| is_long || !line.is_long);
    // The longest are the first to be taken.
    table.sort_by_key(|line| line.limit);
    let left = Mutex::new(table);
    let differences = Mutex::new(Vec::new());
    let next = || left.lock().expect("no panic").pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(expected) = next() {
                    let difference = run(&expected, &programs);
                    differences.lock().expect("no panic").extend(difference);
                }
            });
        }
    });
    let differences = differences.into_inner().expect("no panic");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
