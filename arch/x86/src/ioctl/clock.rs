//! KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL: a vCPU's clocks.
//!
//! Deviation: the TSC counts as the host's does; a higher frequency is refused as well, which Linux makes up for by moving the TSC
//! at each entry.
//!
//! See: api.rst 4.55, 4.56 (TSC), 4.70 (`KVM_KVMCLOCK_CTRL`).

use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::engine::Engine;
use crate::vcpu::Vcpu;

pub(super) fn set_tsc_khz<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    vcpu.set_tsc_khz(argument.value() as u32)?;
    Ok(0)
}

pub(super) fn kvmclock_ctrl<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>) -> Result<u32, Errno> {
    vcpu.tell_paused()?;
    Ok(0)
}
