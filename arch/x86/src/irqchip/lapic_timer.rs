//! The timer of a local APIC: one-shot, periodic and TSC deadline.
//! See: Intel SDM vol. 3, 11.5.4.
//!
//! It counts nanoseconds: the frequency that is divided is [`FREQUENCY_HZ`], exactly. A count is
//! held as when it was what, so that it neither ticks nor drifts. In TSC-deadline mode the
//! timer knows no time: it hands out the deadline in the guest's TSC.
//!
//! Deviation: a periodic timer reports at most one deadline every [`MIN_PERIOD`]; faster
//! periods are counted exactly, but interrupts that are missed are not made up for.

use super::lvt::Entry;

/// What the divider divides: one tick a nanosecond.
pub const FREQUENCY_HZ: u64 = 1_000_000_000;

/// How close the deadlines of a periodic timer can come to each other, in nanoseconds.
pub const MIN_PERIOD: u64 = 20_000;

/// When a timer must be looked at next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deadline {
    /// It is stopped.
    #[default]
    None,
    /// At this time, in nanoseconds.
    At(u64),
    /// When the guest's TSC reaches this value.
    Tsc(u64),
}

/// The modes. See: Intel SDM vol. 3, 11.5.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Compares the TSC.
    TscDeadline,
}

impl Mode {
    /// The mode that the timer's entry in the local vector table says. The reserved mode is taken for
    /// one-shot.
    #[must_use]
    pub const fn of(entry: Entry) -> Self {
        match (entry.0 & Entry::TSC_DEADLINE != 0, entry.0 & Entry::PERIODIC != 0) {
            (true, false) => Mode::TscDeadline,
            (false, true) => Mode::Periodic,
            _ => Mode::OneShot,
        }
    }
}

/// A count that runs: at the time `since` it was `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// In nanoseconds.
    pub since: u64,
    /// In ticks of the divided frequency; not 0.
    pub count: u32,
}

/// The timer's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// The mode, kept the same as the local vector table's.
    mode: Mode,
    /// The divide configuration register: bits 0, 1 and 3.
    divide: u32,
    /// The initial-count register.
    initial: u32,
    /// The count that runs, if one does.
    running: Option<Count>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    tsc_deadline: u64,
}

impl Timer {
    /// The bits of the divide configuration register.
    pub const DIVIDE_BITS: u32 = 0b1011;

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Sets the mode. Going into or out of TSC-deadline mode disarms the timer.
    pub fn set_mode(&mut self, mode: Mode) {
        if (self.mode == Mode::TscDeadline) != (mode == Mode::TscDeadline) {
            self.initial = 0;
            self.running = None;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    /// The divide configuration register.
    #[must_use]
    pub const fn divide(&self) -> u32 {
        self.divide
    }

    /// Sets the divide configuration register. A count that runs goes on from where it is.
    pub fn set_divide(&mut self, value: u32, now: u64) {
        let count = self.current_count(now);
        self.divide = value & Self::DIVIDE_BITS;
        if self.running.is_some() && count != 0 {
            self.running = Some(Count { since: now, count });
        }
    }

    /// The initial-count register.
    #[must_use]
    pub const fn initial_count(&self) -> u32 {
        self.initial
    }

    /// Sets the initial-count register, which starts the timer; 0 stops it. Ignored in TSC-deadline
    /// mode.
    pub fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.mode != Mode::TscDeadline {
            self.initial = count;
            self.running = (count != 0).then_some(Count { since: now, count });
        }
    }

    /// The current-count register.
    #[must_use]
    pub fn current_count(&self, now: u64) -> u32 {
        let Some(Count { since, count }) = self.running else {
            return 0;
        };
        let ticks = now.saturating_sub(since) / self.divisor();
        match u64::from(count).checked_sub(ticks) {
            Some(rest) if rest != 0 => rest as u32,
            // It ran out and was not looked at since.
            _ if self.mode == Mode::Periodic && self.initial != 0 => {
                let into = (ticks - u64::from(count)) % u64::from(self.initial);
                self.initial - into as u32
            }
            _ => 0,
        }
    }

    /// Sets what the current-count register reads, to restore it: the count goes on from there. A
    /// periodic count of 0 starts over.
    pub fn set_current_count(&mut self, count: u32, now: u64) {
        let count = if self.mode == Mode::Periodic && count == 0 { self.initial } else { count };
        let runs = self.mode != Mode::TscDeadline && self.initial != 0 && count != 0;
        self.running = runs.then_some(Count { since: now, count });
    }

    /// IA32_TSC_DEADLINE; 0 unless armed, and in the other modes.
    #[must_use]
    pub const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Sets IA32_TSC_DEADLINE, which arms the timer; 0 disarms it. Ignored in the other modes.
    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.mode == Mode::TscDeadline {
            self.tsc_deadline = value;
        }
    }

    /// When to call [`Self::expired`] next.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        match (self.mode, self.running) {
            (Mode::TscDeadline, _) if self.tsc_deadline != 0 => Deadline::Tsc(self.tsc_deadline),
            (Mode::TscDeadline, _) | (_, None) => Deadline::None,
            (Mode::OneShot, Some(count)) => Deadline::At(self.end(count)),
            (Mode::Periodic, Some(count)) => {
                Deadline::At(self.end(count).max(count.since.saturating_add(MIN_PERIOD)))
            }
        }
    }

    /// Whether the deadline has been reached, once for each time: the timer then stops or, if periodic,
    /// goes on to its next.
    #[must_use = "the interrupt is lost otherwise"]
    pub fn expired(&mut self, now: u64, tsc: u64) -> bool {
        match self.deadline() {
            Deadline::At(at) if at <= now => {
                self.running = match self.mode {
                    Mode::Periodic => self.reloaded(now),
                    _ => None,
                };
                true
            }
            Deadline::Tsc(at) if at <= tsc => {
                self.tsc_deadline = 0;
                true
            }
            _ => false,
        }
    }

    /// The count of the period that `now` lies in.
    fn reloaded(&self, now: u64) -> Option<Count> {
        let count = self.running?;
        let end = self.end(count);
        let period = u64::from(self.initial) * self.divisor();
        let periods = now.saturating_sub(end).checked_div(period)?;
        Some(Count {
            since: end.saturating_add(periods.saturating_mul(period)),
            count: self.initial,
        })
    }

    /// When `count` is over.
    fn end(&self, count: Count) -> u64 {
        count.since.saturating_add(u64::from(count.count) * self.divisor())
    }

    /// Nanoseconds a tick. See: Intel SDM vol. 3, figure 11-10.
    const fn divisor(&self) -> u64 {
        let code = self.divide & 0b11 | (self.divide & 0b1000) >> 1;
        // 0 divides by 2, 6 by 128, 7 by 1.
        1 << ((code + 1) & 7)
    }
}
