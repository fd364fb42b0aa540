//! The virtio console of a guest: the ports that its kernel's console and the command's session go over ([`create`]).

use std::sync::Arc;

use guest_protocol::{CONSOLE_PORT, CONTROL_PORT, DATA_PORT, STDERR_PORT};
use vmm::virtio::console::{Console, PortConfig};

use crate::cli;
use crate::error::{Error, reason};
use crate::relay::Lines;
use crate::terminal;

/// Names of the ports, by the number of the line that each is the same as.
const NAMES: [&str; 4] = [CONSOLE_PORT, DATA_PORT, STDERR_PORT, CONTROL_PORT];

/// The console, unless the person wants serial ports alone.
pub(crate) fn create(options: &cli::Run, lines: &Lines) -> Result<Option<Arc<Console>>, Error> {
    if options.console == cli::Console::Serial {
        return Ok(None);
    }
    let port = |(ends, name): (&_, &&str)| PortConfig {
        name: name.to_string(),
        is_console: *name == CONSOLE_PORT,
        ends: Clone::clone(ends),
    };
    let ports = lines.0.iter().zip(&NAMES).map(port).collect();
    let size = terminal::window_size().filter(|_| terminal::is_interactive());
    Console::new(ports, size)
        .map(|console| Some(Arc::new(console)))
        .map_err(|error| Error::new("cannot give the guest a console", reason(&error)))
}
