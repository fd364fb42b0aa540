//! Running the programs that build things: [`run`], [`read`], [`pipe`].

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end; its output is part of the error if it fails.
pub fn run(command: &mut Command) -> Result<Output> {
    // What is printed is read here.
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = said.lines().rev().take(20).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        bail!("{command:?} failed ({}):\n{}", output.status, last.join("\n"));
    }
    Ok(output)
}

/// What a program prints.
pub fn read(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&run(command)?.stdout).into_owned())
}

/// Runs two programs, the first one's output being the second one's input.
pub fn pipe(from: &mut Command, to: &mut Command) -> Result<()> {
    from.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut first = from.spawn().with_context(|| format!("cannot start {from:?}"))?;
    let output = first.stdout.take().context("it has a pipe")?;
    to.stdin(output).stdout(Stdio::null()).stderr(Stdio::piped());
    let second = to.output().with_context(|| format!("cannot start {to:?}"))?;
    let status = first.wait()?;
    if !status.success() {
        bail!("{from:?} failed ({status})");
    }
    if !second.status.success() {
        bail!("{to:?} failed:\n{}", String::from_utf8_lossy(&second.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{pipe, read, run};

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh") && text.contains("broken") && text.contains('3'), "{text}");
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"));
    }

    #[test]
    fn either_end_of_a_pipe_can_fail() {
        assert_eq!(read(Command::new("echo").arg("a")).expect("it prints"), "a\n");
        let ok = pipe(Command::new("echo").arg("a"), Command::new("grep").arg("a"));
        assert!(ok.is_ok(), "{ok:?}");
        assert!(pipe(&mut Command::new("false"), &mut Command::new("cat")).is_err());
        assert!(pipe(Command::new("echo").arg("a"), Command::new("grep").arg("b")).is_err());
    }
}
