//! [`Config`]: the configuration space of a function, with one base address register for memory below 4 GiB.
//!
//! Each byte has a mask of what the guest may write. What is behind a register is the function's to see to, after the write.
//!
//! See: PCI Local Bus Specification 3.0, 6.1, 6.2.

use std::ops::Range;

/// Its size: that of a conventional function.
const SIZE: usize = 256;

/// Offsets of registers.
pub mod register {
    /// 16 bits.
    pub const COMMAND: u8 = 0x04;
    /// 32 bits: where the function's memory is.
    pub const BAR0: u8 = 0x10;
    /// 8 bits: what the guest notes of the interrupt line.
    pub const INTERRUPT_LINE: u8 = 0x3c;
}

/// Bits of the command register.
pub mod command {
    /// The function answers at its memory.
    pub const MEMORY: u16 = 1 << 1;
    /// It may access the guest's.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// It does not use its interrupt line.
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
}

const STATUS: usize = 0x06;
/// There is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// The line is asserted.
const STATUS_INTERRUPT: u8 = 1 << 3;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;

/// What a function says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Of whom.
    pub vendor: u16,
    /// Which of theirs.
    pub device: u16,
    /// Its revision.
    pub revision: u8,
    /// Class, subclass and programming interface.
    pub class: [u8; 3],
    /// The subsystem's vendor and number.
    pub subsystem: [u16; 2],
    /// Whether it has an interrupt line, INTA.
    pub has_line: bool,
}

/// A configuration space.
#[derive(Clone, Debug)]
pub struct Config {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    /// Where the next capability goes, and the pointer to it.
    free: usize,
    link: usize,
    memory: u32,
}

impl Config {
    /// A function with `memory` bytes of memory, which is a power of 2 of at least 4096; 0: none.
    #[must_use]
    pub fn new(identity: &Identity, memory: u32) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            free: FIRST_CAPABILITY,
            link: CAPABILITIES,
            memory,
        };
        let [class, subclass, interface] = identity.class;
        config.set(0x00, &identity.vendor.to_le_bytes());
        config.set(0x02, &identity.device.to_le_bytes());
        config.set(0x08, &[identity.revision, interface, subclass, class]);
        config.set(0x2c, &identity.subsystem[0].to_le_bytes());
        config.set(0x2e, &identity.subsystem[1].to_le_bytes());
        // No line is known until the guest notes one.
        config.set(register::INTERRUPT_LINE.into(), &[0xff, u8::from(identity.has_line)]);
        let command = command::MEMORY | command::BUS_MASTER | command::INTERRUPT_DISABLE;
        config.let_write(register::COMMAND.into(), &command.to_le_bytes());
        config.let_write(register::INTERRUPT_LINE.into(), &[0xff]);
        if memory != 0 {
            // The bits below its size stay 0: by that the guest finds the size. 32 bits, not prefetchable.
            config.let_write(register::BAR0.into(), &(!(memory - 1)).to_le_bytes());
        }
        config
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn let_write(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Appends a capability: what follows its number and the pointer to the next, and which of its bits the guest may write. Gives
    /// where it is, which is what a function is to know of it.
    ///
    /// # Panics
    /// If there is no room: what capabilities there are is not the guest's to say.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.let_write(at + 2, writable);
        self.bytes[self.link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.link = at + 1;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at as u8
    }

    /// Reads bytes from `offset` on; what is behind the end is 0.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (at, byte) in (usize::from(offset)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes bytes from `offset` on, as far as they may be written.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        for (at, new) in (usize::from(offset)..SIZE).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | new & mask;
        }
    }

    /// A register of 16 bits.
    #[must_use]
    pub fn word(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(offset, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// A register of 32 bits.
    #[must_use]
    pub fn dword(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Whether a bit of the command register is set.
    #[must_use]
    pub fn commands(&self, bit: u16) -> bool {
        self.word(register::COMMAND) & bit != 0
    }

    /// Says whether the interrupt line is asserted.
    pub fn show_line(&mut self, on: bool) {
        let bit = if on { STATUS_INTERRUPT } else { 0 };
        self.bytes[STATUS] = self.bytes[STATUS] & !STATUS_INTERRUPT | bit;
    }

    /// Puts the memory at an address, as firmware would. The guest may move it.
    pub fn place(&mut self, address: u32) {
        self.set(
            register::BAR0.into(),
            &(address & !(self.memory.saturating_sub(1))).to_le_bytes(),
        );
    }

    /// The memory at which the function answers now, if any.
    #[must_use]
    pub fn window(&self) -> Option<Range<u64>> {
        let start = u64::from(self.dword(register::BAR0));
        let is_on = self.memory != 0 && start != 0 && self.commands(command::MEMORY);
        is_on.then_some(start..start + u64::from(self.memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [1, 2, 3],
        subsystem: [0x1af4, 7],
        has_line: true,
    };

    #[test]
    fn a_function_says_who_it_is_and_does_not_let_it_be_changed() {
        let mut config = Config::new(&IDENTITY, 0x4000);
        for offset in (0..=0xff).filter(|offset| ![4, 5, 0x10, 0x11, 0x12, 0x13].contains(offset)) {
            config.write(offset, &[0x5a]);
        }
        assert_eq!(config.dword(0), 0x1042_1af4);
        assert_eq!(config.dword(8), 0x0102_0301);
        assert_eq!(config.dword(0x2c), 0x0007_1af4);
        assert_eq!(config.dword(0x3c), 0x015a, "the line's number is the guest's to note");
    }

    #[test]
    fn the_guest_finds_the_size_of_memory_and_moves_it() {
        let mut config = Config::new(&IDENTITY, 0x4000);
        config.place(0xc000_4000);
        assert_eq!(config.window(), None, "it is off at reset");
        config.write(register::COMMAND, &command::MEMORY.to_le_bytes());
        assert_eq!(config.window(), Some(0xc000_4000..0xc000_8000));
        config.write(register::BAR0, &[0xff; 4]);
        assert_eq!(config.dword(register::BAR0), 0xffff_c000);
        assert_eq!(config.window(), Some(0xffff_c000..0x1_0000_0000), "nothing wraps around");
        config.write(register::BAR0, &0xd123_4567_u32.to_le_bytes());
        assert_eq!(config.window(), Some(0xd123_4000..0xd123_8000));
        config.write(register::COMMAND, &[0, 0]);
        assert_eq!(config.window(), None);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut config = Config::new(&IDENTITY, 0);
        assert_eq!((config.word(6), config.word(0x34)), (0, 0));
        let first = config.add_capability(0x11, &[1, 2, 3], &[0xff, 0, 0]);
        let second = config.add_capability(9, &[4], &[]);
        assert_eq!((config.word(6), config.word(0x34)), (0x10, first.into()));
        assert_eq!(config.word(first), 0x11 | u16::from(second) << 8);
        assert_eq!((second % 4, config.word(second)), (0, 9));
        config.write(first + 2, &[0xaa, 0xbb, 0xcc]);
        assert_eq!(config.dword(first + 2), 0x0003_02aa);
    }

    #[test]
    fn what_is_behind_the_end_is_nothing() {
        let mut config = Config::new(&IDENTITY, 0);
        config.write(0xfe, &[1, 2, 3, 4]);
        assert_eq!(config.dword(0xfe), 0);
    }
}
