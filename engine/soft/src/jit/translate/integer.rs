//! Integer instructions in a block, but for branches: [`Translator::native`].
//!
//! Those with ModRM are executed as themselves, by their [`Shape`]; the rest is a list.

use iced_x86::Mnemonic;

use super::super::assembler::{Address, Jump, Opcode};
use super::super::shape::{Encoding, Map, Role, Shape};
use super::vectors::vex;
use super::{Home, LOAD, RBP, RSP, SAVE, STACK, Step, T0, T1, T2, Translator, home};

impl Translator<'_> {
    /// Translates an instruction that executes as itself. Gives false, and has done nothing, if it is none.
    pub(super) fn native(&mut self, step: &Step<'_>) -> bool {
        let Some(encoding) = &step.encoding else { return false };
        if let Some(vector) = &step.vector {
            self.vector(step, encoding, vector);
            return true;
        }
        if let Some(x87) = &step.x87 {
            self.x87(step, encoding, x87);
            return true;
        }
        if matches!(
            step.instruction.mnemonic(),
            Mnemonic::Nop
                | Mnemonic::Endbr64
                | Mnemonic::Prefetcht0
                | Mnemonic::Prefetchnta
                | Mnemonic::Prefetchw
        ) && !encoding.lock
        {
            return true;
        }
        if encoding.map == Map::One && self.one_byte(step, encoding) {
            return true;
        }
        if encoding.map == Map::Two && encoding.opcode & 0xf8 == 0xc8 {
            return self.bswap(encoding);
        }
        let Some(shape) = Shape::of(encoding) else { return false };
        match (vex(encoding), encoding.rm()) {
            (Some(vex), _) => {
                self.bits(step, encoding, shape, vex);
                true
            }
            (None, Some(rm)) => self.on_registers(step, encoding, shape, rm),
            (None, None) => self.on_memory(step, encoding, shape),
        }
    }

    /// The prefixes that stay.
    pub(super) fn prefixes(encoding: &Encoding<'_>) -> &'static [u8] {
        match (encoding.lock, encoding.operand_size, encoding.repeat) {
            (false, false, None) => &[],
            (false, true, None) => &[0x66],
            (true, false, _) => &[0xf0],
            (true, true, _) => &[0xf0, 0x66],
            // It is part of the opcode.
            (false, false, Some(0xf2)) => &[0xf2],
            (false, true, Some(0xf2)) => &[0x66, 0xf2],
            (false, false, Some(_)) => &[0xf3],
            (false, true, Some(_)) => &[0x66, 0xf3],
        }
    }

    /// Whether a byte operand is AH, CH, DH or BH, which no instruction with REX can name.
    const fn is_high_byte(encoding: &Encoding<'_>, register: u8) -> bool {
        encoding.rex == 0 && register >= 4
    }

    fn on_registers(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        shape: Shape,
        rm: u8,
    ) -> bool {
        let reg = encoding.reg();
        let has_reg = shape.reg != Role::None;
        let high = |byte: bool, register| byte && Self::is_high_byte(encoding, register);
        if high(shape.byte_rm, rm) || has_reg && high(shape.byte_reg, reg) {
            // Only if all of it can be said without REX, as it is.
            let plain = |byte: bool, register: u8| byte || register != RSP;
            if !plain(shape.byte_rm, rm) || has_reg && !plain(shape.byte_reg, reg) {
                return false;
            }
            self.expect_flags(step);
            self.code.raw(encoding.bytes);
            self.flags_changed(step);
            return true;
        }
        self.expect_flags(step);
        let host_rm = self.take(rm, T1);
        let host_reg = match (has_reg, reg == rm) {
            (false, _) => reg,
            (true, true) => host_rm,
            (true, false) => self.take(reg, T2),
        };
        let opcode = Opcode {
            prefixes: Self::prefixes(encoding),
            wide: encoding.wide(),
            rex: encoding.rex != 0,
            bytes: encoding.escaped,
        };
        self.code.registers(opcode, host_reg, host_rm);
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        if shape.rm.writes() {
            self.give(rm, host_rm);
        }
        if has_reg && shape.reg.writes() {
            self.give(reg, host_reg);
        }
        true
    }

    /// A guest's register, in one of the host's.
    pub(super) fn take(&mut self, guest: u8, temporary: u8) -> u8 {
        match home(guest) {
            Home::Host(host) => host,
            Home::Field(field) => {
                self.code.load(temporary, field);
                temporary
            }
        }
    }

    /// Copies a guest's register.
    pub(super) fn copy_register(&mut self, to: u8, guest: u8) {
        match home(guest) {
            Home::Host(host) => self.code.copy(to, host),
            Home::Field(field) => self.code.load(to, field),
        }
    }

    /// The guest's register has a new value, in `host`.
    pub(super) fn give(&mut self, guest: u8, host: u8) {
        if let Home::Field(field) = home(guest) {
            self.code.store(field, host);
        }
    }

    fn on_memory(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, shape: Shape) -> bool {
        let reg = encoding.reg();
        let has_reg = shape.reg != Role::None;
        if has_reg && shape.byte_reg && Self::is_high_byte(encoding, reg) {
            return false;
        }
        let size = step.instruction.memory_size().size() as u32;
        if !matches!(size, 1 | 2 | 4 | 8) {
            return false;
        }
        let (at, miss) = self.place_of(step, encoding, size, shape.rm.writes());
        self.expect_flags(step);
        let host_reg = if has_reg { self.take(reg, T2) } else { reg };
        let opcode = Opcode {
            prefixes: Self::prefixes(encoding),
            wide: encoding.wide(),
            rex: true,
            bytes: encoding.escaped,
        };
        self.code.memory(opcode, host_reg, at);
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        if has_reg && shape.reg.writes() {
            self.give(reg, host_reg);
        }
        self.finish(step, miss);
        true
    }

    /// Where the memory operand is, and the way on if that is looked up and misses.
    pub(super) fn place_of(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        size: u32,
        written: bool,
    ) -> (Address, Option<Jump>) {
        if let Some(at) = self.in_window_of(step) {
            return (at, None);
        }
        self.flags_are_lost();
        if !written && let Some((at, miss)) = self.look_up_by_gs(step, size) {
            return (at, Some(miss));
        }
        self.linear_address(step, encoding);
        let miss = self.look_up_operand(step, size, written);
        (Self::operand(), Some(miss))
    }

    /// Instructions whose operands are in the opcode, and some more.
    fn one_byte(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        let opcode = encoding.opcode;
        if encoding.lock {
            return false;
        }
        match opcode {
            // ALU and TEST on AL to RAX with an immediate operand; CBW and its kin; CMC, CLC, STC; LAHF, SAHF.
            0x00..=0x3f if opcode & 6 == 4 => self.as_it_is(step, encoding),
            0xa8 | 0xa9 | 0x98 | 0x99 | 0xf5 | 0xf8 | 0xf9 | 0x9e | 0x9f => {
                self.as_it_is(step, encoding)
            }
            // MOV of an immediate operand.
            0xb0..=0xb7 => {
                let register = encoding.in_opcode();
                let same = home(register) == Home::Host(register)
                    && !(encoding.rex != 0 && register == RSP);
                let high = Self::is_high_byte(encoding, register);
                if same || high { self.as_it_is(step, encoding) } else { false }
            }
            0xb8..=0xbf if !encoding.operand_size => {
                self.set_register(encoding.in_opcode(), step.instruction.immediate(1));
                true
            }
            0x50..=0x57 if !encoding.operand_size => self.push(step, encoding),
            0x68 | 0x6a if !encoding.operand_size => self.push(step, encoding),
            0x58..=0x5f if !encoding.operand_size => self.pop(step, encoding.in_opcode()),
            0xc9 if !encoding.operand_size => self.pop(step, RBP),
            0x8d if !encoding.operand_size => {
                self.lea(step, encoding);
                true
            }
            _ => false,
        }
    }

    fn as_it_is(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        self.expect_flags(step);
        self.code.raw(encoding.bytes);
        self.flags_changed(step);
        true
    }

    fn set_register(&mut self, guest: u8, value: u64) {
        match home(guest) {
            Home::Host(host) => self.code.set(host, value),
            Home::Field(field) => {
                self.code.set(T2, value);
                self.code.store(field, T2);
            }
        }
    }

    fn bswap(&mut self, encoding: &Encoding<'_>) -> bool {
        if encoding.operand_size || encoding.lock {
            return false;
        }
        let guest = encoding.in_opcode();
        let host = self.take(guest, T2);
        let rex = 0x40 | u8::from(encoding.wide()) << 3 | host >> 3;
        self.code.raw(&[rex, 0x0f, 0xc8 | host & 7]);
        self.give(guest, host);
        true
    }

    fn lea(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        let guest = encoding.reg();
        let wide = encoding.wide() && !encoding.address_size;
        let host = match home(guest) {
            Home::Host(host) => host,
            Home::Field(_) => T2,
        };
        self.effective_address(&step.instruction, host, wide, 0);
        self.give(guest, host);
    }

    fn push(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        let below = Address { base: Some(STACK), index: None, displacement: -8 };
        let mut miss = None;
        let at = self.in_window(-8i64 as u64, true).unwrap_or_else(|| {
            self.flags_are_lost();
            self.code.lea(true, T0, below);
            miss = Some(self.look_up_stack(8, true));
            Self::operand()
        });
        if matches!(encoding.opcode, 0x68 | 0x6a) {
            let value = step.instruction.immediate(0) as u32;
            let store = Opcode { wide: true, bytes: &[0xc7], ..Opcode::default() };
            self.code.memory(store, 0, at);
            self.code.raw(&value.to_le_bytes());
        } else {
            let host = self.take(encoding.in_opcode(), T2);
            self.code.memory(SAVE, host, at);
        }
        self.move_stack(-8);
        self.finish(step, miss);
        true
    }

    /// POP of a register, and LEAVE, which pops RBP from where RBP points.
    fn pop(&mut self, step: &Step<'_>, guest: u8) -> bool {
        let is_leave = step.instruction.mnemonic() == Mnemonic::Leave;
        let from = if is_leave { RBP } else { STACK };
        let mut miss = None;
        let at = self.in_window(0, true).unwrap_or_else(|| {
            self.flags_are_lost();
            self.code.copy(T0, from);
            miss = Some(self.look_up_stack(8, false));
            Self::operand()
        });
        let to = match home(guest) {
            // Of LEAVE, it is where the stack is yet to be.
            Home::Host(host) if !is_leave => host,
            _ => T2,
        };
        self.code.memory(LOAD, to, at);
        if is_leave {
            self.code.lea(true, STACK, Address { base: Some(from), index: None, displacement: 8 });
            self.code.copy(RBP, T2);
        } else {
            self.give(guest, to);
            // What POP reads is RSP's new value.
            if guest != RSP {
                self.move_stack(8);
            }
        }
        self.finish(step, miss);
        true
    }
}
