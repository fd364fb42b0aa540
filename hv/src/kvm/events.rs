//! ioeventfds and irqfds: the kernel signals them, and raises interrupts for them, by itself.
//!
//! With the chips in this process (`split`) an irqfd's interrupt is a message that the kernel sends, as the pin's redirection
//! entry says: the I/O APIC knows nothing of it, and the 8259s do not hear of it.
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 4.59 and 4.75.

use std::os::fd::{AsFd, AsRawFd};

use abi::irq::{
    IOEVENTFD_FLAG_DATAMATCH, IOEVENTFD_FLAG_DEASSIGN, IOEVENTFD_FLAG_PIO, IRQFD_FLAG_DEASSIGN,
    Ioeventfd, Irqfd,
};

use super::ioctl;
use super::vm::Shared;
use crate::{Error, EventFd, IoAddress, IoEventFd};

pub(super) fn add_ioeventfd(vm: &Shared, new: &IoEventFd) -> Result<(), Error> {
    ioctl::ioeventfd(&vm.fd, &ioeventfd(new, 0))
        .map_err(|error| Error::Event { action: "add an ioeventfd", error })
}

pub(super) fn remove_ioeventfd(vm: &Shared, old: &IoEventFd) -> Result<(), Error> {
    ioctl::ioeventfd(&vm.fd, &ioeventfd(old, IOEVENTFD_FLAG_DEASSIGN))
        .map_err(|error| Error::Event { action: "remove an ioeventfd", error })
}

fn ioeventfd(one: &IoEventFd, flags: u32) -> Ioeventfd {
    let (space, addr) = match one.at {
        IoAddress::Port(port) => (IOEVENTFD_FLAG_PIO, port.into()),
        IoAddress::Mmio(gpa) => (0, gpa),
    };
    let matched = one.data.map_or(0, |_| IOEVENTFD_FLAG_DATAMATCH);
    Ioeventfd {
        datamatch: one.data.unwrap_or(0),
        addr,
        len: one.size.into(),
        fd: one.event.as_fd().as_raw_fd(),
        flags: flags | space | matched,
        pad: [0; 36],
    }
}

pub(super) fn add_irqfd(vm: &Shared, gsi: u32, event: &EventFd) -> Result<(), Error> {
    let gsi = match &vm.split {
        None => gsi,
        Some(split) => split.route_irqfd(vm, gsi)?,
    };
    ioctl::irqfd(&vm.fd, &irqfd(gsi, event, 0))
        .map_err(|error| Error::Event { action: "add an irqfd", error })
}

pub(super) fn remove_irqfd(vm: &Shared, gsi: u32, event: &EventFd) -> Result<(), Error> {
    let gsi = match &vm.split {
        None => gsi,
        Some(split) => split.route_irqfd(vm, gsi)?,
    };
    ioctl::irqfd(&vm.fd, &irqfd(gsi, event, IRQFD_FLAG_DEASSIGN))
        .map_err(|error| Error::Event { action: "remove an irqfd", error })
}

fn irqfd(gsi: u32, event: &EventFd, flags: u32) -> Irqfd {
    Irqfd { fd: event.as_fd().as_raw_fd() as u32, gsi, flags, ..Irqfd::default() }
}
