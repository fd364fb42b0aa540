//! What only hardware virtualization can show, as a step of the gate: [`check`], and its long forms: [`soak`] and [`soak_module`].
//!
//! On the nest's KVM run
//! - the guests of `tests/guests` that are about a machine;
//! - the end-to-end tests of `tools/unibody` that are about running guests, as they run on the software CPU everywhere.
//!
//! Of the latter the gate leaves out those that take minutes here, and such as do what another one does on more processors:
//! [`MACHINES`] names them, and the long form, which `cargo xtask soak` runs, has them. Neither has what is about the software CPU
//! alone (modules named `soft`, the files `denied`, `kvm_selftests`, `lockstep` and `modes`), about `unibody pull` (`pull`), about modules and devices
//! whatever runs the guest (`modules`, `kernel_tells`: the nest has but those modules that each guest is given), or about instructions and
//! kernels under load (`debian`, `instructions`, `selftests`, `soak`): the processor here is QEMU's, and takes hours.
//!
//! `gate.sh` runs them, one program after the other (`tests.sh`), on two machines at once. [`programs`] builds them. Then come guests on the
//! project's own module: `own_module.rs`, and beside them `stress.rs`.

pub(super) mod programs;

use super::options::{Extra, Options};
use super::{boot, own_module, stress, together, whole};
use anyhow::{Result, ensure};
use std::time::Duration;

/// What the nest runs.
const SCRIPT: &str = concat!(include_str!("tests.sh"), include_str!("gate.sh"));

/// Where the tests' programs and their data are.
const FOLDER: &str = "nest/tests";

/// Tests that are one program.
#[derive(Clone, Copy)]
struct Program {
    package: &'static str,
    name: &'static str,
    /// What its tests take for an engine, if it is not they who say.
    engine: &'static str,
    /// Which of its tests run, and how: words for it.
    arguments: &'static str,
    /// Those of them that only the long form runs.
    long: &'static [&'static str],
}

/// On each machine, in the order in which they run. They take about as long on each.
const MACHINES: [&[Program]; 2] = [
    &[
        Program {
            package: "guests",
            name: "architecture",
            engine: KVM,
            arguments: "kvm:: kvm_split::",
            long: &[],
        },
        end_to_end("multiboot", &[]),
        end_to_end("errors", &[]),
        end_to_end("engine", &["a_device_that_is_gone_or_another_is_seen"]),
        end_to_end("doctor", &[]),
        end_to_end("limits", &[]),
        end_to_end("signals", &["signals_do_a_vcpu_no_harm"]),
        end_to_end("terminal", &[]),
        end_to_end("console", &[]),
        end_to_end("balloon", &[]),
        Program {
            arguments: "--exact an_image_that_shrinks_is_an_error_in_the_guest_and_told \
                a_host_without_room_is_an_error_in_the_guest_and_loses_nothing \
                nothing_that_was_acknowledged_is_lost_from_a_qcow2_image",
            ..end_to_end("disk", &[])
        },
    ],
    &[
        Program {
            // Each byte is several exits.
            arguments: "--skip soft:: --skip random_bytes_come_back_equal_by_the_ten_million",
            ..end_to_end("command", &[])
        },
        end_to_end(
            "smp",
            &[
                "one_processor_works",
                "four_processors_work",
                "eight_processors_work",
                "a_process_that_is_moved_about_computes_what_it_would_in_one_place",
                "changes_of_memory_and_code_are_seen_by_four_processors",
                "time_goes_on_over_more_processors_than_the_host_may_have",
            ],
        ),
        end_to_end("work", &["a_script_of_real_work_gives_the_same_output_as_on_the_host"]),
        end_to_end("stopping", &["a_program_that_was_stopped_goes_on_where_it_was"]),
        end_to_end("vsock", &[]),
        end_to_end("hostile", &[]),
        end_to_end("disk", DISKS_LONG),
        Program {
            engine: "kvm --irqchip split",
            arguments: "--exact two_processors_work",
            ..end_to_end("smp", &[])
        },
    ],
];

/// Of disks, what the gate leaves out here: each test boots several guests. In the long form three that the other machine runs are here as well.
const DISKS_LONG: &[&str] = &[
    "ext4_is_kept_in_a_raw_image",
    "xfs_is_kept_in_a_raw_image",
    "xfs_is_kept_in_a_qcow2_image",
    "images_of_each_kind_have_their_file_system_and_take_another_file",
    "a_qcow2_image_is_read_over_its_backing_file",
    "what_is_ephemeral_is_gone_and_what_is_read_only_is_refused",
    "several_disks_come_in_order",
    "a_disk_works_by_interrupt_lines_too",
    "a_guest_has_entropy_from_the_host",
    "a_raw_image_that_grows_is_a_disk_that_grows",
    "an_image_that_shrinks_is_an_error_in_the_guest_and_told",
    "a_host_without_room_is_an_error_in_the_guest_and_loses_nothing",
    "a_host_without_room_for_a_qcow2_image_is_an_error_in_the_guest_and_loses_nothing",
    "nothing_that_was_acknowledged_is_lost_from_a_qcow2_image",
    "an_image_whose_tables_are_a_loop_or_are_not_there_is_refused",
    "an_image_that_is_in_use_is_refused_with_whose_it_is",
    "what_is_no_disk_is_told_in_a_line",
];

/// Those of all machines.
fn all() -> impl Iterator<Item = &'static Program> {
    MACHINES.into_iter().flatten()
}

const KVM: &str = "kvm";

/// End-to-end tests: all but what is about the software CPU alone.
const fn end_to_end(name: &'static str, long: &'static [&'static str]) -> Program {
    Program { package: "unibody", name, engine: KVM, arguments: "--skip soft::", long }
}

/// Runs the tests of the gate.
pub fn check() -> Result<()> {
    let files = programs::files()?;
    run(&files, false, Duration::from_secs(1200))?;
    module(&files, &own_module::GATE, &stress::GATE)
}

/// Runs all of them on the nest's KVM.
pub fn soak() -> Result<()> {
    run(&programs::files()?, true, Duration::from_secs(7200))
}

/// Runs the long form of what is about the project's own module.
pub fn soak_module() -> Result<()> {
    module(&programs::files()?, &own_module::SOAK, &stress::SOAK)?;
    let status = boot(&own_module::selftests::options()?)?.status;
    ensure!(status == 0, "the kernel's tests that take long ended with status {status}");
    Ok(())
}

/// Guests on the module, and the module under stress.
fn module(files: &[Extra], guests: &own_module::Extent, pressure: &stress::Extent) -> Result<()> {
    let guests = own_module::options(files, guests)?;
    let pressure = stress::options(pressure)?;
    together::run([("the module's test", &guests), ("the module's stress", &pressure)])
}

fn run(files: &[Extra], long: bool, timeout: Duration) -> Result<()> {
    let [first, second] = [(MACHINES[0], "console.log"), (MACHINES[1], "console-2.log")].map(
        |(programs, console)| Options {
            memory: "3G".to_owned(),
            timeout,
            files: files.to_vec(),
            command: command(programs, long),
            console,
            ..Options::default()
        },
    );
    together::run([("the tests on machine 1", &first), ("the tests on machine 2", &second)])
}

/// What runs tests in the nest.
fn command(programs: &[Program], long: bool) -> Vec<String> {
    // What takes minutes may take more of them.
    let environment = match long {
        true => ["UNIBODY_TEST_LIMIT=1800", "UNIBODY_KILLS=20"],
        false => ["UNIBODY_TEST_LIMIT=150", "UNIBODY_KILLS=1"],
    };
    let script = ["env"].into_iter().chain(environment).map(str::to_owned);
    script
        .chain(whole::command(SCRIPT, "gate.sh"))
        .chain(programs.iter().flat_map(|program| words(program, long)))
        .collect()
}

/// The engine, and a program with its arguments, for `gate.sh`.
fn words(program: &Program, long: bool) -> [String; 2] {
    let left_out = program.long.iter().filter(|_| !long);
    let skipped: String = left_out.map(|test| format!(" --skip {test}")).collect();
    let tests = format!("{} {}{skipped}", program.name, program.arguments);
    [program.engine.to_owned(), tests]
}

#[cfg(test)]
mod tests {
    use super::{Program, all, end_to_end, words};
    use crate::tree;

    #[test]
    fn the_long_form_leaves_out_nothing() {
        let program = end_to_end("tests", &["a", "b"]);
        assert_eq!(words(&program, false), ["kvm", "tests --skip soft:: --skip a --skip b"]);
        assert_eq!(words(&program, true), ["kvm", "tests --skip soft::"]);
    }

    #[test]
    fn what_is_left_out_is_a_test() {
        for Program { name, long, .. } in all() {
            let file = tree::root().join(format!("tools/unibody/tests/{name}.rs"));
            let text = std::fs::read_to_string(file).unwrap_or_default();
            for test in *long {
                assert!(text.contains(&format!("\nfn {test}() {{\n")), "{name}: {test}");
            }
        }
    }
}
