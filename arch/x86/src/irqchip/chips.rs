//! The chips that all vCPUs share, wired as in a PC: [`Chips`], for behind one
//! interrupt-safe lock.
//!
//! Whatever is done to them yields [`Effects`], a value of fixed size that the caller carries out
//! after it has dropped the lock. Any context.
//!
//! Two threads may carry out theirs in the other order. That does no harm to messages, but `intr` and
//! `timer` say only that something changed: what is published of them must be read by
//! [`Chips::intr`] and [`Chips::deadline`] under a lock that the publishing is under too.
//!
//! The wiring: global system interrupt (GSI) n is input n of the I/O APIC and, below 16, of the 8259s;
//! but GSI 0 is the I/O APIC's pin 2, as the ACPI MADT's override for the timer says, and
//! the GSI 2 is wired to nothing, for it would be the cascade. [`Chips::set_gsi`] wires so;
//! [`Chips::set_pic_line`] and
//! [`Chips::set_ioapic_pin`] are for other routes. Channel 0 of the 8254 is GSI 0.
//!
//! An input may be active by several ([`Source`]). What an irqfd of a level has active it has until the interrupt ends, and not any more
//! when the chip looks whether the input still is.
//!
//! Not implemented: an end of interrupts that end as they are acknowledged (the 8259s' automatic EOI), or are
//! edge-triggered at the I/O APIC, but for the timer's where its ticks are made up for; the 8259s' output reaches the local APICs'
//! LINT0 only, not the I/O APIC's pin 0.

use virt::routing::{Reached, Source};

use super::i8254::Pit;
use super::i8259::{self, Pic};
use super::ioapic::{self, IoApic, Redirection};
use super::owed_ticks::OwedTicks;
use super::{Message, Messages};

/// The I/O APIC's pin that GSI 0 is.
const TIMER_PIN: usize = 2;
/// The 8259s' line that GSI 0 is.
const TIMER_LINE: u8 = 0;

/// What is to be done with the timer that calls [`Chips::advance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rearm {
    /// It stays as it is.
    #[default]
    Keep,
    /// It stops.
    Stop,
    /// It goes off at this time, in nanoseconds.
    At(u64),
}

/// What an access to the chips sets off. Every field is to be looked at, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// To be delivered to the local APICs.
    pub messages: Messages,
    /// The 8259s' output, if it changed: who accepts ExtINT must look, or need not any more.
    pub intr: Option<bool>,
    /// The 8254's timer.
    pub timer: Rearm,
    /// The I/O APIC's pins whose level-triggered interrupt was ended.
    pub ended_pins: u32,
    /// The 8259s' lines whose interrupt was ended by the guest.
    pub ended_lines: i8259::Ended,
}

/// Inputs that are active, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Inputs {
    /// The 8259s'.
    lines: u16,
    /// The I/O APIC's.
    pins: u32,
}

/// The 8259s, the 8254 if there is one, and the I/O APIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chips {
    pic: Pic,
    pit: Option<Pit>,
    ioapic: IoApic,
    /// The ticks that are made up for, if they are.
    owed: Option<OwedTicks>,
    /// What each [`Source`] has active.
    inputs: [Inputs; 2],
    // What the caller was told last.
    intr: bool,
    deadline: Option<u64>,
}

impl Chips {
    /// The chips after power-on.
    #[must_use]
    pub fn new(ioapic: ioapic::Version, pit: bool) -> Self {
        Self {
            pic: Pic::new(),
            pit: pit.then(Pit::new),
            ioapic: IoApic::new(ioapic),
            owed: None,
            inputs: [Inputs::default(); 2],
            intr: false,
            deadline: None,
        }
    }

    /// Power-on reset.
    pub fn reset(&mut self) -> Effects {
        self.pic.reset();
        self.ioapic.reset();
        if let Some(pit) = &mut self.pit {
            pit.reset();
        }
        self.forget_ticks();
        self.effects(Effects::default())
    }

    /// The 8259s.
    #[must_use]
    pub const fn pic(&self) -> &Pic {
        &self.pic
    }

    /// The 8254.
    #[must_use]
    pub const fn pit(&self) -> Option<&Pit> {
        self.pit.as_ref()
    }

    /// The I/O APIC.
    #[must_use]
    pub const fn ioapic(&self) -> &IoApic {
        &self.ioapic
    }

    /// Adds an 8254, after power-on, or takes it away.
    pub fn set_pit(&mut self, present: bool) -> Effects {
        self.pit = present.then(Pit::new);
        self.forget_ticks();
        self.effects(Effects::default())
    }

    /// Has ticks of the 8254 that come while the last has not ended be made up for, or lost.
    pub fn make_up_for_ticks(&mut self, on: bool) {
        self.owed = on.then(OwedTicks::default);
    }

    /// Nothing is owed any more.
    fn forget_ticks(&mut self) {
        if let Some(owed) = &mut self.owed {
            *owed = OwedTicks::default();
        }
    }

    /// The vector whose end at a local APIC, as an edge, [`eoi`](Self::eoi) is to be told of: the timer's, if ticks are made up for.
    #[must_use]
    pub fn tick_vector(&self) -> Option<u8> {
        self.owed?;
        let entry = self.ioapic.state().redirections.get(TIMER_PIN)?;
        (!entry.is_masked() && !entry.is_level()).then(|| entry.vector())
    }

    /// Whether the timer is masked at the 8259s, and at the I/O APIC.
    fn timer_is_masked(&self) -> [bool; 2] {
        let [first, _] = self.pic.chips();
        let entry = self.ioapic.state().redirections.get(TIMER_PIN);
        [first.imr & 1 << TIMER_LINE != 0, entry.is_none_or(|entry| entry.is_masked())]
    }

    /// What is owed is forgotten if the timer was masked at a chip and is not any more.
    fn follow_masks(&mut self, before: [bool; 2]) {
        let after = self.timer_is_masked();
        if before.iter().zip(after).any(|(before, after)| *before && !after) {
            self.forget_ticks();
        }
    }

    /// A tick has ended: the next may come.
    fn end_tick(&mut self, messages: &mut Messages) {
        if self.owed.as_mut().is_some_and(OwedTicks::end) {
            self.pulse(messages);
        }
    }

    /// Restores or changes the chips as `change` does. Who has inputs active is not restored: they are as they were saved until one moves
    /// them.
    pub fn restore(
        &mut self,
        change: impl FnOnce(&mut Pic, Option<&mut Pit>, &mut IoApic),
    ) -> Effects {
        change(&mut self.pic, self.pit.as_mut(), &mut self.ioapic);
        self.forget_ticks();
        self.effects(Effects::default())
    }

    /// Restores the I/O APIC, in whose `state` no pin is active, and then activates `pins`, a bit each: what waits there is sent.
    pub fn restore_ioapic(&mut self, state: ioapic::State, pins: u32) -> Effects {
        self.ioapic.set_state(state);
        self.forget_ticks();
        let mut messages = Messages::default();
        for pin in (0..ioapic::PINS).filter(|pin| pins >> pin & 1 != 0) {
            if let Some(message) = self.ioapic.set_line(pin, true) {
                messages.push(message);
            }
        }
        self.effects(Effects { messages, ..Effects::default() })
    }

    /// Sets the level of a GSI, by the wiring of a PC. A GSI that is not wired is ignored.
    pub fn set_gsi(&mut self, gsi: u32, level: bool) -> Effects {
        let (line, pin) = wiring(gsi);
        if let Some(line) = line {
            self.move_line(line, Source::Line, level);
        }
        let message = pin.and_then(|pin| self.move_pin(pin, Source::Line, level));
        self.effects(Effects { messages: message.into(), ..Effects::default() })
    }

    /// Sets the level that `source` has one of the 8259s' lines at.
    pub fn set_pic_line(&mut self, line: u8, source: Source, level: bool) -> Effects {
        self.move_line(line, source, level);
        self.effects(Effects::default())
    }

    /// Sets whether `source` has one of the I/O APIC's pins active.
    pub fn set_ioapic_pin(&mut self, pin: usize, source: Source, active: bool) -> Effects {
        let message = self.move_pin(pin, source, active);
        self.effects(Effects { messages: message.into(), ..Effects::default() })
    }

    /// What it comes to that one of the 8259s' lines is moved, before it is.
    #[must_use]
    pub fn pic_reaches(&self, line: u8, level: bool) -> Reached {
        let chip = self.pic.chips().get(usize::from(line / 8))?;
        let bit = 1 << (line % 8);
        if chip.imr & bit != 0 {
            return None;
        }
        let is_new = chip.elcr & bit != 0 || chip.lines & bit == 0;
        let waits = level && is_new && chip.irr() & bit != 0;
        Some(u32::from(!waits))
    }

    /// What it comes to that one of the I/O APIC's pins is moved, before it is, if not a message is sent.
    #[must_use]
    pub fn ioapic_reaches(&self, pin: usize, active: bool) -> Option<Reached> {
        let state = self.ioapic.state();
        let Some(entry) = state.redirections.get(pin) else { return Some(None) };
        if !active {
            return Some(Some(1));
        }
        if !entry.is_level() && state.lines >> pin & 1 != 0 {
            return Some(Some(0));
        }
        let is_held_up =
            entry.is_masked() || entry.is_level() && entry.0 & Redirection::REMOTE_IRR != 0;
        is_held_up.then_some(None)
    }

    fn move_line(&mut self, line: u8, source: Source, level: bool) {
        let Some(bit) = 1_u16.checked_shl(line.into()) else { return };
        let lines = &mut self.inputs[source as usize].lines;
        *lines = if level { *lines | bit } else { *lines & !bit };
        let active = self.inputs.iter().any(|inputs| inputs.lines & bit != 0);
        self.pic.set_line(line, active);
    }

    fn move_pin(&mut self, pin: usize, source: Source, active: bool) -> Option<Message> {
        let bit = 1_u32.checked_shl(pin as u32)?;
        let pins = &mut self.inputs[source as usize].pins;
        *pins = if active { *pins | bit } else { *pins & !bit };
        let active = self.inputs.iter().any(|inputs| inputs.pins & bit != 0);
        self.ioapic.set_line(pin, active)
    }

    /// The I/O APIC's pins that are not active any more when their interrupt has ended, a bit each.
    const fn falling(&self) -> u32 {
        let [lines, irqfds] = self.inputs;
        irqfds.pins & !lines.pins
    }

    /// What was active until its interrupt had ended is not any more.
    fn release(&mut self, ended_lines: i8259::Ended, ended_pins: u32) {
        let held = &mut self.inputs[Source::Irqfd as usize];
        // The I/O APIC has seen to its own.
        held.pins &= !ended_pins;
        let lines = held.lines & ended_lines;
        for line in (0..i8259::LINES).filter(|line| lines >> line & 1 != 0) {
            self.move_line(line, Source::Irqfd, false);
        }
    }

    /// The 8259s' output.
    #[must_use]
    pub fn intr(&self) -> bool {
        self.pic.output()
    }

    /// When [`Self::advance`] is due next, in nanoseconds.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.pit.as_ref().and_then(Pit::deadline)
    }

    /// A processor takes the 8259s' interrupt: says its vector.
    pub fn acknowledge(&mut self) -> (u8, Effects) {
        let (vector, mut messages) = (self.pic.acknowledge(), Messages::default());
        let [first, _] = self.pic.chips();
        if first.auto_eoi && vector == first.vector | TIMER_LINE {
            self.end_tick(&mut messages);
        }
        (vector, self.effects(Effects { messages, ..Effects::default() }))
    }

    /// A local APIC says that the level-triggered interrupt `vector` has ended, or that of [`tick_vector`](Self::tick_vector).
    pub fn eoi(&mut self, vector: u8) -> Effects {
        let is_tick = self.tick_vector() == Some(vector);
        let mut ended = self.ioapic.eoi(vector, self.falling());
        self.release(0, ended.pins);
        if is_tick || ended.pins & 1 << TIMER_PIN != 0 {
            self.end_tick(&mut ended.messages);
        }
        self.effects(Effects {
            messages: ended.messages,
            ended_pins: ended.pins,
            ..Effects::default()
        })
    }

    /// Time has come to `now`. To be called when the timer that [`Effects::timer`] armed went off; says
    /// when next, even if it went off too early.
    pub fn advance(&mut self, now: u64) -> Effects {
        let mut effects = Effects::default();
        self.deadline = None;
        self.tick(now, &mut effects);
        self.effects(effects)
    }

    /// Whether `port` is one of the chips'.
    #[must_use]
    pub const fn has_port(&self, port: u16) -> bool {
        Pic::has_port(port) || self.pit.is_some() && Pit::has_port(port)
    }

    /// Reads a byte from a port, which can have effects too: a poll acknowledges. Ports of others
    /// read as
    /// ones.
    pub fn read_port(&mut self, port: u16, now: u64) -> (u8, Effects) {
        let mut effects = Effects::default();
        let value = match &mut self.pit {
            Some(pit) if Pit::has_port(port) => {
                let value = pit.read_port(port, now);
                self.tick(now, &mut effects);
                value
            }
            _ => self.pic.read_port(port),
        };
        (value, self.effects(effects))
    }

    /// Writes a byte to a port. Ports of others are left alone.
    pub fn write_port(&mut self, port: u16, value: u8, now: u64) -> Effects {
        let mut effects = Effects::default();
        match &mut self.pit {
            Some(pit) if Pit::has_port(port) => {
                let before = pit.started();
                pit.write_port(port, value, now);
                let is_programmed = pit.started() != before;
                self.tick(now, &mut effects);
                if is_programmed {
                    self.forget_ticks();
                }
            }
            _ => {
                let masked = self.timer_is_masked();
                effects.ended_lines = self.pic.write_port(port, value);
                self.release(effects.ended_lines, 0);
                self.follow_masks(masked);
                if effects.ended_lines & 1 << TIMER_LINE != 0 {
                    self.end_tick(&mut effects.messages);
                }
            }
        }
        self.effects(effects)
    }

    /// Reads from the I/O APIC's address space.
    pub fn read_mmio(&self, offset: u64, data: &mut [u8]) {
        self.ioapic.read(offset, data);
    }

    /// Writes to the I/O APIC's address space.
    pub fn write_mmio(&mut self, offset: u64, data: &[u8]) -> Effects {
        let masked = self.timer_is_masked();
        let mut ended = self.ioapic.write(offset, data, self.falling());
        self.release(0, ended.pins);
        self.follow_masks(masked);
        if ended.pins & 1 << TIMER_PIN != 0 {
            self.end_tick(&mut ended.messages);
        }
        self.effects(Effects {
            messages: ended.messages,
            ended_pins: ended.pins,
            ..Effects::default()
        })
    }

    /// Brings the 8254's output at the time `now` to its line.
    fn tick(&mut self, now: u64, effects: &mut Effects) {
        let Some(pit) = &mut self.pit else { return };
        let ticks = pit.advance(now);
        let level = pit.output(now);
        if ticks != 0 && self.owed.as_mut().is_none_or(|owed| owed.come(ticks)) {
            self.pulse(&mut effects.messages);
        }
        // The lines rise with an edge only: that the output rests high after power-on is none.
        if !level {
            self.pic.set_line(TIMER_LINE, false);
            let _ = self.ioapic.set_line(TIMER_PIN, false);
        }
    }

    /// The 8254's line rises. However short the edge was, it was one.
    fn pulse(&mut self, messages: &mut Messages) {
        self.pic.set_line(TIMER_LINE, false);
        self.pic.set_line(TIMER_LINE, true);
        let _ = self.ioapic.set_line(TIMER_PIN, false);
        if let Some(message) = self.ioapic.set_line(TIMER_PIN, true) {
            messages.push(message);
        }
    }

    /// Adds what the caller must know of the output and the timer.
    fn effects(&mut self, mut effects: Effects) -> Effects {
        let intr = self.pic.output();
        if core::mem::replace(&mut self.intr, intr) != intr {
            effects.intr = Some(intr);
        }
        let deadline = self.deadline();
        if core::mem::replace(&mut self.deadline, deadline) != deadline {
            effects.timer = deadline.map_or(Rearm::Stop, Rearm::At);
        }
        effects
    }
}

/// The 8259s' line and the I/O APIC's pin that are wired to a GSI.
#[must_use]
pub fn wiring(gsi: u32) -> (Option<u8>, Option<usize>) {
    let pin = match gsi {
        0 => Some(TIMER_PIN),
        _ if gsi == TIMER_PIN as u32 => None,
        _ => usize::try_from(gsi).ok().filter(|pin| *pin < ioapic::PINS),
    };
    let line =
        u8::try_from(gsi).ok().filter(|line| *line < i8259::LINES && *line != i8259::CASCADE);
    (line, pin)
}
