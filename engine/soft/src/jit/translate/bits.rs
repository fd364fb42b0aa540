//! BMI1 and BMI2 in a block, which have a VEX prefix: [`Translator::bits`].
//!
//! They are executed as themselves, on up to three registers. What they leave of flags undefined is as the host has it,
//! as with all instructions that execute as themselves.

use super::super::assembler::Vex;
use super::super::context;
use super::super::shape::{Encoding, Role, Shape};
use super::vectors::target;
use super::{Home, RAX, Step, T0, T1, T2, Translator, home};

impl Translator<'_> {
    /// Translates an instruction of such a shape.
    pub(super) fn bits(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        shape: Shape,
        vex: Vex,
    ) {
        match encoding.rm() {
            Some(rm) => self.bits_of_register(step, encoding, shape, vex, rm),
            None => self.bits_of_memory(step, encoding, shape, vex),
        }
    }

    fn bits_of_register(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        shape: Shape,
        vex: Vex,
        rm: u8,
    ) {
        self.expect_flags(step);
        let host_rm = self.take(rm, T1);
        let register = self.third(shape, vex.register, T0);
        let reg = written(encoding, shape);
        self.code.vex_registers(Vex { register, ..vex }, reg, host_rm);
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        self.give_results(encoding, shape, vex, [register, reg]);
    }

    fn bits_of_memory(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, shape: Shape, vex: Vex) {
        let size = step.instruction.memory_size().size() as u32;
        let (at, miss) = self.place_of(step, encoding, size, false);
        self.expect_flags(step);
        // T0 and T1 stay, for others may be looked up with this operand. What is read may be where the result will be;
        // but MULX has two results. Of two in one register the upper half stays.
        let is_field = |guest| matches!(home(guest), Home::Field(_));
        let both = shape.reg.writes() && shape.vvvv.writes() && encoding.reg() != vex.register;
        let borrows = both && is_field(encoding.reg()) && is_field(vex.register);
        if borrows {
            self.code.store(context::SAVED, RAX);
        }
        let register = self.third(shape, vex.register, if borrows { RAX } else { T2 });
        let reg = written(encoding, shape);
        self.code.vex_memory(Vex { register, ..vex }, reg, at);
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        self.give_results(encoding, shape, vex, [register, reg]);
        if borrows {
            self.code.load(RAX, context::SAVED);
        }
        self.finish(step, miss);
    }

    /// The host's register for the one in VEX.vvvv.
    fn third(&mut self, shape: Shape, guest: u8, temporary: u8) -> u8 {
        match shape.vvvv {
            Role::None => guest,
            Role::Write => target(guest, temporary),
            Role::Read | Role::Both => self.take(guest, temporary),
        }
    }

    /// The results are in the host's registers for VEX.vvvv and `reg`. If both are one register's, that of `reg` stays.
    fn give_results(
        &mut self,
        encoding: &Encoding<'_>,
        shape: Shape,
        vex: Vex,
        [register, reg]: [u8; 2],
    ) {
        if shape.vvvv.writes() {
            self.give(vex.register, register);
        }
        if shape.reg.writes() {
            self.give(encoding.reg(), reg);
        }
    }
}

/// The host's register for ModRM's `reg`, which is written, or part of the opcode.
fn written(encoding: &Encoding<'_>, shape: Shape) -> u8 {
    match shape.reg {
        Role::None => encoding.reg(),
        _ => target(encoding.reg(), T2),
    }
}
