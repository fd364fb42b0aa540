//! A stock kernel boots in lockstep: interpreter and JIT agree on all that it executes.

mod support;

use support::{finish, text, unibody};

#[test]
fn a_stock_kernel_and_a_command_run_in_lockstep() {
    let mut command = unibody();
    command.args(["run", "--root", "none", "--lockstep", "--", "echo", "the same in both"]);
    let output = finish(command, b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "the same in both\n");
}

#[test]
fn lockstep_is_for_one_processor_and_translated_code() {
    let wrong = [
        (["--cpus", "2"], "--cpus 1"),
        (["--jit-cache", "0"], "--jit-cache 0"),
        (["--no-jit", "-q"], "--no-jit"),
    ];
    for (arguments, mentioned) in wrong {
        let mut command = unibody();
        command.args(["run", "--lockstep"]).args(arguments).args(["--", "true"]);
        let output = finish(command, b"");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(mentioned), "{}", text(&output.stderr));
    }
}
