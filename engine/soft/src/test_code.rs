//! Random code in which every instruction can be replaced by another one.
//!
//! A function consists of slots of eight bytes, one instruction or two and NOPs in each, so that the next
//! one starts where it did whatever is written into a slot. No instruction leaves a flag undefined but AF,
//! and none reads AF.

use crate::test_machine::{assemble, at};

/// Random numbers that a seed reproduces: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

pub const SLOT: u64 = 8;
/// Slots of a function, without the one that returns.
const SLOTS: u64 = 20;
const FUNCTIONS: usize = 12;
/// The last functions call none.
const CALLERS: usize = 6;
/// Slots that are `mov r32, imm32`, whose constant may be changed by code: each fifth.
const CONSTANT: u64 = 5;

/// All but RSP and RBP.
const REGISTERS: [u8; 14] = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Functions one behind the other.
pub struct Code {
    /// Where each starts.
    pub functions: Vec<u64>,
    /// Functions write to the constants of others, and of themselves.
    writes: bool,
}

impl Code {
    /// Functions from `start` on, at odd addresses, some of them across pages.
    pub fn new(random: &mut Random, start: u64, writes: bool) -> Self {
        let mut at = start;
        let functions = std::iter::repeat_with(|| {
            let function = at + random.below(96);
            at = function + (SLOTS + 1) * SLOT;
            function
        });
        Self { functions: functions.take(FUNCTIONS).collect(), writes }
    }

    /// The same with each function at a multiple of eight: a slot is written at once.
    pub fn aligned(random: &mut Random, start: u64) -> Self {
        let mut code = Self::new(random, start, false);
        code.functions.iter_mut().for_each(|function| *function &= !7);
        code
    }

    /// All slots: where, and what is in them.
    pub fn all(&self, random: &mut Random) -> Vec<(u64, [u8; 8])> {
        let mut slots = Vec::new();
        for (n, function) in self.functions.iter().enumerate() {
            slots.extend((0..SLOTS).map(|slot| self.slot(random, n, slot)));
            slots.push((function + SLOTS * SLOT, padded(&[0xc3])));
        }
        slots
    }

    /// A program at [`at::CODE`] that calls some functions, and halts.
    pub fn calls(&self, random: &mut Random) -> Vec<u8> {
        assemble(at::CODE, |a| {
            for _ in 0..24 {
                let n = random.below(self.functions.len() as u64);
                a.call(self.functions[n as usize])?;
            }
            a.hlt()
        })
    }

    /// A slot of some function, with a new instruction.
    pub fn any(&self, random: &mut Random) -> (u64, [u8; 8]) {
        let (function, slot) = (random.below(FUNCTIONS as u64), random.below(SLOTS));
        self.slot(random, function as usize, slot)
    }

    fn slot(&self, random: &mut Random, function: usize, slot: u64) -> (u64, [u8; 8]) {
        let at = self.functions[function] + slot * SLOT;
        let bytes = match random.below(20) {
            _ if slot % CONSTANT == 3 => {
                let register = random.one_of(&[0, 1, 2, 3, 6, 7]);
                let value = random.bits() as u32;
                [&[0xb8 | register], &value.to_le_bytes()[..]].concat()
            }
            0 if function < CALLERS => {
                let callee = CALLERS as u64 + random.below((FUNCTIONS - CALLERS) as u64);
                let distance = self.functions[callee as usize].wrapping_sub(at + 5) as u32;
                [&[0xe8], &distance.to_le_bytes()[..]].concat()
            }
            // Jcc and JMP over the next slot.
            1 if slot < SLOTS - 1 => vec![0x70 | random.below(16) as u8, 14],
            2 if slot < SLOTS - 1 => vec![0xeb, 14],
            3 | 4 if self.writes => {
                let other = self.functions[random.below(FUNCTIONS as u64) as usize];
                let constant = (random.below(SLOTS / CONSTANT) * CONSTANT + 3) * SLOT + 1;
                let register = random.one_of(&[0, 1, 2, 3, 6, 7]);
                let target = (other + constant) as u32;
                [&[0x89, register << 3 | 4, 0x25], &target.to_le_bytes()[..]].concat()
            }
            _ => plain(random),
        };
        (at, padded(&bytes))
    }
}

/// Fills a slot with NOPs.
fn padded(bytes: &[u8]) -> [u8; 8] {
    let mut slot = [0x90; 8];
    slot[..bytes.len()].copy_from_slice(bytes);
    slot
}

/// An instruction on registers but RSP, and on memory at RBP - 128 to RBP + 127.
fn plain(random: &mut Random) -> Vec<u8> {
    let (r, s) = (random.one_of(&REGISTERS), random.one_of(&REGISTERS));
    match random.below(12) {
        // ALU, TEST, XCHG, MOV; some of them locked.
        0..=3 => {
            let alu = random.below(8) as u8 * 8 + random.below(4) as u8;
            let opcode = random.one_of(&[alu, alu, alu, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8b]);
            let lockable = opcode < 0x38 && opcode & 2 == 0;
            with_modrm(random, &[opcode], None, opcode & 1 == 0, &[], lockable)
        }
        4 => {
            let (imm, group) = (random.bits() as i8 as u8, random.below(8) as u8);
            let opcode = random.one_of(&[0x80, 0x83]);
            with_modrm(random, &[opcode], Some(group), opcode == 0x80, &[imm], false)
        }
        // Shifts by one, NOT, NEG, INC, DEC.
        5 => {
            let shift = random.one_of(&[0, 1, 2, 3, 4, 5, 7]);
            let (opcode, group) =
                random.one_of(&[(0xd0, shift), (0xf6, 2), (0xf6, 3), (0xfe, 0), (0xfe, 1)]);
            let byte = random.below(2) == 0;
            with_modrm(random, &[opcode | u8::from(!byte)], Some(group), byte, &[], false)
        }
        // CMOVcc; SETcc; MOVZX, MOVSX, XADD, CMPXCHG.
        6 => with_modrm(random, &[0x0f, 0x40 | r], None, false, &[], false),
        7 => with_modrm(random, &[0x0f, 0x90 | r], Some(0), true, &[], false),
        8 => {
            let (opcode, lockable) =
                random.one_of(&[(0xb7, false), (0xbf, false), (0xc1, true), (0xb1, true)]);
            with_modrm(random, &[0x0f, opcode], None, false, &[], lockable)
        }
        // LEA r64, [R8–R15 + disp8]; PUSH, POP.
        9 => {
            // R12 would need a SIB byte.
            let base = if s & 7 == 4 { 5 } else { s & 7 };
            vec![0x49 | (r & 8) >> 1, 0x8d, 0x40 | (r & 7) << 3 | base, random.bits() as u8]
        }
        10 => vec![0x40 | r >> 3, 0x50 | r & 7, 0x40 | s >> 3, 0x58 | s & 7],
        // CMC, CLC, STC, CBW, CWD; BSWAP; MOVQ and PADDQ.
        _ => match random.below(6) {
            0 => vec![random.one_of(&[0xf5, 0xf8, 0xf9, 0x98, 0x99])],
            1 => vec![0x48 | r >> 3, 0x0f, 0xc8 | r & 7],
            2 => vec![0x66, 0x48 | r >> 3, 0x0f, 0x6e, 0xc0 | (s & 7) << 3 | r & 7],
            3 => vec![0x66, 0x48 | r >> 3, 0x0f, 0x7e, 0xc0 | (s & 7) << 3 | r & 7],
            _ => vec![0x66, 0x0f, 0xd4, 0xc0 | (s & 7) << 3 | r & 7],
        },
    }
}

/// An instruction with ModRM; `group` is part of the opcode.
fn with_modrm(
    random: &mut Random,
    opcode: &[u8],
    group: Option<u8>,
    byte: bool,
    immediate: &[u8],
    lockable: bool,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let memory = random.below(3) == 0;
    let (reg, rm) = (random.one_of(&REGISTERS), random.one_of(&REGISTERS));
    if lockable && memory && random.below(2) == 0 {
        bytes.push(0xf0);
    }
    // Without REX AH to BH are among the byte registers.
    let plain = byte && random.below(2) == 0;
    if plain {
        bytes.extend(opcode);
        let (reg, rm) = (group.unwrap_or(reg & 7), rm & 7);
        bytes.push(if memory { 0x45 } else { 0xc0 | rm } | reg << 3);
    } else {
        let wide = random.below(2) == 0;
        if !byte && !wide && random.below(3) == 0 {
            bytes.push(0x66);
        }
        let (reg, rm) = (group.unwrap_or(reg), if memory { 5 } else { rm });
        bytes.push(0x40 | u8::from(wide) << 3 | (reg & 8) >> 1 | rm >> 3);
        bytes.extend(opcode);
        bytes.push(if memory { 0x40 } else { 0xc0 } | (reg & 7) << 3 | rm & 7);
    }
    if memory {
        // Eight bytes end before RBP + 127.
        bytes.push((random.below(0xf8) as u8).wrapping_sub(0x80));
    }
    bytes.extend(immediate);
    bytes
}
