//! [`Error`]: what a person reads when something fails, in one form.
//!
//! `unibody: <what was being done>: <what went wrong>. <what to do>`, and where it helps the last
//! lines of the guest's console. The modules below have errors of their own, which say what
//! happened; they become this at the point that knows what a person can do about it.

use std::fmt;
use std::io::Write;
use std::path::Path;

/// The exit status of Unibody's own failures.
pub(crate) const FAILURE: u8 = 125;

/// A failure as it is told to a person.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    action: String,
    reason: String,
    advice: Option<String>,
    quoted: Vec<String>,
}

impl Error {
    /// `action` is what was being done ("cannot open kernel 'x'"), `reason` what went wrong.
    pub(crate) fn new(action: impl Into<String>, reason: impl fmt::Display) -> Self {
        let reason = one_line(&reason.to_string());
        Self { action: action.into(), reason, advice: None, quoted: Vec::new() }
    }

    /// Adds what to do.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds lines of the guest's console.
    pub(crate) fn quote(mut self, lines: Vec<String>) -> Self {
        self.quoted = lines;
        self
    }
}

/// Errors of other programs and crates may have several lines, or end with a full stop.
fn one_line(text: &str) -> String {
    let text: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    text.join(" ").trim_end_matches('.').to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unibody: {}: {}", self.action, self.reason)?;
        if let Some(advice) = &self.advice {
            write!(f, ". {advice}")?;
        }
        if !self.quoted.is_empty() {
            write!(f, "\nThe last lines of the guest's console:")?;
        }
        self.quoted.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What a person wants to read of an I/O error, without its number.
pub(crate) fn reason(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "no such file".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        ErrorKind::IsADirectory => "it is a directory".into(),
        ErrorKind::NotADirectory => "a part of the path is no directory".into(),
        ErrorKind::StorageFull => "the disk is full".into(),
        ErrorKind::QuotaExceeded => "the disk quota is used up".into(),
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only".into(),
        _ => hv::host_error::explain(error),
    }
}

/// A path in quotes, as messages name it.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// Prints a line to stderr. If nobody can read it, so be it.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;
