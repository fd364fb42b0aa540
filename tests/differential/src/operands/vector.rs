//! Operands of vector and x87 instructions: registers, what they hold, gathered elements.

use iced_x86::{Instruction, OpCodeOperandKind as Kind, OpKind, Register};

use super::values::{self, Element};
use super::{Builder, Known, gpr, set_register};

impl Builder {
    /// Chooses the initial values of x87, MMX, SSE and AVX registers. Those that are then operands may be
    /// changed to be of the instruction's type.
    pub fn choose_vector(&mut self) {
        let random = &mut self.random;
        for n in 0..16 {
            let mut bytes = [0; 32];
            Element::any(random).fill(random, &mut bytes);
            if random.chance(10) {
                bytes[16..].fill(0);
            }
            self.vector.set_ymm(n, &bytes);
        }
        let fcw = values::control_word(random);
        let fsw = values::status_word(random, fcw);
        self.vector.set_control(fcw, fsw);
        self.vector.set_tags(values::tags(random));
        self.vector.fx.set_mxcsr(values::mxcsr(random));
        let mmx = random.chance(25);
        for n in 0..8 {
            let value = if mmx && random.chance(85) {
                let mut bytes = [0xff; 16];
                Element::any(random).fill(random, &mut bytes[..8]);
                u128::from_le_bytes(bytes)
            } else {
                Element::F80.value(random)
            };
            self.vector.set_st(n, value);
        }
    }

    /// An operand that is, or may be, a vector or x87 register; `None` if it is of another kind.
    pub(super) fn vector_operand(&mut self, i: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
        match kind {
            Kind::mm_or_mem | Kind::xmm_or_mem | Kind::ymm_or_mem if self.random.chance(45) => {
                self.memory(i, n);
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => {
                let number = self.random.below(8) as usize;
                set_register(i, n, Register::MM0 + number as u32);
                self.set_mmx_type(i, number);
            }
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                let number = self.vector_register(i);
                set_register(i, n, Register::XMM0 + number);
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                let number = self.vector_register(i);
                set_register(i, n, Register::YMM0 + number);
            }
            Kind::st0 => set_register(i, n, Register::ST0),
            Kind::sti_opcode => {
                let number = self.random.below(8) as u32;
                set_register(i, n, Register::ST0 + number);
            }
            Kind::mem_vsib32x | Kind::mem_vsib64x => self.gathered(i, n, Register::XMM0, kind),
            Kind::mem_vsib32y | Kind::mem_vsib64y => self.gathered(i, n, Register::YMM0, kind),
            Kind::seg_rDI => {
                let short = self.random.chance(15);
                i.set_op_kind(n, if short { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI });
            }
            _ => return None,
        }
        Some(())
    }

    /// The number of a vector register, mostly one of a few, so that the instructions of a block use
    /// what those before have computed.
    fn vector_register(&mut self, i: &Instruction) -> u32 {
        let number =
            if self.random.chance(60) { self.random.below(4) } else { self.random.below(16) };
        if self.random.chance(90)
            && let Some(element) = Element::of(i.code().op_code().memory_size())
        {
            self.fill_vector(number as usize, element);
        }
        number as u32
    }

    /// Makes a vector register hold elements of that type at first, unless it is in use.
    fn fill_vector(&mut self, number: usize, element: Element) {
        let bit = 1 << number;
        if self.touched & bit != 0 {
            return;
        }
        self.touched |= bit;
        let mut bytes = [0; 32];
        element.fill(&mut self.random, &mut bytes);
        self.vector.set_ymm(number, &bytes);
    }

    /// Makes an MMX register hold elements of the instruction's type at first, unless it is in use.
    fn set_mmx_type(&mut self, i: &Instruction, number: usize) {
        let bit = 1 << (16 + number);
        if self.touched & bit != 0 || self.random.chance(20) {
            return;
        }
        self.touched |= bit;
        if let Some(element) = Element::of(i.code().op_code().memory_size()) {
            let mut bytes = [0xff; 16];
            element.fill(&mut self.random, &mut bytes[..8]);
            let place = number.wrapping_sub(self.vector.top()) & 7;
            self.vector.set_st(place, u128::from_le_bytes(bytes));
        }
    }

    /// A memory operand with a vector of indices from `first` on.
    fn gathered(&mut self, i: &mut Instruction, n: u32, first: Register, kind: Kind) {
        let wide = matches!(kind, Kind::mem_vsib64x | Kind::mem_vsib64y);
        let size = if wide { 8 } else { 4 };
        let number = self.random.below(16) as usize;
        let bit = 1 << number;
        if self.touched & bit == 0 && self.random.chance(90) {
            self.touched |= bit;
            let mut bytes = [0; 32];
            let reach = self.random.one_of(&[8, 64, 64, 600]);
            for chunk in bytes.chunks_mut(size) {
                let index = self.random.within(-reach, reach);
                chunk.copy_from_slice(&index.to_le_bytes()[..size]);
            }
            self.vector.set_ymm(number, &bytes);
        }
        let scale = self.random.below(4);
        let address = self.address(8);
        let offset = self.offset_in_segment(i, address);
        let displacement = self.random.within(-128, 127);
        let base = self.random.below(16) as usize;
        let mut value = offset.wrapping_sub(displacement as u64);
        // Where the first element lies.
        let index = self.vector.xmm(number) as u64;
        let index = if wide { index } else { index as i32 as u64 };
        value = value.wrapping_sub(index << scale);
        i.set_op_kind(n, OpKind::Memory);
        let short = value >> 32 == 0 && self.random.chance(10);
        if self.known[base] == Known::Free || self.random.chance(50) {
            self.set(base, value);
            i.set_memory_base(gpr(base, if short { 4 } else { 8 }));
            i.set_memory_displacement64(displacement as u64 & if short { 0xffff_ffff } else { !0 });
            i.set_memory_displ_size(1);
        } else {
            let reachable = value as i32 as u64 == value;
            i.set_memory_displacement64(if reachable { value } else { address & 0x7fff_ffff });
            i.set_memory_displ_size(8);
        }
        i.set_memory_index(first + number as u32);
        i.set_memory_index_scale(1 << scale);
        self.fill_memory(i, address);
    }

    /// A gather's three registers: mostly different ones, which they have to be.
    pub(super) fn separate(&mut self, i: &mut Instruction) {
        let numbers = |i: &Instruction| {
            [i.op0_register(), i.memory_index(), i.op2_register()].map(Register::number)
        };
        let mut tries = 0;
        while tries < 40 {
            let [one, two, three] = numbers(i);
            if one != two && two != three && one != three || tries == 0 && self.random.chance(10) {
                return;
            }
            tries += 1;
            for n in [0, 2] {
                let register = i.op_register(n);
                let first = if register.is_ymm() { Register::YMM0 } else { Register::XMM0 };
                i.set_op_register(n, first + self.random.below(16) as u32);
            }
        }
    }
}
