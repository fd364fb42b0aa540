//! Selectors, and the operands that are some.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Builder;
use crate::host::PROCESSOR;

/// Null; the three that are for users, at all levels; the kernel's own; task and local table; empty
/// ones; and beyond the end, and of no local table.
///
/// No null ones with a level: they lose it whenever the kernel returns, which is at any time.
const SELECTORS: [u16; 25] = [
    0, 0, 0x23, 0x20, 0x2b, 0x2b, 0x2b, 0x28, 0x29, 0x33, 0x31, 0x08, 0x0b, 0x10, 0x13, 0x18, 0x1b,
    0x3b, 0x40, 0x4b, 0x50, 0x6b, 0x80, 0x2f, 0xffff,
];

impl Builder {
    /// A selector for `i`, which loads or looks at one.
    pub(super) fn selector(&mut self, i: &Instruction) -> u64 {
        // The limit of the processor's entry changes whenever the thread goes to another one.
        if i.mnemonic() != Mnemonic::Lsl && self.random.chance(5) {
            return PROCESSOR.into();
        }
        self.random.one_of(&SELECTORS).into()
    }
}

pub(super) fn is_segment(register: Register) -> bool {
    register.is_segment_register()
}

/// Which of the operands is a selector to be looked at or loaded.
fn operand(i: &Instruction) -> Option<u32> {
    match i.mnemonic() {
        Mnemonic::Mov if is_segment(i.op0_register()) => Some(1),
        Mnemonic::Lar | Mnemonic::Lsl | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => Some(1),
        Mnemonic::Verr | Mnemonic::Verw => Some(0),
        _ => None,
    }
}

/// The general-purpose register that holds a selector.
pub(super) fn register(i: &Instruction) -> Option<Register> {
    let n = operand(i).filter(|n| i.op_kind(*n) == OpKind::Register)?;
    Some(i.op_register(n).full_register())
}

/// How far behind the start of the memory operand the selector is: behind a far pointer's offset.
pub(super) fn offset_in_memory(i: &Instruction) -> Option<u64> {
    operand(i).filter(|n| i.op_kind(*n) == OpKind::Memory)?;
    Some(match i.mnemonic() {
        Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => i.op0_register().size() as u64,
        _ => 0,
    })
}
