//! The architecture-neutral core of the hypervisor: what `virt/kvm` is to
//! Linux's KVM.
//!
//! - [`host`]: the services that the core asks of the place it runs in;
//! - [`arch`]: what an architecture gives the core;
//! - [`memory`]: memory slots, from guest-physical to host-virtual addresses;
//! - [`dirty_log`]: which pages of a slot were written to; [`dirty_ring`]: those that a vCPU has;
//! - [`coalesced`]: writes of the guest's that may wait;
//! - [`ioeventfd`]: writes of the guest's that signal an event;
//! - [`irqfd`]: events that raise an interrupt;
//! - `locked_list`: adding to what is behind a spinlock;
//! - [`ioctl`]: the neutral part of KVM's interface, decoded;
//! - [`statistics`]: what can be counted;
//! - [`vfio`]: the devices that are passed through;
//! - [`routing`]: from a global system interrupt to a chip's pin or a message;
//! - [`vm`]: one virtual machine, which holds the above together.
//!
//! It knows no architecture, and no processes, files or kernels. The same
//! sources compile into a process and into the kernel module.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arch;
pub mod coalesced;
pub mod dirty_log;
pub mod dirty_ring;
pub mod host;
pub mod ioctl;
pub mod ioeventfd;
pub mod irqfd;
mod locked_list;
pub mod memory;
pub mod routing;
pub mod statistics;
pub mod vfio;
pub mod vm;

#[cfg(feature = "selftest")]
pub mod dirty_ring_test;
#[cfg(feature = "selftest")]
pub mod host_test;
#[cfg(feature = "selftest")]
pub mod ioeventfd_test;
#[cfg(feature = "selftest")]
pub mod memory_test;

pub use arch::Arch;
pub use host::{Errno, Host};
pub use memory::Memory;
pub use vm::Vm;

/// The test bodies of this crate, a list a file.
#[cfg(feature = "selftest")]
pub const SELFTESTS: &[&[selftest::Case]] =
    &[dirty_ring_test::CASES, ioeventfd_test::CASES, memory_test::CASES];
