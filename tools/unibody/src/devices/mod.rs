//! The guest's virtio devices, from what a person asks for: [`create`]. A kind of device is a line there, and a file for its option.

pub(crate) mod console;
pub(crate) mod disk;
pub(crate) mod net;
pub(crate) mod share;
pub(crate) mod vsock;

use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::virtio::Device;
use vmm::virtio::balloon::Balloon;
use vmm::virtio::console::Console;
use vmm::virtio::rng::Rng;
use vmm::virtio::vsock::listener::SocketFile;

use self::disk::Disks;
use self::share::Shares;
use crate::cli;
use crate::error::{Error, reason};
use crate::relay::Lines;
use crate::root::Files;

/// The guest's devices, and what is to be done for them when it is at its end.
pub(crate) struct Devices {
    /// In the order in which the guest finds them.
    pub(crate) virtio: Vec<Arc<dyn Device>>,
    /// That of them which is told how large the terminal is, and has all of the guest's output at the end.
    pub(crate) console: Option<Arc<Console>>,
    /// They are to be closed then.
    pub(crate) disks: Disks,
    /// They are to be waited for at the start, and closed then.
    pub(crate) shares: Shares,
    /// As long as it is there, so is the socket's file.
    pub(crate) socket: Option<SocketFile>,
}

/// All of them. `cheap_exits`: see [`hv::Vm::CHEAP_EXITS`].
///
/// Each Linux has a console, which passes on its `lines`, and entropy, and gives memory back. Another kernel has what was asked for: it may be
/// better left without PCI.
pub(crate) fn create(
    options: &cli::Run,
    files: &Files,
    lines: &Lines,
    is_linux: bool,
    cheap_exits: bool,
) -> Result<Devices, Error> {
    let (disks, mut virtio) = disk::open(&options.disk, options.cpus.get(), cheap_exits)?;
    let (shares, folders) = share::start(&files.served(), cheap_exits)?;
    virtio.extend(folders);
    let (vsock, socket) = options.vsock.as_deref().map(vsock::open).transpose()?.unzip();
    virtio.extend(vsock);
    virtio.extend(net::open(options)?);
    if !is_linux {
        return Ok(Devices { virtio, console: None, disks, shares, socket });
    }
    let console = console::create(options, lines)?;
    virtio.extend(console.clone().map(|console| console as Arc<dyn Device>));
    let rng = Rng::new(Arc::new(entropy))
        .map_err(|error| Error::new("cannot give the guest entropy", reason(&error)))?;
    virtio.push(Arc::new(rng));
    let balloon = Balloon::new()
        .map_err(|error| Error::new("cannot give the guest a balloon", reason(&error)))?;
    virtio.push(Arc::new(balloon));
    Ok(Devices { virtio, console, disks, shares, socket })
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
