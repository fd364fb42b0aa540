//! The virtual machine: what turns a hypervisor into a computer.
//!
//! - [`machine`]: the only place that composes; [`boot`], [`acpi`]: what a guest starts with;
//! - [`memory`]: the guest's RAM;
//! - [`bus`], [`devices`]: what it reaches by ports; [`pci`], [`virtio`]: what it finds by itself; [`disk`]: images;
//! - [`control`]: the session with the guest's init.
//!
//! Sees only `hv`'s traits of the hypervisor below, and knows no terminal and no command line.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod control;
pub mod devices;
pub mod disk;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod virtio;
