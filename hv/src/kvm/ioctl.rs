//! The ioctls that `kvm-ioctls` lacks ([`interrupt`]), has for some arguments only ([`ioeventfd`], [`irqfd`]), or makes a long way
//! of ([`run`]).
//!
//! Their numbers and structures are `abi`'s.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use abi::ioctl;
use abi::irq::{Interrupt, Ioeventfd, Irqfd};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

/// Runs a vCPU until it comes out. It is the system call alone, without the C library's function for all ioctls around it: those were
/// a tenth of the instructions that an exit takes in this process, and `kvm-ioctls`' as many again.
///
/// See: Linux, Documentation/virt/kvm/api.rst, 4.10.
///
/// # Errors
/// When it does not come out by itself: `EINTR` if a signal ended it.
#[inline]
pub(super) fn run(vcpu: &VcpuFd) -> Result<(), Errno> {
    // SAFETY: the descriptor is open as long as the vCPU is there, and is one's; what the call takes and gives is as `Run` says.
    unsafe { rustix::ioctl::ioctl(BorrowedFd::borrow_raw(vcpu.as_raw_fd()), Run) }
}

/// KVM_RUN, which has no argument.
struct Run;

// SAFETY: the number is KVM_RUN's, which reads and writes nothing through its argument. What it changes is the guest's memory, and the
// mapping that it shares with this process: so it is not one that only reads, and neither is kept in registers over it.
unsafe impl Ioctl for Run {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ioctl::RUN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        null_mut()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

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
