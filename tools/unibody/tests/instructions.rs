//! Valgrind's tests of single instructions give in a guest what they give on the host.

mod support;

use std::process::Command;

use support::{finish, finish_within, limit, pulled, shelf, text, unibody};
use userland::image::Image;
use userland::{report, valgrind};

/// Cases for 64 bits that any processor has: all but those of PCLMULQDQ and SSSE3.
const LEAST: usize = 2300;

#[test]
fn whatever_passes_on_the_host_passes_in_a_guest() {
    let image = valgrind::build(&shelf(), &pulled().join("bin/busybox")).expect("it can be built");
    let mut command = unibody();
    command.args(support::run()).args(["--initrd"]).arg(&image.archive);
    command.args(["--", "/bin/sh", Image::SCRIPT]);
    let output = finish_within(limit(), command, b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let outcomes = report::outcomes(&text(&output.stdout));
    let (mut of_64_bits, mut of_32_bits) = (0, 0);
    for outcome in &outcomes {
        // A host whose kernel has no 32-bit programs passes none of those.
        let host = finish(Command::new(image.programs.join(&outcome.name)), b"");
        let host = text(&host.stdout);
        let expected = valgrind::passed(&host);
        let found = valgrind::passed(&outcome.output);
        for case in &expected {
            assert!(found.contains(case), "{}, {case}:\n{}", outcome.name, outcome.output);
        }
        let count =
            if outcome.name.starts_with("amd64-") { &mut of_64_bits } else { &mut of_32_bits };
        *count += expected.len();
    }
    println!("{of_64_bits} cases for 64 bits and {of_32_bits} for 32 pass on both");
    assert!(of_64_bits >= LEAST, "{of_64_bits} cases");
}
