//! The messages of both directions and how they lie in a frame's payload.
//!
//! [`ToGuest`] is what the host says, [`FromGuest`] what init says. What is to be run has a file of its own, `start.rs`.

use crate::frame::{DecodeError, FieldReader, Fields, Message};
use crate::start::Start;
use crate::wire::{Reader, Writer};

/// A message from the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Start the command. Said once, after [`FromGuest::Ready`].
    Start(Box<Start>),
    /// The host's window has this size now.
    WindowSize(WindowSize),
    /// Send the command's process group this signal (1–64, by Linux's x86 numbers).
    Signal(u8),
    /// Stdin ends after this many bytes, counted from the session's start.
    StdinEnd {
        /// All bytes of stdin, those still under way included.
        total: u64,
    },
    /// Nobody reads this stream on the host any more: the command is to get SIGPIPE when it writes.
    OutputClosed(OutputStream),
}

/// The longest text of a [`FromGuest::Warning`] in bytes.
pub const MAX_WARNING: usize = 1024;

/// A message from init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGuest {
    /// The lines are set up; init waits for [`ToGuest::Start`].
    Ready,
    /// The command runs; stdin may flow.
    Started,
    /// The command could not be started; the guest powers off.
    ExecFailed {
        /// Linux's error number; ENOENT is what a shell calls "not found".
        errno: i32,
        /// What init was doing, and what went wrong.
        message: String,
    },
    /// This many bytes have been taken off a line, counted from the session's start.
    Received {
        /// The line that the count is of.
        line: Line,
        /// All bytes so far.
        total: u64,
    },
    /// The command has closed its stdin: what more comes is dropped.
    StdinClosed,
    /// The command ended by itself.
    Exited {
        /// Its exit status.
        status: u8,
        /// What it wrote.
        written: Written,
    },
    /// A signal ended the command.
    Killed {
        /// The signal's number, 1–64.
        signal: u8,
        /// What it wrote.
        written: Written,
    },
    /// Init itself can't go on; the guest powers off.
    Failed {
        /// What init was doing, and what went wrong.
        message: String,
    },
    /// Something that the person should know of the guest, which goes on.
    Warning {
        /// What it is and what can be done, in at most [`MAX_WARNING`] bytes.
        message: String,
    },
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

/// A line on which the host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The data line, from the host: the command's stdin, or its terminal's keys.
    Stdin,
    /// The control line, from the host: this protocol.
    Control,
}

/// A stream that the command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// The data line, from the guest.
    Stdout,
    /// The line of stderr, from the guest.
    Stderr,
}

/// How many bytes of output went out on the data lines, so that the host knows when it has them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// On the data line.
    pub stdout: u64,
    /// On that of stderr.
    pub stderr: u64,
}

impl Message for ToGuest {
    fn kind(&self) -> u8 {
        match self {
            Self::Start(_) => 1,
            Self::WindowSize(_) => 2,
            Self::Signal(_) => 3,
            Self::StdinEnd { .. } => 4,
            Self::OutputClosed(_) => 5,
        }
    }

    fn write(&self, Fields(out): &mut Fields<'_>) {
        match self {
            Self::Start(start) => start.write(out),
            Self::WindowSize(size) => size.write(out),
            Self::Signal(signal) => out.u8(*signal),
            Self::StdinEnd { total } => out.u64(*total),
            Self::OutputClosed(stream) => out.u8(match stream {
                OutputStream::Stdout => 1,
                OutputStream::Stderr => 2,
            }),
        }
    }

    fn read(kind: u8, FieldReader(fields): &mut FieldReader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Start(Start::read(fields)?.into()),
            2 => Self::WindowSize(WindowSize::read(fields)?),
            3 => Self::Signal(fields.u8()?),
            4 => Self::StdinEnd { total: fields.u64()? },
            5 => Self::OutputClosed(match fields.u8()? {
                1 => OutputStream::Stdout,
                2 => OutputStream::Stderr,
                _ => return Err(DecodeError::Field("stream")),
            }),
            _ => return Err(DecodeError::Kind(kind)),
        })
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Start(start) => start.check(),
            Self::Signal(signal) => check_signal(*signal),
            _ => Ok(()),
        }
    }
}

impl Message for FromGuest {
    fn kind(&self) -> u8 {
        match self {
            Self::Ready => 1,
            Self::Started => 2,
            Self::ExecFailed { .. } => 3,
            Self::Received { .. } => 4,
            Self::StdinClosed => 5,
            Self::Exited { .. } => 6,
            Self::Killed { .. } => 7,
            Self::Failed { .. } => 8,
            Self::Warning { .. } => 9,
        }
    }

    fn write(&self, Fields(out): &mut Fields<'_>) {
        match self {
            Self::Ready | Self::Started | Self::StdinClosed => {}
            Self::ExecFailed { errno, message } => {
                out.u32(errno.cast_unsigned());
                out.bytes(message.as_bytes());
            }
            Self::Received { line, total } => {
                out.u8(match line {
                    Line::Stdin => 1,
                    Line::Control => 2,
                });
                out.u64(*total);
            }
            Self::Exited { status, written } => {
                out.u8(*status);
                written.write(out);
            }
            Self::Killed { signal, written } => {
                out.u8(*signal);
                written.write(out);
            }
            Self::Failed { message } | Self::Warning { message } => out.bytes(message.as_bytes()),
        }
    }

    fn read(kind: u8, FieldReader(fields): &mut FieldReader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Ready,
            2 => Self::Started,
            3 => Self::ExecFailed { errno: fields.u32()?.cast_signed(), message: text(fields)? },
            4 => {
                let line = match fields.u8()? {
                    1 => Line::Stdin,
                    2 => Line::Control,
                    _ => return Err(DecodeError::Field("line")),
                };
                Self::Received { line, total: fields.u64()? }
            }
            5 => Self::StdinClosed,
            6 => Self::Exited { status: fields.u8()?, written: Written::read(fields)? },
            7 => Self::Killed { signal: fields.u8()?, written: Written::read(fields)? },
            8 => Self::Failed { message: text(fields)? },
            9 => Self::Warning { message: text(fields)? },
            _ => return Err(DecodeError::Kind(kind)),
        })
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Killed { signal, .. } => check_signal(*signal),
            Self::Warning { message } if message.len() > MAX_WARNING => {
                Err(DecodeError::Field("warning: it is too long"))
            }
            _ => Ok(()),
        }
    }
}

impl WindowSize {
    /// Appends its fields.
    pub(crate) fn write(self, out: &mut Writer<'_>) {
        out.u16(self.rows);
        out.u16(self.cols);
    }

    /// Takes its fields.
    pub(crate) fn read(fields: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { rows: fields.u16()?, cols: fields.u16()? })
    }
}

impl Written {
    fn write(self, out: &mut Writer<'_>) {
        out.u64(self.stdout);
        out.u64(self.stderr);
    }

    fn read(fields: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { stdout: fields.u64()?, stderr: fields.u64()? })
    }
}

/// Reads a text for people. It is shown, never interpreted, so bytes that are no UTF-8 are replaced.
fn text(fields: &mut Reader<'_>) -> Result<String, DecodeError> {
    fields.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn check_signal(signal: u8) -> Result<(), DecodeError> {
    if (1..=64).contains(&signal) { Ok(()) } else { Err(DecodeError::Field("signal number")) }
}
