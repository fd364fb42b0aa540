//! [`Assembler`]: the few instructions that translated code needs beside the guest's own.
//!
//! Nothing here knows the guest. A register is its number in the encoding, 0 (RAX) to 15 (R15).
//! `fields` has those on the vCPU's fields.

mod fields;

use std::ops::Range;

/// Conditions, as Jcc encodes them.
pub(crate) mod condition {
    pub const ABOVE: u8 = 0x7;
    pub const BELOW: u8 = 0x2;
    pub const NOT_BELOW: u8 = 0x3;
    pub const EQUAL: u8 = 0x4;
    pub const NOT_EQUAL: u8 = 0x5;
    pub const BELOW_OR_EQUAL: u8 = 0x6;
}

/// Operations of which the opcode's group has the number in ModRM.
pub(crate) mod group {
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const AND: u8 = 4;
}

/// A place in memory: `base + index * 2^scale + displacement`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    pub base: Option<u8>,
    /// Register, and log2 of what it is multiplied by. Never RSP.
    pub index: Option<(u8, u8)>,
    pub displacement: i32,
}

/// What stands before a memory operand's ModRM byte.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opcode<'a> {
    /// Prefixes before REX.
    pub prefixes: &'a [u8],
    /// REX.W.
    pub wide: bool,
    /// REX is there even if it says nothing: byte registers from SPL on.
    pub rex: bool,
    /// The opcode's bytes.
    pub bytes: &'a [u8],
}

/// What stands before ModRM of an instruction with a VEX prefix.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vex {
    /// The map: 1 is 0F, 2 is 0F 38, 3 is 0F 3A.
    pub map: u8,
    /// What VEX stands for: 1 is 66, 2 is F3, 3 is F2.
    pub prefix: u8,
    pub wide: bool,
    /// VEX.L.
    pub length: bool,
    /// The register in VEX.vvvv.
    pub register: u8,
    pub opcode: u8,
}

/// Code that is being made for one place, or for two: what is seldom executed lies elsewhere, so that it takes no room
/// in the processor's caches between what often is ([`cold`](Assembler::cold)).
pub(crate) struct Assembler {
    /// What is added to now, and the other part.
    part: Part,
    other: Part,
    is_cold: bool,
    /// What is added to is a stub.
    is_stub: bool,
    /// Where there is room for the cold part, which ends with it.
    room: Range<u64>,
}

#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    /// Where the first byte will be executed; of the cold part, until it is finished.
    base: u64,
    /// The distances that change with where the cold part is.
    across: Vec<usize>,
}

impl Part {
    fn set_distance(&mut self, at: usize, distance: u32) {
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// Changes the distances between the parts.
    fn move_across(&mut self, by: u32) {
        for at in std::mem::take(&mut self.across) {
            let distance =
                self.bytes[at..at + 4].iter().rev().fold(0, |d, byte| d << 8 | u32::from(*byte));
            self.set_distance(at, distance.wrapping_add(by));
        }
    }
}

/// A jump whose target is not known yet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    /// Behind it.
    end: usize,
    is_cold: bool,
}

/// What was made.
pub(crate) struct Assembled {
    pub hot: Vec<u8>,
    pub cold: Vec<u8>,
    room: Range<u64>,
}

impl Assembled {
    /// Where what is in the cold part is after all.
    pub fn place(&self, address: u64) -> u64 {
        let moved = self.room.end - self.room.start - self.cold.len() as u64;
        if self.room.contains(&address) { address + moved } else { address }
    }
}

/// REX, if it is needed: `reg`, `index` and `base` are registers' numbers.
fn rex(wide: bool, reg: u8, index: u8, base: u8, forced: bool) -> Option<u8> {
    let bits = u8::from(wide) << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
    (bits != 0 || forced).then_some(0x40 | bits)
}

impl Assembler {
    /// Code that will be executed at `base`; there is no cold part.
    pub fn new(base: u64) -> Self {
        Self::split(base, 0..0)
    }

    /// Code that will be executed at `base`, and a cold part at the end of `room`.
    pub fn split(base: u64, room: Range<u64>) -> Self {
        let part = |base| Part { bytes: Vec::with_capacity(1024), base, across: Vec::new() };
        Self { part: part(base), other: part(room.start), is_cold: false, is_stub: false, room }
    }

    /// What follows is seldom executed, or not so.
    pub fn cold(&mut self, is_cold: bool) {
        if self.is_cold != is_cold {
            self.is_cold = is_cold;
            std::mem::swap(&mut self.part, &mut self.other);
        }
    }

    /// What was assembled, with the cold part at the end of its room; `None` if that has too little.
    pub fn finish(mut self) -> Option<Assembled> {
        self.cold(false);
        let end = self.other.bytes.len().next_multiple_of(16);
        self.other.bytes.resize(end, 0xcc);
        let moved = (self.room.end - self.room.start).checked_sub(end as u64)? as u32;
        self.part.move_across(moved);
        self.other.move_across(moved.wrapping_neg());
        Some(Assembled { hot: self.part.bytes, cold: self.other.bytes, room: self.room })
    }

    /// What was assembled of the part that is added to.
    pub fn bytes(&self) -> &[u8] {
        &self.part.bytes
    }

    /// Where the next instruction will be executed, unless the cold part is moved.
    pub fn here(&self) -> u64 {
        self.part.base + self.part.bytes.len() as u64
    }

    /// Instructions as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.part.bytes.extend_from_slice(bytes);
    }

    /// An instruction whose operands are all in its opcode.
    pub fn plain(&mut self, opcode: Opcode<'_>) {
        self.raw(opcode.prefixes);
        self.part.bytes.extend(rex(opcode.wide, 0, 0, 0, opcode.rex));
        self.raw(opcode.bytes);
    }

    /// An instruction on two registers.
    pub fn registers(&mut self, opcode: Opcode<'_>, reg: u8, rm: u8) {
        self.raw(opcode.prefixes);
        self.part.bytes.extend(rex(opcode.wide, reg, 0, rm, opcode.rex));
        self.raw(opcode.bytes);
        self.part.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// An instruction on a register and memory.
    pub fn memory(&mut self, opcode: Opcode<'_>, reg: u8, at: Address) {
        let (base, index) = (at.base.unwrap_or(0), at.index.map_or(0, |(index, _)| index));
        self.raw(opcode.prefixes);
        self.part.bytes.extend(rex(opcode.wide, reg, index, base, opcode.rex));
        self.raw(opcode.bytes);
        self.address(reg, at);
    }

    /// An instruction with a VEX prefix, on two registers beside that of VEX.
    pub fn vex_registers(&mut self, opcode: Vex, reg: u8, rm: u8) {
        self.vex(opcode, reg, 0, rm);
        self.part.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    /// An instruction with a VEX prefix, on a register and memory.
    pub fn vex_memory(&mut self, opcode: Vex, reg: u8, at: Address) {
        self.vex(opcode, reg, at.index.map_or(0, |(index, _)| index), at.base.unwrap_or(0));
        self.address(reg, at);
    }

    /// VEX and the opcode. See: Intel SDM vol. 2, 2.3.5.
    fn vex(&mut self, opcode: Vex, reg: u8, index: u8, base: u8) {
        let inverted = |register: u8, bit: u8| (!register >> 3 & 1) << bit;
        let rest = (!opcode.register & 15) << 3 | u8::from(opcode.length) << 2 | opcode.prefix;
        if opcode.map == 1 && !opcode.wide && index < 8 && base < 8 {
            self.raw(&[0xc5, inverted(reg, 7) | rest]);
        } else {
            let registers = inverted(reg, 7) | inverted(index, 6) | inverted(base, 5);
            self.raw(&[0xc4, registers | opcode.map, u8::from(opcode.wide) << 7 | rest]);
        }
        self.part.bytes.push(opcode.opcode);
    }

    /// ModRM, SIB and the displacement.
    fn address(&mut self, reg: u8, at: Address) {
        let base = at.base.unwrap_or(0);
        let displacement = at.displacement;
        // RBP and R13 have no form without a displacement.
        let size = match at.base {
            None => 2,
            Some(base) if displacement == 0 && base & 7 != 5 => 0,
            Some(_) if i8::try_from(displacement).is_ok() => 1,
            Some(_) => 2,
        };
        let mode = if at.base.is_none() { 0 } else { size };
        let needs_sib = at.index.is_some() || at.base.is_none_or(|base| base & 7 == 4);
        let rm = if needs_sib { 4 } else { base & 7 };
        self.part.bytes.push(mode << 6 | (reg & 7) << 3 | rm);
        if needs_sib {
            let (index, scale) = at.index.map_or((4, 0), |(index, scale)| (index & 7, scale));
            let base = at.base.map_or(5, |base| base & 7);
            self.part.bytes.push(scale << 6 | index << 3 | base);
        }
        match size {
            0 => {}
            1 => self.part.bytes.push(displacement as u8),
            _ => self.raw(&displacement.to_le_bytes()),
        }
    }

    /// `cmp dword [reg], 0`. Not for RSP and RBP, and what is encoded like them.
    pub fn test_word(&mut self, reg: u8) {
        let at = Address { base: Some(reg), ..Address::default() };
        self.memory(Opcode { bytes: &[0x83], ..Opcode::default() }, 7, at);
        self.part.bytes.push(0);
    }

    /// An operation of [`group`] on a register's low half and a value.
    pub fn change(&mut self, operation: u8, reg: u8, value: u32) {
        self.registers(Opcode { bytes: &[0x81], ..Opcode::default() }, operation, reg);
        self.raw(&value.to_le_bytes());
    }

    /// `test reg, value`, of 32 bits.
    pub fn test_register(&mut self, reg: u8, value: u32) {
        self.registers(Opcode { bytes: &[0xf7], ..Opcode::default() }, 0, reg);
        self.raw(&value.to_le_bytes());
    }

    /// `shl reg, count`, of 32 bits.
    pub fn shift_left(&mut self, reg: u8, count: u8) {
        self.registers(Opcode { bytes: &[0xc1], ..Opcode::default() }, 4, reg);
        self.part.bytes.push(count);
    }

    /// `or to, from`, of 32 bits.
    pub fn or(&mut self, to: u8, from: u8) {
        self.registers(Opcode { bytes: &[0x09], ..Opcode::default() }, from, to);
    }

    /// `shr reg, count`, of 32 bits.
    pub fn shift_right(&mut self, reg: u8, count: u8) {
        self.registers(Opcode { bytes: &[0xc1], ..Opcode::default() }, 5, reg);
        self.part.bytes.push(count);
    }

    /// `mov reg, value`, in the shortest form. No flags change.
    pub fn set(&mut self, reg: u8, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            self.part.bytes.extend(rex(false, 0, 0, reg, false));
            self.part.bytes.push(0xb8 | reg & 7);
            self.raw(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.registers(Opcode { wide: true, bytes: &[0xc7], ..Opcode::default() }, 0, reg);
            self.raw(&value.to_le_bytes());
        } else {
            self.part.bytes.extend(rex(true, 0, 0, reg, false));
            self.part.bytes.push(0xb8 | reg & 7);
            self.raw(&value.to_le_bytes());
        }
    }

    /// `mov to, from`.
    pub fn copy(&mut self, to: u8, from: u8) {
        self.registers(Opcode { wide: true, bytes: &[0x89], ..Opcode::default() }, from, to);
    }

    /// `lea reg, at`; of the address's low half only unless `wide`.
    pub fn lea(&mut self, wide: bool, reg: u8, at: Address) {
        self.memory(Opcode { wide, bytes: &[0x8d], ..Opcode::default() }, reg, at);
    }

    /// `lea reg, [rip + distance]`, of an address in this code.
    pub fn lea_of(&mut self, reg: u8, target: u64) {
        self.raw(&[0x48 | reg >> 3 << 2, 0x8d, 0x05 | (reg & 7) << 3]);
        self.relative(target);
    }

    /// `jmp target`.
    pub fn jump(&mut self, target: u64) {
        self.part.bytes.push(0xe9);
        self.relative(target);
    }

    /// `jcc target`.
    pub fn jump_back_if(&mut self, condition: u8, target: u64) {
        self.raw(&[0x0f, 0x80 | condition]);
        self.relative(target);
    }

    /// `jcc`, to where [`bind`](Self::bind) says.
    pub fn jump_if(&mut self, condition: u8) -> Jump {
        self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Jump { end: self.part.bytes.len(), is_cold: self.is_cold }
    }

    /// `jmp`, to where [`bind`](Self::bind) says.
    pub fn jump_ahead(&mut self) -> Jump {
        self.raw(&[0xe9, 0, 0, 0, 0]);
        Jump { end: self.part.bytes.len(), is_cold: self.is_cold }
    }

    /// The address of a jump's distance.
    pub const fn distance_of(&self, jump: Jump) -> u64 {
        let part = if jump.is_cold == self.is_cold { &self.part } else { &self.other };
        part.base + jump.end as u64 - 4
    }

    /// The target of `jump` is here.
    pub fn bind(&mut self, jump: Jump) {
        self.bind_to(jump, self.here());
    }

    /// The target of `jump` is one of the part that is added to.
    pub fn bind_to(&mut self, jump: Jump, target: u64) {
        let is_across = jump.is_cold != self.is_cold;
        let part = if is_across { &mut self.other } else { &mut self.part };
        let distance = target.wrapping_sub(part.base + jump.end as u64) as u32;
        part.set_distance(jump.end - 4, distance);
        if is_across {
            part.across.push(jump.end - 4);
        }
    }

    /// All code lies within 2 GiB.
    fn relative(&mut self, target: u64) {
        let distance = target.wrapping_sub(self.here() + 4) as u32;
        if self.room.contains(&target) != self.is_cold {
            self.part.across.push(self.part.bytes.len());
        }
        self.raw(&distance.to_le_bytes());
    }
}
