//! The guest's virtio devices, from what a person asks for: [`create`]. A kind of device is a line there, and a file for its option.

pub(crate) mod console;
pub(crate) mod disk;

use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::virtio::Device;
use vmm::virtio::rng::Rng;

use crate::cli;
use crate::error::{Error, reason};

/// All of them, in the order in which the guest finds them, with its console, if it has one. `cheap_exits`: see [`hv::Vm::CHEAP_EXITS`].
///
/// A guest with any has entropy, too; one that has none is without PCI, which takes a kernel time to look at.
pub(crate) fn create(
    options: &cli::Run,
    console: Option<Arc<dyn Device>>,
    cheap_exits: bool,
) -> Result<Vec<Arc<dyn Device>>, Error> {
    let mut devices = disk::open(&options.disk, options.cpus.get(), cheap_exits)?;
    devices.extend(console);
    if !devices.is_empty() {
        let rng = Rng::new(Arc::new(entropy))
            .map_err(|error| Error::new("cannot give the guest entropy", reason(&error)))?;
        devices.push(Arc::new(rng));
    }
    Ok(devices)
}

/// The host's.
fn entropy(bytes: &mut [u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match getrandom(&mut *rest, GetRandomFlags::empty()) {
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
