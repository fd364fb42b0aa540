//! KVM_IRQFD, KVM_IOEVENTFD: eventfds that interrupt, and that writes of the guest's signal.
//!
//! Deviation: a port above 65,535, which no guest has, is EINVAL where one is to be added.
//!
//! See: api.rst 4.75 (`KVM_IRQFD`), 4.59 (`KVM_IOEVENTFD`); Linux, virt/kvm/eventfd.c.

use abi::irq::{
    IOEVENTFD_FLAG_DATAMATCH, IOEVENTFD_FLAG_DEASSIGN, IOEVENTFD_FLAG_PIO, IRQFD_FLAG_DEASSIGN,
    IRQFD_FLAG_RESAMPLE, Ioeventfd, Irqfd,
};

use super::Argument;
use crate::arch::Arch;
use crate::host::{Errno, Host};
use crate::ioeventfd::{IoAddress, IoEventFd};
use crate::vm::Vm;

pub(super) fn irqfd<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: Irqfd = argument.read()?;
    let known = IRQFD_FLAG_DEASSIGN | IRQFD_FLAG_RESAMPLE;
    if from.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let event = || vm.arch().host().event(from.fd as i32);
    if from.flags & IRQFD_FLAG_DEASSIGN != 0 {
        vm.remove_irqfd(from.gsi, &event()?)?;
        return Ok(0);
    }
    let is_level = from.flags & IRQFD_FLAG_RESAMPLE != 0;
    // Of what the VMM's chips do nothing is known here.
    if !vm.arch().has_irqchip() || is_level && !vm.arch().has_pins() {
        return Err(Errno::EINVAL);
    }
    let event = event()?;
    if is_level {
        let resample = vm.arch().host().event(from.resamplefd as i32)?;
        vm.add_level_irqfd(from.gsi, &event, &resample)?;
    } else {
        vm.add_irqfd(from.gsi, &event)?;
    }
    Ok(0)
}

pub(super) fn ioeventfd<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: Ioeventfd = argument.read()?;
    let has = |flag| from.flags & flag != 0;
    let removes = has(IOEVENTFD_FLAG_DEASSIGN);
    let place = place(&from).ok_or(Errno::EINVAL);
    if !removes {
        place?;
    }
    let data = has(IOEVENTFD_FLAG_DATAMATCH).then_some(from.datamatch);
    let event = vm.arch().host().event(from.fd)?;
    // What none can be added with is no mistake when one is removed: there is just no such one.
    let (at, size) = place.map_err(|_| Errno::ENOENT)?;
    let ioeventfd = IoEventFd { at, size, data, event };
    if removes {
        vm.remove_ioeventfd(&ioeventfd)?;
    } else {
        vm.add_ioeventfd(ioeventfd)?;
    }
    Ok(0)
}

/// Where writes are to signal, and of what size, if it is said in a way that is known.
fn place(from: &Ioeventfd) -> Option<(IoAddress, u8)> {
    let known = IOEVENTFD_FLAG_DATAMATCH | IOEVENTFD_FLAG_PIO | IOEVENTFD_FLAG_DEASSIGN;
    let size = match u8::try_from(from.len) {
        Ok(size @ (0 | 1 | 2 | 4 | 8)) if from.flags & !known == 0 => size,
        _ => return None,
    };
    if from.flags & IOEVENTFD_FLAG_PIO != 0 {
        Some((IoAddress::Port(u16::try_from(from.addr).ok()?), size))
    } else {
        Some((IoAddress::Mmio(from.addr), size))
    }
}
