//! What the fuzz targets do with their bytes: [`run`], of images [`disk_image`], of networks [`network`], of virtio [`virtio::run`], and of PCI
//! [`pci::run`], which are apart from all else here but [`input`].
//!
//! Of ioctls the bytes are a sequence of steps, each an ioctl or several on the objects of [`preload`], without the C library's functions before
//! them; or, with `UNIBODY_FUZZ_DEVICE=/dev/unibody`, on descriptors of that device's, by system calls. Nothing but an error number of
//! Linux's may come of it: no panic, no signal, no write beside the slots, no run that cannot be ended, no complaint of the kernel's.
//! What is a panic or a fault of the hypervisor's in this process is such a complaint if it is the kernel's; all else holds of both.
//!
//! - [`case`]: the steps; `calls`: ioctls among them, and what their arguments may name; `guest`: what vCPUs execute;
//! - [`objects`]: what calls are made on, in this process or in the kernel; `feedback`: what is seen of the kernel;
//! - [`arena`]: the memory, with guards beside it; [`input`]: the bytes;
//! - [`worker`]: the thread that it happens on, and who ends its runs; [`signals`]: which signals reach it.
//!
//! Who is called with an address may read and write there, so all addresses are of the arena, or of nothing. Deviation: slots are
//! over memory that is mapped, as a guest's own access to what goes meanwhile is the program's fault (`preload`).

pub mod arena;
mod calls;
pub mod case;
pub mod disk_image;
mod feedback;
mod guest;
pub mod input;
pub mod network;
pub mod objects;
pub mod pci;
pub mod signals;
pub mod virtio;
pub mod worker;

use std::sync::{LazyLock, Mutex, PoisonError};

use worker::Worker;

static WORKER: LazyLock<Mutex<Worker>> = LazyLock::new(|| Mutex::new(Worker::start()));

/// Makes the steps that the bytes are.
///
/// # Panics
/// When something comes of it that may not.
pub fn run(bytes: &[u8]) {
    WORKER.lock().unwrap_or_else(PoisonError::into_inner).run(bytes);
}
