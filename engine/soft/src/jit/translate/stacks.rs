//! Accesses through RSP: [`Translator::look_up_stack`].
//!
//! Most of them go to one page, of which the TLB keeps where it lies ([`Stack`]). Where that is not the page, the table
//! is looked at, out of the way; a write lets its page become that of the stack.

use iced_x86::{Instruction, Register};

use super::super::assembler::{Address, Jump, condition};
use super::super::context;
use super::{LOAD, RAX, Step, T0, T1, Translator};
use crate::tlb::{self, Rights, Stack};

/// A look-up that has the table still before it.
pub(super) struct Retry {
    /// The jump to it.
    jump: Jump,
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

impl Translator<'_> {
    /// Looks up the linear address in T0, which was made of RSP: see [`look_up`](Self::look_up). What it gives is
    /// to be bound by [`bind_misses`](Self::bind_misses).
    pub(super) fn look_up_stack(&mut self, size: u32, write: bool) -> Jump {
        if size > Stack::MOST {
            return self.look_up(size, write);
        }
        let stack = context::stack(self.cpl);
        self.code.subtract_field(T0, stack + context::STACK_TAG);
        self.code.compare_with_field(T0, stack + context::STACK_LIMIT);
        let other = self.code.jump_if(condition::NOT_BELOW);
        self.code.load(T1, stack + context::STACK_PAGE);
        let back = self.code.here();
        self.retries.push(Retry { jump: other, size, write, back });
        other
    }

    /// Looks up an instruction's operand, whose linear address is in T0.
    pub(super) fn look_up_operand(&mut self, step: &Step<'_>, size: u32, write: bool) -> Jump {
        if is_on_stack(&step.instruction) {
            return self.look_up_stack(size, write);
        }
        self.look_up(size, write)
    }

    /// Binds jumps of look-ups that missed to here; those of the stack are first looked up in the table.
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
        let stack = context::stack(self.cpl);
        self.code.add_field(T0, stack + context::STACK_TAG);
        let miss = self.look_up_entry(retry.size, retry.write);
        if retry.write {
            self.keep_stack(stack);
        }
        self.load_page();
        self.code.jump(retry.back);
        miss
    }

    /// The page of the entry at T1, which may be written, is the stack's from now on.
    fn keep_stack(&mut self, stack: u32) {
        // What is entered while SMAP is lifted may be a page of user mode.
        let lifted = (self.cpl != 3).then(|| {
            self.code.compare_byte(context::rights(self.cpl), Rights::Supervisor as u8);
            self.code.jump_if(condition::NOT_EQUAL)
        });
        let at = |displacement| Address { base: Some(T1), index: None, displacement };
        self.code.store(context::SAVED, RAX);
        self.code.memory(LOAD, RAX, at(tlb::WRITE_OFFSET));
        self.code.store(stack + context::STACK_TAG, RAX);
        self.code.memory(LOAD, RAX, at(tlb::PAGE_OFFSET));
        self.code.store(stack + context::STACK_PAGE, RAX);
        self.code.store_value(stack + context::STACK_LIMIT, Stack::LIMIT);
        self.code.load(RAX, context::SAVED);
        if let Some(lifted) = lifted {
            self.code.bind(lifted);
        }
    }
}
