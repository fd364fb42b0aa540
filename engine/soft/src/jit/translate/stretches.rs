//! Accesses that are looked up in a [`Stretch`] first: [`Translator::look_up_stack`],
//! [`Translator::look_up_operand`].
//!
//! Most accesses through RSP go to one page, most others that a kernel makes to its map of all RAM, or its own image. Of
//! these the TLB keeps where they lie: then an access waits for no look-up. Else the table is looked at, out of the
//! way; a write through RSP lets its page become that of the stack.
//!
//! What is written is looked up in the table, for pages may have code: but for stacks, which lose their page then.

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::assembler::{Address, Jump, condition};
use super::super::context;
use super::{LOAD, RAX, Step, T0, T1, Translator};
use crate::ranges::{self, Ranges, Seen};
use crate::tlb::{self, Rights, Stretch};

/// A look-up that has the table still before it.
pub(super) struct Retry {
    /// The jump to it.
    jump: Jump,
    /// Where the stretch is.
    stretch: i32,
    /// What is written there is a stack.
    is_stack: bool,
    size: u32,
    write: bool,
    /// Where translated code goes on.
    back: u64,
}

/// Whether an instruction's operand is on the stack.
fn is_on_stack(i: &Instruction) -> bool {
    let is_flat = !matches!(i.memory_segment(), Register::FS | Register::GS);
    i.memory_base() == Register::RSP && i.memory_index() == Register::None && is_flat
}

/// Which range a kernel's operand is in, most probably.
fn range_of(step: &Step<'_>) -> Option<usize> {
    let i = &step.instruction;
    match (step.seen, i.memory_segment()) {
        (Seen::Range(n), _) => Some(n.into()),
        (Seen::Elsewhere, _) | (_, Register::FS) => None,
        // A kernel's GS base is the address of the processor's own data, which displacements are relative to.
        (_, Register::GS) => Some(Ranges::RAM),
        _ if ranges::is_image(i.memory_displacement64()) && i.memory_base() == Register::None => {
            Some(Ranges::IMAGE)
        }
        _ if i.is_ip_rel_memory_operand() => Some(Ranges::IMAGE),
        _ => Some(Ranges::RAM),
    }
}

impl Translator<'_> {
    /// Looks up the linear address in T0, which was made of RSP: see [`look_up`](Self::look_up). What it gives is
    /// to be bound by [`bind_misses`](Self::bind_misses).
    pub(super) fn look_up_stack(&mut self, size: u32, write: bool) -> Jump {
        self.look_up_stretch(context::stack(self.cpl), true, size, write)
    }

    /// Looks up an instruction's operand, whose linear address is in T0: see [`look_up_stack`](Self::look_up_stack).
    pub(super) fn look_up_operand(&mut self, step: &Step<'_>, size: u32, write: bool) -> Jump {
        let i = &step.instruction;
        if is_on_stack(i) {
            return self.look_up_stack(size, write);
        }
        match range_of(step) {
            Some(n) if self.cpl == 0 && !write && !self.is_lifted => {
                self.look_up_stretch(context::range(n), false, size, false)
            }
            _ => self.look_up(size, write),
        }
    }

    fn look_up_stretch(&mut self, stretch: i32, is_stack: bool, size: u32, write: bool) -> Jump {
        if size > Stretch::MOST {
            return self.look_up(size, write);
        }
        self.code.subtract_field(T0, stretch + context::STRETCH_TAG);
        self.code.compare_with_field(T0, stretch + context::STRETCH_LIMIT);
        let other = self.code.jump_if(condition::NOT_BELOW);
        self.code.load(T1, stretch + context::STRETCH_PAGE);
        let back = self.code.here();
        self.retries.push(Retry { jump: other, stretch, is_stack, size, write, back });
        other
    }

    /// Notes what says whether a kernel is about to access a program's memory.
    pub(super) fn note_lifted(&mut self, step: &Step<'_>) {
        match step.instruction.mnemonic() {
            Mnemonic::Stac => self.is_lifted = true,
            Mnemonic::Clac => self.is_lifted = false,
            _ => {}
        }
    }

    /// Binds jumps of look-ups that missed to here; those of stretches are first looked up in the table.
    pub(super) fn bind_misses(&mut self, jumps: Vec<Jump>) {
        let mut misses = Vec::new();
        for jump in jumps {
            let known = self.retries.iter().position(|retry| retry.jump == jump);
            let Some(known) = known else {
                misses.push(jump);
                continue;
            };
            let retry = self.retries.swap_remove(known);
            self.code.bind(jump);
            misses.push(self.retry(&retry));
        }
        misses.into_iter().for_each(|miss| self.code.bind(miss));
    }

    /// Looks into the table, and goes back if that has the page.
    fn retry(&mut self, retry: &Retry) -> Jump {
        self.code.add_field(T0, retry.stretch + context::STRETCH_TAG);
        let miss = self.look_up_entry(retry.size, retry.write);
        if retry.is_stack && retry.write {
            self.keep_stack(retry.stretch);
        }
        self.load_page();
        self.code.jump(retry.back);
        miss
    }

    /// The page of the entry at T1, which may be written, is the stack's from now on.
    fn keep_stack(&mut self, stack: i32) {
        // What is entered while SMAP is lifted may be a page of user mode.
        let lifted = (self.cpl != 3).then(|| {
            self.code.compare_byte(context::rights(self.cpl), Rights::Supervisor as u8);
            self.code.jump_if(condition::NOT_EQUAL)
        });
        let at = |displacement| Address { base: Some(T1), index: None, displacement };
        self.code.store(context::SAVED, RAX);
        self.code.memory(LOAD, RAX, at(tlb::WRITE_OFFSET));
        self.code.store(stack + context::STRETCH_TAG, RAX);
        self.code.memory(LOAD, RAX, at(tlb::PAGE_OFFSET));
        self.code.store(stack + context::STRETCH_PAGE, RAX);
        self.code.store_value(stack + context::STRETCH_LIMIT, Stretch::LIMIT);
        self.code.load(RAX, context::SAVED);
        if let Some(lifted) = lifted {
            self.code.bind(lifted);
        }
    }
}
