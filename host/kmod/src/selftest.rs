//! The core's test bodies, run when the module is loaded.
//!
//! The lists are those that `cargo test` runs in user space, the bodies are
//! the same source; a few of the module's own ([`OWN`]) come first. Each runs in process context, in the task that loads the
//! module, and its use of that task's stack is measured: it is painted before
//! and searched afterwards. `cargo xtask module --test` reads the lines that
//! this module prints.

use crate::printk::{Level, print};
use ::selftest::{Case, Outcome, Tally};

// SAFETY: these are the glue's functions (glue/selftest.c), which take nothing and touch unused stack of the task that runs.
unsafe extern "C" {
    /// Fills the unused part of the running task's stack with a pattern.
    safe fn unibody_stack_paint();
    /// Bytes of stack below the caller that were written to since.
    safe fn unibody_stack_depth() -> usize;
}

/// What a body may use of the kernel's 16 KiB: the rest is the system call's
/// that leads here, and an interrupt's.
const STACK_LIMIT: usize = 8 << 10;

/// The bodies about the module's host services, which user space does not have.
const OWN: &[&[Case]] = &[
    crate::allocator_test::CASES,
    crate::device_test::CASES,
    crate::host_test::CASES,
    crate::kernel_test::CASES,
    crate::platform_test::CASES,
    crate::virtualization_test::CASES,
];

/// The deepest body so far.
struct Deepest {
    case: Option<Case>,
    bytes: usize,
}

/// Runs every body and prints how it went. Fails if one failed or used too much stack.
pub fn run() -> Result<(), ()> {
    let mut tally = Tally::default();
    let mut deepest = Deepest { case: None, bytes: 0 };
    for cases in OWN.iter().chain(virt::SELFTESTS).chain(arch_x86::SELFTESTS) {
        run_list(cases, &mut tally, &mut deepest);
    }
    if let Some(case) = deepest.case {
        print!(
            Level::Info,
            "selftest: stack {} bytes at most, by {}::{}", deepest.bytes, case.module, case.name
        );
    }
    print!(Level::Info, "selftest: {} run, {} failed", tally.run, tally.failed);
    if tally.failed == 0 { Ok(()) } else { Err(()) }
}

/// Runs the bodies of one file.
fn run_list(cases: &[Case], tally: &mut Tally, deepest: &mut Deepest) {
    for case in cases {
        tally.run += 1;
        unibody_stack_paint();
        let outcome = (case.body)();
        let bytes = unibody_stack_depth();
        if bytes > deepest.bytes {
            *deepest = Deepest { case: Some(*case), bytes };
        }
        if !passed(case, outcome, bytes) {
            tally.failed += 1;
        }
    }
    if let Some(case) = cases.first() {
        print!(Level::Info, "selftest: {}: {} bodies", case.module, cases.len());
    }
}

/// Judges one body, and says what is wrong with it.
fn passed(case: &Case, outcome: Outcome, stack: usize) -> bool {
    if let Err(failure) = &outcome {
        print!(Level::Error, "selftest: FAILED {}::{}: {failure}", case.module, case.name);
    }
    if stack > STACK_LIMIT {
        print!(
            Level::Error,
            "selftest: FAILED {}::{}: uses {stack} bytes of stack", case.module, case.name
        );
    }
    outcome.is_ok() && stack <= STACK_LIMIT
}
