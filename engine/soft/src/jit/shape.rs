//! [`Encoding`]: the parts of an instruction's bytes; [`Shape`]: what it does with its operands.
//!
//! A shape is given for instructions that are translated by executing themselves, with other registers
//! and another address: those that say all about their operands in ModRM and VEX, and have nothing implied but
//! RAX, RCX and RDX.

mod bits;

use iced_x86::ConstantOffsets;

/// The opcode maps: one byte, behind 0F, and behind 0F 38 and 0F 3A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    One,
    Two,
    Three38,
    Three3a,
}

/// What a VEX prefix says beside what others can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vex {
    /// VEX.L.
    pub length: bool,
    /// The register in VEX.vvvv, which has it inverted.
    pub register: u8,
}

/// The parts of an instruction's bytes. Those of VEX are where other prefixes would have said the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding<'a> {
    /// All bytes.
    pub bytes: &'a [u8],
    /// The prefixes that are in force: 66, 67, F0, and the last of F2 and F3.
    pub operand_size: bool,
    pub address_size: bool,
    pub lock: bool,
    pub repeat: Option<u8>,
    /// REX, or 0.
    pub rex: u8,
    pub vex: Option<Vex>,
    pub map: Map,
    pub opcode: u8,
    /// The opcode behind what escapes to its map; with a VEX prefix, which says the map, alone.
    pub escaped: &'a [u8],
    /// The byte behind the opcode: ModRM if the instruction has one.
    pub next: u8,
    /// The immediate operand's bytes.
    pub immediate: &'a [u8],
}

impl<'a> Encoding<'a> {
    /// Takes a valid instruction of 64-bit mode apart; `None` if it has an EVEX prefix.
    pub fn of(bytes: &'a [u8], constants: &ConstantOffsets) -> Option<Self> {
        let (mut operand_size, mut address_size, mut lock) = (false, false, false);
        let (mut repeat, mut rex, mut at) = (None, 0, 0);
        loop {
            let byte = *bytes.get(at)?;
            match byte {
                0x66 => operand_size = true,
                0x67 => address_size = true,
                0xf0 => lock = true,
                0xf2 | 0xf3 => repeat = Some(byte),
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x40..=0x4f => {}
                _ => break,
            }
            // REX is ignored if another prefix follows. See: Intel SDM vol. 2, 2.2.1.
            rex = if byte & 0xf0 == 0x40 { byte } else { 0 };
            at += 1;
        }
        let byte = |at: usize| bytes.get(at).copied();
        let (mut map, mut vex, mut escape) = (Map::One, None, at);
        match byte(at)? {
            0x0f => {
                at += 1;
                map = match byte(at)? {
                    0x38 => Map::Three38,
                    0x3a => Map::Three3a,
                    _ => Map::Two,
                };
                at += usize::from(map != Map::Two);
            }
            // See: Intel SDM vol. 2, 2.3.5 (VEX). All but L and W are inverted where they are REX's or a register.
            prefix @ (0xc4 | 0xc5) => {
                let long = prefix == 0xc4;
                let first = byte(at + 1)?;
                let second = if long { byte(at + 2)? } else { first };
                at += if long { 3 } else { 2 };
                escape = at;
                rex = 0x40 | !first >> 5 & 4;
                if long {
                    rex |= !first >> 5 & 3 | second >> 4 & 8;
                }
                map = match if long { first & 0x1f } else { 1 } {
                    1 => Map::Two,
                    2 => Map::Three38,
                    3 => Map::Three3a,
                    _ => return None,
                };
                operand_size = second & 3 == 1;
                repeat = [None, None, Some(0xf3), Some(0xf2)][usize::from(second & 3)];
                vex = Some(Vex { length: second & 4 != 0, register: !second >> 3 & 15 });
            }
            0x62 => return None,
            _ => {}
        }
        let opcode = byte(at)?;
        let escaped = bytes.get(escape..=at)?;
        let next = byte(at + 1).unwrap_or(0);
        let immediate = if map == Map::One || map == Map::Two && vex.is_none() {
            match constants.immediate_offset() {
                0 => &[][..],
                offset => bytes.get(offset..)?,
            }
        } else {
            // A register in the immediate byte is none to iced-x86.
            bytes.get(at + 1 + address_length(next, byte(at + 2))..).unwrap_or(&[])
        };
        let prefixes = Self {
            bytes,
            operand_size,
            address_size,
            lock,
            repeat,
            rex,
            vex,
            map,
            opcode,
            escaped,
            next,
            immediate,
        };
        Some(prefixes)
    }

    /// REX.W.
    pub const fn wide(&self) -> bool {
        self.rex & 8 != 0
    }

    /// ModRM's `reg`, with REX.R.
    pub const fn reg(&self) -> u8 {
        self.next >> 3 & 7 | (self.rex & 4) << 1
    }

    /// ModRM's `rm` as a register, with REX.B; `None` if it is memory.
    pub const fn rm(&self) -> Option<u8> {
        if self.next >> 6 == 3 { Some(self.next & 7 | (self.rex & 1) << 3) } else { None }
    }

    /// The register in an opcode's low bits, with REX.B.
    pub const fn in_opcode(&self) -> u8 {
        self.opcode & 7 | (self.rex & 1) << 3
    }
}

/// How many bytes ModRM, SIB and the displacement are, by ModRM and the byte behind it.
/// See: Intel SDM vol. 2, 2.1.5, tables 2-2 and 2-3.
const fn address_length(modrm: u8, sib: Option<u8>) -> usize {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let base = match sib {
        Some(sib) if has_sib => sib & 7,
        _ => rm,
    };
    let displacement = match mode {
        0 if base == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    1 + has_sib as usize + displacement
}

/// What is done with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// There is none: `reg` is part of the opcode.
    None,
    Read,
    Write,
    Both,
}

impl Role {
    /// Whether the operand changes.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// The operands of an instruction with ModRM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub reg: Role,
    pub rm: Role,
    /// The register in VEX.vvvv.
    pub vvvv: Role,
    pub byte_reg: bool,
    pub byte_rm: bool,
}

const fn shape(reg: Role, rm: Role, byte: bool) -> Shape {
    Shape { reg, rm, vvvv: Role::None, byte_reg: byte, byte_rm: byte }
}

impl Shape {
    /// The shape of an instruction, if it is one that is translated so.
    pub fn of(encoding: &Encoding<'_>) -> Option<Self> {
        if let Some(vex) = encoding.vex {
            return Self::of_vex(encoding, vex);
        }
        match encoding.map {
            Map::Three38 | Map::Three3a => Self::of_extension(encoding),
            _ if encoding.repeat.is_some() => Self::of_counts(encoding),
            Map::One => Self::of_one_byte(encoding),
            Map::Two => Self::of_two_bytes(encoding),
        }
    }

    /// POPCNT, TZCNT and LZCNT. Where the host has not all of them they may mean something else.
    fn of_counts(encoding: &Encoding<'_>) -> Option<Self> {
        let is_one = encoding.map == Map::Two && matches!(encoding.opcode, 0xb8 | 0xbc | 0xbd);
        let host_has = is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("lzcnt");
        let alone = !encoding.lock && encoding.repeat == Some(0xf3);
        (is_one && host_has && alone).then_some(shape(Role::Write, Role::Read, false))
    }

    fn of_one_byte(encoding: &Encoding<'_>) -> Option<Self> {
        use Role::{Both, None as No, Read, Write};
        let (opcode, group) = (encoding.opcode, encoding.next >> 3 & 7);
        let byte = opcode & 1 == 0;
        Some(match opcode {
            // ALU: r/m, r and r, r/m. CMP is the last of eight.
            0x00..=0x3f if opcode & 7 < 4 => {
                let changed = if opcode >> 3 == 7 { Read } else { Both };
                if opcode & 2 == 0 {
                    shape(Read, changed, byte)
                } else {
                    shape(changed, Read, byte)
                }
            }
            0x63 if !encoding.operand_size => shape(Write, Read, false),
            0x69 | 0x6b => shape(Write, Read, false),
            0x80 | 0x81 | 0x83 => shape(No, if group == 7 { Read } else { Both }, opcode == 0x80),
            0x84 | 0x85 => shape(Read, Read, byte),
            0x86 | 0x87 => shape(Both, Both, byte),
            0x88 | 0x89 => shape(Read, Write, byte),
            0x8a | 0x8b => shape(Write, Read, byte),
            0xc0 | 0xc1 | 0xd0..=0xd3 if group != 6 => shape(No, Both, byte),
            0xc6 | 0xc7 if group == 0 => shape(No, Write, byte),
            0xf6 | 0xf7 => match group {
                0 | 4 | 5 => shape(No, Read, byte),
                2 | 3 => shape(No, Both, byte),
                _ => return None,
            },
            0xfe | 0xff if group < 2 => shape(No, Both, byte),
            _ => return None,
        })
    }

    fn of_two_bytes(encoding: &Encoding<'_>) -> Option<Self> {
        use Role::{Both, None as No, Read, Write};
        let (opcode, group) = (encoding.opcode, encoding.next >> 3 & 7);
        let byte = opcode & 1 == 0;
        Some(match opcode {
            0x40..=0x4f => shape(Both, Read, false),
            0x90..=0x9f => shape(No, Write, true),
            // A bit's number may lead out of the memory operand.
            0xa3 if encoding.rm().is_some() => shape(Read, Read, false),
            0xab | 0xb3 | 0xbb if encoding.rm().is_some() => shape(Read, Both, false),
            0xba if group >= 4 => shape(No, if group == 4 { Read } else { Both }, false),
            0xa4 | 0xa5 | 0xac | 0xad => shape(Read, Both, false),
            0xaf => shape(Both, Read, false),
            0xb0 | 0xb1 => shape(Read, Both, byte),
            0xb6 | 0xb7 | 0xbe | 0xbf => Shape { byte_reg: false, ..shape(Write, Read, byte) },
            0xbc | 0xbd => shape(Both, Read, false),
            0xc0 | 0xc1 => shape(Both, Both, byte),
            _ => return None,
        })
    }
}
