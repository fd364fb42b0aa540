//! How a run of the nest went, from what its `/init` told.

use anyhow::{Result, bail};
use std::process::ExitStatus;
use std::time::Duration;

/// How the command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status, or 128 and the signal that ended it, as a shell has it.
    pub status: u8,
    /// From its start to its end, on the nest's clock.
    pub nanoseconds: u64,
}

/// Reads what was told. `machine` is how QEMU ended; `None`: it was ended, after `timeout`.
pub fn judge(told: &str, machine: Option<ExitStatus>, timeout: Duration) -> Result<Outcome> {
    // A line that is not whole may be any.
    let told = told.rsplit_once('\n').map_or("", |(lines, _)| lines);
    if let Some(outcome) = told.lines().find_map(ended) {
        return Ok(outcome);
    }
    if let Some(reason) = told.lines().find_map(|line| line.strip_prefix("failed ")) {
        bail!("the nest did not come up: {reason}");
    }
    let started = told.lines().any(|line| line == "started");
    let where_it_was = if started { "the command ran" } else { "the nest came up" };
    match machine {
        None => bail!("after {} s {where_it_was} still (see --timeout)", timeout.as_secs()),
        Some(status) if !status.success() => bail!("QEMU failed while {where_it_was} ({status})"),
        Some(_) => bail!("the nest's kernel went down while {where_it_was}"),
    }
}

/// Takes `ended STATUS NANOSECONDS` apart.
fn ended(line: &str) -> Option<Outcome> {
    let (status, nanoseconds) = line.strip_prefix("ended ")?.split_once(' ')?;
    Some(Outcome { status: status.parse().ok()?, nanoseconds: nanoseconds.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::{Outcome, judge};
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    fn judged(told: &str, machine: Option<i32>) -> Result<Outcome, String> {
        let machine = machine.map(ExitStatus::from_raw);
        judge(told, machine, Duration::from_secs(9)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_command_that_ended_has_a_status_and_a_time() {
        let expected = Outcome { status: 3, nanoseconds: 1_234 };
        assert_eq!(judged("started\nended 3 1234\n", Some(0)), Ok(expected));
    }

    #[test]
    fn whatever_else_happened_is_said() {
        let failed = |told, machine| judged(told, machine).expect_err("nothing ended");
        assert!(failed("failed insmod x\n", Some(0)).ends_with("come up: insmod x"));
        assert!(failed("started\n", None).starts_with("after 9 s the command ran still"));
        assert!(failed("", None).starts_with("after 9 s the nest came up still"));
        assert!(failed("", Some(256)).starts_with("QEMU failed while the nest came up"));
        assert!(failed("started\n", Some(0)).ends_with("went down while the command ran"));
        assert!(failed("started\nended 3 12", Some(0)).ends_with("while the command ran"));
    }
}
