//! Vector instructions in a block: [`Translator::vector`].

use super::super::assembler::{Opcode, Vex, condition};
use super::super::shape::{Encoding, Map};
use super::super::vector::{General, Vector};
use super::{Home, Step, T1, T2, Translator, home};

impl Translator<'_> {
    /// Translates a vector instruction.
    pub(super) fn vector(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, vector: &Vector) {
        self.expect_loaded(step.needed(), step);
        if vector.bare {
            self.code.raw(encoding.bytes);
            return;
        }
        match encoding.rm() {
            Some(rm) => self.vector_on_registers(step, encoding, vector, rm),
            None => self.vector_on_memory(step, encoding, vector),
        }
    }

    fn vector_on_registers(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        vector: &Vector,
        rm: u8,
    ) {
        self.expect_flags(step);
        let reg = self.written_register(encoding, vector);
        let host_rm = match vector.general {
            General::Rm { written: false } => self.take(rm, T1),
            General::Rm { written: true } => target(rm, T1),
            _ => rm,
        };
        match vex(encoding) {
            Some(vex) => self.code.vex_registers(vex, reg, host_rm),
            None => legacy(encoding, |opcode| self.code.registers(opcode, reg, host_rm)),
        }
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        match vector.general {
            General::Reg => self.give(encoding.reg(), reg),
            General::Rm { written: true } => self.give(rm, host_rm),
            _ => {}
        }
    }

    fn vector_on_memory(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, vector: &Vector) {
        let mut misses = Vec::new();
        let at = self.in_window_of(step).unwrap_or_else(|| {
            self.flags_are_lost();
            self.linear_address(step, encoding);
            if vector.alignment > 1 {
                // test r10b, alignment - 1.
                self.code.raw(&[0x41, 0xf6, 0xc2, vector.alignment - 1]);
                misses.push(self.code.jump_if(condition::NOT_EQUAL));
            }
            misses.push(self.look_up_operand(step, vector.size, vector.written));
            Self::operand()
        });
        self.expect_flags(step);
        let reg = self.written_register(encoding, vector);
        match vex(encoding) {
            Some(vex) => self.code.vex_memory(vex, reg, at),
            None => legacy(encoding, |opcode| self.code.memory(opcode, reg, at)),
        }
        self.code.raw(encoding.immediate);
        self.flags_changed(step);
        if vector.general == General::Reg {
            self.give(encoding.reg(), reg);
        }
        self.finish(step, misses);
    }

    /// The host's register for ModRM's `reg`, which is written if it is a general-purpose one.
    fn written_register(&self, encoding: &Encoding<'_>, vector: &Vector) -> u8 {
        match vector.general {
            General::Reg => target(encoding.reg(), T2),
            _ => encoding.reg(),
        }
    }
}

/// The host's register in which a guest's is written.
pub(super) const fn target(guest: u8, temporary: u8) -> u8 {
    match home(guest) {
        Home::Host(host) => host,
        Home::Field(_) => temporary,
    }
}

/// What stands before ModRM if the instruction has no VEX prefix: one prefix, as only one chooses it.
fn legacy(encoding: &Encoding<'_>, emit: impl FnOnce(Opcode<'_>)) {
    let prefix = encoding.repeat.or(encoding.operand_size.then_some(0x66));
    let (wide, bytes) = (encoding.wide(), encoding.escaped);
    emit(Opcode { prefixes: prefix.as_slice(), wide, rex: false, bytes });
}

/// What stands before ModRM if it has a VEX prefix.
pub(super) fn vex(encoding: &Encoding<'_>) -> Option<Vex> {
    let vex = encoding.vex?;
    Some(Vex {
        map: match encoding.map {
            Map::Three38 => 2,
            Map::Three3a => 3,
            _ => 1,
        },
        prefix: match (encoding.operand_size, encoding.repeat) {
            (true, _) => 1,
            (_, Some(0xf3)) => 2,
            (_, Some(_)) => 3,
            _ => 0,
        },
        wide: encoding.wide(),
        length: vex.length,
        register: vex.register,
        opcode: encoding.opcode,
    })
}
