//! What is delivered to the guest next: exceptions that the run loop raised, NMIs, and the
//! local APIC's and the 8259s' interrupts; and what INIT and start-up do.
//!
//! See: AMD APM vol. 2, 8.5 (priorities), 14.1.3 (INIT); Intel SDM vol. 3, 10.4.4.

use alloc::sync::Arc;

use virt::host::Host;

use super::Vcpu;
use super::inbox::{Inbox, request};
use super::replay::Replay;
use crate::engine::{Engine, EngineVcpu, Entry, Event};
use crate::exception::{self, Exception};
use crate::irqchip::lapic::Config;
use crate::regs::{Regs, Seg, State, rflags};
use crate::statistics::VcpuStatistic;

/// What the processor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executing.
    Running,
    /// After HLT.
    Halted,
    /// After INIT, or since the machine was made.
    WaitForStartup,
    /// After a triple fault.
    Shutdown,
}

impl Activity {
    /// What a processor with such a local APIC does after reset and INIT: one without, or that boots, runs.
    pub(super) const fn at_reset(lapic: &Config) -> Self {
        if lapic.bootstrap || lapic.absent { Self::Running } else { Self::WaitForStartup }
    }
}

/// Events on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// To be injected at the next entry. For a #BP or #OF, RIP is at INT3 or INTO until then.
    pub event: Option<Event>,
    /// The vector of an external interrupt that the processor has acknowledged, and that is still to be injected: as soon as
    /// interrupts are on.
    pub interrupt: Option<u8>,
    /// An NMI waits.
    pub nmi: bool,
    /// A triple fault, which the VMM is to be told.
    pub triple_fault: bool,
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Takes what is in the mailbox. Gives true when `run` is to return.
    #[inline(never)]
    pub(super) fn drain(&mut self, inbox: &Inbox) -> bool {
        self.take_mail(inbox, 0)
    }

    /// The same, but for the bits of [`request`] that are in `keep`.
    fn take_mail(&mut self, inbox: &Inbox, keep: u32) -> bool {
        let mail = inbox.take(keep);
        let has = |bits| mail.request & bits != 0;
        if has(request::INIT) {
            self.init();
        }
        if has(request::STARTUP) && self.activity == Activity::WaitForStartup {
            self.start_up(mail.startup_vector);
        }
        if has(request::NMI) {
            self.pending.nmi = true;
        }
        if has(request::INTERRUPT) {
            inbox.take_interrupts(|vector, level| {
                self.lapic.accept(vector, level);
            });
        }
        if has(request::TIMER) {
            self.advance_timer();
        }
        if has(request::CLOCK) {
            self.renew_time();
        }
        // Another processor or a device may have changed code before it sent this.
        let interrupted = has(request::INTERRUPT | request::EXTINT | request::NMI);
        (self.fresh, self.serialized) = (self.fresh | interrupted, self.serialized | interrupted);
        has(request::EXIT)
    }

    /// Takes what is in the mailbox without running, so that it is part of the state that is looked at.
    pub fn settle(&mut self) {
        let machine = Arc::clone(&self.machine);
        if let Some(published) = machine.vcpu(self.id) {
            self.take_mail(&published.inbox, request::EXIT);
        }
    }

    /// Lets the local APIC's timer look at the time.
    fn advance_timer(&mut self) {
        let (now, tsc) = (self.machine.host.now(), self.engine.tsc());
        // When it is due the chip puts the interrupt into its request register itself.
        self.lapic.advance(now, tsc);
        self.arm_timer();
    }

    /// INIT: the state after reset but for the FPU, the caches, the MSRs and the local APIC's mode.
    /// See: AMD APM vol. 2, 14.1.3.
    #[inline(never)]
    fn init(&mut self) {
        let mut state = State::at_reset();
        state.fx = *self.engine.fxsave();
        state.ymm_high = *self.engine.ymm_high();
        for (reg, value) in crate::regs::SysReg::ALL.iter().zip(&mut state.sysregs) {
            *value = self.engine.sysreg(*reg);
        }
        state.write(&mut self.engine);
        self.engine.flush_tlb();
        self.lapic.init();
        self.carry_out(crate::irqchip::lapic::Effect::Address);
        self.pending = Pending::default();
        self.activity = Activity::at_reset(self.lapic.config());
        self.completion = super::Completion::None;
        self.replay = Replay::default();
        self.debugger.reset();
    }

    /// Start-up: real mode at the page `vector`. See: Intel SDM vol. 3, 9.4.4.
    fn start_up(&mut self, vector: u8) {
        let mut cs = self.engine.segment(Seg::Cs);
        cs.selector = u16::from(vector) << 8;
        cs.base = u64::from(vector) << 12;
        self.engine.set_segment(Seg::Cs, cs);
        self.engine.set_rip(0);
        self.activity = Activity::Running;
    }

    /// Whether RFLAGS.IF is on.
    pub(super) fn interrupts_enabled(&self) -> bool {
        self.engine.rflags() & rflags::IF != 0
    }

    /// Whether an external interrupt waits: the local APIC's, or the 8259s' through LINT0.
    fn interrupt_waits(&self) -> bool {
        self.pending.interrupt.is_some() || self.lapic.pending().is_some() || self.extint_waits()
    }

    fn extint_waits(&self) -> bool {
        self.machine.pic_output() && self.lapic.accepts_extint()
    }

    /// Whether the vCPU executes; a halted one starts to when an event ends that.
    pub(super) fn is_running(&mut self) -> bool {
        let woken = self.pending.event.is_some()
            || self.pending.nmi && !self.engine.nmi_blocked()
            || self.interrupts_enabled() && self.interrupt_waits();
        if self.activity == Activity::Halted && woken {
            self.statistics.count(VcpuStatistic::HaltWakeup);
            self.activity = Activity::Running;
            self.stuck = false;
        }
        self.activity == Activity::Running
    }

    /// Chooses what is injected, and what to wait for.
    #[inline(never)]
    pub(super) fn next_entry(&mut self) -> Entry {
        let [fresh, serialized] = [&mut self.fresh, &mut self.serialized].map(core::mem::take);
        let mut entry = Entry { fresh, serialized, ..Entry::default() };
        let shadow = self.engine.interrupt_shadow();
        entry.inject = self.take_event();
        if self.debugger.blocks_interrupts() {
            return entry;
        }
        if self.pending.nmi {
            if entry.inject.is_none() && !shadow && !self.engine.nmi_blocked() {
                self.pending.nmi = false;
                entry.inject = Some(Event::Nmi);
            } else {
                entry.nmi_window = true;
            }
        }
        // One behind which the local APIC lets nothing through is none: it would be waited for again and again.
        entry.interrupt_window = self.window && self.lapic.accepts_extint();
        if self.interrupt_waits() {
            if entry.inject.is_none() && !shadow && self.interrupts_enabled() {
                entry.inject = self.acknowledge();
                entry.interrupt_window |= self.interrupt_waits();
            } else {
                entry.interrupt_window = true;
            }
        }
        entry
    }

    /// Whether an interrupt of the VMM's would be injected at once.
    pub fn is_open(&self) -> bool {
        let Pending { event, interrupt, .. } = self.pending;
        let accepts = self.lapic.accepts_extint() && self.interrupts_enabled();
        accepts && event.is_none() && interrupt.is_none() && !self.engine.interrupt_shadow()
    }

    /// Has the VMM be told when [`is_open`](Self::is_open) is so: [`Exit::InterruptWindow`](super::Exit::InterruptWindow).
    pub fn ask_for_window(&mut self, on: bool) {
        self.window = on;
    }

    /// The processor's acknowledgement of an external interrupt. The 8259s come first, as
    /// their interrupts do not take part in the local APIC's priorities.
    #[inline(never)]
    fn acknowledge(&mut self) -> Option<Event> {
        if let Some(vector) = self.pending.interrupt.take() {
            return Some(Event::Interrupt { vector });
        }
        if self.extint_waits() {
            let vector = self.machine.with_chips(|chips, _| chips.acknowledge());
            return Some(Event::Interrupt { vector });
        }
        let vector = self.lapic.pending()?;
        self.lapic.acknowledge(vector);
        Some(Event::Interrupt { vector })
    }

    /// Takes the event to be injected, and moves RIP behind INT3 or INTO if it is of one.
    fn take_event(&mut self) -> Option<Event> {
        let event = self.pending.event.take()?;
        self.move_rip(event, 1);
        Some(event)
    }

    /// Puts an event back that was not delivered.
    pub(super) fn put_back(&mut self, event: Event) {
        self.move_rip(event, -1);
        self.pending.event = Some(event);
    }

    /// Moves RIP to the other side of the instruction of an event that is raised behind it.
    fn move_rip(&mut self, event: Event, by: i64) {
        let behind = matches!(event, Event::Exception(e) if matches!(e.vector, exception::BP | exception::OF));
        if behind {
            let next = self.engine.rip().wrapping_add_signed(by);
            self.engine.set_rip(if self.engine.mode64() { next } else { next & 0xffff_ffff });
        }
    }

    /// Raises an exception at the current instruction.
    pub(super) fn raise(&mut self, exception: Exception) {
        self.pending.event = Some(Event::Exception(exception));
    }
}
