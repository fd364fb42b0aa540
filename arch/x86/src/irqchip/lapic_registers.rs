//! The registers of a [`LocalApic`]: as a page of memory (xAPIC), as MSRs 0x800–0x8ff
//! (x2APIC), and all at once, to be saved and restored.
//! See: Intel SDM vol. 3, tables 11-1 and 11-6.
//!
//! `now` is needed by the timer's registers only.

use super::destination::{Mode, Model};
use super::lapic::{Effect, FIRST_LEGAL_VECTOR, GeneralProtection, LocalApic, esr, svr};
use super::lapic_timer::{self, Timer};
use super::lvt::{Entry, Source};
use super::vectors::Vectors;
use super::{Delivery, Message, Shorthand, widen_destination};

/// The first MSR of x2APIC mode, and the last that is set aside for it.
pub(super) const FIRST_MSR: u32 = 0x800;
pub(super) const LAST_MSR: u32 = 0x8ff;

/// The interrupt command register. See: Intel SDM vol. 3, 11.6.1 and 11.12.9.
mod icr {
    pub const VECTOR: u64 = 0xff;
    pub const DELIVERY: u64 = 7 << 8;
    pub const LOGICAL: u64 = 1 << 11;
    /// Read-only, and always idle: a message is sent in no time.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    pub const ASSERT: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const SHORTHAND: u64 = 3 << 18;
    /// An xAPIC's.
    pub const DESTINATION: u64 = 0xff << 56;
    /// An x2APIC's.
    pub const WIDE_DESTINATION: u64 = 0xffff_ffff << 32;
    pub const WRITABLE_LOW: u64 = VECTOR | DELIVERY | LOGICAL | ASSERT | LEVEL | SHORTHAND;
}

/// The version register: version 0x15, the last entry of the local vector table, and that EOI broadcasts
/// can be suppressed. See: Intel SDM vol. 3, 11.4.8.
const VERSION: u32 = 0x15 | (Source::COUNT as u32 - 1) << 16 | 1 << 24;

/// The DFR's upper four bits in the flat model; the others are ones.
const DFR_FLAT: u32 = 0xffff_ffff;
const DFR_CLUSTER: u32 = 0x0fff_ffff;
const DFR_MODEL: u32 = 0xf000_0000;

/// A register, by its place: offset / 16, or MSR - 0x800.
#[derive(Clone, Copy)]
enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    SpuriousVector,
    InService(usize),
    TriggerMode(usize),
    Request(usize),
    ErrorStatus,
    Command,
    CommandHigh,
    Local(Source),
    InitialCount,
    CurrentCount,
    Divide,
    SelfIpi,
}

impl Register {
    const fn at(index: u32) -> Option<Self> {
        Some(match index {
            0x02 => Register::Id,
            0x03 => Register::Version,
            0x08 => Register::TaskPriority,
            0x09 => Register::ArbitrationPriority,
            0x0a => Register::ProcessorPriority,
            0x0b => Register::EndOfInterrupt,
            0x0c => Register::RemoteRead,
            0x0d => Register::LogicalDestination,
            0x0e => Register::DestinationFormat,
            0x0f => Register::SpuriousVector,
            0x10..=0x17 => Register::InService(index as usize - 0x10),
            0x18..=0x1f => Register::TriggerMode(index as usize - 0x18),
            0x20..=0x27 => Register::Request(index as usize - 0x20),
            0x28 => Register::ErrorStatus,
            0x30 => Register::Command,
            0x31 => Register::CommandHigh,
            0x32 => Register::Local(Source::Timer),
            0x33 => Register::Local(Source::Thermal),
            0x34 => Register::Local(Source::Performance),
            0x35 => Register::Local(Source::Lint0),
            0x36 => Register::Local(Source::Lint1),
            0x37 => Register::Local(Source::Error),
            0x38 => Register::InitialCount,
            0x39 => Register::CurrentCount,
            0x3e => Register::Divide,
            0x3f => Register::SelfIpi,
            _ => return None,
        })
    }

    /// Whether the page has it.
    const fn in_xapic(self) -> bool {
        !matches!(self, Register::SelfIpi)
    }

    /// Whether there is an MSR for it.
    const fn in_x2apic(self) -> bool {
        !matches!(
            self,
            Register::ArbitrationPriority
                | Register::RemoteRead
                | Register::DestinationFormat
                | Register::CommandHigh
        )
    }
}

/// How many registers the page has, 16 bytes to each.
pub const REGISTERS: usize = 64;

impl LocalApic {
    /// Whether `msr` is one of x2APIC mode's.
    #[must_use]
    pub const fn has_msr(msr: u32) -> bool {
        FIRST_MSR <= msr && msr <= LAST_MSR
    }

    /// Reads from the page at `offset`, modulo its size. What lies between the registers reads 0.
    pub fn read_page(&mut self, offset: u64, data: &mut [u8], now: u64) {
        data.fill(0);
        let offset = (offset & super::lapic::base::PAGE_OFFSET) as usize;
        let register = Register::at((offset / 16) as u32).filter(|register| register.in_xapic());
        let Some(register) = register else {
            return self.error(esr::ILLEGAL_REGISTER);
        };
        let bytes = self.read(register, now).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(offset % 16)) {
            *byte = *value;
        }
    }

    /// Writes to the page at `offset`, modulo its size. A write that is not of a whole register,
    /// aligned, is ignored.
    pub fn write_page(&mut self, offset: u64, data: &[u8], now: u64) -> Effect {
        let offset = offset & super::lapic::base::PAGE_OFFSET;
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return Effect::None;
        };
        if !offset.is_multiple_of(16) {
            return Effect::None;
        }
        let register = Register::at((offset / 16) as u32).filter(|register| register.in_xapic());
        let Some(register) = register else {
            self.error(esr::ILLEGAL_REGISTER);
            return Effect::None;
        };
        let value = u32::from_le_bytes(bytes);
        match register {
            Register::LogicalDestination => {
                self.state.logical_id = (value >> 24) as u8;
                Effect::Address
            }
            Register::DestinationFormat => {
                self.state.model = model_of(value);
                Effect::Address
            }
            Register::Command => {
                let high = self.state.icr & !u64::from(u32::MAX);
                self.command(high | u64::from(value))
            }
            Register::CommandHigh => {
                let low = self.state.icr & u64::from(u32::MAX);
                self.state.icr = (u64::from(value) << 32) & icr::DESTINATION | low;
                Effect::None
            }
            _ => self.write(register, value, now),
        }
    }

    /// Reads an MSR of x2APIC mode.
    ///
    /// # Errors
    /// #GP out of that mode, and where there is nothing to be read.
    pub fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        match self.msr(msr)? {
            Register::EndOfInterrupt | Register::SelfIpi => Err(GeneralProtection),
            Register::Command => Ok(self.state.icr),
            register => Ok(u64::from(self.read(register, now))),
        }
    }

    /// Writes an MSR of x2APIC mode.
    ///
    /// # Errors
    /// #GP out of that mode, where there is nothing to be written, and for reserved bits.
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<Effect, GeneralProtection> {
        let register = self.msr(msr)?;
        let defined = match register {
            Register::TaskPriority | Register::SelfIpi => 0xff,
            Register::EndOfInterrupt | Register::ErrorStatus => 0,
            Register::SpuriousVector => svr::DEFINED.into(),
            Register::Local(source) => {
                u64::from(source.writable(self.config.tsc_deadline) | source.read_only())
            }
            Register::InitialCount => u32::MAX.into(),
            Register::Divide => Timer::DIVIDE_BITS.into(),
            Register::Command => icr::WRITABLE_LOW | icr::DELIVERY_STATUS | icr::WIDE_DESTINATION,
            // Read-only.
            _ => return Err(GeneralProtection),
        };
        if value & !defined != 0 {
            return Err(GeneralProtection);
        }
        Ok(match register {
            Register::Command => self.command(value),
            Register::SelfIpi => self.command(
                u64::from(value as u8)
                    | (Shorthand::Myself as u64) << icr::SHORTHAND.trailing_zeros(),
            ),
            _ => self.write(register, value as u32, now),
        })
    }

    /// The register behind an MSR.
    fn msr(&self, msr: u32) -> Result<Register, GeneralProtection> {
        if self.mode() != Mode::X2Apic {
            return Err(GeneralProtection);
        }
        msr.checked_sub(FIRST_MSR)
            .and_then(Register::at)
            .filter(|register| register.in_x2apic())
            .ok_or(GeneralProtection)
    }

    /// All registers as they read, in their order on the page. The TSC deadline is not among them.
    #[must_use]
    pub fn registers(&self, now: u64) -> [u32; REGISTERS] {
        let mut registers = [0; REGISTERS];
        for (index, value) in registers.iter_mut().enumerate() {
            if let Some(register) = Register::at(index as u32) {
                *value = self.read(register, now);
            }
        }
        registers
    }

    /// Sets all registers, none of them with its effects: to restore [`Self::registers`]. The
    /// mode must have been set
    /// before, the ID stays, and the TSC deadline is set after. The address and the
    /// deadline change.
    pub fn set_registers(&mut self, registers: &[u32; REGISTERS], now: u64) {
        let mut current = 0;
        // Nothing of the old count may expire in between.
        self.state.timer = Timer::default();
        for (index, value) in registers.iter().enumerate() {
            let Some(register) = Register::at(index as u32) else {
                continue;
            };
            match register {
                Register::LogicalDestination => self.state.logical_id = (value >> 24) as u8,
                Register::DestinationFormat => self.state.model = model_of(*value),
                // Vectors that cannot be accepted, too, as Linux: their class is never above the processor's.
                Register::InService(n) => self.state.isr.set_word(n, *value),
                Register::TriggerMode(n) => self.state.tmr.set_word(n, *value),
                Register::Request(n) => self.state.irr.set_word(n, *value),
                Register::ErrorStatus => self.state.esr = value & esr::DEFINED,
                Register::Command => {
                    let high = self.state.icr & !u64::from(u32::MAX);
                    self.state.icr = high | u64::from(*value) & !icr::DELIVERY_STATUS;
                }
                Register::CommandHigh => {
                    let low = self.state.icr & u64::from(u32::MAX);
                    self.state.icr = u64::from(*value) << 32 | low;
                }
                Register::SpuriousVector => self.state.svr = value & svr::DEFINED,
                // Whatever the SVR says: the mask bits are what was saved.
                Register::Local(source) => self.set_local(source, *value),
                Register::CurrentCount => current = *value,
                Register::TaskPriority | Register::InitialCount | Register::Divide => {
                    let _ = self.write(register, *value, now);
                }
                Register::Id
                | Register::Version
                | Register::ArbitrationPriority
                | Register::ProcessorPriority
                | Register::EndOfInterrupt
                | Register::RemoteRead
                | Register::SelfIpi => {}
            }
        }
        self.state.timer.set_current_count(current, now);
    }

    /// The value of a register, in the mode's own form.
    fn read(&self, register: Register, now: u64) -> u32 {
        let state = &self.state;
        match register {
            Register::Id => match self.mode() {
                Mode::X2Apic => self.config.id,
                Mode::Disabled | Mode::XApic => self.config.id << 24,
            },
            Register::Version => VERSION,
            Register::TaskPriority => state.tpr.into(),
            Register::ProcessorPriority => self.ppr().into(),
            Register::LogicalDestination => self.ldr(),
            Register::DestinationFormat => match state.model {
                Model::Flat => DFR_FLAT,
                Model::Cluster => DFR_CLUSTER,
            },
            Register::SpuriousVector => state.svr,
            Register::InService(n) => state.isr.word(n),
            Register::TriggerMode(n) => state.tmr.word(n),
            Register::Request(n) => state.irr.word(n),
            Register::ErrorStatus => state.esr,
            Register::Command => state.icr as u32,
            Register::CommandHigh => (state.icr >> 32) as u32,
            Register::Local(source) => state.lvt[source as usize].0,
            Register::InitialCount => state.timer.initial_count(),
            Register::CurrentCount => state.timer.current_count(now),
            Register::Divide => state.timer.divide(),
            Register::ArbitrationPriority
            | Register::EndOfInterrupt
            | Register::RemoteRead
            | Register::SelfIpi => 0,
        }
    }

    /// Writes a register whose effect is the same in both modes; the others, and read-only
    /// ones, are left alone.
    fn write(&mut self, register: Register, value: u32, now: u64) -> Effect {
        match register {
            Register::TaskPriority => {
                self.state.tpr = value as u8;
                Effect::None
            }
            Register::EndOfInterrupt => self.end_of_interrupt(),
            Register::SpuriousVector => self.set_spurious(value),
            Register::ErrorStatus => {
                self.state.esr = core::mem::take(&mut self.state.errors);
                Effect::None
            }
            Register::Local(source) => {
                self.catch_up(now);
                let enabled = self.state.svr & svr::ENABLED != 0;
                self.set_local(source, if enabled { value } else { value | Entry::MASKED });
                if source == Source::Timer { Effect::Timer } else { Effect::None }
            }
            Register::InitialCount => {
                self.catch_up(now);
                self.state.timer.set_initial_count(value, now);
                Effect::Timer
            }
            Register::Divide => {
                self.catch_up(now);
                self.state.timer.set_divide(value, now);
                Effect::Timer
            }
            _ => Effect::None,
        }
    }

    /// Lets a count that has run out interrupt under the old settings, before they change.
    fn catch_up(&mut self, now: u64) {
        // A TSC of 0 reaches no deadline.
        let _ = self.advance(now, 0);
    }

    fn set_local(&mut self, source: Source, value: u32) {
        let entry = Entry(value & source.writable(self.config.tsc_deadline));
        self.state.lvt[source as usize] = entry;
        if source == Source::Timer {
            self.state.timer.set_mode(lapic_timer::Mode::of(entry));
        }
    }

    /// Writes the spurious-interrupt vector register. Disabling masks every local interrupt; what is
    /// requested or in service stays. See: Intel SDM vol. 3, 11.4.7.2.
    fn set_spurious(&mut self, value: u32) -> Effect {
        let changed = (self.state.svr ^ value) & svr::ENABLED != 0;
        self.state.svr = value & svr::DEFINED;
        if self.state.svr & svr::ENABLED == 0 {
            for entry in &mut self.state.lvt {
                entry.0 |= Entry::MASKED;
            }
        }
        if changed { Effect::Address } else { Effect::None }
    }

    /// Writes the interrupt command register, which sends a message. To itself it is accepted here.
    ///
    /// Trigger mode and level matter for INIT alone, whose deassertion does nothing since the
    /// Pentium 4. See: Intel SDM vol. 3, 11.6.1.
    fn command(&mut self, value: u64) -> Effect {
        let x2apic = self.mode() == Mode::X2Apic;
        let destination = if x2apic { icr::WIDE_DESTINATION } else { icr::DESTINATION };
        // Reserved bits of an xAPIC's stay as they were written, as in Linux; an x2APIC's were refused.
        self.state.icr = value & (u64::from(u32::MAX) & !icr::DELIVERY_STATUS | destination);
        let low = value as u32;
        let delivery = low >> icr::DELIVERY.trailing_zeros();
        // The reserved mode was remote read: nobody answers.
        let Some(delivery) = Delivery::from_bits(delivery) else {
            return Effect::None;
        };
        let vector = (value & icr::VECTOR) as u8;
        let shorthand = Shorthand::from_bits(low >> icr::SHORTHAND.trailing_zeros());
        let deassert = value & icr::LEVEL != 0 && value & icr::ASSERT == 0;
        if delivery == Delivery::Init && deassert {
            return Effect::None;
        }
        if delivery.has_vector() && vector < FIRST_LEGAL_VECTOR {
            self.error(esr::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        if delivery.has_vector() && shorthand == Shorthand::Myself {
            self.accept(vector, false);
            return Effect::None;
        }
        Effect::Send(Message {
            destination: if x2apic {
                (value >> 32) as u32
            } else {
                widen_destination((value >> 56) as u8)
            },
            logical: value & icr::LOGICAL != 0,
            delivery,
            vector,
            level: false,
            assert: true,
            shorthand,
        })
    }
}

/// The model that a value of the DFR says.
const fn model_of(dfr: u32) -> Model {
    if dfr & DFR_MODEL == DFR_MODEL { Model::Flat } else { Model::Cluster }
}

const _: () = assert!(Vectors::WORDS == 8, "the page has eight registers to each set");
