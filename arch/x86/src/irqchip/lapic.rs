//! The local APIC of one vCPU: [`LocalApic`].
//!
//! It belongs to its vCPU's thread and has no lock. Messages of others come in by
//! [`LocalApic::accept`]; the run loop asks [`LocalApic::pending`], injects, and
//! calls [`LocalApic::acknowledge`]. What a write of a register makes others do comes
//! out as an [`Effect`]. The registers themselves are in `lapic_registers`, the timer in
//! [`super::lapic_timer`].
//!
//! After Intel SDM vol. 3, chapter 11 (revision of 2023). Not implemented, or otherwise:
//! - the memory page's address can be moved, but is not held against other memory;
//! - arbitration (APR, arbitration IDs, remote read): the registers read 0;
//! - the xAPIC ID is read-only, as on processors with x2APIC;
//! - SMI, INIT, NMI and start-up messages are the run loop's; a message that nobody accepts is no error
//!   (the ESR's bits 0–4 stay 0, as since the Pentium 4);
//! - the legacy NMI watchdog, by which the 8254 reaches LINT0 as NMI;
//! - focus processor checking is stored, without effect.

use super::destination::{Address, Mode, Model, x2apic_logical_id};
use super::lapic_timer::{Deadline, Timer};
use super::lvt::{Entry, Source};
use super::vectors::Vectors;
use super::{Delivery, Message};

/// IA32_APIC_BASE. See: Intel SDM vol. 3, 11.4.4 and 11.12.1.
pub mod base {
    /// Read-only here: this is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const EXTD: u64 = 1 << 10;
    /// Global enable.
    pub const EN: u64 = 1 << 11;
    /// The page of the registers after reset.
    pub const DEFAULT: u64 = 0xfee0_0000;
    /// The bits below the address.
    pub const PAGE_OFFSET: u64 = 0xfff;
}

/// The spurious-interrupt vector register. See: Intel SDM vol. 3, 11.9.
pub mod svr {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Software enable.
    pub const ENABLED: u32 = 1 << 8;
    /// Focus processor checking is off.
    pub const NO_FOCUS: u32 = 1 << 9;
    /// EOIs are not broadcast: the guest writes the I/O APIC's EOI register itself.
    pub const SUPPRESS_EOI: u32 = 1 << 12;
    /// Every bit that is defined.
    pub const DEFINED: u32 = VECTOR | ENABLED | NO_FOCUS | SUPPRESS_EOI;
}

/// The error status register. See: Intel SDM vol. 3, 11.5.3.
pub mod esr {
    /// An interrupt was to be sent with a vector below 16.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// An interrupt was received with a vector below 16.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// A register was accessed that is not there.
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
    /// Every bit that can be set.
    pub const DEFINED: u32 = SEND_ILLEGAL_VECTOR | RECEIVE_ILLEGAL_VECTOR | ILLEGAL_REGISTER;
}

/// Vectors below this are the processor's exceptions.
pub(super) const FIRST_LEGAL_VECTOR: u8 = 16;

/// A general-protection fault: what a bad access to an MSR raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// What the caller must do after a write to a register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// Deliver the message, with this local APIC as its sender.
    Send(Message),
    /// Tell the I/O APICs that the level-triggered interrupt with this vector has ended.
    EndOfInterrupt(u8),
    /// An edge-triggered one ended.
    EndOfEdge(u8),
    /// Ask [`LocalApic::deadline`] again.
    Timer,
    /// Publish [`LocalApic::address`] again, and ask [`LocalApic::deadline`] and
    /// [`LocalApic::page`].
    Address,
}

/// What does not change while the vCPU runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The x2APIC ID; the xAPIC ID is its low eight bits.
    pub id: u32,
    /// Whether it is the bootstrap processor's.
    pub bootstrap: bool,
    /// There is none here: whoever runs the vCPU has one. IA32_APIC_BASE and the task priority are kept, without effect.
    pub absent: bool,
    /// CPUID offers x2APIC mode.
    pub x2apic: bool,
    /// CPUID offers the timer's TSC-deadline mode.
    pub tsc_deadline: bool,
    /// How many bits a guest-physical address has, for [`LocalApic::set_base`].
    pub physical_bits: u8,
}

/// What the guest sees and changes: saved, restored and reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// IA32_APIC_BASE.
    pub base: u64,
    /// Task priority.
    pub tpr: u8,
    /// Logical destination: bits 24–31 of the LDR (xAPIC only).
    pub logical_id: u8,
    /// The DFR (xAPIC only).
    pub model: Model,
    /// Spurious-interrupt vector register.
    pub svr: u32,
    /// In service.
    pub isr: Vectors,
    /// Trigger mode of each vector accepted last: set if level.
    pub tmr: Vectors,
    /// Requested.
    pub irr: Vectors,
    /// The error status register as it reads.
    pub esr: u32,
    /// Errors since it was last written.
    pub errors: u32,
    /// Interrupt command register, without the delivery status.
    pub icr: u64,
    /// Local vector table, by [`Source`].
    pub lvt: [Entry; Source::COUNT],
    /// The timer.
    pub timer: Timer,
}

impl State {
    /// The state after power-on. See: Intel SDM vol. 3, 11.4.7.1.
    ///
    /// Deviation: LINT0 of the bootstrap processor lets the 8259s' interrupts through, as
    /// firmware leaves it
    /// (virtual wire mode; MultiProcessor Specification 1.4, 3.6.2.2), because a guest may
    /// be started without firmware. KVM does the same.
    fn at_reset(config: &Config) -> Self {
        let mut lvt = [Entry::RESET; Source::COUNT];
        let mut base = base::DEFAULT | base::EN;
        if config.bootstrap {
            base |= base::BSP;
            let extint = (Delivery::ExtInt as u32) << Entry::DELIVERY.trailing_zeros();
            lvt[Source::Lint0 as usize] = Entry(extint);
        }
        Self {
            base,
            tpr: 0,
            logical_id: 0,
            model: Model::Flat,
            svr: svr::VECTOR,
            isr: Vectors::new(),
            tmr: Vectors::new(),
            irr: Vectors::new(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt,
            timer: Timer::default(),
        }
    }
}

/// A local APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalApic {
    // Fixed configuration; may be set anew when CPUID is.
    pub(super) config: Config,
    // Volatile state.
    pub(super) state: State,
}

impl LocalApic {
    /// A local APIC after power-on.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let state = State::at_reset(&config);
        Self { config, state }
    }

    /// Its configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration, to be changed while the vCPU does not run.
    pub const fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The state, to be restored.
    pub const fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Power-on reset. The address changes.
    pub fn reset(&mut self) {
        self.state = State::at_reset(&self.config);
    }

    /// INIT: as after power-on, but IA32_APIC_BASE stays, and with it the mode. The address changes.
    /// See: Intel SDM vol. 3, 11.4.7.3 and 11.12.5.1.
    pub fn init(&mut self) {
        let base = self.state.base;
        self.reset();
        self.state.base = base;
    }

    /// Disabled, xAPIC or x2APIC.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.config.absent { Mode::Disabled } else { mode_of(self.state.base) }
    }

    /// Whether it is on, globally.
    const fn is_on(&self) -> bool {
        !self.config.absent && self.state.base & base::EN != 0
    }

    /// What it answers to.
    #[must_use]
    pub const fn address(&self) -> Address {
        Address {
            id: self.config.id,
            logical_id: self.state.logical_id,
            model: self.state.model,
            mode: self.mode(),
            enabled: self.enabled(),
        }
    }

    /// Whether it takes interrupts with vectors: enabled both globally and by software.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.is_on() && self.state.svr & svr::ENABLED != 0
    }

    /// The guest-physical page at which an access means its registers: none in x2APIC mode.
    #[must_use]
    pub const fn page(&self) -> Option<u64> {
        match self.mode() {
            Mode::XApic => Some(self.state.base & !base::PAGE_OFFSET),
            Mode::Disabled | Mode::X2Apic => None,
        }
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.state.base
    }

    /// Sets IA32_APIC_BASE. See: Intel SDM vol. 3, 11.12.5, figure 11-27.
    ///
    /// # Errors
    /// Reserved bits, x2APIC mode where there is none, and forbidden transitions raise #GP.
    pub fn set_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        self.check_base(value)?;
        if self.config.absent {
            self.state.base = value;
            return Ok(Effect::None);
        }
        // Enabled and extended, from and to.
        let modes = (self.state.base & (base::EN | base::EXTD), value & (base::EN | base::EXTD));
        match modes {
            (from, to) if from == to => {}
            // Disabled to xAPIC, xAPIC to x2APIC.
            (0, base::EN) => {}
            (base::EN, _) => self.state.icr &= u64::from(u32::MAX),
            // Off, from either mode: as after power-on when it comes on again.
            (_, 0) => {}
            // x2APIC to xAPIC, disabled to x2APIC.
            _ => return Err(GeneralProtection),
        }
        if modes.1 == 0 {
            self.reset();
        }
        self.state.base = value;
        Ok(Effect::Address)
    }

    /// Whether IA32_APIC_BASE may have a value at all.
    ///
    /// # Errors
    /// Not with reserved bits, and not in x2APIC mode where there is none, or that is not enabled.
    pub fn check_base(&self, value: u64) -> Result<(), GeneralProtection> {
        let address_bits = 1_u64.checked_shl(self.config.physical_bits.into()).unwrap_or(0);
        let address = address_bits.wrapping_sub(1) & !base::PAGE_OFFSET;
        let extended = if self.config.x2apic { base::EXTD } else { 0 };
        let reserved = value & !(address | base::BSP | base::EN | extended) != 0;
        let x2apic_alone = value & (base::EN | base::EXTD) == base::EXTD;
        if reserved || x2apic_alone { Err(GeneralProtection) } else { Ok(()) }
    }

    /// Restores IA32_APIC_BASE: from any mode to any other, with the other registers as they are.
    ///
    /// # Errors
    /// As [`Self::check_base`].
    pub fn restore_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        self.check_base(value)?;
        self.state.base = value;
        Ok(Effect::Address)
    }

    /// CR8: the class of the task priority.
    #[must_use]
    pub const fn cr8(&self) -> u64 {
        self.state.tpr as u64 >> 4
    }

    /// Sets CR8, the caller having checked that bits 4–63 are 0. See: Intel SDM vol. 3, 11.8.6.
    pub const fn set_cr8(&mut self, value: u64) {
        self.state.tpr = (value as u8) << 4;
    }

    /// Sets the task priority.
    pub const fn set_task_priority(&mut self, value: u8) {
        self.state.tpr = value;
    }

    /// The processor priority. See: Intel SDM vol. 3, 11.8.3.1.
    #[must_use]
    pub fn ppr(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0) & 0xf0;
        if self.state.tpr & 0xf0 >= in_service { self.state.tpr } else { in_service }
    }

    /// Takes an interrupt with a vector into the request register; not if disabled.
    ///
    /// Returns whether it did: what it takes while the vector is already requested is merged with it.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.error(esr::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.state.irr.insert(vector);
        self.state.tmr.set(vector, level);
        true
    }

    /// The interrupt that the processor should take now, if its flag allows.
    #[must_use]
    pub fn pending(&self) -> Option<u8> {
        if !self.is_on() {
            return None;
        }
        let vector = self.state.irr.highest()?;
        (vector & 0xf0 > self.ppr() & 0xf0).then_some(vector)
    }

    /// The processor takes `vector`, as [`Self::pending`] said: it is in service until its EOI.
    pub const fn acknowledge(&mut self, vector: u8) {
        self.state.irr.remove(vector);
        self.state.isr.insert(vector);
    }

    /// The guest ends the interrupt of highest priority in service. See: Intel SDM vol. 3, 11.8.5.
    pub fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.state.isr.highest() else {
            return Effect::None;
        };
        self.state.isr.remove(vector);
        if !self.state.tmr.contains(vector) {
            Effect::EndOfEdge(vector)
        } else if self.state.svr & svr::SUPPRESS_EOI == 0 {
            Effect::EndOfInterrupt(vector)
        } else {
            Effect::None
        }
    }

    /// Whether an interrupt of the 8259s reaches the processor: through LINT0 as ExtINT, or
    /// directly while the local APIC is off globally. See: Intel SDM vol. 3, 11.4.3 and 11.5.1.
    #[must_use]
    pub const fn accepts_extint(&self) -> bool {
        let entry = self.state.lvt[Source::Lint0 as usize];
        let through = !entry.masked() && matches!(entry.delivery(), Some(Delivery::ExtInt));
        !self.is_on() || through
    }

    /// `source` has something to interrupt for. An interrupt with a vector is accepted; any other
    /// kind is the caller's to deliver to the processor.
    ///
    /// An ExtINT on LINT0 is asked for by [`Self::accepts_extint`].
    #[must_use = "an NMI is the caller's to deliver"]
    pub fn local_interrupt(&mut self, source: Source) -> Option<Delivery> {
        if !self.is_on() {
            // LINT1 is then the processor's NMI pin.
            return (source == Source::Lint1).then_some(Delivery::Nmi);
        }
        let entry = self.state.lvt[source as usize];
        if entry.masked() {
            return None;
        }
        match (source, entry.delivery()?) {
            // These two entries have no delivery mode.
            (Source::Timer | Source::Error, _) | (_, Delivery::Fixed) => {
                self.accept(entry.vector(), false);
                None
            }
            (_, Delivery::LowestPriority | Delivery::StartUp) => None,
            (_, other) => Some(other),
        }
    }

    /// When [`Self::advance`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.state.timer.deadline()
    }

    /// Time has come to `now` nanoseconds and the guest's TSC to `tsc`: says whether the timer expired.
    /// Its interrupt, unless masked, has then been accepted: there is nothing more to do for it.
    pub fn advance(&mut self, now: u64, tsc: u64) -> bool {
        let expired = self.state.timer.expired(now, tsc);
        if expired {
            // The timer's entry has no delivery mode: there is nothing for the caller.
            let _ = self.local_interrupt(Source::Timer);
        }
        expired
    }

    /// IA32_TSC_DEADLINE (MSR 0x6e0).
    #[must_use]
    pub const fn tsc_deadline(&self) -> u64 {
        self.state.timer.tsc_deadline()
    }

    /// Sets IA32_TSC_DEADLINE.
    pub fn set_tsc_deadline(&mut self, value: u64) -> Effect {
        self.state.timer.set_tsc_deadline(value);
        Effect::Timer
    }

    /// Notes an error, and interrupts for it if it is new. See: Intel SDM vol. 3, 11.5.3.
    pub(super) fn error(&mut self, bits: u32) {
        if self.state.errors & bits != bits {
            // Noted first: an error entry with an illegal vector makes one more error, and then ends.
            self.state.errors |= bits;
            // The error's entry has no delivery mode: there is nothing for the caller.
            let _ = self.local_interrupt(Source::Error);
        }
    }

    /// The logical destination register as it reads.
    pub(super) const fn ldr(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => x2apic_logical_id(self.config.id),
            Mode::Disabled | Mode::XApic => (self.state.logical_id as u32) << 24,
        }
    }
}

/// The mode that a value of IA32_APIC_BASE says.
const fn mode_of(base: u64) -> Mode {
    match (base & base::EN != 0, base & base::EXTD != 0) {
        (false, _) => Mode::Disabled,
        (true, false) => Mode::XApic,
        (true, true) => Mode::X2Apic,
    }
}
