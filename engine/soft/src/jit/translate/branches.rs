//! Branches at the end of a block: [`Translator::branch`]. Where indirect ones lead is looked up in the jump cache; that it is
//! where they have led before is for [`super::super::sites`].

use super::super::assembler::{Address, Jump, Opcode, condition};
use super::super::context;
use super::super::shape::{Encoding, Map};
use super::super::sites;
use super::super::stubs::find_jump;
use super::{LOAD, SAVE, STACK, Step, T0, T1, T2, Translator};
use crate::jump_cache as jump;

/// An indirect branch whose target was not in the first way of the jump cache.
pub(super) struct SecondTarget {
    jump: Jump,
    /// What is done if it is not in the second way, either.
    slow: usize,
    /// Where it is looked at once more.
    back: u64,
}

/// An indirect branch whose target is not among those that it compares with.
pub(super) struct UnknownTarget {
    jump: Jump,
    site: u64,
}

/// Where an indirect branch's target is.
enum Target {
    /// In the jump cache's entry at T1.
    Found,
    /// In T2.
    Loaded,
}

/// The code that the jump cache's entry at T1 has.
const CODE: Address = Address { base: Some(T1), index: None, displacement: jump::CODE };

/// The condition of Jcc; `None` if the instruction is none that is translated.
pub(super) fn condition_of(encoding: &Encoding<'_>) -> Option<u8> {
    let special = encoding.operand_size || encoding.lock || encoding.vex.is_some();
    match (encoding.map, encoding.opcode) {
        (Map::One, 0x70..=0x7f) | (Map::Two, 0x80..=0x8f) if !special => Some(encoding.opcode & 15),
        _ => None,
    }
}

impl Translator<'_> {
    /// Translates a jump to a place that is known. Gives false, and has done nothing, if the instruction is none.
    pub(super) fn near_branch(&mut self, step: &Step<'_>) -> bool {
        let Some(encoding) = &step.encoding else { return false };
        let target = step.instruction.near_branch_target();
        let is_plain = !encoding.operand_size && !encoding.lock && encoding.vex.is_none();
        if !is_plain || !is_canonical(target) {
            return false;
        }
        if condition_of(encoding).is_some() {
            self.jump_if(step, encoding);
        } else if matches!((encoding.map, encoding.opcode), (Map::One, 0xe9 | 0xeb)) {
            self.leave_to(target);
        } else {
            return false;
        }
        true
    }

    /// Translates a call, a return, or an indirect jump; the flags are in their field. Gives false, and has done nothing, if
    /// the instruction is none that is translated.
    pub(super) fn branch(&mut self, step: &Step<'_>) -> bool {
        let Some(encoding) = &step.encoding else { return false };
        if encoding.operand_size || encoding.lock || encoding.vex.is_some() {
            return false;
        }
        let group = encoding.next >> 3 & 7;
        let target = || is_canonical(step.instruction.near_branch_target());
        match (encoding.map, encoding.opcode) {
            (Map::One, 0xe8) if target() => {
                self.flags_are_lost();
                self.push_return(step);
                self.leave_to(step.instruction.near_branch_target());
            }
            (Map::One, 0xc3) => self.ret(step),
            (Map::One, 0xff) if group == 2 || group == 4 => {
                self.flags_are_lost();
                self.indirect_target(step, encoding);
                self.find_target(step);
                if group == 2 {
                    // It takes the entry's place.
                    self.load_target();
                    self.push_return(step);
                    self.jump_to(Target::Loaded);
                } else {
                    self.jump_to(Target::Found);
                }
            }
            _ => return false,
        }
        true
    }

    fn jump_if(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        self.expect_flags(step);
        let (target, condition) = (step.instruction.near_branch_target(), encoding.opcode & 15);
        // What leads back mostly does.
        let (first, second, condition) = match self.looks_before(target) {
            true => (target, self.end, condition ^ 1),
            false => (self.end, target, condition),
        };
        let other = self.code.jump_if(condition);
        let (flags, recovery) = (self.flags, self.recovery);
        self.leave_to(first);
        (self.flags, self.recovery) = (flags, recovery);
        if self.is_one_jump(second) {
            self.leave_by(other, second);
        } else {
            self.code.bind(other);
            self.leave_to(second);
        }
    }

    /// Whether an instruction is a return that is translated so.
    pub(super) fn returns(&self, step: &Step<'_>) -> bool {
        let is_plain = |encoding: &Encoding<'_>| {
            let prefixed = encoding.operand_size || encoding.lock || encoding.vex.is_some();
            !prefixed && (encoding.map, encoding.opcode) == (Map::One, 0xc3)
        };
        self.chained && step.encoding.as_ref().is_some_and(is_plain)
    }

    fn ret(&mut self, step: &Step<'_>) {
        self.return_address(step);
        self.return_to(Self::operand(), step);
    }

    /// A return, to where a window's look-up has found it.
    pub(super) fn return_from(&mut self, place: Address, step: &Step<'_>) {
        // The place is in T0 and T1.
        self.store_flags_by(T2);
        self.flags_are_lost();
        self.return_to(place, step);
    }

    /// A return, to what is at a place.
    fn return_to(&mut self, place: Address, step: &Step<'_>) {
        self.code.memory(LOAD, T0, place);
        self.find_target(step);
        self.code.lea(true, STACK, Address { base: Some(STACK), index: None, displacement: 8 });
        self.jump_to(Target::Found);
    }

    /// Looks up what a return will pop.
    fn return_address(&mut self, step: &Step<'_>) {
        self.flags_are_lost();
        self.code.copy(T0, STACK);
        let miss = self.look_up_stack(8, false);
        self.on_miss(miss, step, Some(step.instruction.next_ip()));
    }

    /// A return that is followed: the interpreter executes it if it does not lead to `target`.
    pub(super) fn follow_return(&mut self, step: &Step<'_>, target: u64) {
        self.return_address(step);
        if let Ok(target) = i32::try_from(target as i64) {
            let compare = Opcode { wide: true, bytes: &[0x81], ..Opcode::default() };
            self.code.memory(compare, 7, Self::operand());
            self.code.raw(&target.to_le_bytes());
        } else {
            self.code.memory(LOAD, T0, Self::operand());
            self.code.set(T1, target);
            // cmp r10, r11.
            let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
            self.code.registers(compare, T1, T0);
        }
        let other = self.code.jump_if(condition::NOT_EQUAL);
        self.or_on_miss(other);
        self.code.lea(true, STACK, Address { base: Some(STACK), index: None, displacement: 8 });
    }

    /// The target of an indirect branch into T0.
    fn indirect_target(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        match encoding.rm() {
            Some(rm) => self.copy_register(T0, rm),
            None => {
                self.linear_address(step, encoding);
                let miss = self.look_up_operand(step, 8, false);
                self.on_miss(miss, step, Some(self.end));
                self.code.memory(LOAD, T0, Self::operand());
            }
        }
    }

    /// Finds the code at the address in T0, which the jump cache has to know: else, as when it is not canonical,
    /// the interpreter executes the branch. T1 is the entry then; T2 the address if this leads to Rust.
    fn find_target(&mut self, step: &Step<'_>) {
        if !self.chained {
            // shl r11, 16; sar r11, 16; cmp r11, r10.
            self.code.copy(T1, T0);
            self.code.raw(&[0x49, 0xc1, 0xe3, 0x10, 0x49, 0xc1, 0xfb, 0x10, 0x4d, 0x39, 0xd3]);
            let odd = self.code.jump_if(condition::NOT_EQUAL);
            self.on_miss(odd, step, Some(self.end));
            self.code.copy(T2, T0);
            return;
        }
        find_jump(&mut self.code, self.cpl);
        let back = self.code.here();
        let [other, old] = self.expect_cached(0, context::key(self.cpl, self.rip));
        self.on_miss(old, step, Some(self.end));
        let slow = self.slow.len() - 1;
        self.second_targets.push(SecondTarget { jump: other, slow, back });
    }

    /// Targets that may be in the second way of the jump cache.
    pub(super) fn take_second_targets(&mut self) {
        for target in core::mem::take(&mut self.second_targets) {
            self.code.bind(target.jump);
            self.code.call(self.stubs.second);
            let neither = self.code.jump_if(condition::NOT_EQUAL);
            self.slow[target.slow].more.push(neither);
            self.code.jump(target.back);
        }
    }

    /// What [`find_target`](Self::find_target) has found into T2.
    fn load_target(&mut self) {
        if self.chained {
            self.code.memory(LOAD, T2, CODE);
        }
    }

    /// Goes on at what [`find_target`](Self::find_target) has found.
    fn jump_to(&mut self, target: Target) {
        match target {
            _ if !self.chained => {
                self.code.copy(T0, T2);
                self.code.jump(self.stubs.leave);
            }
            Target::Found => {
                self.load_target();
                self.go_to_target();
            }
            Target::Loaded => self.go_to_target(),
        }
    }

    /// Goes on at the code at T2.
    fn go_to_target(&mut self) {
        let (site, jump) = sites::assemble(&mut self.code);
        self.unknown_targets.push(UnknownTarget { jump, site });
    }

    /// Targets that indirect branches do not know.
    pub(super) fn take_unknown_targets(&mut self) {
        for UnknownTarget { jump, site } in core::mem::take(&mut self.unknown_targets) {
            self.code.bind(jump);
            sites::assemble_unknown(&mut self.code, site, self.stubs.meet);
        }
    }

    /// Pushes the address behind the block. T2 stays.
    pub(super) fn push_return(&mut self, step: &Step<'_>) {
        let below = Address { base: Some(STACK), index: None, displacement: -8 };
        self.code.lea(true, T0, below);
        let miss = self.look_up_stack(8, true);
        let end = step.instruction.next_ip();
        self.on_miss(miss, step, Some(end));
        if let Ok(end) = i32::try_from(end as i64) {
            // mov qword [operand], end.
            self.code.memory(
                Opcode { wide: true, bytes: &[0xc7], ..Opcode::default() },
                0,
                Self::operand(),
            );
            self.code.raw(&end.to_le_bytes());
        } else {
            self.code.lea(true, T1, Self::operand());
            self.code.set(T0, end);
            self.code.memory(SAVE, T0, Address { base: Some(T1), index: None, displacement: 0 });
        }
        self.code.lea(true, STACK, below);
    }
}

/// Whether an address is canonical with 48 bits.
const fn is_canonical(address: u64) -> bool {
    (address << 16) as i64 >> 16 == address as i64
}
