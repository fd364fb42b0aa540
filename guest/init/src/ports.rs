//! The ports of the host's console: [`find`] waits until the kernel has heard their names.
//!
//! See: VIRTIO 1.2, 5.3.6.2; Linux, `drivers/char/virtio_console.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest_protocol::{CONTROL_PORT, DATA_PORT, STDERR_PORT};

use crate::sys::DeviceEvents;

/// Where the kernel has a folder for each port: its device's name, with the port's name in a file.
const PORTS: &str = "/sys/class/virtio-ports";

/// Where the kernel has a link for each console that has its driver.
const CONSOLES: &str = "/sys/bus/virtio/drivers/virtio_console";

/// The host is asked for names when the driver is loaded, and answers at once: after this it does not know of them.
const LIMIT: Duration = Duration::from_secs(2);

/// How often to look where the kernel tells of no events.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The devices of the data port, stderr's and the control port. None if the guest has no console, or no driver for it.
pub(crate) fn find() -> Option<[PathBuf; 3]> {
    if !has_console(Path::new(CONSOLES)) {
        return None;
    }
    // Before the first look, so that nothing happens in between.
    let events = DeviceEvents::new().ok();
    let until = Instant::now() + LIMIT;
    loop {
        let found = named(Path::new(PORTS));
        let left = until.saturating_duration_since(Instant::now());
        if found.is_some() || left.is_zero() {
            return found;
        }
        match &events {
            Some(events) => events.wait(left),
            None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Whether the driver whose folder this is has a device.
pub(crate) fn has_console(driver: &Path) -> bool {
    let entries = fs::read_dir(driver).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"virtio"))
}

/// The devices of the ports in a folder that have the names of a session's, if all have.
pub(crate) fn named(ports: &Path) -> Option<[PathBuf; 3]> {
    let mut found = [const { None }; 3];
    for port in fs::read_dir(ports).into_iter().flatten().flatten() {
        // A port whose name has not come yet has no such file.
        let Ok(name) = fs::read_to_string(port.path().join("name")) else { continue };
        let names = [DATA_PORT, STDERR_PORT, CONTROL_PORT];
        if let Some(which) = names.iter().position(|wanted| *wanted == name.trim_end()) {
            found[which] = Some(Path::new("/dev").join(port.file_name()));
        }
    }
    let [Some(data), Some(stderr), Some(control)] = found else { return None };
    Some([data, stderr, control])
}
