//! The kernel's command line.

use thiserror::Error;

/// Linux's `COMMAND_LINE_SIZE` on x86, less the NUL.
pub const DEFAULT_LIMIT: usize = 2047;

/// Why words cannot go on a command line.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The kernel would cut it off, silently, in the middle of a word.
    #[error("the kernel command line would be {length} bytes long; this kernel takes {limit}")]
    TooLong {
        /// Length that it would have.
        length: usize,
        /// Length that it may have.
        limit: usize,
    },
    /// The kernel would see its end there.
    #[error("the kernel command line contains a NUL byte")]
    Nul,
}

/// A kernel command line of bounded length: words with a space between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    text: String,
    limit: usize,
}

impl CommandLine {
    /// Makes an empty one that holds up to `limit` bytes: the kernel's
    /// [`command_line_limit`](super::Kernel::command_line_limit).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        CommandLine { text: String::new(), limit }
    }

    /// Appends `words` (one or several; whitespace around them is dropped).
    /// On an error nothing is appended.
    pub fn append(&mut self, words: &str) -> Result<(), Error> {
        let words = words.trim();
        if words.contains('\0') {
            return Err(Error::Nul);
        }
        if words.is_empty() {
            return Ok(());
        }
        let space = usize::from(!self.text.is_empty());
        let length = self.text.len() + space + words.len();
        if length > self.limit {
            return Err(Error::TooLong { length, limit: self.limit });
        }
        if space > 0 {
            self.text.push(' ');
        }
        self.text.push_str(words);
        Ok(())
    }

    /// The command line, without a NUL at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Default for CommandLine {
    fn default() -> Self {
        CommandLine::new(DEFAULT_LIMIT)
    }
}

#[cfg(test)]
#[path = "command_line_test.rs"]
mod command_line_test;
