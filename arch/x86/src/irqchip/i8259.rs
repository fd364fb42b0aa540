//! The two 8259A interrupt controllers of a PC, the second on input 2 of the first: [`Pic`].
//!
//! Lines 0–7 are the first chip's, 8–15 the second's. [`Pic::output`] is the INTR line to
//! the processor (or to LINT0 of the local APICs), [`Pic::acknowledge`] its two INTA cycles.
//!
//! After the Intel 8259A datasheet (1988) and, for the ELCR, the 82371AB (PIIX4) datasheet. Not
//! implemented, or otherwise:
//! - MCS-80/85 mode, buffered mode, and other ways to wire the two (ICW3 is ignored);
//! - ICW1's LTIM: lines are edge or level by the ELCR, as on every PC since;
//! - an edge that came is kept although the line falls before it is acknowledged: hardware
//!   forgets it, but there the acknowledge comes in no time. A level that goes does withdraw its
//!   request, and an acknowledge without a request makes the spurious interrupt 7;
//! - the spurious interrupt 15 does not happen: the second chip cannot lose its request
//!   between the two INTA cycles, which are one step here.

/// How many lines the two chips have; line [`CASCADE`] is not to be used.
pub const LINES: u8 = 16;

/// The first chip's input that the second one drives.
pub const CASCADE: u8 = 2;

/// What a spurious interrupt claims to be, on either chip.
const SPURIOUS: u8 = 7;

/// The I/O ports.
pub mod port {
    #![allow(missing_docs, reason = "the names are the datasheets'")]
    pub const FIRST_COMMAND: u16 = 0x20;
    pub const FIRST_DATA: u16 = 0x21;
    pub const SECOND_COMMAND: u16 = 0xa0;
    pub const SECOND_DATA: u16 = 0xa1;
    pub const FIRST_ELCR: u16 = 0x4d0;
    pub const SECOND_ELCR: u16 = 0x4d1;
}

/// The lines of each chip that can be made level-triggered: not the timer's, the keyboard's, the
/// cascade's, the clock's and the coprocessor's. See: 82371AB, 4.2.5.
pub const ELCR_WRITABLE: [u8; 2] = [0xf8, 0xde];

/// Initialization command words.
mod icw {
    /// ICW1: needs an ICW4.
    pub const ICW4: u8 = 1 << 0;
    /// ICW1: no second chip, and no ICW3.
    pub const SINGLE: u8 = 1 << 1;
    /// Tells ICW1 from the OCWs.
    pub const ICW1: u8 = 1 << 4;
    /// ICW2: the bits of the vector that do not count the line.
    pub const VECTOR: u8 = 0xf8;
    /// ICW4: automatic EOI.
    pub const AUTO_EOI: u8 = 1 << 1;
    /// ICW4: special fully nested mode.
    pub const FULLY_NESTED: u8 = 1 << 4;
}

/// Operation command words.
mod ocw {
    /// OCW2: the line it names.
    pub const LINE: u8 = 7;
    /// Tells OCW3 from OCW2.
    pub const OCW3: u8 = 1 << 3;
    /// OCW2: what it does with the line.
    pub const COMMAND: u8 = 7 << 5;
    pub const ROTATE_AUTO_CLEAR: u8 = 0 << 5;
    pub const EOI: u8 = 1 << 5;
    pub const SPECIFIC_EOI: u8 = 3 << 5;
    pub const ROTATE_AUTO_SET: u8 = 4 << 5;
    pub const ROTATE_EOI: u8 = 5 << 5;
    pub const SET_PRIORITY: u8 = 6 << 5;
    pub const ROTATE_SPECIFIC_EOI: u8 = 7 << 5;
    /// OCW3: which register to read next: the in-service one?
    pub const READ_ISR: u8 = 1 << 0;
    /// OCW3: `READ_ISR` counts.
    pub const READ: u8 = 1 << 1;
    /// OCW3: poll.
    pub const POLL: u8 = 1 << 2;
    /// OCW3: special mask mode on?
    pub const SPECIAL_MASK: u8 = 1 << 5;
    /// OCW3: `SPECIAL_MASK` counts.
    pub const SET_SPECIAL_MASK: u8 = 1 << 6;
    /// In a poll's answer: there was an interrupt.
    pub const POLLED: u8 = 1 << 7;
}

/// Which initialization command word the data port expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expects {
    /// None: it is the mask register.
    #[default]
    Mask,
    /// The vector.
    Icw2,
    /// The cascade.
    Icw3,
    /// The modes.
    Icw4,
}

/// The state of one chip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chip {
    /// The levels of the inputs.
    pub lines: u8,
    /// Edges that came and were not acknowledged.
    pub edges: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Edge/level control register: set if level.
    pub elcr: u8,
    /// The vector of line 0.
    pub vector: u8,
    /// The line of lowest priority is the one before this (modulo 8).
    pub highest_priority: u8,
    /// What the data port expects.
    pub expects: Expects,
    /// ICW1 said that there will be an ICW3.
    pub icw3_follows: bool,
    /// ICW1 said that there will be an ICW4.
    pub icw4_follows: bool,
    /// Interrupts end as they are acknowledged.
    pub auto_eoi: bool,
    /// They then become the lowest in priority.
    pub rotate_on_auto_eoi: bool,
    /// What is masked does not hold back what is lower.
    pub special_mask: bool,
    /// The second chip's lines nest within the cascade's.
    pub special_fully_nested: bool,
    /// The next read is a poll.
    pub poll: bool,
    /// The command port reads the in-service register.
    pub read_isr: bool,
}

impl Chip {
    /// Interrupt request register: edges that are held, and levels.
    #[must_use]
    pub const fn irr(&self) -> u8 {
        self.edges | self.lines & self.elcr
    }

    fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        if !level {
            self.lines &= !bit;
            return;
        }
        if self.lines & bit == 0 && self.elcr & bit == 0 {
            self.edges |= bit;
        }
        self.lines |= bit;
    }

    /// The line of the highest priority among `bits`.
    fn highest(&self, bits: u8) -> Option<u8> {
        let turned = bits.rotate_right(self.highest_priority.into());
        (turned != 0).then(|| (turned.trailing_zeros() as u8 + self.highest_priority) % 8)
    }

    /// How far `line` is from the highest priority.
    const fn rank(&self, line: u8) -> u8 {
        line.wrapping_sub(self.highest_priority) % 8
    }

    /// The line whose interrupt should be taken: above all that is in service.
    fn pending(&self) -> Option<u8> {
        let line = self.highest(self.irr() & !self.imr)?;
        let mut holding = self.isr;
        if self.special_mask {
            holding &= !self.imr;
        }
        if self.special_fully_nested {
            holding &= !(1 << CASCADE);
        }
        match self.highest(holding) {
            Some(served) if self.rank(line) >= self.rank(served) => None,
            _ => Some(line),
        }
    }

    /// Takes the interrupt of `line` into service.
    fn acknowledge(&mut self, line: u8) {
        self.edges &= !(1 << line);
        if !self.auto_eoi {
            self.isr |= 1 << line;
        } else if self.rotate_on_auto_eoi {
            self.make_lowest(line);
        }
    }

    const fn make_lowest(&mut self, line: u8) {
        self.highest_priority = (line + 1) % 8;
    }

    fn write_command(&mut self, value: u8) {
        if value & icw::ICW1 != 0 {
            self.initialize(value);
        } else if value & ocw::OCW3 != 0 {
            self.operate(value);
        } else {
            self.end_or_rotate(value);
        }
    }

    /// ICW1: begins the initialization. The edge sense is reset too: a line must fall before
    /// it can interrupt again.
    fn initialize(&mut self, value: u8) {
        *self = Self {
            lines: self.lines,
            elcr: self.elcr,
            vector: self.vector,
            expects: Expects::Icw2,
            icw3_follows: value & icw::SINGLE == 0,
            icw4_follows: value & icw::ICW4 != 0,
            ..Self::default()
        };
    }

    /// OCW3.
    fn operate(&mut self, value: u8) {
        if value & ocw::POLL != 0 {
            self.poll = true;
        }
        if value & ocw::READ != 0 {
            self.read_isr = value & ocw::READ_ISR != 0;
        }
        if value & ocw::SET_SPECIAL_MASK != 0 {
            self.special_mask = value & ocw::SPECIAL_MASK != 0;
        }
    }

    /// OCW2.
    fn end_or_rotate(&mut self, value: u8) {
        let named = value & ocw::LINE;
        // What special mask mode lets pass is not ended by an EOI that names none.
        let ending = if self.special_mask { self.isr & !self.imr } else { self.isr };
        let served = self.highest(ending);
        match (value & ocw::COMMAND, served) {
            (ocw::EOI, Some(line)) => self.isr &= !(1 << line),
            (ocw::ROTATE_EOI, Some(line)) => {
                self.isr &= !(1 << line);
                self.make_lowest(line);
            }
            (ocw::SPECIFIC_EOI, _) => self.isr &= !(1 << named),
            (ocw::ROTATE_SPECIFIC_EOI, _) => {
                self.isr &= !(1 << named);
                self.make_lowest(named);
            }
            (ocw::SET_PRIORITY, _) => self.make_lowest(named),
            (ocw::ROTATE_AUTO_SET, _) => self.rotate_on_auto_eoi = true,
            (ocw::ROTATE_AUTO_CLEAR, _) => self.rotate_on_auto_eoi = false,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.expects = match self.expects {
            Expects::Mask => {
                self.imr = value;
                Expects::Mask
            }
            Expects::Icw2 => {
                self.vector = value & icw::VECTOR;
                if self.icw3_follows { Expects::Icw3 } else { self.after_icw3() }
            }
            Expects::Icw3 => self.after_icw3(),
            Expects::Icw4 => {
                self.auto_eoi = value & icw::AUTO_EOI != 0;
                self.special_fully_nested = value & icw::FULLY_NESTED != 0;
                Expects::Mask
            }
        };
    }

    const fn after_icw3(&self) -> Expects {
        if self.icw4_follows { Expects::Icw4 } else { Expects::Mask }
    }

    const fn read_command(&self) -> u8 {
        if self.read_isr { self.isr } else { self.irr() }
    }

    fn set_elcr(&mut self, value: u8, writable: u8) {
        self.elcr = value & writable;
        // What is level now is no edge.
        self.edges &= !self.elcr;
    }
}

/// The lines, by number, whose interrupts a write ended.
pub type Ended = u16;

/// The pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pic {
    // Volatile state.
    chips: [Chip; 2],
}

impl Pic {
    /// The pair after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Power-on reset. The levels of the lines stay: they are not the chips'.
    pub fn reset(&mut self) {
        let lines = self.chips.each_ref().map(|chip| chip.lines);
        *self = Self::default();
        for (chip, lines) in self.chips.iter_mut().zip(lines) {
            chip.lines = lines;
        }
    }

    /// The state of the two chips.
    #[must_use]
    pub const fn chips(&self) -> &[Chip; 2] {
        &self.chips
    }

    /// Restores the state of the two chips.
    pub fn set_chips(&mut self, chips: [Chip; 2]) {
        self.chips = chips;
        for chip in &mut self.chips {
            chip.highest_priority %= 8;
        }
        self.cascade();
    }

    /// Sets the level of a line; the cascade and what is not there are ignored.
    pub fn set_line(&mut self, line: u8, level: bool) {
        match line {
            CASCADE => return,
            0..8 => self.chips[0].set_line(line, level),
            8..LINES => self.chips[1].set_line(line - 8, level),
            _ => return,
        }
        self.cascade();
    }

    /// The INTR line.
    #[must_use]
    pub fn output(&self) -> bool {
        self.chips[0].pending().is_some()
    }

    /// The processor acknowledges: says the vector, which is a spurious one if there is nothing
    /// (any more).
    pub fn acknowledge(&mut self) -> u8 {
        let [first, second] = &mut self.chips;
        let Some(line) = first.pending() else {
            return first.vector | SPURIOUS;
        };
        first.acknowledge(line);
        let vector = if line == CASCADE {
            let below = second.pending();
            if let Some(below) = below {
                second.acknowledge(below);
            }
            // The second chip's INT falls as it is acknowledged, so that its next request is an edge.
            first.set_line(CASCADE, false);
            second.vector | below.unwrap_or(SPURIOUS)
        } else {
            first.vector | line
        };
        self.cascade();
        vector
    }

    /// Whether `port` is one of the chips'.
    #[must_use]
    pub const fn has_port(port: u16) -> bool {
        chip_of(port).is_some()
    }

    /// Reads a port. A poll acknowledges. Ports of others read as ones.
    pub fn read_port(&mut self, port: u16) -> u8 {
        let Some((index, register)) = chip_of(port) else {
            return u8::MAX;
        };
        let [first, second] = &mut self.chips;
        let chip = if index == 0 { &mut *first } else { second };
        let value = match register {
            Port::Elcr => chip.elcr,
            Port::Command | Port::Data if chip.poll => {
                chip.poll = false;
                match chip.pending() {
                    Some(line) => {
                        chip.acknowledge(line);
                        if index == 1 {
                            first.set_line(CASCADE, false);
                        }
                        ocw::POLLED | line
                    }
                    None => 0,
                }
            }
            Port::Command => chip.read_command(),
            Port::Data => chip.imr,
        };
        self.cascade();
        value
    }

    /// Writes a port, and says which lines' interrupts that ended. Ports of others are left alone.
    pub fn write_port(&mut self, port: u16, value: u8) -> Ended {
        let Some((index, register)) = chip_of(port) else {
            return 0;
        };
        let chip = &mut self.chips[index];
        let served = chip.isr;
        match register {
            Port::Command => chip.write_command(value),
            Port::Data => chip.write_data(value),
            Port::Elcr => chip.set_elcr(value, ELCR_WRITABLE[index]),
        }
        let ended = u16::from(served & !chip.isr) << (8 * index);
        self.cascade();
        ended & !(1 << CASCADE)
    }

    /// The second chip's output drives the first one's input.
    ///
    /// The edge is taken back with it: a request that the second chip withdraws is not the first one's.
    fn cascade(&mut self) {
        let [first, second] = &mut self.chips;
        let level = second.pending().is_some();
        if !level {
            first.edges &= !(1 << CASCADE);
        }
        first.set_line(CASCADE, level);
    }
}

/// A port's register.
#[derive(Clone, Copy)]
enum Port {
    Command,
    Data,
    Elcr,
}

/// The chip, and its register, at `port`.
const fn chip_of(port: u16) -> Option<(usize, Port)> {
    Some(match port {
        port::FIRST_COMMAND => (0, Port::Command),
        port::FIRST_DATA => (0, Port::Data),
        port::FIRST_ELCR => (0, Port::Elcr),
        port::SECOND_COMMAND => (1, Port::Command),
        port::SECOND_DATA => (1, Port::Data),
        port::SECOND_ELCR => (1, Port::Elcr),
        _ => return None,
    })
}
