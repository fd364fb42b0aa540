//! KVM's interface, the part of it that knows no architecture: ioctls, decoded onto the methods of this crate.
//!
//! The architecture's layer is called first, has its own ioctls, and hands the others on: to [`system()`] what the device is
//! asked, to [`vm()`] what a VM is. A device that a VM has made is asked at [`vfio`]. All decode only: an [`Argument`] is read through [`Host`](crate::Host), checked, and made neutral
//! values of; nothing else knows [`abi`]'s structures. Error numbers are Linux's.
//!
//! See: Linux, Documentation/virt/kvm/api.rst; virt/kvm/kvm_main.c.

mod argument;
mod devices;
mod dirty_gfns;
mod events;
mod interrupts;
mod mapping;
mod slots;
mod statistics;
mod system;
mod vm;

pub use argument::{Argument, zeroed};
pub use devices::vfio;
pub use dirty_gfns::{DirtyGfns, MAX_RING_SIZE, RING_OFFSET, ring_size};
pub use mapping::{Mapping, VCPU_MMAP_SIZE, put_into_ring};
pub use statistics::StatisticsFile;
pub use system::system;
pub use vm::{New, enable, is_exclusive, vm};
