//! A VM's ioctls that are the same on every architecture.
//!
//! Neighbours: `slots`, `dirty_gfns`, `interrupts`, `events`, `devices`, `statistics`.
//!
//! See: Linux, virt/kvm/kvm_main.c, `kvm_vm_ioctl`; api.rst 4.116 (`KVM_REGISTER_COALESCED_MMIO`), 7 (`KVM_ENABLE_CAP`).

use abi::cap;
use abi::device::EnableCap;
use abi::ioctl;
use abi::memory::{CoalescedMmioZone, DIRTY_LOG_INITIALLY_SET, DIRTY_LOG_MANUAL_PROTECT_ENABLE};

use super::{Argument, StatisticsFile, devices, dirty_gfns, events, interrupts, slots};
use crate::arch::Arch;
use crate::coalesced::Zone;
use crate::host::{Errno, Host};
use crate::vm::Vm;

/// What an ioctl of a VM's makes that has a descriptor.
pub enum New {
    /// The vCPU of that number.
    Vcpu(u32),
    /// Statistics, which are read as that file.
    Statistics(StatisticsFile),
    /// The device for VFIO: [`vfio`](super::vfio).
    Vfio,
}

/// Whether calls of this number on one VM have to be made one after the other. Those that may be made at any time are the ones that
/// threads make while others run vCPUs. Who has the descriptor has the lock, as it may have to sleep.
#[must_use]
pub const fn is_exclusive(number: u32) -> bool {
    !matches!(
        number,
        ioctl::IRQ_LINE | ioctl::IRQ_LINE_STATUS | ioctl::SIGNAL_MSI | ioctl::CHECK_EXTENSION
    )
}

/// Answers an ioctl of a VM that is not the architecture's. `make` makes what has a descriptor, and gives that. Process context.
///
/// # Errors
/// As Linux: `ENOTTY` for an unknown number, `EFAULT` for an address that cannot be reached, `EINVAL` and others for what cannot be;
/// and what `make` says.
pub fn vm<A: Arch>(
    vm: &Vm<A>,
    number: u32,
    argument: &Argument<A::Host>,
    make: impl FnOnce(New) -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    match number {
        ioctl::CREATE_VCPU => {
            make(New::Vcpu(u32::try_from(argument.value()).map_err(|_| Errno::EINVAL)?))
        }
        ioctl::SET_USER_MEMORY_REGION => slots::set(vm, argument),
        ioctl::SET_USER_MEMORY_REGION2 => slots::set2(vm, argument),
        ioctl::GET_DIRTY_LOG => slots::get_dirty_log(vm, argument),
        ioctl::CLEAR_DIRTY_LOG => slots::clear_dirty_log(vm, argument),
        ioctl::RESET_DIRTY_RINGS => vm.reset_dirty_rings(),
        ioctl::IRQ_LINE => interrupts::line(vm, argument),
        ioctl::IRQ_LINE_STATUS => interrupts::line_status(vm, argument),
        ioctl::SIGNAL_MSI => interrupts::signal_msi(vm, argument),
        ioctl::SET_GSI_ROUTING => interrupts::set_routes(vm, argument),
        ioctl::IRQFD => events::irqfd(vm, argument),
        ioctl::IOEVENTFD => events::ioeventfd(vm, argument),
        ioctl::REGISTER_COALESCED_MMIO => {
            vm.arch().coalesced().add(zone(argument)?)?;
            Ok(0)
        }
        ioctl::UNREGISTER_COALESCED_MMIO => {
            vm.arch().coalesced().remove(&zone(argument)?);
            Ok(0)
        }
        ioctl::CREATE_DEVICE => devices::create(vm, argument, || make(New::Vfio)),
        ioctl::GET_STATS_FD => make(New::Statistics(StatisticsFile::of_vm(vm.arch().statistics()))),
        _ => Err(Errno::ENOTTY),
    }
}

/// A range of coalesced writes, to be or not to be any more.
fn zone<H: Host>(argument: &Argument<H>) -> Result<Zone, Errno> {
    let from: CoalescedMmioZone = argument.read()?;
    if from.pio > 1 {
        return Err(Errno::EINVAL);
    }
    Ok(Zone { ports: from.pio != 0, first: from.addr, size: from.size.into() })
}

/// Switches a capability on that is not the architecture's.
///
/// # Errors
/// `EINVAL` for one that cannot be.
pub fn enable<A: Arch>(vm: &Vm<A>, from: &EnableCap) -> Result<u32, Errno> {
    let [how, ..] = from.args;
    let manual = u64::from(DIRTY_LOG_MANUAL_PROTECT_ENABLE);
    let all = manual | u64::from(DIRTY_LOG_INITIALLY_SET);
    match from.cap {
        cap::MANUAL_DIRTY_LOG_PROTECT2
            if from.flags == 0 && (how == 0 || how & manual != 0 && how & !all == 0) =>
        {
            vm.keep_logs(how != 0);
            vm.begin_logs_marked(how == all);
            Ok(0)
        }
        cap::DIRTY_LOG_RING | cap::DIRTY_LOG_RING_ACQ_REL => dirty_gfns::enable(vm, how),
        _ => Err(Errno::EINVAL),
    }
}
