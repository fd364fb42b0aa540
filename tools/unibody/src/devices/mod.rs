//! The guest's virtio devices, from what a person asks for: [`create`]. A kind of device is a line there, and a file for its option.

pub(crate) mod disk;
pub(crate) mod vsock;

use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::virtio::Device;
use vmm::virtio::balloon::Balloon;
use vmm::virtio::rng::Rng;

use crate::cli;
use crate::error::{Error, reason};

/// All of them, in the order in which the guest finds them. `cheap_exits`: see [`hv::Vm::CHEAP_EXITS`].
///
/// Each guest has entropy, and gives memory back.
pub(crate) fn create(options: &cli::Run, cheap_exits: bool) -> Result<Vec<Arc<dyn Device>>, Error> {
    let mut devices = disk::open(&options.disk, options.cpus.get(), cheap_exits)?;
    let rng = Rng::new(Arc::new(entropy))
        .map_err(|error| Error::new("cannot give the guest entropy", reason(&error)))?;
    devices.push(Arc::new(rng));
    let balloon = Balloon::new()
        .map_err(|error| Error::new("cannot give the guest a balloon", reason(&error)))?;
    devices.push(Arc::new(balloon));
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
