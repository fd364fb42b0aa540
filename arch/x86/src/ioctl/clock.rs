//! KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ, KVM_KVMCLOCK_CTRL: a vCPU's clocks. KVM_GET_CLOCK, KVM_SET_CLOCK: that of a VM, which its vCPUs
//! have copies of.
//!
//! Deviation: the TSC counts as the host's does; a higher frequency is refused as well, which Linux makes up for by moving the TSC
//! at each entry.
//!
//! See: api.rst 4.29 (`KVM_GET_CLOCK`), 4.30 (`KVM_SET_CLOCK`), 4.55, 4.56 (TSC), 4.70 (`KVM_KVMCLOCK_CTRL`).

use abi::clock::{CLOCK_HOST_TSC, CLOCK_REALTIME, CLOCK_TSC_STABLE, ClockData};
use virt::host::Host;
use virt::ioctl::Argument;
use virt::{Errno, Vm};

use crate::engine::Engine;
use crate::machine::X86;
use crate::vcpu::Vcpu;
use crate::vcpu::inbox::request;

/// What is told of a VM's clock, and may be said of it.
pub(super) const FLAGS: u32 = CLOCK_TSC_STABLE | CLOCK_REALTIME | CLOCK_HOST_TSC;

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

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let machine = vm.arch().machine();
    let host = &machine.host;
    argument.write(&ClockData {
        clock: machine.clock.at(host.now()),
        flags: FLAGS,
        realtime: host.wall_clock(),
        host_tsc: host.tsc(),
        ..ClockData::default()
    })?;
    Ok(0)
}

/// Sets it. If it is said what the wall clock showed when it was read, it goes on from there, but never back.
#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: ClockData = argument.read()?;
    if from.flags & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let machine = vm.arch().machine();
    let host = &machine.host;
    let passed = if from.flags & CLOCK_REALTIME != 0 {
        host.wall_clock().saturating_sub(from.realtime)
    } else {
        0
    };
    machine.clock.set(from.clock.wrapping_add(passed), host.now());
    machine.post_all(request::CLOCK);
    Ok(0)
}
