//! How far a pull has come, for the person who waits: [`Progress`].
//!
//! A bar if stderr is a terminal, else a line for each step.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::error::say;

/// Where progress is shown.
pub(crate) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// In a log.
    Lines,
    /// Nowhere.
    Quiet,
}

impl Progress {
    /// As it suits stderr.
    pub(crate) fn new(quiet: bool) -> Progress {
        if quiet {
            Progress::Quiet
        } else if std::io::stderr().is_terminal() {
            Progress::Bar(ProgressBar::new_spinner())
        } else {
            Progress::Lines
        }
    }

    /// Begins a step of `size` bytes, if it has a size.
    pub(crate) fn step(&self, text: &str, size: Option<u64>) {
        match self {
            Progress::Quiet => {}
            Progress::Lines => match size {
                Some(size) => say(&format!("{text} ({})", HumanBytes(size))),
                None => say(text),
            },
            Progress::Bar(bar) => {
                let template = match size {
                    Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}",
                    None => "{spinner} {msg}",
                };
                // The templates are right: a wrong one would only look worse.
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_length(size.unwrap_or(0));
                bar.reset();
                bar.set_message(text.to_string());
                bar.enable_steady_tick(Duration::from_millis(100));
            }
        }
    }

    /// So many bytes of the step are done.
    pub(crate) fn set(&self, bytes: u64) {
        if let Progress::Bar(bar) = self {
            bar.set_position(bytes);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Progress::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
