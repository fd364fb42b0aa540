//! KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR: what a VMM wants to see of the local APIC's task priority.
//!
//! See: Linux, arch/x86/kvm/x86.c, `vcpu_ioctl_tpr_access_reporting`; arch/x86/kvm/lapic.c, `kvm_lapic_set_vapic_addr`.

use abi::irq::TprAccessCtl;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use crate::engine::Engine;
use crate::vcpu::Vcpu;

/// Accesses are exits, or not.
pub(super) fn tpr_access_reporting<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: TprAccessCtl = argument.read()?;
    if from.flags != 0 {
        return Err(Errno::EINVAL);
    }
    vcpu.report_task_priority(from.enabled != 0);
    argument.write(&from)?;
    Ok(0)
}

/// The word is there. Of a local APIC of the VMM's there could be none.
pub(super) fn set_vapic_addr<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    if !vcpu.setup().has_local_apics() {
        return Err(Errno::EINVAL);
    }
    vcpu.set_task_priority_word(argument.read()?)?;
    Ok(0)
}
