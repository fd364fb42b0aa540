//! What there is of a vCPU's state beside its registers, for who saves, restores or debugs it: whether it runs, what is on its
//! way to it, its local APIC.
//!
//! What others have posted counts as state, too: it is taken out of the mailbox before it is looked at
//! ([`Vcpu::settle`]). Neighbours: `events` delivers, [`crate::ioctl`] shows this to VMMs that speak ioctl.

use alloc::sync::Arc;

use virt::Errno;
use virt::coalesced::Coalesced;
use virt::host::Host;

use super::events::{Activity, Pending};
use super::inbox::request;
use super::{Effect, Vcpu};
use crate::emulate::debug::{self, dr6};
use crate::engine::{Engine, EngineVcpu, Event};
use crate::exception;
use crate::irqchip::lapic::GeneralProtection;
use crate::irqchip::lapic_registers::REGISTERS;
use crate::regs::Regs;
use crate::setup::Setup;
use crate::statistics::VcpuStatistics;

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// The host's services.
    pub fn host(&self) -> &H {
        &self.machine.host
    }

    /// What was chosen for the machine.
    pub fn setup(&self) -> &Setup {
        &self.machine.setup
    }

    /// Whether it has been in the guest.
    pub fn has_run(&self) -> bool {
        self.has_run
    }

    /// What is counted of it.
    pub fn statistics(&self) -> &Arc<VcpuStatistics> {
        &self.statistics
    }

    /// Which of the machine's writes may wait.
    pub fn coalesced(&self) -> &Coalesced<H::RawMutex> {
        &self.machine.coalesced
    }

    /// The debugger's DR7; 0 if it has no breakpoints.
    pub fn debug_control(&self) -> u64 {
        self.debugger.control()
    }

    /// What it does.
    pub fn activity(&mut self) -> Activity {
        self.settle();
        self.activity
    }

    /// Sets what it does.
    pub fn set_activity(&mut self, activity: Activity) {
        self.activity = activity;
        self.stuck = false;
    }

    /// Starts it at the page that [`set_startup_vector`](Self::set_startup_vector) names, if it waits for that when it is run next.
    pub fn start(&mut self) {
        self.machine.post(self.id, request::STARTUP);
    }

    /// Names the page of the start-up code.
    pub fn set_startup_vector(&mut self, vector: u8) {
        if let Some(published) = self.machine.vcpu(self.id) {
            published.inbox.set_startup_vector(vector);
        }
    }

    /// Sends it INIT.
    pub fn send_init(&mut self) {
        self.machine.post(self.id, request::INIT);
    }

    /// Sends it an NMI.
    pub fn nmi(&self) {
        self.machine.post(self.id, request::NMI);
    }

    /// Whether an NMI waits.
    pub fn nmi_waits(&mut self) -> bool {
        self.settle();
        self.pending.nmi
    }

    /// Whether a triple fault waits to be told.
    pub fn triple_fault_waits(&self) -> bool {
        self.pending.triple_fault
    }

    /// What is on its way to it. What goes with an exception is then in CR2 and DR6 already.
    pub fn pending(&mut self) -> Pending {
        self.settle();
        if let Some(Event::Exception(exception)) = self.pending.event {
            match exception.vector {
                exception::PF => self.engine.set_cr2(exception.payload),
                exception::DB => debug::record(&mut self.engine, exception.payload),
                _ => {}
            }
        }
        self.pending
    }

    /// Sets what is on its way to it. What goes with an exception is in CR2 and DR6 already: its payload does not count.
    pub fn set_pending(&mut self, pending: Pending) {
        let event = pending.event.map(|event| match event {
            Event::Exception(exception) => Event::Exception(self.with_payload(exception)),
            other => other,
        });
        self.pending = Pending { event, ..pending };
    }

    /// Sets what goes with the exception that is on its way, and is not in CR2 or DR6 yet.
    pub fn set_pending_payload(&mut self, payload: u64) {
        if let Some(Event::Exception(exception)) = &mut self.pending.event {
            exception.payload = match exception.vector {
                exception::DB => payload & dr6::WRITABLE,
                _ => payload,
            };
        }
    }

    /// Sets the external interrupt that is still to be injected.
    pub fn set_pending_interrupt(&mut self, vector: u8) {
        self.pending.interrupt = Some(vector);
    }

    /// The local APIC's registers, in their order on the page.
    pub fn lapic_registers(&mut self) -> [u32; REGISTERS] {
        self.settle();
        self.lapic.registers(self.machine.host.now())
    }

    /// Restores the local APIC's registers, of the mode that it is in. Its timer counts on from there; a deadline by the TSC is set
    /// after this.
    pub fn restore_lapic(&mut self, registers: &[u32; REGISTERS]) {
        self.lapic.set_registers(registers, self.machine.host.now());
        self.carry_out(Effect::Address);
    }

    /// Restores IA32_APIC_BASE, from whatever mode to whatever mode.
    ///
    /// # Errors
    /// As [`LocalApic::check_base`](crate::irqchip::lapic::LocalApic::check_base).
    pub fn restore_apic_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let effect = self.lapic.restore_base(value)?;
        self.carry_out(effect);
        Ok(())
    }

    /// Sets CR8.
    pub fn set_cr8(&mut self, value: u64) {
        self.lapic.set_cr8(value);
    }

    /// Sets up banks of machine-check registers: see [`MachineCheck::set_up`](crate::machine_check::MachineCheck::set_up).
    ///
    /// # Errors
    /// As there.
    pub fn set_up_machine_check(&mut self, cap: u64) -> Result<(), Errno> {
        self.machine_check.set_up(cap)
    }

    /// Drops all translations of the guest's own tables.
    pub fn flush_tlb(&mut self) {
        self.engine.flush_tlb();
    }
}
