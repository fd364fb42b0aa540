//! KVM's user-space interface, as the hypervisor offers it.
//!
//! Both halves compile this one definition: the kernel module that answers
//! the calls, and the process that makes them. It holds numbers and layouts
//! only; what they mean is done elsewhere, and no other crate but the
//! adapters that speak ioctl should need it.
//!
//! - [`ioctl`]: the numbers of the calls, by the file descriptor they go to;
//! - [`regs`], [`fpu`], [`events`]: a vCPU's state; [`cpuid`], [`msr`];
//! - [`memory`]: slots, dirty logs, coalesced MMIO;
//! - [`irqchip`], [`irq`]: the chips' state, and lines, routes and messages to them;
//! - [`clock`], [`debug`], [`device`]: kvmclock, guest debugging, device attributes;
//! - [`run`], [`exit`]: the page that a vCPU shares with its caller, and why it came out;
//! - [`nested`]: a nested guest's state;
//! - [`stats`]: what the descriptor of statistics reads as;
//! - [`encoding`]: structures from and to the bytes of a caller's memory;
//! - [`cap`]: what can be asked for with `KVM_CHECK_EXTENSION`.
//!
//! Names are the kernel's without `kvm_` and `KVM_`. Where the kernel has a
//! union, a structure here has its bytes and functions that read and write
//! each member; where a member or the entries that follow a header are aligned
//! more strictly than what is left, it says so (`align(8)`). Only x86 is described; what Linux keeps for other
//! architectures, Xen, Hyper-V and confidential guests is left out.
//!
//! See: Linux `Documentation/virt/kvm/api.rst`, `include/uapi/linux/kvm.h` and
//! `arch/x86/include/uapi/asm/kvm.h`. The layouts are tested against `kvm-bindings`.

#![no_std]
#![forbid(unsafe_code)]

pub mod cap;
pub mod clock;
pub mod cpuid;
pub mod debug;
pub mod device;
pub mod encoding;
pub mod events;
pub mod exit;
pub mod fpu;
pub mod ioctl;
pub mod irq;
pub mod irqchip;
pub mod memory;
pub mod msr;
pub mod nested;
pub mod regs;
pub mod run;
pub mod stats;

mod bytes;

#[cfg(test)]
mod ioctl_test;
#[cfg(test)]
mod layout_test;
#[cfg(test)]
mod run_test;

/// The version of the interface, as `KVM_GET_API_VERSION` answers it.
/// It has not changed since Linux 2.6.22 and never will.
pub const API_VERSION: u32 = 12;
