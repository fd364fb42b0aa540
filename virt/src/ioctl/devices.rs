//! KVM_CREATE_DEVICE, and the ioctls of the one kind of device that there is: that of VFIO's groups, [`Groups`](crate::vfio::Groups).
//!
//! The device is the machine's, and its descriptor a way to it: closed, it stays.
//!
//! See: api.rst 4.79 (`KVM_CREATE_DEVICE`), 4.80 (`KVM_SET_DEVICE_ATTR`); Linux, virt/kvm/kvm_main.c, `kvm_ioctl_create_device`,
//! `kvm_device_ioctl`; virt/kvm/vfio.c.

use abi::device::{
    CREATE_DEVICE_TEST, CreateDevice, DEV_TYPE_VFIO, DeviceAttr, VFIO_GROUP, VFIO_GROUP_ADD,
    VFIO_GROUP_DEL,
};
use abi::ioctl;

use super::Argument;
use crate::arch::Arch;
use crate::host::{Errno, Host};
use crate::vm::Vm;

pub(super) fn create<A: Arch>(
    vm: &Vm<A>,
    argument: &Argument<A::Host>,
    describe: impl FnOnce() -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    let mut from: CreateDevice = argument.read()?;
    if from.type_ != DEV_TYPE_VFIO {
        return Err(Errno::ENODEV);
    }
    if from.flags & CREATE_DEVICE_TEST == 0 {
        from.fd = vm.groups().make(describe)?;
    }
    argument.write(&from)?;
    Ok(0)
}

/// Answers the ioctl `number` on a VM's device for VFIO, with `argument` an address of the caller's. Process context, on the caller's
/// thread.
///
/// # Errors
/// As Linux: `ENOTTY` for an unknown number, `EPERM` for attributes that can only be set, `ENXIO` for unknown ones, `EFAULT` for an
/// address that cannot be reached, `EBADF` for what is no descriptor; and as [`Groups`](crate::vfio::Groups).
pub fn vfio<A: Arch>(vm: &Vm<A>, number: u32, argument: u64) -> Result<u32, Errno> {
    let argument = &Argument::new(vm.arch().host().clone(), argument);
    match number {
        ioctl::SET_DEVICE_ATTR => set(vm, argument),
        ioctl::HAS_DEVICE_ATTR => attribute(argument).map(|_| 0),
        ioctl::GET_DEVICE_ATTR => Err(Errno::EPERM),
        _ => Err(Errno::ENOTTY),
    }
}

/// Which attribute it is, of those that there are, with its value's place.
fn attribute<H: Host>(argument: &Argument<H>) -> Result<(u64, Argument<H>), Errno> {
    let from: DeviceAttr = argument.read()?;
    match (from.group, from.attr) {
        (VFIO_GROUP, VFIO_GROUP_ADD | VFIO_GROUP_DEL) => {
            Ok((from.attr, argument.elsewhere(from.addr)))
        }
        _ => Err(Errno::ENXIO),
    }
}

fn set<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let (attribute, value) = attribute(argument)?;
    let descriptor: u32 = value.read()?;
    let file = vm.arch().host().file(descriptor as i32)?;
    match attribute {
        VFIO_GROUP_ADD => vm.groups().add(file)?,
        _ => vm.groups().remove(&file)?,
    }
    Ok(0)
}
