//! The ioctls that `kvm-ioctls` lacks ([`interrupt`]), or has for some arguments only ([`ioeventfd`], [`irqfd`]).
//!
//! Their numbers and structures are `abi`'s.

use std::io;
use std::os::fd::AsRawFd;

use abi::ioctl;
use abi::irq::{Interrupt, Ioeventfd, Irqfd};
use kvm_ioctls::{VcpuFd, VmFd};

/// Hands a vCPU the vector of the 8259s, which it takes as soon as it can.
///
/// See: Linux, Documentation/virt/kvm/api.rst, 4.16.
///
/// # Errors
/// When the chips are the kernel's, or there is another one that it has not taken.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = Interrupt { irq: vector.into() };
    // SAFETY: the call only reads its argument, which is of the type that its number says.
    result(unsafe { libc::ioctl(vcpu.as_raw_fd(), ioctl::INTERRUPT.into(), &raw const argument) })
}

/// Adds an ioeventfd, or removes it.
///
/// # Errors
/// As Linux, Documentation/virt/kvm/api.rst, 4.59 says.
pub(super) fn ioeventfd(vm: &VmFd, argument: &Ioeventfd) -> io::Result<()> {
    let argument = std::ptr::from_ref(argument);
    // SAFETY: the call only reads its argument, which is of the type that its number says.
    result(unsafe { libc::ioctl(vm.as_raw_fd(), ioctl::IOEVENTFD.into(), argument) })
}

/// Adds an irqfd, or removes it.
///
/// # Errors
/// As Linux, Documentation/virt/kvm/api.rst, 4.75 says.
pub(super) fn irqfd(vm: &VmFd, argument: &Irqfd) -> io::Result<()> {
    let argument = std::ptr::from_ref(argument);
    // SAFETY: the call only reads its argument, which is of the type that its number says.
    result(unsafe { libc::ioctl(vm.as_raw_fd(), ioctl::IRQFD.into(), argument) })
}

fn result(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
