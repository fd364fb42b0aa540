//! MOVS and STOS, alone and repeated, and the direction that they go: [`Translator::string`],
//! [`Translator::repeated_string`].
//!
//! Upwards only. What is repeated is done by the host's own instruction, as much at once as lies in one page at either
//! end: it then does, element by element, what the guest's would, also where one operand is just ahead of the other
//! or both are the same memory under two addresses. All else is the interpreter's: a page that the TLB has not, or
//! an element in two.

use arch_x86::regs::rflags;
use iced_x86::{Mnemonic, Register};

use super::super::assembler::{Address, Jump, Opcode, condition, group};
use super::super::context;
use super::super::shape::{Encoding, Map};
use super::{RAX, Step, T0, T1, T2, Translator};
use crate::ram;

const RCX: u8 = 1;
const RSI: u8 = 6;
const RDI: u8 = 7;
const DF: u32 = rflags::DF as u32;

/// MOVS or STOS.
#[derive(Clone, Copy)]
struct Text {
    /// There is a source in memory: MOVS.
    moves: bool,
    /// log2 of an element's size.
    shift: u8,
}

impl Text {
    /// `None` if it is neither, or has addresses that are not RSI and RDI themselves.
    fn of(step: &Step<'_>, encoding: &Encoding<'_>) -> Option<Self> {
        let special = encoding.vex.is_some() || encoding.lock || encoding.address_size;
        let is_based = matches!(step.instruction.segment_prefix(), Register::FS | Register::GS);
        if special || is_based || encoding.map != Map::One {
            return None;
        }
        let moves = match encoding.opcode {
            0xa4 | 0xa5 => true,
            0xaa | 0xab => false,
            _ => return None,
        };
        let shift = match (encoding.opcode & 1, encoding.wide(), encoding.operand_size) {
            (0, _, _) => 0,
            (_, true, _) => 3,
            (_, false, true) => 1,
            (_, false, false) => 2,
        };
        Some(Self { moves, shift })
    }

    const fn size(self) -> u32 {
        1 << self.shift
    }

    /// An opcode of which the lowest bit says that the operand is no byte.
    fn opcode(self, opcodes: &'static [[u8; 1]; 2]) -> Opcode<'static> {
        Opcode {
            prefixes: if self.shift == 1 { &[0x66] } else { &[] },
            wide: self.shift == 3,
            rex: false,
            bytes: &opcodes[usize::from(self.shift != 0)],
        }
    }
}

const fn wide(bytes: &[u8]) -> Opcode<'_> {
    Opcode { prefixes: &[], wide: true, rex: false, bytes }
}

impl Translator<'_> {
    /// Translates MOVS, STOS, CLD and STD. Gives false, and has done nothing, if it is none.
    pub(super) fn string(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        match step.instruction.mnemonic() {
            // Only a string instruction and what is the interpreter's look at it.
            Mnemonic::Cld if !encoding.lock => {
                self.flags_are_lost();
                self.code.change_field(group::AND, context::RFLAGS, !DF);
                return true;
            }
            Mnemonic::Std if !encoding.lock => {
                self.flags_are_lost();
                self.code.change_field(group::OR, context::RFLAGS, DF);
                return true;
            }
            _ => {}
        }
        match Text::of(step, encoding) {
            Some(text) if encoding.repeat.is_none() => self.one_element(step, text),
            _ => return false,
        }
        true
    }

    /// Translates MOVS and STOS that are repeated, which end a block: by the interpreter they are done in parts.
    /// Gives false, and has done nothing, if it is neither.
    /// See: AMD APM vol. 3, 1.2.6, MOVS, STOS. F2 does to them what F3 does, as it does with the interpreter.
    pub(super) fn repeated_string(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        match Text::of(step, encoding) {
            Some(text) if encoding.repeat.is_some() => self.elements(step, text),
            _ => return false,
        }
        true
    }

    fn one_element(&mut self, step: &Step<'_>, text: Text) {
        const LOADS: [[u8; 1]; 2] = [[0x8a], [0x8b]];
        const STORES: [[u8; 1]; 2] = [[0x88], [0x89]];
        self.flags_are_lost();
        let mut out = vec![self.expect_upwards()];
        let value = if text.moves {
            self.code.copy(T0, RSI);
            out.push(self.look_up(text.size(), false));
            self.code.memory(text.opcode(&LOADS), T2, Self::operand());
            T2
        } else {
            RAX
        };
        self.code.copy(T0, RDI);
        out.push(self.look_up(text.size(), true));
        self.code.memory(text.opcode(&STORES), value, Self::operand());
        let displacement = text.size() as i32;
        for moved in [RDI, RSI].into_iter().take(1 + usize::from(text.moves)) {
            self.code.lea(true, moved, Address { base: Some(moved), index: None, displacement });
        }
        self.finish(step, out);
    }

    /// Whether RFLAGS.DF is clear, as the host's is.
    fn expect_upwards(&mut self) -> Jump {
        self.code.test_bits(context::RFLAGS, DF);
        self.code.jump_if(condition::NOT_EQUAL)
    }

    fn elements(&mut self, step: &Step<'_>, text: Text) {
        self.flags_are_lost();
        let down = self.expect_upwards();
        self.on_miss(down, step, Some(self.end));
        let others = self.elements_of_a_page(text);
        let back = self.code.here();
        if !self.goes_by_pages() {
            others.into_iter().for_each(|other| self.or_on_miss(other));
            return;
        }
        self.code.cold(true);
        others.into_iter().for_each(|other| self.code.bind(other));
        self.elements_by_pages(text);
        self.code.jump(back);
        self.code.cold(false);
    }

    /// Whether a translation may do more than the interpreter does at once. Those that are compared with it may not.
    const fn goes_by_pages(&self) -> bool {
        self.chained && !self.polls
    }

    /// All elements, if they are in one page at either end. Gives the ways on if they are not.
    fn elements_of_a_page(&mut self, text: Text) -> Vec<Jump> {
        // cmp rcx, elements of a page: no more, so that its size in bytes is none that wraps.
        self.code.registers(wide(&[0x81]), 7, RCX);
        self.code.raw(&(ram::SIZE as u32 >> text.shift).to_le_bytes());
        let mut others = vec![self.code.jump_if(condition::ABOVE)];
        // The last offset in a page: lea r15, [rcx * size - 4096]; neg r15.
        let displacement = -(ram::SIZE as i32);
        let beyond = Address { base: None, index: Some((RCX, text.shift)), displacement };
        self.code.lea(true, T2, beyond);
        self.code.registers(wide(&[0xf7]), 3, T2);
        if text.moves {
            self.code.copy(T0, RSI);
            others.push(self.look_up_to(T2, false));
            self.keep_source();
        }
        self.code.copy(T0, RDI);
        others.push(self.look_up_to(T2, true));
        self.repeat(text);
        others
    }

    /// So many elements at once as are in one page at either end, until there are no more. Between two such parts
    /// the guest's registers are as they have to be there: the interpreter goes on if there is something else to do.
    fn elements_by_pages(&mut self, text: Text) {
        let start = self.code.here();
        self.count_elements(text);
        let none = self.code.jump_if(condition::EQUAL);
        self.or_on_miss(none);
        if text.moves {
            self.code.copy(T0, RSI);
            let miss = self.look_up(text.size(), false);
            self.or_on_miss(miss);
            self.keep_source();
        }
        self.code.copy(T0, RDI);
        let miss = self.look_up(text.size(), true);
        self.or_on_miss(miss);
        // Nothing fails from here on. What remains, for a moment: sub rcx, r15; xchg rcx, r15.
        self.code.registers(wide(&[0x29]), T2, RCX);
        self.code.store(context::REMAINING, RCX);
        self.code.copy(RCX, T2);
        self.repeat(text);
        self.code.load(RCX, context::REMAINING);
        // test rcx, rcx.
        self.code.registers(wide(&[0x85]), RCX, RCX);
        let done = self.code.jump_if(condition::EQUAL);
        let asked = self.expect_no_request();
        self.or_on_miss(asked);
        self.code.jump(start);
        self.code.bind(done);
    }

    /// How many elements are in one page at either end, into T2: EQUAL if none is. T0 changes.
    fn count_elements(&mut self, text: Text) {
        const PAGE: u32 = ram::SIZE as u32;
        let narrow = |bytes: &'static [u8]| Opcode { bytes, ..Opcode::default() };
        // The larger of the two offsets.
        self.code.registers(narrow(&[0x8b]), T2, RDI);
        self.code.change(group::AND, T2, PAGE - 1);
        if text.moves {
            self.code.registers(narrow(&[0x8b]), T0, RSI);
            self.code.change(group::AND, T0, PAGE - 1);
            // cmp r15d, r10d; cmovb r15d, r10d.
            self.code.registers(narrow(&[0x39]), T0, T2);
            self.code.registers(narrow(&[0x0f, 0x42]), T2, T0);
        }
        // The room behind it: neg r15d; add r15d, 4096.
        self.code.registers(narrow(&[0xf7]), 3, T2);
        self.code.change(group::ADD, T2, PAGE);
        self.code.shift_right(T2, text.shift);
        // No more than asked: cmp rcx, r15; cmovb r15, rcx.
        self.code.registers(wide(&[0x39]), T2, RCX);
        self.code.registers(wide(&[0x0f, 0x42]), T2, RCX);
        // test r15, r15.
        self.code.registers(wide(&[0x85]), T2, T2);
    }

    /// Keeps the place of the source that was just looked up.
    fn keep_source(&mut self) {
        self.code.lea(true, T0, Self::operand());
        self.code.store(context::SAVED, T0);
    }

    /// The host's instruction, on the destination that was just looked up and the source whose place is saved.
    fn repeat(&mut self, text: Text) {
        const MOVS: [[u8; 1]; 2] = [[0xa4], [0xa5]];
        const STOS: [[u8; 1]; 2] = [[0xaa], [0xab]];
        // What they are behind it.
        let behind = |register| Address {
            base: Some(register),
            index: Some((RCX, text.shift)),
            displacement: 0,
        };
        self.code.lea(true, T2, behind(RDI));
        self.code.lea(true, RDI, Self::operand());
        if text.moves {
            self.code.lea(true, T1, behind(RSI));
            self.code.load(RSI, context::SAVED);
        }
        let opcode = text.opcode(if text.moves { &MOVS } else { &STOS });
        self.code.raw(&[0xf3]);
        self.code.plain(opcode);
        self.code.copy(RDI, T2);
        if text.moves {
            self.code.copy(RSI, T1);
        }
    }
}
