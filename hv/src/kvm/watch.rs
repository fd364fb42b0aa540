//! A vCPU that halts with interrupts off says nothing: the kernel's interrupt controllers keep it. So one thread of each machine looks,
//! now and then, at the vCPUs that have not come out of the guest since the last time, and has them come out: then
//! they find out ([`is_deaf`]).

use std::io;
use std::sync::Weak;
use std::time::Duration;

use arch_x86::regs::rflags;
use kvm_bindings::KVM_MP_STATE_HALTED;
use kvm_ioctls::VcpuFd;

use super::vm::Shared;

/// How often.
const INTERVAL: Duration = Duration::from_millis(250);

/// Starts the thread, which ends soon after the machine does.
///
/// # Errors
/// When the host has no thread left.
pub(super) fn start(machine: Weak<Shared>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("kvm-watch".into());
    thread.spawn(move || watch(&machine)).map(drop)
}

fn watch(machine: &Weak<Shared>) {
    let mut seen = Vec::new();
    loop {
        std::thread::sleep(INTERVAL);
        let Some(machine) = machine.upgrade() else { return };
        let runs = machine.runs();
        machine.kick_where(|n| seen.get(n) == runs.get(n));
        seen = runs;
    }
}

/// Whether only an NMI, INIT or another vCPU ends the vCPU's halt.
pub(super) fn is_deaf(fd: &VcpuFd) -> bool {
    let halts = fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_HALTED);
    let is_off = |fd: &VcpuFd| fd.get_regs().is_ok_and(|regs| regs.rflags & rflags::IF == 0);
    let waits = |fd: &VcpuFd| fd.get_vcpu_events().is_ok_and(|events| events.nmi.pending != 0);
    halts && is_off(fd) && !waits(fd)
}
