//! [`Loaded`]: which of the guest's registers, beside the general-purpose ones, have to be in the host's, and are.
//!
//! A block that needs any sees to it at its entry that they are loaded, where EFLAGS are free. Behind an
//! instruction that the interpreter executes they are not, and are loaded once more.

use super::super::assembler::{Jump, condition};
use super::super::context;
use super::super::vector_registers::level;
use super::flags::Recovery;
use super::{Step, Translator};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Of the vector registers: see [`level`].
    pub vectors: u8,
    /// The x87's.
    pub x87: bool,
}

impl Loaded {
    pub const NONE: Self = Self { vectors: level::NONE, x87: false };

    /// These and others.
    pub fn with(self, other: Self) -> Self {
        Self { vectors: self.vectors.max(other.vectors), x87: self.x87 || other.x87 }
    }

    /// These, but for kinds of which nothing is needed.
    const fn as_needed(self, needed: Self) -> Self {
        Self {
            vectors: if needed.vectors == level::NONE { level::NONE } else { self.vectors },
            x87: self.x87 && needed.x87,
        }
    }
}

/// Registers have to be loaded, out of the way.
pub(super) struct Load {
    jump: Jump,
    stub: u64,
    /// The flags that were lost before.
    lost: Option<Recovery>,
    /// The instruction before which they have to be: where the interpreter goes on if they can't.
    op: u64,
    block: u32,
    back: u64,
}

impl Step<'_> {
    /// What the instruction needs.
    pub fn needed(&self) -> Loaded {
        let vectors = self.vector.map_or(level::NONE, |vector| vector.level);
        let mmx = self.vector.is_some_and(|vector| vector.mmx);
        Loaded { vectors, x87: mmx || self.x87.is_some() }
    }
}

/// Finds out what is needed behind each instruction.
pub(super) fn look_ahead(steps: &mut [Step<'_>]) {
    let mut later = Loaded::NONE;
    for step in steps.iter_mut().rev() {
        step.later = later;
        later = later.with(step.needed());
    }
}

impl Translator<'_> {
    /// Has loaded what the block needs.
    pub(super) fn expect_loaded_at_entry(&mut self, steps: &[Step<'_>]) {
        if let Some(first) = steps.first() {
            self.expect_loaded(first.needed().with(first.later), first);
        }
    }

    /// Has loaded what is needed before an instruction.
    pub(super) fn expect_loaded(&mut self, needed: Loaded, step: &Step<'_>) {
        let Loaded { vectors, x87 } = needed;
        if vectors > self.loaded.vectors {
            self.expect_in_field(context::VECTORS, vectors, self.stubs.vectors.load(vectors), step);
            self.loaded.vectors = vectors;
        }
        if x87 && !self.loaded.x87 {
            self.expect_in_field(context::X87, 1, self.stubs.x87.load, step);
            self.loaded.x87 = true;
        }
    }

    /// Calls a stub if a field says less than that.
    fn expect_in_field(&mut self, field: i32, least: u8, stub: u64, step: &Step<'_>) {
        self.flags_are_lost();
        self.code.compare_byte(field, least);
        let jump = self.code.jump_if(condition::BELOW);
        let (lost, back) = (self.pending, self.code.here());
        let &Step { op, block, .. } = step;
        self.loads.push(Load { jump, stub, lost, op, block, back });
    }

    /// What is loaded now and needed behind an instruction.
    pub(super) const fn loaded_for_later(&self, step: &Step<'_>) -> Loaded {
        self.loaded.as_needed(step.later)
    }

    /// Loads what nothing is loaded of, before the instruction `op`; the flags are in their field. T0 and T1 change.
    pub(super) fn load_again(&mut self, loaded: Loaded, op: u64) {
        if loaded.vectors != level::NONE {
            self.call_with(op, self.stubs.vectors.load(loaded.vectors));
        }
        if loaded.x87 {
            self.call_with(op, self.stubs.x87.load);
        }
    }

    pub(super) fn slow_loads(&mut self) {
        for load in core::mem::take(&mut self.loads) {
            self.code.bind(load.jump);
            self.store_lost_flags(load.lost);
            self.block = load.block;
            self.call_with(load.op, load.stub);
            self.code.jump(load.back);
        }
    }
}
