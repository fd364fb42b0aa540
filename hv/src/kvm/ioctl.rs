//! The ioctls that `kvm-ioctls` lacks: [`interrupt`].
//!
//! Their numbers and structures are `abi`'s.

use std::io;
use std::os::fd::AsRawFd;

use abi::ioctl;
use abi::irq::Interrupt;
use kvm_ioctls::VcpuFd;

/// Hands a vCPU the vector of the 8259s, which it takes as soon as it can.
///
/// See: Linux, Documentation/virt/kvm/api.rst, 4.16.
///
/// # Errors
/// When the chips are the kernel's, or there is another one that it has not taken.
pub(super) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let argument = Interrupt { irq: vector.into() };
    // SAFETY: the call only reads its argument, which is of the type that its number says.
    let result =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), ioctl::INTERRUPT.into(), &raw const argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
