//! Init, the first process of a guest.
//!
//! It mounts what programs expect to find, sets up the lines to the host, waits for what to
//! run, runs it, passes bytes between its streams and the lines, reports how it ended, and powers
//! the guest off. The protocol and the use of the lines are described in `guest-protocol`.
//!
//! | module | subject |
//! |---|---|
//! | [`mounts`] | file systems, links in `/dev`, BusyBox's applets |
//! | [`shares`] | folders of the host's |
//! | [`root`] | one of them as the guest's root |
//! | [`modules`] | loading the kernel's modules that the host has picked |
//! | [`drivers`] | which devices have no driver |
//! | [`network`] | the network card's addresses, and who is asked for names |
//! | [`lines`] | the lines to the host: ports of its console, or UARTs |
//! | [`ports`] | finding those ports |
//! | [`control`] | messages on the control line |
//! | [`command`] | starting the command, with pipes or with a terminal |
//! | [`session`] | the loop that serves everything until the command has ended |
//! | [`stream`] | one direction of bytes: from where, to where, how many |
//! | [`sys`] | system calls that std doesn't offer; the only `unsafe` |
//!
//! It runs on an interpreter: no threads, no logging, no allocation in the loop.

mod command;
mod control;
mod drivers;
mod lines;
mod modules;
mod mounts;
mod network;
mod ports;
mod root;
mod session;
mod shares;
mod stream;
mod sys;

#[cfg(test)]
mod command_test;
#[cfg(test)]
mod drivers_test;
#[cfg(test)]
mod modules_test;
#[cfg(test)]
mod network_test;
#[cfg(test)]
mod ports_test;
#[cfg(test)]
mod root_test;
#[cfg(test)]
mod stream_test;

use std::fmt;
use std::io;
use std::path::Path;

use guest_protocol::{DecodeError, FromGuest};

use control::Control;
use lines::Lines;

fn main() {
    if std::env::args_os().nth(1).is_some_and(|word| word == modules::LOAD_LATER) {
        return modules::load_later();
    }
    if std::process::id() != 1 && modules::is_asked_by_kernel() {
        return modules::load_for_kernel();
    }
    if std::process::id() != 1 && network::serve_lease() {
        return;
    }
    if std::process::id() != 1 {
        eprintln!("init: this is a guest's first process; it does nothing in another place");
        std::process::exit(1);
    }
    if let Err(error) = boot() {
        // The console is the only way out here: the host keeps it and quotes it.
        eprintln!("init: {error}");
    }
    sys::power_off();
}

/// Runs from start to the end of the command. An error is one that the host could not be told.
fn boot() -> Result<(), Error> {
    mounts::mount_all()?;
    let mut warnings = modules::load_first();
    warnings.extend(drivers::missing(Path::new("/sys/bus")));
    let lines = Lines::open()?;
    let mut control = Control::new(lines.control);
    if let Err(error) = serve(&mut control, warnings, lines.data, lines.stderr) {
        control.send(&FromGuest::Failed { message: error.to_string() });
        control.finish()?;
        return Err(error);
    }
    control.finish()
}

fn serve(
    control: &mut Control,
    warnings: Vec<String>,
    data: lines::Line,
    stderr: lines::Line,
) -> Result<(), Error> {
    control.send(&FromGuest::Ready);
    for message in warnings {
        control.send(&FromGuest::Warning { message });
    }
    let mut start = control.wait_for_start()?;
    mounts::install_applets()?;
    // By the initial file system's programs.
    let mut warnings = network::set_up(start.network.as_ref());
    warnings.extend(root::enter(&mut start)?);
    for message in warnings {
        control.send(&FromGuest::Warning { message });
    }
    shares::mount_all(&start.mounts)?;
    let children = sys::ChildEvents::new().map_err(Error::of("watch for the end of processes"))?;
    match command::spawn(&start) {
        Ok(command) => {
            modules::start_loading_later();
            session::run(control, &children, command, data, stderr)
        }
        Err(failure) => {
            control.send(&failure);
            Ok(())
        }
    }
}

/// Why init can't go on.
#[derive(Debug)]
pub(crate) enum Error {
    /// An action failed.
    System {
        /// What was to be done.
        action: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The host sent what can't be understood.
    Protocol(DecodeError),
    /// The host sent what makes no sense at this point.
    Order(&'static str),
}

impl Error {
    /// Makes the function that turns an I/O error into one that says what was to be done.
    pub(crate) fn of(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::System { action, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System { action, source } => write!(f, "cannot {action}: {source}"),
            Self::Protocol(error) => write!(f, "the host sent {error}"),
            Self::Order(what) => write!(f, "the host sent {what}"),
        }
    }
}
