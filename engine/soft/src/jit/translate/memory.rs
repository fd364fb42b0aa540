//! Memory operands in a block: their address, the look-up in the TLB, and what is done on a miss.
//!
//! After [`Translator::look_up`] an operand is at [`Translator::operand`], two temporary registers.

use arch_x86::emulate::Op;
use iced_x86::{Instruction, Register};

use super::super::assembler::{Address, Jump, Opcode, condition, group};
use super::super::context;
use super::super::shape::Encoding;
use super::super::stubs::Stubs;
use super::{Flags, Home, LOAD, Slow, Step, T0, T1, Translator, home};
use crate::vcpu::SoftVcpu;
use crate::{ram, tlb};

impl Translator<'_> {
    /// Puts a guest's register for an address into a register.
    pub(super) fn address_register(&mut self, register: Register, temporary: u8) -> u8 {
        match home(register.number() as u8) {
            Home::Host(host) => host,
            Home::Field(field) => {
                self.code.load(temporary, field);
                temporary
            }
        }
    }

    /// The memory operand's offset, and so much more, into T0, or another register.
    pub(super) fn effective_address(&mut self, i: &Instruction, to: u8, wide: bool, more: i32) {
        let displacement = i.memory_displacement64().wrapping_add(more as u64);
        let (base, index) = (i.memory_base(), i.memory_index());
        let base_is_gpr = base != Register::None && !i.is_ip_rel_memory_operand();
        if !base_is_gpr && index == Register::None {
            self.code.set(to, if wide { displacement } else { displacement & 0xffff_ffff });
            return;
        }
        // More goes into the instruction unless it is too much for it.
        let fits = i32::try_from(displacement as i64).is_ok();
        let displacement = if fits { displacement } else { i.memory_displacement64() };
        let mut at = Address { displacement: displacement as i32, ..Address::default() };
        if base_is_gpr {
            at.base = Some(self.address_register(base, T0));
        }
        if index != Register::None {
            let scale = i.memory_index_scale().trailing_zeros() as u8;
            at.index = Some((self.address_register(index, T1), scale));
        }
        match at {
            // The processor renames registers instead of copying them: a chain of pointers waits for each cycle.
            Address { base: Some(base), index: None, displacement: 0 } if wide => {
                self.code.copy(to, base);
            }
            _ => self.code.lea(wide, to, at),
        }
        if !fits && more != 0 {
            let at = Address { base: Some(to), index: None, displacement: more };
            self.code.lea(wide, to, at);
        }
    }

    /// The memory operand's linear address into T0.
    pub(super) fn linear_address(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        self.linear_address_and(step, encoding, 0);
    }

    /// The same, and so much more.
    pub(super) fn linear_address_and(
        &mut self,
        step: &Step<'_>,
        encoding: &Encoding<'_>,
        more: i32,
    ) {
        let i = &step.instruction;
        self.effective_address(i, T0, !encoding.address_size, more);
        match i.memory_segment() {
            Register::FS => self.code.add_field(T0, context::segment_base(4)),
            Register::GS => self.code.add_field(T0, context::segment_base(5)),
            _ => {}
        }
    }

    /// Looks up the linear address in T0. Then the operand is at `T1 + T0`.
    pub(super) fn look_up(&mut self, size: u32, write: bool) -> Jump {
        let miss = self.look_up_entry(size, write);
        self.load_page(write);
        miss
    }

    /// Looks up the linear address in T0, of which T0 then has the offset in the page; the entry is at
    /// [`entry`](Self::entry).
    pub(super) fn look_up_entry(&mut self, size: u32, write: bool) -> Jump {
        self.find_entry(write);
        // cmp r10, 4096 - size.
        self.code.raw(&[0x49, 0x81, 0xfa]);
        self.code.raw(&(ram::SIZE as u32 - size).to_le_bytes());
        self.code.jump_if(condition::ABOVE)
    }

    /// The same as [`look_up`](Self::look_up) for an operand whose size is known only when it is accessed: its last place in a page is in the
    /// register `last`.
    pub(super) fn look_up_to(&mut self, last: u8, write: bool) -> Jump {
        self.find_entry(write);
        // cmp r10, last.
        let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
        self.code.registers(compare, last, T0);
        let miss = self.code.jump_if(condition::ABOVE);
        self.load_page(write);
        miss
    }

    /// Finds the entry for the linear address in T0; the offset from the page that it has into T0.
    fn find_entry(&mut self, write: bool) {
        let tag = Self::entry(write) + tlb::TAG_OFFSET;
        self.find_by(tlb::INDEX_SHIFT, tlb::INDEX_MASK, tag);
    }

    /// The same, for what entries are found by, and where their tags are from T1.
    pub(super) fn find_by(&mut self, shift: u8, mask: u32, tag: i32) {
        // mov r11d, r10d; shr r11d, shift; and r11d, mask.
        self.code.raw(&[0x45, 0x89, 0xd3, 0x41, 0xc1, 0xeb, shift]);
        self.code.change(group::AND, T1, mask);
        self.code.add_field(T1, context::table(self.cpl));
        // sub r10, [r11 + tag].
        let subtract = Opcode { wide: true, bytes: &[0x2b], ..Opcode::default() };
        self.code.memory(subtract, T0, Address { base: Some(T1), index: None, displacement: tag });
    }

    /// Where the entry is that [`look_up_entry`](Self::look_up_entry) has found, from T1.
    pub(super) const fn entry(write: bool) -> i32 {
        if write { tlb::WRITES_OFFSET } else { 0 }
    }

    /// The page of the entry that was found into T1.
    pub(super) fn load_page(&mut self, write: bool) {
        let displacement = Self::entry(write) + tlb::PAGE_OFFSET;
        self.code.memory(LOAD, T1, Address { base: Some(T1), index: None, displacement });
    }

    /// The place of an operand that was looked up.
    pub(super) const fn operand() -> Address {
        Address { base: Some(T1), index: Some((T0, 0)), displacement: 0 }
    }

    /// What to do on a miss. To be called where the instruction is done.
    pub(super) fn on_miss(&mut self, jump: Jump, step: &Step<'_>, end: Option<u64>) {
        let back = self.code.here();
        let flags = matches!(self.flags, Flags::Host | Flags::Both);
        let lost = self.pending;
        let loaded = self.loaded_for_later(step);
        let more = Vec::new();
        let shadowed = self.shadowed;
        let (op, block) = (step.op, step.block);
        self.slow.push(Slow {
            jump,
            more,
            op,
            block,
            back,
            lost,
            flags,
            loaded,
            shadowed,
            end,
            returns: false,
        });
    }

    /// Another jump that leads where the last miss does.
    pub(super) fn or_on_miss(&mut self, jump: Jump) {
        if let Some(slow) = self.slow.last_mut() {
            slow.more.push(jump);
        }
    }

    pub(super) fn slow_ways(&mut self) {
        for slow in core::mem::take(&mut self.slow) {
            let mut jumps = slow.more;
            jumps.push(slow.jump);
            self.bind_misses(jumps);
            self.store_lost_flags(slow.lost);
            self.block = slow.block;
            if slow.shadowed {
                self.code.store_byte_value(context::SHADOW, 1);
            }
            if let Some(end) = slow.end {
                self.code.set(T0, end);
                self.code.store(context::RIP, T0);
                let Stubs { step_last, step_return, .. } = *self.stubs;
                self.call_with(slow.op, if slow.returns { step_return } else { step_last });
                self.code.jump(self.way_on());
                continue;
            }
            self.call_with(slow.op, self.stubs.step);
            self.load_again(slow.loaded, slow.op + size_of::<Op<SoftVcpu>>() as u64);
            if slow.flags {
                self.load_flags();
            }
            self.code.jump(slow.back);
        }
        self.slow_loads();
    }
}
