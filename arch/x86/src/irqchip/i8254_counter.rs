//! One counter of the 8254: [`Counter`]. What of it is not implemented stands in
//! [`super::i8254`].

/// A number of ticks, mostly since time 0.
pub type Tick = u64;

/// The six modes. See: 82C54, figures 15–20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Interrupt on terminal count.
    TerminalCount = 0,
    /// Hardware retriggerable one-shot.
    OneShot = 1,
    /// Rate generator.
    Rate = 2,
    /// Square wave.
    SquareWave = 3,
    /// Software triggered strobe.
    SoftwareStrobe = 4,
    /// Hardware triggered strobe.
    HardwareStrobe = 5,
}

impl Mode {
    /// The mode that the low three bits of `bits` say.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::Rate,
            3 | 7 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        }
    }

    /// Whether it counts again and again.
    const fn is_periodic(self) -> bool {
        matches!(self, Mode::Rate | Mode::SquareWave)
    }

    /// Whether it starts at the gate's edge rather than when a count is written.
    #[must_use]
    pub const fn is_triggered(self) -> bool {
        matches!(self, Mode::OneShot | Mode::HardwareStrobe)
    }
}

/// Which bytes of the count are read and written. The values are those of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// The low one.
    Low = 1,
    /// The high one.
    High = 2,
    /// The low one, then the high one.
    Both = 3,
}

/// The fields of the control word and the status byte. See: 82C54, figures 7 and 12.
mod field {
    pub const BCD: u8 = 1 << 0;
    pub const MODE_SHIFT: u32 = 1;
    pub const ACCESS_SHIFT: u32 = 4;
    pub const ACCESS: u8 = 3;
    pub const NULL_COUNT: u8 = 1 << 6;
    pub const OUT: u8 = 1 << 7;
}

/// A count that runs, or that the gate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The tick at which it was loaded.
    pub start: Tick,
    /// What was loaded: 1 to 65536.
    pub count: u32,
    /// Rising edges of the output since `start` that have been reported.
    pub edges: u64,
    /// The tick at which the gate stopped it, if it did.
    pub held: Option<Tick>,
}

impl Run {
    /// How many ticks it has run at `tick`.
    fn elapsed(&self, tick: Tick) -> Tick {
        self.held.unwrap_or(tick).saturating_sub(self.start)
    }
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The mode.
    pub mode: Mode,
    /// Which bytes are read and written.
    pub access: Access,
    /// It counts decimals.
    pub bcd: bool,
    /// The gate's level.
    pub gate: bool,
    /// The count register: what was written last, 1 to 65536; none since the control word.
    pub written: Option<u32>,
    /// What runs.
    pub run: Option<Run>,
    /// Rising edges that have not been reported, of what ran before.
    pub edges: u64,
    /// The low byte, until the high one is written.
    pub low: Option<u8>,
    /// The next byte read is the high one.
    pub read_high: bool,
    /// The count, latched.
    pub latched_count: Option<u16>,
    /// The status, latched.
    pub latched_status: Option<u8>,
}

impl Counter {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            // Undefined after power-on; a square wave's output rests high.
            mode: Mode::SquareWave,
            access: Access::Both,
            bcd: false,
            gate,
            written: None,
            run: None,
            edges: 0,
            low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// The same state with counts that the counter can have.
    pub(super) fn sanitized(mut self) -> Self {
        let least = if self.mode.is_periodic() { 2 } else { 1 };
        let most = self.modulus();
        self.written = self.written.map(|count| count.clamp(least, most));
        if let Some(run) = &mut self.run {
            run.count = run.count.clamp(least, most);
        }
        self
    }

    /// The gate's level.
    pub(super) const fn gate(&self) -> bool {
        self.gate
    }

    /// The output's level.
    pub(super) fn output(&self, tick: Tick) -> bool {
        let Some(run) = self.current(tick) else {
            return self.mode != Mode::TerminalCount;
        };
        let (elapsed, count) = (run.elapsed(tick), u64::from(run.count));
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= count,
            // Stopping the gate raises the output at once.
            Mode::Rate => run.held.is_some() || elapsed % count != count - 1,
            Mode::SquareWave => run.held.is_some() || elapsed % count < count.div_ceil(2),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// Rising edges since it was last asked.
    pub(super) fn take_edges(&mut self, tick: Tick) -> u64 {
        self.settle(tick);
        core::mem::take(&mut self.edges)
    }

    /// The tick of the next rising edge, in a periodic mode at least `min_period` after the last.
    pub(super) fn next_edge(&self, min_period: Tick) -> Option<Tick> {
        let run = self.run.as_ref().filter(|run| run.held.is_none())?;
        let count = u64::from(run.count);
        if self.mode.is_periodic() {
            let last = run.start.saturating_add(run.edges.saturating_mul(count));
            return Some(last.saturating_add(count.max(min_period)));
        }
        (run.edges == 0).then(|| run.start.saturating_add(self.first_edge(count)))
    }

    /// The control word for this counter.
    pub(super) fn control(&mut self, value: u8, tick: Tick) {
        let access = match value >> field::ACCESS_SHIFT & field::ACCESS {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.settle(tick);
        let was = self.output(tick);
        *self = Self {
            mode: Mode::from_bits(value >> field::MODE_SHIFT),
            access,
            bcd: value & field::BCD != 0,
            edges: self.edges,
            ..Self::new(self.gate)
        };
        // The new mode's resting level may be an edge by itself.
        if !was && self.output(tick) {
            self.report(1);
        }
    }

    /// Latches the count, unless it is latched.
    pub(super) fn latch_count(&mut self, tick: Tick) {
        if self.latched_count.is_none() {
            self.settle(tick);
            self.latched_count = Some(self.count(tick));
        }
    }

    /// Latches the status, unless it is latched.
    pub(super) fn latch_status(&mut self, tick: Tick) {
        if self.latched_status.is_some() {
            return;
        }
        self.settle(tick);
        let mut status =
            (self.mode as u8) << field::MODE_SHIFT | (self.access as u8) << field::ACCESS_SHIFT;
        if self.bcd {
            status |= field::BCD;
        }
        if self.output(tick) {
            status |= field::OUT;
        }
        let loaded =
            self.run.is_some_and(|run| run.start <= tick && Some(run.count) == self.written);
        if !loaded {
            status |= field::NULL_COUNT;
        }
        self.latched_status = Some(status);
    }

    /// Reads a byte: the latched status, the latched count, or the count as it is.
    pub(super) fn read(&mut self, tick: Tick) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        self.settle(tick);
        let count = self.latched_count.unwrap_or_else(|| self.count(tick));
        let high = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if !self.read_high {
            self.latched_count = None;
        }
        count.to_le_bytes()[usize::from(high)]
    }

    /// Writes a byte of the count.
    pub(super) fn write(&mut self, value: u8, tick: Tick) {
        let count = match (self.access, self.low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.low = Some(value);
                if self.mode == Mode::TerminalCount {
                    // The first byte stops the count.
                    self.settle(tick);
                    self.run = None;
                }
                return;
            }
        };
        self.settle(tick);
        let count = self.decode(count);
        self.written = Some(count);
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => self.load(count, tick),
            // What runs finishes its period first.
            Mode::Rate | Mode::SquareWave if self.run.is_none() => self.load(count, tick),
            _ => {}
        }
    }

    /// Sets the gate's level.
    pub(super) fn set_gate(&mut self, gate: bool, tick: Tick) {
        if gate == self.gate {
            return;
        }
        self.settle(tick);
        let was = self.output(tick);
        self.gate = gate;
        match (self.written, gate) {
            (None, _) => {}
            (Some(count), true) if self.mode.is_triggered() || self.mode.is_periodic() => {
                self.load(count, tick);
            }
            // It counts on: all that it was held for is left out.
            (Some(_), true) => {
                if let Some(run) = &mut self.run
                    && let Some(held) = run.held.take()
                {
                    run.start = run.start.saturating_add(tick.saturating_sub(held));
                }
            }
            (Some(_), false) if !self.mode.is_triggered() => {
                if let Some(run) = &mut self.run {
                    run.held = Some(tick.max(run.start));
                }
            }
            (Some(_), false) => {}
        }
        if !was && self.output(tick) {
            self.report(1);
        }
    }

    /// Starts counting from `count`, at the next tick.
    fn load(&mut self, count: u32, tick: Tick) {
        let start = tick.saturating_add(1);
        self.run = Some(Run { start, count, edges: 0, held: (!self.gate).then_some(start) });
    }

    /// Accounts for the edges until `tick`, and begins the period of a count that was written
    /// meanwhile.
    fn settle(&mut self, tick: Tick) {
        let Some(mut run) = self.run else { return };
        if let Some(next) = self.next(&run, tick) {
            self.report(self.rises(&run, next.start).saturating_sub(run.edges));
            run = next;
        }
        let rises = self.rises(&run, tick);
        self.report(rises.saturating_sub(run.edges));
        run.edges = rises;
        self.run = Some(run);
    }

    fn report(&mut self, edges: u64) {
        self.edges = self.edges.saturating_add(edges);
    }

    /// What runs at `tick`.
    fn current(&self, tick: Tick) -> Option<Run> {
        let run = self.run?;
        Some(self.next(&run, tick).unwrap_or(run))
    }

    /// In a periodic mode, what has replaced `run` by `tick` because another count was written: from
    /// the end of the first period that was not yet accounted for.
    fn next(&self, run: &Run, tick: Tick) -> Option<Run> {
        let written = self.written.filter(|written| *written != run.count)?;
        if !self.mode.is_periodic() || run.held.is_some() {
            return None;
        }
        let periods = run.edges.saturating_add(1);
        let start = run.start.saturating_add(periods.saturating_mul(run.count.into()));
        (start <= tick).then_some(Run { start, count: written, edges: 0, held: None })
    }

    /// How many rising edges the output has had from the start of `run` to `tick`.
    fn rises(&self, run: &Run, tick: Tick) -> u64 {
        let (elapsed, count) = (run.elapsed(tick), u64::from(run.count));
        if self.mode.is_periodic() {
            elapsed / count
        } else {
            u64::from(elapsed >= self.first_edge(count))
        }
    }

    /// When the only edge of a mode that is not periodic is, from the start. A strobe is low for
    /// one tick.
    const fn first_edge(&self, count: Tick) -> Tick {
        match self.mode {
            Mode::SoftwareStrobe | Mode::HardwareStrobe => count + 1,
            _ => count,
        }
    }

    /// The counting element as it reads.
    fn count(&self, tick: Tick) -> u16 {
        let Some(run) = self.current(tick) else {
            return self.encode(self.written.unwrap_or(0));
        };
        let (elapsed, count) = (run.elapsed(tick), u64::from(run.count));
        let left = match self.mode {
            _ if self.mode.is_periodic() && run.held.is_some() => count,
            Mode::Rate => count - elapsed % count,
            // By twos, twice in a period.
            Mode::SquareWave => {
                let at = elapsed % count;
                let half = count.div_ceil(2);
                (count & !1).saturating_sub(if at < half { at } else { at - half } * 2)
            }
            // It wraps around and counts on.
            _ => {
                let modulus = u64::from(self.modulus());
                (count + modulus - elapsed % modulus) % modulus
            }
        };
        self.encode(left as u32)
    }

    /// What 0 stands for.
    const fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The count that the register's 16 bits say.
    fn decode(&self, bits: u16) -> u32 {
        let count = if self.bcd {
            [12, 8, 4, 0].iter().fold(0, |sum, shift| sum * 10 + u32::from(bits >> shift & 0xf))
        } else {
            u32::from(bits)
        };
        match (count, self.mode) {
            (0, _) => self.modulus(),
            // Not allowed, and without a period to speak of.
            (1, Mode::Rate | Mode::SquareWave) => 2,
            _ => count,
        }
    }

    /// The register's 16 bits for a count.
    fn encode(&self, count: u32) -> u16 {
        let count = count % self.modulus();
        if !self.bcd {
            return count as u16;
        }
        let digits = [count / 1000, count / 100 % 10, count / 10 % 10, count % 10];
        digits.iter().fold(0, |bits, digit| bits << 4 | *digit as u16)
    }
}
