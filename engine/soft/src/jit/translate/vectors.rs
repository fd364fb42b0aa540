//! Vector instructions in a block: [`Translator::vector`].
//!
//! A block that has any sees to it at its entry that the guest's registers are loaded, where EFLAGS are
//! free. Behind an instruction that the interpreter executes they are not, and are loaded once more.

use super::super::assembler::{Jump, Opcode, Vex, condition};
use super::super::context;
use super::super::shape::{Encoding, Map};
use super::super::vector::{General, Vector};
use super::super::vector_registers::level;
use super::flags::Recovery;
use super::{Home, Step, T1, T2, Translator, home};

/// The vector registers have to be loaded, out of the way.
pub(super) struct Load {
    jump: Jump,
    level: u8,
    /// The flags that were lost before.
    lost: Option<Recovery>,
    /// The instruction before which they have to be: where the interpreter goes on if they can't.
    op: u64,
    block: u32,
    back: u64,
}

/// Finds out what of the vector registers is needed behind each instruction.
pub(super) fn look_ahead(steps: &mut [Step<'_>]) {
    let mut later = level::NONE;
    for step in steps.iter_mut().rev() {
        step.later = later;
        later = later.max(step.vector.map_or(level::NONE, |vector| vector.level));
    }
}

impl Translator<'_> {
    /// Has the registers loaded if the block needs them.
    pub(super) fn expect_vectors_at_entry(&mut self, steps: &[Step<'_>]) {
        if let Some(first) = steps.first() {
            let level = first.vector.map_or(level::NONE, |vector| vector.level);
            self.expect_vectors(level.max(first.later), first);
        }
    }

    /// Has the registers loaded before an instruction.
    pub(super) fn expect_vectors(&mut self, level: u8, step: &Step<'_>) {
        if level <= self.vectors {
            return;
        }
        self.flags_are_lost();
        self.code.compare_byte(context::VECTORS, level);
        let jump = self.code.jump_if(condition::BELOW);
        let (lost, back) = (self.pending, self.code.here());
        let &Step { op, block, .. } = step;
        self.loads.push(Load { jump, level, lost, op, block, back });
        self.vectors = level;
    }

    /// Loads them; the flags are in their field. T0 and T1 change.
    pub(super) fn load_vectors(&mut self, level: u8, op: u64) {
        self.call_with(op, self.stubs.vectors.load(level));
    }

    pub(super) fn slow_loads(&mut self) {
        for load in core::mem::take(&mut self.loads) {
            self.code.bind(load.jump);
            self.store_lost_flags(load.lost);
            self.block = load.block;
            self.load_vectors(load.level, load.op);
            self.code.jump(load.back);
        }
    }

    /// Translates a vector instruction.
    pub(super) fn vector(&mut self, step: &Step<'_>, encoding: &Encoding<'_>, vector: &Vector) {
        self.expect_vectors(vector.level, step);
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
