//! `--vsock`: from a path to a virtio-vsock device.

use std::path::Path;
use std::sync::Arc;

use vmm::virtio::Device;
use vmm::virtio::vsock::Vsock;
use vmm::virtio::vsock::listener::{self, Listener, SocketFile};

use crate::error::{Error, quoted, reason};

/// Makes the socket, and the device. The socket's file is there as long as what is given with it.
pub(crate) fn open(path: &Path) -> Result<(Arc<dyn Device>, SocketFile), Error> {
    let action = || format!("cannot make the socket {}", quoted(path));
    let (listener, file) = Listener::bind(path).map_err(|error| {
        let failed = Error::new(action(), &error);
        match error {
            listener::Error::InUse => failed.advise("End that, or give another path"),
            listener::Error::NotASocket => failed.advise("Remove it, or give another path"),
            listener::Error::Listen(_) => {
                failed.advise("Give a path in a folder that you may write to")
            }
        }
    })?;
    let device = Vsock::new(listener).map_err(|error| Error::new(action(), reason(&error)))?;
    Ok((Arc::new(device), file))
}
