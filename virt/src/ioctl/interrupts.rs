//! KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING: interrupts on their way to the chips.
//!
//! Deviations: a message for local APICs that are all switched off is for nobody (-1), which in Linux none has taken (0); that the
//! guest has not ended the real-time clock's last interrupt does not count.
//!
//! See: api.rst 4.25 (`KVM_IRQ_LINE`), 4.70 (`KVM_SIGNAL_MSI`), 4.52 (`KVM_SET_GSI_ROUTING`); Linux, virt/kvm/irqchip.c,
//! `kvm_set_irq_routing`.

use abi::encoding::Encoded;
use abi::irq::{
    IRQ_ROUTING_IRQCHIP, IRQ_ROUTING_MSI, IrqLevel, IrqRoutingEntry, IrqRoutingHeader,
    MSI_VALID_DEVID, Msi,
};

use super::Argument;
use crate::arch::Arch;
use crate::host::Errno;
use crate::routing::{Reached, Route, Routes};
use crate::vm::Vm;

/// Moves a line.
pub(super) fn line<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: IrqLevel = argument.read()?;
    move_line(vm, &from)?;
    Ok(0)
}

/// The same, and says how many CPUs got it.
pub(super) fn line_status<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: IrqLevel = argument.read()?;
    // It is -1 to a caller who looks at it with a sign.
    let irq = move_line(vm, &from)?.unwrap_or(u32::MAX);
    argument.write(&IrqLevel { irq, ..from })?;
    Ok(0)
}

fn move_line<A: Arch>(vm: &Vm<A>, from: &IrqLevel) -> Result<Reached, Errno> {
    if !vm.arch().has_irqchip() {
        return Err(Errno::ENXIO);
    }
    Ok(vm.set_irq(from.irq, from.level != 0))
}

pub(super) fn signal_msi<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: Msi = argument.read()?;
    if !vm.arch().has_irqchip() || from.flags & !MSI_VALID_DEVID != 0 {
        return Err(Errno::EINVAL);
    }
    let reached = vm.arch().send_msi(address(from.address_lo, from.address_hi), from.data);
    // What Linux answers is -1, whatever that is as an error number.
    reached.ok_or(Errno::EPERM)
}

fn address(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

pub(super) fn set_routes<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let header: IrqRoutingHeader = argument.read()?;
    let count = header.nr as usize;
    if !vm.arch().has_irqchip() || count > Routes::MAX || header.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = argument.bytes(IrqRoutingHeader::SIZE, count * IrqRoutingEntry::SIZE)?;
    let mut routes = Routes::default();
    for entry in bytes.chunks_exact(IrqRoutingEntry::SIZE).map(IrqRoutingEntry::decode) {
        let route = route(vm.arch(), &entry)?;
        if entry.gsi >= Routes::MAX as u32 || !goes_with(&routes, entry.gsi, route) {
            return Err(Errno::EINVAL);
        }
        routes.add(entry.gsi, route)?;
    }
    vm.set_routes(routes);
    Ok(0)
}

/// Where an entry leads.
fn route<A: Arch>(arch: &A, entry: &IrqRoutingEntry) -> Result<Route, Errno> {
    match (entry.type_, entry.flags) {
        (IRQ_ROUTING_IRQCHIP, 0) => {
            let to = entry.irqchip();
            arch.irqchip_pin(to.irqchip, to.pin).map(Route::Pin).ok_or(Errno::EINVAL)
        }
        (IRQ_ROUTING_MSI, 0 | MSI_VALID_DEVID) => {
            let to = entry.msi();
            let (address, data) = (address(to.address_lo, to.address_hi), to.data);
            arch.is_msi(address).then_some(Route::Msi { address, data }).ok_or(Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Whether a GSI may have this route as well: it leads to a pin of each chip at most, or to one message.
fn goes_with(routes: &Routes, gsi: u32, new: Route) -> bool {
    routes.of(gsi).all(|old| match (old, new) {
        (Route::Pin(old), Route::Pin(new)) => old.chip != new.chip,
        _ => false,
    })
}
