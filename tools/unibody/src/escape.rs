//! The keys that are Unibody's own while a guest has the terminal: Ctrl-a and another one.
//!
//! [`EscapeFilter`] is a state machine over the bytes of the keyboard; the terminal itself is
//! `terminal.rs`.

/// Ctrl-a.
const PREFIX: u8 = 0x01;

/// What Ctrl-a h shows. In raw mode a line ends with a carriage return too.
pub const HELP: &str = "\r\n\
    Ctrl-a x       quit: end the guest\r\n\
    Ctrl-a h       show these keys\r\n\
    Ctrl-a Ctrl-a  send Ctrl-a to the guest\r\n";

/// What a key press asks of Unibody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End the guest.
    Quit,
    /// Show [`HELP`].
    Help,
}

/// Takes Unibody's own keys out of what is typed.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    prefix_seen: bool,
}

impl EscapeFilter {
    /// Appends to `guest` what is the guest's of `input`, up to the first action, which is returned
    /// with what follows it: that is for the next call.
    pub fn filter<'a>(
        &mut self,
        input: &'a [u8],
        guest: &mut Vec<u8>,
    ) -> Option<(Action, &'a [u8])> {
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            if !std::mem::take(&mut self.prefix_seen) {
                match byte {
                    PREFIX => self.prefix_seen = true,
                    _ => guest.push(byte),
                }
                continue;
            }
            match byte {
                b'x' => return Some((Action::Quit, rest)),
                b'h' | b'?' => return Some((Action::Help, rest)),
                PREFIX | b'a' => guest.push(PREFIX),
                // Not ours after all: most likely Ctrl-a was meant for the shell's line editor.
                _ => guest.extend_from_slice(&[PREFIX, byte]),
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "escape_test.rs"]
mod tests;
