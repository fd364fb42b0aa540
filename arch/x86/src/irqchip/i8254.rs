//! The 8254 timer of a PC and its port 0x61: [`Pit`].
//!
//! It counts ticks of 1.193182 MHz since time 0 of the caller's clock. A count is held as the tick at
//! which it was loaded, so that it neither ticks nor drifts; outputs and counts are computed
//! for the tick that is asked for. Channel 0's output is the interrupt ([`Pit::advance`],
//! [`Pit::deadline`]), channel 1 was memory refresh, channel 2 is the speaker and has a
//! gate.
//!
//! After the Intel 82C54 datasheet (1994). Not implemented, or otherwise:
//! - a count runs from the tick after it was written, in modes 1 and 5 after the trigger; that an
//!   odd count of mode 3 is first decremented by 1 or 3 is not shown;
//! - while the gate stops modes 2 and 3 the count reads as it was loaded;
//! - digits above 9 in BCD count as what they would be worth;
//! - no sound: the speaker's bit is stored;
//! - a periodic channel 0 reports at most one deadline every [`MIN_PERIOD`] ticks.

use super::i8254_counter::{Counter, Tick};

/// The frequency, in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;

/// How close channel 0's deadlines can come to each other, in ticks: 20 µs.
pub const MIN_PERIOD: Tick = 24;

const NS_PER_S: u64 = 1_000_000_000;

/// The I/O ports.
pub mod port {
    #![allow(missing_docs, reason = "the names are the datasheets'")]
    pub const COUNTER_0: u16 = 0x40;
    pub const COUNTER_1: u16 = 0x41;
    pub const COUNTER_2: u16 = 0x42;
    pub const CONTROL: u16 = 0x43;
    /// NMI status and control, of which the timer's bits are here.
    pub const SYSTEM_B: u16 = 0x61;
}

/// Port 0x61. See: 82371AB (PIIX4), 4.2.6.1.
mod system_b {
    /// The gate of channel 2.
    pub const GATE_2: u8 = 1 << 0;
    /// Channel 2's output goes to the speaker.
    pub const SPEAKER: u8 = 1 << 1;
    /// Read-only: toggles with each refresh of memory.
    pub const REFRESH: u8 = 1 << 4;
    /// Read-only: channel 2's output.
    pub const OUT_2: u8 = 1 << 5;
}

/// How many ticks there are between refreshes: 15 µs.
const REFRESH_TICKS: Tick = 18;

/// The control word. See: 82C54, figure 7.
mod control {
    /// Which counter; 3 is the read-back command.
    pub const COUNTER_SHIFT: u32 = 6;
    pub const READ_BACK: u8 = 3;
    /// In a read-back command, active low: latch the count.
    pub const NO_COUNT: u8 = 1 << 5;
    /// In a read-back command, active low: latch the status.
    pub const NO_STATUS: u8 = 1 << 4;
    /// In a read-back command: counter 0; the others are above.
    pub const READ_BACK_0: u8 = 1 << 1;
}

/// The timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pit {
    // Volatile state.
    counters: [Counter; 3],
    /// Port 0x61's speaker bit.
    speaker: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// The timer after power-on: no counter counts before it is programmed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            speaker: false,
        }
    }

    /// Power-on reset.
    pub const fn reset(&mut self) {
        *self = Self::new();
    }

    /// The three counters and the speaker bit.
    #[must_use]
    pub const fn state(&self) -> (&[Counter; 3], bool) {
        (&self.counters, self.speaker)
    }

    /// Restores the three counters and the speaker bit. Counts that cannot be are made ones that can.
    pub fn set_state(&mut self, counters: [Counter; 3], speaker: bool) {
        self.counters = counters.map(Counter::sanitized);
        self.speaker = speaker;
    }

    /// Whether `port` is one of the timer's.
    #[must_use]
    pub const fn has_port(port: u16) -> bool {
        matches!(port, port::COUNTER_0..=port::CONTROL | port::SYSTEM_B)
    }

    /// Channel 0's output.
    #[must_use]
    pub fn output(&self, now: u64) -> bool {
        self.counters[0].output(ticks(now))
    }

    /// The tick from which channel 0 counts, if it does: another one when it is programmed.
    #[must_use]
    pub fn started(&self) -> Option<Tick> {
        self.counters[0].run.map(|run| run.start)
    }

    /// How many rising edges channel 0's output had since it was last asked.
    pub fn advance(&mut self, now: u64) -> u64 {
        self.counters[0].take_edges(ticks(now))
    }

    /// When the next such edge is, in nanoseconds, if there is one without a write before.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.counters[0].next_edge(MIN_PERIOD).map(nanoseconds)
    }

    /// Reads a port. Ports of others, and the control word's, read as ones.
    pub fn read_port(&mut self, port: u16, now: u64) -> u8 {
        let tick = ticks(now);
        match port {
            port::COUNTER_0..=port::COUNTER_2 => {
                self.counters[usize::from(port - port::COUNTER_0)].read(tick)
            }
            port::SYSTEM_B => self.system_b(tick),
            _ => u8::MAX,
        }
    }

    /// Writes a port. Ports of others are left alone.
    pub fn write_port(&mut self, port: u16, value: u8, now: u64) {
        let tick = ticks(now);
        match port {
            port::COUNTER_0..=port::COUNTER_2 => {
                self.counters[usize::from(port - port::COUNTER_0)].write(value, tick);
            }
            port::CONTROL => self.control(value, tick),
            port::SYSTEM_B => {
                self.counters[2].set_gate(value & system_b::GATE_2 != 0, tick);
                self.speaker = value & system_b::SPEAKER != 0;
            }
            _ => {}
        }
    }

    fn control(&mut self, value: u8, tick: Tick) {
        let which = value >> control::COUNTER_SHIFT;
        if which != control::READ_BACK {
            return self.counters[usize::from(which)].control(value, tick);
        }
        for (n, counter) in self.counters.iter_mut().enumerate() {
            if value & control::READ_BACK_0 << n == 0 {
                continue;
            }
            if value & control::NO_COUNT == 0 {
                counter.latch_count(tick);
            }
            if value & control::NO_STATUS == 0 {
                counter.latch_status(tick);
            }
        }
    }

    fn system_b(&self, tick: Tick) -> u8 {
        let mut value = 0;
        if self.counters[2].gate() {
            value |= system_b::GATE_2;
        }
        if self.speaker {
            value |= system_b::SPEAKER;
        }
        if !(tick / REFRESH_TICKS).is_multiple_of(2) {
            value |= system_b::REFRESH;
        }
        if self.counters[2].output(tick) {
            value |= system_b::OUT_2;
        }
        value
    }
}

/// How many ticks there have been at the time `now`.
#[must_use]
pub const fn ticks(now: u64) -> Tick {
    // In two parts, because the product takes more than 64 bits.
    now / NS_PER_S * FREQUENCY_HZ + now % NS_PER_S * FREQUENCY_HZ / NS_PER_S
}

/// The first time at which there have been `tick` ticks.
#[must_use]
pub const fn nanoseconds(tick: Tick) -> u64 {
    let seconds = tick / FREQUENCY_HZ;
    seconds
        .saturating_mul(NS_PER_S)
        .saturating_add((tick % FREQUENCY_HZ * NS_PER_S).div_ceil(FREQUENCY_HZ))
}
