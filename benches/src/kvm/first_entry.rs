//! From a monitor's start to the guest's first instruction: when KVM enters the guest, the kernel's tracing says.
//!
//! See: Linux, Documentation/trace/events.rst; `kvm_entry` is in arch/x86/kvm/trace.h.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::LIMIT;
use crate::transcript::follow;

/// Where the nest has it mounted.
const FOLDER: &str = "/sys/kernel/tracing";

/// Seconds from just before the monitor is started. Its guest has to come to an end.
pub fn first_entry(command: &mut Command) -> anyhow::Result<f64> {
    // What comes first stays when there is no more room.
    for (file, text) in [
        ("options/overwrite", "0"),
        ("events/kvm/kvm_entry/enable", "1"),
        ("trace", ""),
        ("trace_marker", "start"),
    ] {
        write(file, text)?;
    }
    let transcript = follow(command, LIMIT, |_| ())?;
    write("events/kvm/kvm_entry/enable", "0")?;
    let file = Path::new(FOLDER).join("trace");
    let trace =
        fs::read_to_string(&file).with_context(|| format!("cannot read '{}'", file.display()))?;
    parse(&trace).with_context(|| format!("no guest was entered:\n{}", transcript.tail()))
}

fn write(file: &str, text: &str) -> anyhow::Result<()> {
    let path = Path::new(FOLDER).join(file);
    fs::write(&path, text).with_context(|| format!("cannot write '{}'", path.display()))
}

/// Seconds between the mark and the first entry after it.
fn parse(trace: &str) -> Option<f64> {
    let mut marks = trace.lines().skip_while(|line| !line.contains(" tracing_mark_write: start"));
    let start = seconds(marks.next()?)?;
    let entry = seconds(marks.find(|line| line.contains(" kvm_entry: "))?)?;
    Some(entry - start)
}

/// The time in a line as `  vcpu0-97  [000] d..1.  12.345678: kvm_entry: vcpu 0, rip 0xfff0`.
fn seconds(line: &str) -> Option<f64> {
    line.split_whitespace()
        .filter_map(|word| word.strip_suffix(':'))
        .find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_first_entry_after_the_mark_counts() {
        let trace = "# tracer: nop\n#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n\
             \x20          old-9       [000] d..1.    10.000000: kvm_entry: vcpu 0, rip 0x0\n\
             \x20      benches-11      [000] .....    12.250000: tracing_mark_write: start\n\
             \x20        vcpu0-12      [000] d..1.    12.375000: kvm_entry: vcpu 0, rip 0xfff0\n\
             \x20        vcpu0-12      [000] d..1.    12.500000: kvm_entry: vcpu 0, rip 0xfff1\n";
        assert_eq!(parse(trace), Some(0.125));
        assert_eq!(parse("# tracer: nop\n"), None);
    }
}
