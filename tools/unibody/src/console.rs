//! What the guest's kernel has said: [`Console`] keeps the last of it, for errors to quote.

use std::collections::VecDeque;

/// How much is kept.
const CAPACITY: usize = 64 << 10;
/// How many lines an error quotes.
const QUOTED: usize = 10;
/// What the kernel says first when it gives up, and last.
const PANIC: &str = "Kernel panic - not syncing";
const PANIC_END: &str = "---[ end Kernel panic";
/// What both have. Only lines with it are looked at more closely: programs may write megabytes to the console.
const WORDS: &[u8] = b"Kernel panic";
/// A line of a kernel has less.
const LINE: usize = 1024;

/// The last part of the kernel's messages.
#[derive(Debug, Default)]
pub(crate) struct Console {
    bytes: VecDeque<u8>,
    /// The first panic, which a flood of messages may push out of `bytes`.
    panic: Option<String>,
    line: Vec<u8>,
}

/// What the messages that were just added say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing that ends the guest.
    None,
    /// The kernel has given up and will do nothing any more.
    Dead,
}

impl Console {
    /// Adds messages, in pieces of any size.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> News {
        let mut news = News::None;
        for (ends, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if ends > 0 && self.end_line() == News::Dead {
                news = News::Dead;
            }
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
        }
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        news
    }

    fn end_line(&mut self) -> News {
        // Most letters are not the first one.
        let mut letters = self.line.iter().enumerate();
        let is_of_interest =
            letters.any(|(at, letter)| *letter == WORDS[0] && self.line[at..].starts_with(WORDS));
        let line = if is_of_interest { plain(&self.line) } else { String::new() };
        self.line.clear();
        let message = without_time(&line);
        if message.starts_with(PANIC) && self.panic.is_none() {
            self.panic = Some(message.to_string());
        }
        if message.starts_with(PANIC_END) { News::Dead } else { News::None }
    }

    /// The line with which the kernel gave up, if it has.
    pub(crate) fn panic(&self) -> Option<&str> {
        self.panic.as_deref()
    }

    /// The last lines.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = plain(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(QUOTED)..].iter().map(|line| line.to_string()).collect()
    }
}

/// The message without the `[    1.234567] ` before it.
fn without_time(line: &str) -> &str {
    let after = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    after.map_or(line, |(_, message)| message)
}

/// The text without what would move a terminal's cursor or change its state.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut result = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.next_if_eq(&'[').is_some() => {
                // A control sequence ends with a letter or one of @[\]^_`{|}~.
                while characters.next_if(|c| !('@'..='~').contains(c)).is_some() {}
                characters.next();
            }
            '\n' | '\t' => result.push(character),
            _ if character.is_control() => {}
            _ => result.push(character),
        }
    }
    result
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
