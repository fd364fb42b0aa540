//! [`follow`]: runs a program and looks at what it prints, line by line, but not for ever. [`follow_until`] ends it earlier.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

/// All that a program printed.
pub struct Transcript {
    lines: Vec<String>,
    timed_out: bool,
}

impl Transcript {
    /// The last lines, and whether the program was stopped: what a person wants to know of a failure.
    pub fn tail(&self) -> String {
        let first = self.lines.len().saturating_sub(12);
        let why = if self.timed_out { "\n(stopped: it took too long)" } else { "" };
        format!("{}{why}", self.lines[first..].join("\n"))
    }
}

/// Runs the program with no input and passes on each line that it prints on either stream.
///
/// After `limit` the program is killed.
pub fn follow(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> anyhow::Result<Transcript> {
    follow_until(command, limit, |line| {
        each(line);
        ControlFlow::Continue(())
    })
}

/// The same, but the program is also killed after a line at which `each` breaks.
pub fn follow_until(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str) -> ControlFlow<()>,
) -> anyhow::Result<Transcript> {
    let (reader, writer) = std::io::pipe()?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    // The command keeps a copy of the pipe's end: without it the reader sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            // A console's lines end with a carriage return as well.
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut lines = Vec::new();
    let mut timed_out = false;
    loop {
        match receiver.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok(line) => {
                let next = each(&line);
                lines.push(line);
                if next.is_break() {
                    let _ = child.kill();
                    break;
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                timed_out = true;
                let _ = child.kill();
                break;
            }
        }
    }
    child.wait()?;
    Ok(Transcript { lines, timed_out })
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::process::Command;
    use std::time::Duration;

    use super::{follow, follow_until};

    fn lines(script: &str, limit: Duration) -> (Vec<String>, String) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        let transcript =
            follow(command.args(["-c", script]), limit, |line| lines.push(line.into()));
        (lines, transcript.expect("a shell").tail())
    }

    #[test]
    fn both_streams_are_read_without_carriage_returns() {
        let (lines, tail) = lines(r"printf 'one\r\n'; echo two >&2", Duration::from_secs(60));
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(tail, "one\ntwo");
    }

    #[test]
    fn what_is_not_waited_for_is_stopped() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; exec sleep 600"]);
        let limit = Duration::from_secs(300);
        let transcript = follow_until(&mut command, limit, |_| ControlFlow::Break(()));
        let transcript = transcript.expect("a shell");
        assert_eq!(transcript.tail(), "one");
    }

    #[test]
    fn what_takes_too_long_is_stopped() {
        let (lines, tail) = lines("echo one; exec sleep 600", Duration::from_millis(300));
        assert_eq!(lines, ["one"]);
        assert!(tail.contains("too long"), "{tail}");
    }
}
