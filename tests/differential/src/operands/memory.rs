//! Explicit memory operands: where they lie, and how they are addressed.

use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind, Register};

use super::{Builder, Known, RAX, RDX, RSP, XSAVE_SIZE, canonical, gpr, selectors};
use crate::layout::CODE;

impl Builder {
    /// How many bytes the memory operand has, roughly.
    fn memory_size(i: &Instruction) -> u64 {
        let size = i.code().op_code().memory_size();
        match size {
            MemorySize::Xsave | MemorySize::Xsave64 => XSAVE_SIZE,
            _ => (size.size() as u64).max(1),
        }
    }

    /// The offset that leads to `address` in the operand's segment; which is another segment if the
    /// offset is not canonical: see `Bench`.
    pub(super) fn offset_in_segment(&self, i: &mut Instruction, address: u64) -> u64 {
        let base = match i.segment_prefix() {
            Register::FS => self.bases[0],
            Register::GS => self.bases[1],
            _ => 0,
        };
        let offset = address.wrapping_sub(base);
        if base != 0 && canonical(offset) != offset {
            i.set_segment_prefix(Register::None);
            return address;
        }
        offset
    }

    pub(super) fn absolute(&mut self, i: &mut Instruction, n: u32) {
        let address = self.address(Self::memory_size(i));
        let offset = self.offset_in_segment(i, address);
        let short = offset >> 32 == 0 && self.random.chance(50);
        i.set_op_kind(n, OpKind::Memory);
        i.set_memory_displ_size(if short { 4 } else { 8 });
        i.set_memory_displacement64(offset);
        self.fill_memory(i, address);
    }

    pub(super) fn memory(&mut self, i: &mut Instruction, n: u32) {
        i.set_op_kind(n, OpKind::Memory);
        let size = Self::memory_size(i);
        let address = self.address(size);
        let offset = self.offset_in_segment(i, address);
        let short = offset >> 32 == 0 && self.random.chance(15);
        match self.random.below(100) {
            0..=9 => {
                let distance = offset.wrapping_sub(CODE) as i64;
                let reachable = distance.unsigned_abs() < 0x7000_0000;
                i.set_memory_base(if short { Register::EIP } else { Register::RIP });
                i.set_memory_displ_size(if short { 4 } else { 8 });
                i.set_memory_displacement64(if reachable { offset } else { CODE });
            }
            10..=14 => {
                i.set_memory_displ_size(if short { 4 } else { 8 });
                let reachable = short || offset as i32 as u64 == offset;
                i.set_memory_displacement64(if reachable { offset } else { 0 });
            }
            _ => self.based(i, offset, short),
        }
        self.fill_memory(i, address);
    }

    /// Base, index and displacement that lead to `offset`, if they can.
    fn based(&mut self, i: &mut Instruction, offset: u64, short: bool) {
        let size = if short { 4 } else { 8 };
        let displacement = match self.random.below(4) {
            0 => 0,
            1 | 2 => self.random.within(-128, 127),
            _ => i64::from(self.random.operand() as i32),
        };
        let base = if self.random.chance(92) {
            // Best one whose value can be chosen, or is known.
            let mut base = self.random.below(16) as usize;
            for _ in 0..6 {
                if self.known[base] == Known::Free {
                    break;
                }
                base = self.random.below(16) as usize;
            }
            Some(base)
        } else {
            None
        };
        let index = if base.is_none() || self.random.chance(40) {
            let index = self.random.below(16) as usize;
            (index != RSP && Some(index) != base).then_some(index)
        } else {
            None
        };
        let scale = self.random.below(4);
        let mut rest = offset;
        if let Some(index) = index {
            if base.is_none() && self.known[index] == Known::Free && self.random.chance(90) {
                // Nothing else to choose; what the shift loses is in the displacement.
                self.set(index, offset.wrapping_sub(displacement as u64) >> scale);
            }
            rest = rest.wrapping_sub(self.get(index).unwrap_or(0) << scale);
            i.set_memory_index(gpr(index, size));
            i.set_memory_index_scale(1 << scale);
        }
        let mut displacement = displacement as u64;
        if let Some(base) = base {
            let upper = if short { self.random.bits() << 32 } else { 0 };
            let value = rest.wrapping_sub(displacement);
            let value = if short { value & 0xffff_ffff | upper } else { value };
            if self.random.chance(97) && !self.set(base, value) {
                displacement = rest.wrapping_sub(self.get(base).unwrap_or(0));
            }
            i.set_memory_base(gpr(base, size));
        } else {
            displacement = rest;
        }
        if short {
            displacement &= 0xffff_ffff;
        } else if displacement as i32 as u64 != displacement {
            displacement = self.random.within(-128, 127) as u64;
        }
        i.set_memory_displacement64(displacement);
        i.set_memory_displ_size(match displacement {
            0 if i.memory_base() != Register::None => 0,
            d if d as i8 as u64 == d => 1,
            _ if short => 4,
            _ => 8,
        });
    }

    /// What lies at the memory operand.
    pub(super) fn fill_memory(&mut self, i: &Instruction, address: u64) {
        if self.fill_vector_memory(i, address) {
            return;
        }
        if let Some(at) = selectors::offset_in_memory(i)
            && self.random.chance(90)
        {
            let selector = self.selector(i);
            self.patch(address.wrapping_add(at), &(selector as u16).to_le_bytes());
            return;
        }
        let accumulates =
            matches!(i.mnemonic(), Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b);
        if matches!(i.mnemonic(), Mnemonic::Jmp | Mnemonic::Call) && self.random.chance(90) {
            let pad = self.pad();
            self.patch(address, &pad.to_le_bytes());
        } else if accumulates && self.random.chance(50) {
            let low = self.get(RAX).unwrap_or(0);
            let high = self.get(RDX).unwrap_or(0);
            match i.mnemonic() {
                Mnemonic::Cmpxchg8b => {
                    let both = low & 0xffff_ffff | high << 32;
                    self.patch(address, &both.to_le_bytes());
                }
                _ => self.patch(address, &(u128::from(low) | u128::from(high) << 64).to_le_bytes()),
            }
        } else if self.random.chance(40) {
            let value = self.random.operand();
            self.patch(address, &value.to_le_bytes());
        }
    }
}
