//! Accesses that are looked up in a [`Stretch`] first: [`Translator::look_up_stack`],
//! [`Translator::look_up_operand`].
//!
//! Most accesses through RSP go to one page, most others that a kernel makes to its map of all RAM, or its own image. Of
//! these the TLB keeps where they lie: then an access waits for no look-up. Else the table is looked at, out of the
//! way; a write through RSP lets its page become that of the stack.
//!
//! What is written is looked up in the table, for pages may have code: but for stacks, which lose their page then.

use arch_x86::regs::Seg;
use iced_x86::{Instruction, Mnemonic, Register};

use super::super::assembler::{Address, Jump, Opcode, condition};
use super::super::context;
use super::{LOAD, RAX, Step, T0, T1, Translator};
use crate::large_pages;
use crate::ranges::{self, Ranges, Seen};
use crate::tlb::{self, Rights, Stretch};

/// A look-up that has the table still before it.
pub(super) struct Retry {
    /// The jump to it.
    jump: Jump,
    stretch: Looked,
    size: u32,
    write: bool,
    /// Where translated code goes on.
    back: u64,
}

/// What a look-up has before it.
#[derive(Clone, Copy)]
enum Looked {
    /// The stretch of a stack.
    Stack(i32),
    /// A range.
    Range(i32),
    /// The place of GS's base: the operand is at that distance from it.
    Gs(i32),
    /// The large pages beside the table.
    Large,
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
        (Seen::Elsewhere | Seen::Large, _) | (_, Register::FS) => None,
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
        self.look_up_stretch(Looked::Stack(context::stack(self.cpl)), size, write)
    }

    /// Looks up an instruction's operand, whose linear address is in T0: see [`look_up_stack`](Self::look_up_stack).
    pub(super) fn look_up_operand(&mut self, step: &Step<'_>, size: u32, write: bool) -> Jump {
        let i = &step.instruction;
        if is_on_stack(i) {
            return self.look_up_stack(size, write);
        }
        match range_of(step) {
            Some(n) if self.cpl == 0 && !write && !self.is_lifted => {
                self.look_up_stretch(Looked::Range(context::range(n)), size, false)
            }
            _ if self.cpl == 3 && !write && step.seen == Seen::Large => self.look_up_large(size),
            _ => self.look_up(size, write),
        }
    }

    /// The same for what a kernel reads of its processor's own data; gives where that is, too. `None`, and nothing is
    /// done, if it does not seem to be that.
    pub(super) fn look_up_by_gs(&mut self, step: &Step<'_>, size: u32) -> Option<(Address, Jump)> {
        let i = &step.instruction;
        let distance = i.memory_displacement64();
        let is_own = i.memory_segment() == Register::GS
            && i.memory_base() == Register::None
            && i.memory_index() == Register::None
            && distance < context::GS_REACH.into();
        if self.cpl != 0 || self.is_lifted || !is_own || step.seen == Seen::Elsewhere {
            return None;
        }
        self.code.load(T1, context::GS_PLACE);
        // test r11, r11.
        let test = Opcode { wide: true, bytes: &[0x85], ..Opcode::default() };
        self.code.registers(test, T1, T1);
        let jump = self.code.jump_if(condition::EQUAL);
        let distance = distance as i32;
        let back = self.code.here();
        self.retries.push(Retry { jump, stretch: Looked::Gs(distance), size, write: false, back });
        Some((Address { base: Some(T1), index: None, displacement: distance }, jump))
    }

    /// GS's base is T0: finds out where that is. All temporary registers and EFLAGS change.
    pub(super) fn gs_changed(&mut self) {
        let range = context::range(Ranges::RAM);
        self.code.subtract_field(T0, range + context::STRETCH_TAG);
        self.code.load(T1, range + context::STRETCH_PAGE);
        self.code.lea(true, T1, Address { base: Some(T1), index: Some((T0, 0)), displacement: 0 });
        self.code.compare_with_field(T0, context::GS_LIMIT);
        // 0 if it is not below: sbb r10, r10; and r11, r10.
        self.code.raw(&[0x4d, 0x19, 0xd2, 0x4d, 0x21, 0xd3]);
        self.code.store(context::GS_PLACE, T1);
    }

    fn look_up_stretch(&mut self, looked: Looked, size: u32, write: bool) -> Jump {
        let (Looked::Stack(stretch) | Looked::Range(stretch)) = looked else {
            return self.look_up(size, write);
        };
        if size > Stretch::MOST {
            return self.look_up(size, write);
        }
        self.code.subtract_field(T0, stretch + context::STRETCH_TAG);
        self.code.compare_with_field(T0, stretch + context::STRETCH_LIMIT);
        let other = self.code.jump_if(condition::NOT_BELOW);
        self.code.load(T1, stretch + context::STRETCH_PAGE);
        let back = self.code.here();
        self.retries.push(Retry { jump: other, stretch: looked, size, write, back });
        other
    }

    /// Looks up what a program reads in a large page.
    fn look_up_large(&mut self, size: u32) -> Jump {
        let tag = tlb::LARGE_OFFSET + large_pages::TAG_OFFSET;
        self.find_by(large_pages::INDEX_SHIFT, large_pages::INDEX_MASK, tag);
        // cmp r10, 2 MiB - size.
        self.code.raw(&[0x49, 0x81, 0xfa]);
        self.code.raw(&(large_pages::SIZE as u32 - size).to_le_bytes());
        let jump = self.code.jump_if(condition::ABOVE);
        let displacement = tlb::LARGE_OFFSET + large_pages::PLACE_OFFSET;
        self.code.memory(LOAD, T1, Address { base: Some(T1), index: None, displacement });
        let back = self.code.here();
        self.retries.push(Retry { jump, stretch: Looked::Large, size, write: false, back });
        jump
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
        match retry.stretch {
            Looked::Stack(stretch) | Looked::Range(stretch) => {
                self.code.add_field(T0, stretch + context::STRETCH_TAG);
            }
            Looked::Large => {
                let displacement = tlb::LARGE_OFFSET + large_pages::TAG_OFFSET;
                let tag = Address { base: Some(T1), index: None, displacement };
                // add r10, [r11 + tag].
                let add = Opcode { wide: true, bytes: &[0x03], ..Opcode::default() };
                self.code.memory(add, T0, tag);
            }
            Looked::Gs(distance) => {
                self.code.set(T0, distance as u64);
                self.code.add_field(T0, context::segment_base(Seg::Gs as u8));
            }
        }
        let miss = self.look_up_entry(retry.size, retry.write);
        if let Looked::Stack(stretch) = retry.stretch
            && retry.write
        {
            self.keep_stack(stretch);
        }
        self.load_page(retry.write);
        if let Looked::Gs(distance) = retry.stretch {
            let displacement = -distance;
            self.code.lea(true, T1, Address { displacement, ..Self::operand() });
        }
        self.code.jump(retry.back);
        miss
    }

    /// The page of the entry that was found for a write is the stack's from now on.
    fn keep_stack(&mut self, stack: i32) {
        // What is entered while SMAP is lifted may be a page of user mode.
        let lifted = (self.cpl != 3).then(|| {
            self.code.compare_byte(context::rights(self.cpl), Rights::Supervisor as u8);
            self.code.jump_if(condition::NOT_EQUAL)
        });
        let at = |part| {
            let displacement = Self::entry(true) + part;
            Address { base: Some(T1), index: None, displacement }
        };
        self.code.store(context::SAVED, RAX);
        self.code.memory(LOAD, RAX, at(tlb::TAG_OFFSET));
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
