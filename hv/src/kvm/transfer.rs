//! A vCPU's registers by KVM's ioctls: [`read`], [`write()`], and single MSRs.

use std::io;

use arch_x86::regs::State;
use kvm_bindings::{KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::registers::{MSRS, Registers};
use crate::Error;

/// What an ioctl on the registers came to.
fn failed(action: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Kvm { action, error: error.into() }
}

fn registers(fd: &VcpuFd) -> Result<Registers, Error> {
    let mut registers = Registers {
        regs: fd.get_regs().map_err(failed("read the registers"))?,
        sregs: fd.get_sregs().map_err(failed("read the system registers"))?,
        debug: fd.get_debug_regs().map_err(failed("read the debug registers"))?,
        events: fd.get_vcpu_events().map_err(failed("read what is pending"))?,
        xcrs: fd.get_xcrs().map_err(failed("read XCR0"))?,
        xsave: fd.get_xsave().map_err(failed("read the vector registers"))?,
        ..Registers::default()
    };
    for ((_, index), value) in MSRS.iter().zip(&mut registers.msrs) {
        // TSC_AUX need not be there.
        *value = get_msr(fd, *index).unwrap_or(0);
    }
    Ok(registers)
}

/// All that a [`State`] has.
pub(super) fn read(fd: &VcpuFd) -> Result<State, Error> {
    registers(fd).map(|registers| registers.state())
}

/// The same, changed.
pub(super) fn write(fd: &VcpuFd, state: &State) -> Result<(), Error> {
    let mut all = registers(fd)?;
    let before = all.msrs;
    all.set(state);
    fd.set_sregs(&all.sregs).map_err(failed("set the system registers"))?;
    fd.set_regs(&all.regs).map_err(failed("set the registers"))?;
    fd.set_debug_regs(&all.debug).map_err(failed("set the debug registers"))?;
    fd.set_xcrs(&all.xcrs).map_err(failed("set XCR0"))?;
    // SAFETY: the structure is as large as KVM reads without dynamic components, which this process does not ask for.
    unsafe { fd.set_xsave(&all.xsave) }.map_err(failed("set the vector registers"))?;
    all.events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
    fd.set_vcpu_events(&all.events).map_err(failed("set what is pending"))?;
    for (((_, index), value), before) in MSRS.iter().zip(all.msrs).zip(before) {
        if value != before {
            set_msr(fd, *index, value)?;
        }
    }
    Ok(())
}

fn entry(index: u32, data: u64) -> Result<Msrs, Error> {
    let entry = kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    Msrs::from_entries(&[entry]).map_err(|error| Error::Kvm {
        action: "make a list of one MSR",
        error: io::Error::other(format!("{error:?}")),
    })
}

/// Reads an MSR; `None` if there is none.
pub(super) fn get_msr(fd: &VcpuFd, index: u32) -> Option<u64> {
    let mut msrs = entry(index, 0).ok()?;
    let count = fd.get_msrs(&mut msrs).ok()?;
    msrs.as_slice().first().filter(|_| count == 1).map(|entry| entry.data)
}

/// Sets an MSR, as the host.
pub(super) fn set_msr(fd: &VcpuFd, index: u32, value: u64) -> Result<(), Error> {
    match fd.set_msrs(&entry(index, value)?) {
        Ok(1) => Ok(()),
        _ => Err(Error::Msr { index, value }),
    }
}
