//! KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR of a vCPU: what its time stamp counter is apart from the host's.
//!
//! The other groups of attributes, and those of the device and of a VM, are not there. Deviation: an offset that is set
//! is this vCPU's own; it is not what vCPUs that are made later begin with.
//!
//! See: Linux, Documentation/virt/kvm/devices/vcpu.rst, 4.1 (`KVM_VCPU_TSC_OFFSET`); arch/x86/kvm/x86.c, `kvm_vcpu_ioctl_device_attr`.

use abi::device::{DeviceAttr, VCPU_TSC_CTRL, VCPU_TSC_OFFSET};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::engine::Engine;
use crate::vcpu::Vcpu;

/// Where the value is of the one attribute that there is.
fn value<H: Host>(argument: &Argument<H>) -> Result<Argument<H>, Errno> {
    let from: DeviceAttr = argument.read()?;
    if (from.group, from.attr) != (VCPU_TSC_CTRL, VCPU_TSC_OFFSET) {
        return Err(Errno::ENXIO);
    }
    Ok(argument.elsewhere(from.addr))
}

pub(super) fn has<H: Host>(argument: &Argument<H>) -> Result<u32, Errno> {
    value(argument).map(|_| 0)
}

pub(super) fn get<E: Engine, H: Host>(
    vcpu: &Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    value(argument)?.write(&vcpu.tsc_offset())?;
    Ok(0)
}

pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    vcpu.restore_tsc_offset(value(argument)?.read()?);
    Ok(0)
}
