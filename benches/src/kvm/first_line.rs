//! From a monitor's start to a line of its guest's.
//!
//! Kernel, initial file system, memory and the kernel's command line are the same under both monitors. What is not: Unibody loads the
//! kernel as `unibody pull` has unpacked it; QEMU loads it packed, and firmware starts its own decompressor.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;

use super::LIMIT;
use crate::guest::{Guest, Monitor, Pulled};
use crate::transcript::follow_until;

/// A line that is waited for, and what is said to the kernel that prints it.
pub struct Line {
    text: &'static str,
    words: &'static str,
}

/// The first that a kernel prints, with all messages on.
pub const KERNELS_LINE: Line = Line { text: "Linux version", words: "" };

/// The first that the guest's first process prints, with the kernel's messages off.
pub const PROGRAMS_LINE: Line = Line { text: "the first line", words: "quiet" };

/// The guest that prints both.
pub fn guest(pulled: &Pulled) -> anyhow::Result<Guest> {
    Guest::new(pulled, "kvm", &format!("echo '{}'", PROGRAMS_LINE.text), &[])
}

/// Seconds from the monitor's start to the line.
pub fn first_line(monitor: Monitor<'_>, guest: &Guest, line: &Line) -> anyhow::Result<f64> {
    let mut seconds = None;
    let mut command = monitor.command(guest, 1, line.words);
    let start = Instant::now();
    let transcript = follow_until(&mut command, LIMIT, |printed| {
        if !printed.contains(line.text) {
            return ControlFlow::Continue(());
        }
        seconds = Some(start.elapsed().as_secs_f64());
        ControlFlow::Break(())
    })?;
    let name = monitor.name();
    seconds.with_context(|| format!("no '{}' of {name}'s guest:\n{}", line.text, transcript.tail()))
}
