//! The control protocol between the tool on the host and init, the first process of a guest.
//!
//! There are three lines between them ([`Line`] names those on which the host sends). Each is a port of the virtio console, which init finds
//! by its name ([`DATA_PORT`], [`STDERR_PORT`], [`CONTROL_PORT`]), and a UART for kernels without a driver for that:
//!
//! | port | UART | in the guest | carries |
//! |---|---|---|---|
//! | 0, [`CONSOLE_PORT`] | COM1 | `/dev/hvc0`, `/dev/ttyS0` | the kernel's console; not this crate's subject |
//! | 1, data | COM2 | `/dev/vport*`, `/dev/ttyS1` | the command's terminal, or its stdin (to the guest) and stdout (from it) |
//! | 2, stderr | COM3 | `/dev/vport*`, `/dev/ttyS2` | the command's stderr, where it is apart |
//! | 3, control | COM4 | `/dev/vport*`, `/dev/ttyS3` | frames of this protocol, both ways |
//!
//! Init uses the ports if all three are there, and else the UARTs: never some of each. The host need not be told which: it sends nothing
//! before `Ready` has come, and the one of the two that init has not opened takes nothing.
//!
//! Data lines are raw bytes: nothing on them is parsed. All that is *about* them is said on the control line.
//!
//! # The course of a session
//! 1. Init sets the lines up and says [`FromGuest::Ready`]. What the host sends before that is lost,
//!    because a port that nobody has opened drops its input; so it sends nothing.
//!    [`FromGuest::Warning`] comes after that, if anything is to be said of the guest before the command runs.
//! 2. The host says [`ToGuest::Start`]; init answers [`FromGuest::Started`] or
//!    [`FromGuest::ExecFailed`]. From `Started` on, stdin may flow.
//! 3. While the command runs: [`ToGuest::WindowSize`], [`ToGuest::Signal`], [`ToGuest::StdinEnd`],
//!    [`ToGuest::OutputClosed`] one way; [`FromGuest::Received`], [`FromGuest::StdinClosed`] the other.
//! 4. [`FromGuest::Exited`] or [`FromGuest::Killed`], sent after the last byte of output has left the
//!    guest's UARTs, or was given to the ports' driver, whose buffers the host empties also when the guest is off. Then init powers the guest
//!    off.
//!
//! # Flow control
//! Ports of virtio hold their sender up by themselves. UARTs do not, and there is one set of rules for both: Linux keeps at most 64 KiB of a
//! serial port's input that no process has read yet, and drops the rest: a UART that has input waiting can keep the interrupt handler reading for longer than that
//! without the reader or even RTS getting a chance. So the sender on the host never has more than
//! [`WINDOW`] bytes under way on a line beyond what [`FromGuest::Received`] has acknowledged.
//! From the guest to the host there is no such limit: output waits for the host.
//!
//! Neighbours: `guest/init` is one end, `vmm::control` the other.
#![forbid(unsafe_code)]

mod frame;
mod message;
mod start;
mod wire;

#[cfg(test)]
mod frame_test;
#[cfg(test)]
mod message_test;

pub use frame::{DecodeError, Decoder, EncodeError, HEADER, MAX_PAYLOAD, Message, VERSION};
pub use message::{FromGuest, Line, MAX_WARNING, OutputStream, ToGuest, WindowSize, Written};
pub use start::{Access, Addresses, Mount, Network, Root, Start, Terminal, User};

/// The name of the console's port that is a terminal of the kernel's.
pub const CONSOLE_PORT: &str = "org.unibody.console";

/// The name of the port for stdin and stdout, or the terminal.
pub const DATA_PORT: &str = "org.unibody.data";

/// The name of the port for stderr.
pub const STDERR_PORT: &str = "org.unibody.stderr";

/// The name of the port for this protocol's frames.
pub const CONTROL_PORT: &str = "org.unibody.control";

/// Where init finds the kernel's modules: a folder for each release, as in `/lib/modules`.
pub const MODULES_FOLDER: &str = "/.unibody/modules";

/// Where init finds which of them it loads: a path a line, in that order.
pub const LOADED_MODULES: &str = "/.unibody/loaded";

/// Where init finds which it loads while the command runs, which can do without them; in the same form.
pub const LATER_MODULES: &str = "/.unibody/later";

/// Folders that are the guest's own also where the host's files are its root: what the kernel makes up, and what is there until the next boot.
pub const OWN_FOLDERS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

/// The most bytes that the host has under way on a [`Line`] without acknowledgement.
///
/// Half of what Linux buffers, which counts whole buffers rather than bytes.
pub const WINDOW: u64 = 32 * 1024;

/// The number of unacknowledged bytes at which init sends [`FromGuest::Received`].
///
/// A part of [`WINDOW`], so that the sender goes on while the acknowledgement is under way.
pub const ACKNOWLEDGE_AFTER: u64 = WINDOW / 4;
