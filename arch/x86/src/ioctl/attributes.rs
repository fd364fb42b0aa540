//! KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR of a vCPU: what its time stamp counter is apart from the host's. And the
//! first two of `/dev/kvm`: what of XSAVE there is.
//!
//! The other groups of attributes, and those of a VM, are not there. Deviation: an offset that is set
//! is this vCPU's own; it is not what vCPUs that are made later begin with.
//!
//! See: Linux, Documentation/virt/kvm/devices/vcpu.rst, 4.1 (`KVM_VCPU_TSC_OFFSET`); arch/x86/kvm/x86.c, `kvm_vcpu_ioctl_device_attr`,
//! `kvm_x86_dev_get_attr`.

use abi::device::{DeviceAttr, VCPU_TSC_CTRL, VCPU_TSC_OFFSET, X86_XCOMP_GUEST_SUPP};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use super::cpuid;
use super::system::System;
use crate::engine::Engine;
use crate::vcpu::Vcpu;

/// An attribute, by its group and its number there.
type Attribute = (u32, u64);

/// The one that a vCPU has.
pub(super) const VCPU: Attribute = (VCPU_TSC_CTRL, VCPU_TSC_OFFSET);
/// The one that the device has.
pub(super) const DEVICE: Attribute = (0, X86_XCOMP_GUEST_SUPP);

/// Where the value is of the one attribute that there is.
fn value<H: Host>(only: Attribute, argument: &Argument<H>) -> Result<Argument<H>, Errno> {
    let from: DeviceAttr = argument.read()?;
    if (from.group, from.attr) != only {
        return Err(Errno::ENXIO);
    }
    Ok(argument.elsewhere(from.addr))
}

pub(super) fn has<H: Host>(only: Attribute, argument: &Argument<H>) -> Result<u32, Errno> {
    value(only, argument).map(|_| 0)
}

/// The device's.
pub(super) fn get_devices<H: Host>(
    system: &System<H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let value = value(DEVICE, argument)?;
    value.write(&cpuid::xsave_components(system)?)?;
    Ok(0)
}

pub(super) fn get<E: Engine, H: Host>(
    vcpu: &Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    value(VCPU, argument)?.write(&vcpu.tsc_offset())?;
    Ok(0)
}

pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    vcpu.restore_tsc_offset(value(VCPU, argument)?.read()?);
    Ok(0)
}
