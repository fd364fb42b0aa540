//! The device's ioctls: what version of the interface this is, how large a vCPU's shared mapping is, and a new VM.
//!
//! See: api.rst 4.1 (`KVM_GET_API_VERSION`), 4.2 (`KVM_CREATE_VM`), 4.5 (`KVM_GET_VCPU_MMAP_SIZE`); Linux, virt/kvm/kvm_main.c,
//! `kvm_dev_ioctl`.

use abi::ioctl;

use super::{Argument, VCPU_MMAP_SIZE};
use crate::host::{Errno, Host};

/// The one type of VM.
const DEFAULT_VM: u64 = 0;

/// Answers an ioctl of the device that is not the architecture's. `create_vm` makes a VM and gives its descriptor. Process
/// context.
///
/// # Errors
/// `EINVAL` for an unknown number, another type of VM, and an argument where there is none; and what `create_vm` says.
pub fn system<H: Host>(
    number: u32,
    argument: &Argument<H>,
    create_vm: impl FnOnce() -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    match (number, argument.value()) {
        (ioctl::GET_API_VERSION, 0) => Ok(abi::API_VERSION),
        (ioctl::GET_VCPU_MMAP_SIZE, 0) => Ok(VCPU_MMAP_SIZE),
        (ioctl::CREATE_VM, DEFAULT_VM) => create_vm(),
        _ => Err(Errno::EINVAL),
    }
}
