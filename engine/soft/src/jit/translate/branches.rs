//! Branches at the end of a block: [`Translator::branch`].

use super::super::assembler::{Address, condition};
use super::super::shape::{Encoding, Map};
use super::{Home, LOAD, SAVE, STACK, Step, T0, T1, T2, Translator, home};

impl Translator<'_> {
    /// Translates a branch. Gives false, and has done nothing, if the instruction is none that is translated.
    pub(super) fn branch(&mut self, step: &Step<'_>) -> bool {
        let Some(encoding) = &step.encoding else { return false };
        if encoding.operand_size || encoding.lock || encoding.vex.is_some() {
            return false;
        }
        let group = encoding.next >> 3 & 7;
        let target = || is_canonical(step.instruction.near_branch_target());
        match (encoding.map, encoding.opcode) {
            (Map::One, 0x70..=0x7f) | (Map::Two, 0x80..=0x8f) if target() => {
                self.jump_if(step, encoding)
            }
            (Map::One, 0xe9 | 0xeb) if target() => {
                self.store_flags();
                self.leave_to(step.instruction.near_branch_target());
            }
            (Map::One, 0xe8) if target() => {
                self.flags_are_lost();
                self.code.set(T2, step.instruction.near_branch_target());
                self.call(step);
            }
            (Map::One, 0xc3) => {
                self.flags_are_lost();
                self.code.copy(T0, STACK);
                let miss = self.look_up(8, false);
                self.on_miss(miss, step, Some(self.end));
                self.code.memory(LOAD, T2, Self::operand());
                self.expect_canonical(step);
                self.code.lea(
                    true,
                    STACK,
                    Address { base: Some(STACK), index: None, displacement: 8 },
                );
                self.code.copy(T0, T2);
                self.code.jump(self.stubs.dispatch);
            }
            (Map::One, 0xff) if group == 2 || group == 4 => {
                self.flags_are_lost();
                self.indirect_target(step, encoding);
                self.expect_canonical(step);
                if group == 2 {
                    self.call(step);
                } else {
                    self.code.copy(T0, T2);
                    self.code.jump(self.stubs.dispatch);
                }
            }
            _ => return false,
        }
        true
    }

    fn jump_if(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        self.expect_flags(step);
        let target = step.instruction.near_branch_target();
        self.store_flags();
        let taken = self.code.jump_if(encoding.opcode & 15);
        self.leave_to(self.end);
        self.code.bind(taken);
        self.leave_to(target);
    }

    /// The target of an indirect branch into T2.
    fn indirect_target(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        match encoding.rm() {
            Some(rm) => match home(rm) {
                Home::Host(host) => self.code.copy(T2, host),
                Home::Field(field) => self.code.load(T2, field),
            },
            None => {
                self.linear_address(step, encoding);
                let miss = self.look_up(8, false);
                self.on_miss(miss, step, Some(self.end));
                self.code.memory(LOAD, T2, Self::operand());
            }
        }
    }

    /// Leaves a branch to an address in T2 that is not canonical to the interpreter, which faults.
    fn expect_canonical(&mut self, step: &Step<'_>) {
        self.code.copy(T0, T2);
        // shl r10, 16; sar r10, 16; cmp r10, r15.
        self.code.raw(&[0x49, 0xc1, 0xe2, 0x10, 0x49, 0xc1, 0xfa, 0x10, 0x4d, 0x39, 0xfa]);
        let odd = self.code.jump_if(condition::NOT_EQUAL);
        self.on_miss(odd, step, Some(self.end));
    }

    /// Pushes the address behind the block, and goes on at T2.
    fn call(&mut self, step: &Step<'_>) {
        let below = Address { base: Some(STACK), index: None, displacement: -8 };
        self.code.lea(true, T0, below);
        let miss = self.look_up(8, true);
        self.on_miss(miss, step, Some(self.end));
        self.code.lea(true, T1, Self::operand());
        self.code.set(T0, self.end);
        self.code.memory(SAVE, T0, Address { base: Some(T1), index: None, displacement: 0 });
        self.code.lea(true, STACK, below);
        self.code.copy(T0, T2);
        self.code.jump(self.stubs.dispatch);
    }
}

/// Whether an address is canonical with 48 bits.
const fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}
