//! Instructions that execute as themselves once something is checked or put elsewhere: [`Translator::checked`].
//!
//! A division that faults would be this process's fault; CMPXCHG16B wants an aligned operand; a bit's number may lead
//! out of the operand; PUSH of memory has two.

use arch_x86::regs::rflags;

use super::super::assembler::{Address, Jump, Opcode, condition, group};
use super::super::context;
use super::super::shape::{Encoding, Map};
use super::{LOAD, SAVE, STACK, Step, T0, T1, T2, Translator};

const RAX: u8 = 0;
const RDX: u8 = 2;
/// In the field of the arithmetic flags.
const CARRY_AND_OVERFLOW: u32 = (rflags::CF as u32) << 8 | 1;

impl Translator<'_> {
    /// Translates such an instruction. Gives false, and has done nothing, if it is none.
    pub(super) fn checked(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        if encoding.vex.is_some() || encoding.operand_size || encoding.repeat.is_some() {
            return false;
        }
        let (group, is_memory) = (encoding.next >> 3 & 7, encoding.rm().is_none());
        match (encoding.map, encoding.opcode) {
            (Map::One, 0xf7) if group >= 6 && !encoding.lock => {
                self.divide(step, encoding, group == 7)
            }
            (Map::One, 0xff) if group == 6 && is_memory && !encoding.lock => {
                self.push_memory(step, encoding);
            }
            (Map::Two, 0xa3 | 0xab | 0xb3 | 0xbb) if is_memory && !encoding.address_size => {
                self.bit_string(step, encoding)
            }
            (Map::Two, 0xc7) if group == 1 && is_memory => self.compare_exchange(step, encoding),
            (Map::Two, 0xae) if matches!(encoding.next, 0xe8..=0xff) && !encoding.lock => {
                // LFENCE, MFENCE, SFENCE.
                self.code.raw(&[0x0f, 0xae, encoding.next]);
            }
            _ => return false,
        }
        true
    }

    /// DIV and IDIV, whose quotient certainly fits.
    fn divide(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, signed: bool) {
        let wide = encoding.wide();
        let size = if wide { 8 } else { 4 };
        self.flags_are_lost();
        let mut out = Vec::new();
        match encoding.rm() {
            Some(rm) => self.copy_register(T2, rm),
            None => {
                self.linear_address(step, encoding);
                out.push(self.look_up(size, false));
                let load = Opcode { wide, ..LOAD };
                self.code.memory(load, T2, Self::operand());
            }
        }
        let operation = |opcode: &'static [u8]| Opcode { wide, bytes: opcode, ..Opcode::default() };
        if signed {
            // The upper half is the lower one's sign, and the divisor neither 0 nor -1:
            // mov r10, rax; sar r10, 31 or 63; cmp r10, rdx; lea r10, [r15 + 1]; cmp r10, 1.
            self.code.copy(T0, RAX);
            self.code.registers(operation(&[0xc1]), 7, T0);
            self.code.raw(&[if wide { 63 } else { 31 }]);
            self.code.registers(operation(&[0x39]), RDX, T0);
            out.push(self.code.jump_if(condition::NOT_EQUAL));
            self.code.lea(wide, T0, Address { base: Some(T2), index: None, displacement: 1 });
            self.code.registers(operation(&[0x83]), 7, T0);
            self.code.raw(&[1]);
            out.push(self.code.jump_if(condition::BELOW_OR_EQUAL));
        } else {
            // cmp rdx, r15: the upper half is below the divisor.
            self.code.registers(operation(&[0x39]), T2, RDX);
            out.push(self.code.jump_if(condition::NOT_BELOW));
        }
        self.code.registers(operation(&[0xf7]), if signed { 7 } else { 6 }, T2);
        // What is undefined is as the interpreter has it.
        self.code.change_field(group::AND, context::FLAGS, !0xffff | CARRY_AND_OVERFLOW);
        self.code.change_field(group::OR, context::FLAGS, (rflags::AF as u32) << 8);
        self.finish(step, out);
    }

    /// What leads out of an instruction that is done leads to the interpreter's function.
    pub(super) fn finish(&mut self, step: &Step<'_>, out: impl IntoIterator<Item = Jump>) {
        let mut out = out.into_iter();
        if let Some(first) = out.next() {
            self.on_miss(first, step, None);
        }
        for jump in out {
            self.or_on_miss(jump);
        }
    }

    fn push_memory(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        self.flags_are_lost();
        self.linear_address(step, encoding);
        let source = self.look_up_operand(step, 8, false);
        self.code.memory(LOAD, T2, Self::operand());
        let below = Address { base: Some(STACK), index: None, displacement: -8 };
        self.code.lea(true, T0, below);
        let target = self.look_up_stack(8, true);
        self.code.memory(SAVE, T2, Self::operand());
        self.code.lea(true, STACK, below);
        self.finish(step, vec![source, target]);
    }

    /// BT, BTS, BTR and BTC of a bit of memory whose number is in a register.
    /// See: AMD APM vol. 3, BT: the number is signed, and counts from the operand's start.
    fn bit_string(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        let wide = encoding.wide();
        let (size, shift) = if wide { (8, 3) } else { (4, 2) };
        self.flags_are_lost();
        self.linear_address(step, encoding);
        let number = self.take(encoding.reg(), T2);
        if wide {
            self.code.copy(T1, number);
        } else {
            // movsxd r11, number.
            self.code.registers(
                Opcode { wide: true, bytes: &[0x63], ..Opcode::default() },
                T1,
                number,
            );
        }
        // sar r11, 5 or 6; lea r10, [r10 + r11 * size].
        self.code.registers(Opcode { wide: true, bytes: &[0xc1], ..Opcode::default() }, 7, T1);
        self.code.raw(&[shift + 3]);
        let word = Address { base: Some(T0), index: Some((T1, shift)), displacement: 0 };
        self.code.lea(true, T0, word);
        let is_test = encoding.opcode == 0xa3;
        let miss = self.look_up(size, !is_test);
        self.code.copy(T2, number);
        self.code.change(group::AND, T2, size * 8 - 1);
        // Flags other than CF stay.
        self.load_flags();
        let opcode = [0x0f, encoding.opcode];
        let prefixes = Self::prefixes(encoding);
        let opcode = Opcode { prefixes, wide, rex: false, bytes: &opcode };
        self.code.memory(opcode, T2, Self::operand());
        self.flags_changed(step);
        self.on_miss(miss, step, None);
    }

    /// CMPXCHG8B and CMPXCHG16B.
    fn compare_exchange(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        let wide = encoding.wide();
        let mut out = Vec::new();
        self.flags_are_lost();
        self.linear_address(step, encoding);
        if wide {
            // test r10b, 15.
            self.code.raw(&[0x41, 0xf6, 0xc2, 15]);
            out.push(self.code.jump_if(condition::NOT_EQUAL));
        }
        out.push(self.look_up(if wide { 16 } else { 8 }, true));
        self.load_flags();
        let prefixes = Self::prefixes(encoding);
        let opcode = Opcode { prefixes, wide, rex: false, bytes: &[0x0f, 0xc7] };
        self.code.memory(opcode, 1, Self::operand());
        self.flags_changed(step);
        self.finish(step, out);
    }
}
