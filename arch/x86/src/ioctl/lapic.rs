//! KVM_GET_LAPIC, KVM_SET_LAPIC: the local APIC's registers, as its page shows them.
//!
//! An x2APIC's identity has the place of an xAPIC's, the upper eight bits, as long as a VMM has not asked for KVM_CAP_X2APIC_API; then it
//! has all 32 and is to be the vCPU's own. What a VMM says of it otherwise is not taken. See: api.rst 4.57, 4.58; Linux, arch/x86/kvm/lapic.c, `kvm_apic_state_fixup`.

use abi::encoding::Encoded;
use abi::irqchip::LapicState;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use crate::engine::Engine;
use crate::irqchip::destination::Mode;
use crate::irqchip::lapic_registers::REGISTERS;
use crate::vcpu::Vcpu;

const SIZE: usize = size_of::<LapicState>();
/// From one register to the next.
const STRIDE: usize = 16;
/// Where the identity is among the registers.
const ID: usize = 2;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    is_there(vcpu)?;
    let mut registers = vcpu.lapic_registers();
    if vcpu.lapic().mode() == Mode::X2Apic && !vcpu.setup().has_wide_ids() {
        registers[ID] <<= 24;
    }
    let mut page = zeroed(SIZE)?;
    for (to, from) in page.chunks_exact_mut(STRIDE).zip(registers) {
        from.encode(to);
    }
    argument.put(0, &page)?;
    Ok(0)
}

/// Whether the local APIC is not the VMM's own.
fn is_there<E: Engine, H: Host>(vcpu: &Vcpu<E, H>) -> Result<(), Errno> {
    if vcpu.setup().has_local_apics() { Ok(()) } else { Err(Errno::EINVAL) }
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    is_there(vcpu)?;
    let page = argument.bytes(0, SIZE)?;
    let mut registers = [0; REGISTERS];
    for (to, from) in registers.iter_mut().zip(page.chunks_exact(STRIDE)) {
        *to = u32::decode(from);
    }
    let (id, is_wide) = (vcpu.lapic().config().id, vcpu.setup().has_wide_ids());
    if vcpu.lapic().mode() == Mode::X2Apic && is_wide && registers[ID] != id {
        return Err(Errno::EINVAL);
    }
    vcpu.restore_lapic(&registers);
    Ok(0)
}
