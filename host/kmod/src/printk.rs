//! The kernel's log.
//!
//! [`print!`] formats into a small buffer on the stack, so that it works in any
//! context and without memory. Text that is longer than the buffer, or that
//! has line breaks in it, becomes several records.

use core::ffi::c_int;
use core::fmt::{self, Write};

// SAFETY: these are the glue's functions (glue/glue.c), with these types.
unsafe extern "C" {
    safe fn unibody_may_print() -> bool;
    /// One record of `length` bytes of text under the module's prefix.
    fn unibody_print(level: c_int, text: *const u8, length: usize);
}

/// How bad it is: the kernel's own levels.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub enum Level {
    /// `KERN_ERR`.
    Error = 3,
    /// `KERN_INFO`.
    Info = 6,
}

/// Bytes of a record: a fraction of the kernel's limit, because they are on the stack.
const RECORD: usize = 240;

/// Text on its way to the log.
struct Record {
    level: Level,
    text: [u8; RECORD],
    length: usize,
}

impl Record {
    /// Sends what has been gathered, if anything.
    fn flush(&mut self) {
        let text = &self.text[..self.length.min(RECORD)];
        if !text.is_empty() {
            // SAFETY: the pointer and the length are those of one live slice,
            // which the glue only reads during the call.
            unsafe { unibody_print(self.level as c_int, text.as_ptr(), text.len()) }
        }
        self.length = 0;
    }
}

impl Write for Record {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                self.flush();
                continue;
            }
            if self.length >= RECORD {
                self.flush();
            }
            self.text[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// Whether what anybody who has the device can bring about is to be logged now: some of it every few seconds is enough. Any context.
pub fn may_print() -> bool {
    unibody_may_print()
}

/// Writes formatted text to the log: what [`print!`] becomes.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    let mut record = Record { level, text: [0; RECORD], length: 0 };
    // A `Display` that fails leaves the text cut short: better than nothing.
    let _ = record.write_fmt(text);
    record.flush();
}

/// `print!(level, "format", …)`: a record in the kernel's log. Any context.
macro_rules! print {
    ($level:expr, $($text:tt)+) => {
        $crate::printk::write($level, format_args!($($text)+))
    };
}
pub(crate) use print;
