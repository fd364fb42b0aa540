//! [`Builder`]: instructions with random operands, and registers and memory in which they
//! mean something.
//!
//! Most memory operands are *solved*: an address at or near an edge of a page is chosen, and then
//! the base register's initial value or the displacement such that the operand lies
//! there.

mod images;
mod implied;
mod memory;
mod selectors;
mod values;
mod vector;

use iced_x86::{
    Code, Instruction, InstructionInfoFactory, OpAccess, OpCodeOperandKind as Kind, OpKind,
    Register,
};

use crate::layout::{CODE, CODE_SIZE, EDGES, image_offset};
use crate::random::Random;
use crate::vector::Vector;

/// What is known of a register at some point of the block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has its initial value, which may still be chosen.
    Free,
    /// It has its initial value, on which something depends.
    Fixed,
    /// It was written.
    Written,
}

/// Makes instructions, and the state that they start in.
pub struct Builder {
    /// The source of all choices.
    pub random: Random,
    /// Initial values of the general-purpose registers.
    pub gprs: [u64; 16],
    /// Initial bases of FS and GS.
    pub bases: [u64; 2],
    /// Initial data: an offset in the image, and bytes.
    pub patches: Vec<(usize, Vec<u8>)>,
    /// Initial values of the x87, MMX, SSE and AVX registers.
    pub vector: Vector,
    has_bases: bool,
    known: [Known; 16],
    /// Vector registers whose initial value is chosen, and from bit 16 on MMX registers.
    touched: u32,
    /// Registers that are seldom chosen as operands, so that addresses stay solvable.
    pointers: u16,
    infos: InstructionInfoFactory,
}

/// Size of XSAVE's area with the registers up to AVX; the tables do not tell.
const XSAVE_SIZE: u64 = 832;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

const GPR64: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The general-purpose register `number` of `size` bytes.
fn gpr(number: usize, size: usize) -> Register {
    match size {
        // Behind the first four come AH to BH, which have no number of their own.
        1 if number < 4 => Register::AL + number as u32,
        1 => Register::AL + number as u32 + 4,
        2 => Register::AX + number as u32,
        4 => Register::EAX + number as u32,
        _ => GPR64[number],
    }
}

impl Builder {
    /// A builder whose choices follow from `seed`. `has_bases`: FS and GS may have bases.
    #[must_use]
    pub fn new(seed: u64, has_bases: bool) -> Self {
        let mut random = Random::new(seed);
        let gprs = std::array::from_fn(|_| random.operand());
        let pointers = 1 << RSP | random.bits() as u16 & random.bits() as u16;
        let mut builder = Self {
            random,
            gprs,
            bases: [0; 2],
            patches: Vec::new(),
            vector: Vector::default(),
            has_bases,
            known: [Known::Free; 16],
            touched: 0,
            pointers,
            infos: InstructionInfoFactory::new(),
        };
        if has_bases {
            for n in 0..2 {
                let base = match builder.random.below(4) {
                    0 => 0,
                    1 => builder.address(8),
                    2 => builder.random.below(1 << 20),
                    _ => builder.random.bits(),
                };
                builder.bases[n] = canonical(base);
            }
        }
        if builder.random.chance(80) {
            builder.gprs[RSP] = builder.address(8);
            builder.known[RSP] = Known::Fixed;
        }
        builder
    }

    /// An address for `size` bytes.
    fn address(&mut self, size: u64) -> u64 {
        let random = &mut self.random;
        let edge = random.one_of(&EDGES);
        let address = match random.below(100) {
            // Across the edge.
            0..=29 => edge.wrapping_sub(random.below(size.max(2) + 1)),
            30..=49 => edge.wrapping_add(random.within(-40, 40) as u64),
            50..=97 => edge.wrapping_add(random.within(-4096, 4095) as u64),
            98 => {
                random.one_of(&[1 << 47, u64::MAX << 47]).wrapping_add(random.within(-12, 4) as u64)
            }
            _ => random.within(-12, 12) as u64,
        };
        let alignment = match size {
            0..=15 => 1,
            32 => 32,
            XSAVE_SIZE => 64,
            _ => 16,
        };
        if alignment > 1 && random.chance(80) { address & !(alignment - 1) } else { address }
    }

    /// Sets the initial value of `register`, if nothing depends on it. Gives whether it has it.
    fn set(&mut self, register: usize, value: u64) -> bool {
        if self.known[register] != Known::Free {
            return false;
        }
        self.gprs[register] = value;
        self.known[register] = Known::Fixed;
        true
    }

    /// The value that `register` has when the block comes here, if it is known; on which
    /// something then depends.
    fn get(&mut self, register: usize) -> Option<u64> {
        if self.known[register] == Known::Written {
            return None;
        }
        self.known[register] = Known::Fixed;
        Some(self.gprs[register])
    }

    /// Makes memory at `linear` hold `bytes` at first.
    pub fn patch(&mut self, linear: u64, bytes: &[u8]) {
        // In one piece as far as the image is.
        let mut end = None;
        for (n, byte) in (0..).zip(bytes) {
            let Some(offset) = image_offset(linear.wrapping_add(n)) else { continue };
            match self.patches.last_mut() {
                Some((_, last)) if end == Some(offset) => last.push(*byte),
                _ => self.patches.push((offset, vec![*byte])),
            }
            end = Some(offset + 1);
        }
    }

    /// An address of code without instructions: all INT3.
    fn pad(&mut self) -> u64 {
        CODE + CODE_SIZE / 2 - 0x400 + self.random.below(0x300)
    }

    fn register(&mut self) -> usize {
        loop {
            let register = self.random.below(16) as usize;
            if self.pointers >> register & 1 == 0 || self.random.chance(10) {
                return register;
            }
        }
    }

    /// A register operand of `size` bytes.
    fn register_operand(&mut self, size: usize) -> Register {
        if size == 1 && self.random.chance(25) {
            return self.random.one_of(&[Register::AH, Register::CH, Register::DH, Register::BH]);
        }
        gpr(self.register(), size)
    }

    /// The instruction `code` with random operands; `None` if it has operands of kinds that no
    /// instruction for users up to AVX2 has.
    pub fn instruction(&mut self, code: Code) -> Option<Instruction> {
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let op_code = code.op_code();
        self.choose_prefixes(&mut instruction);
        for (n, kind) in (0..).zip(op_code.op_kinds()) {
            self.operand(&mut instruction, n, *kind)?;
        }
        if op_code.can_use_lock_prefix()
            && instruction.op0_kind() == OpKind::Memory
            && self.random.chance(30)
        {
            instruction.set_has_lock_prefix(true);
        }
        if op_code.op_kinds().iter().any(|kind| is_gathered(*kind)) {
            self.separate(&mut instruction);
        }
        self.implied(&mut instruction)?;
        Some(instruction)
    }

    /// Notes what `instruction`, which is part of the block now, does to what is known.
    pub fn execute(&mut self, instruction: &Instruction) {
        for used in self.infos.info(instruction).used_registers() {
            let written = !matches!(
                used.access(),
                OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
            );
            let full = used.register().full_register();
            if let Some(number) = GPR64.iter().position(|gpr| *gpr == full) {
                if written {
                    self.known[number] = Known::Written;
                } else if self.known[number] == Known::Free {
                    self.known[number] = Known::Fixed;
                }
            }
        }
    }

    fn choose_prefixes(&mut self, instruction: &mut Instruction) {
        let op_code = instruction.code().op_code();
        if op_code.can_use_rep_prefix() && self.random.chance(40) {
            instruction.set_has_rep_prefix(true);
        } else if op_code.can_use_repne_prefix() && self.random.chance(40) {
            instruction.set_has_repne_prefix(true);
        }
        if self.random.chance(10) {
            let based = self.has_bases && self.random.chance(60);
            let all = if based {
                &[Register::FS, Register::GS][..]
            } else {
                &[Register::ES, Register::CS, Register::SS, Register::DS][..]
            };
            instruction.set_segment_prefix(self.random.one_of(all));
        }
    }

    fn operand(&mut self, i: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
        let size = match kind {
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => 1,
            Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_reg_mem
            | Kind::r16_rm
            | Kind::r16_opcode => 2,
            Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_reg_mem
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv => 4,
            _ => 8,
        };
        match kind {
            Kind::r8_or_mem | Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem
                if self.random.chance(50) =>
            {
                self.memory(i, n);
            }
            Kind::mem => self.memory(i, n),
            Kind::mem_offs => self.absolute(i, n),
            Kind::r8_or_mem
            | Kind::r8_reg
            | Kind::r8_opcode
            | Kind::r16_or_mem
            | Kind::r16_reg
            | Kind::r16_reg_mem
            | Kind::r16_rm
            | Kind::r16_opcode
            | Kind::r32_or_mem
            | Kind::r32_reg
            | Kind::r32_reg_mem
            | Kind::r32_rm
            | Kind::r32_opcode
            | Kind::r32_vvvv
            | Kind::r64_or_mem
            | Kind::r64_reg
            | Kind::r64_reg_mem
            | Kind::r64_rm
            | Kind::r64_opcode
            | Kind::r64_vvvv => {
                let register = self.register_operand(size);
                set_register(i, n, register);
            }
            Kind::seg_reg => {
                let all = [
                    Register::ES,
                    Register::CS,
                    Register::SS,
                    Register::DS,
                    Register::FS,
                    Register::GS,
                ];
                let register = self.random.one_of(&all);
                set_register(i, n, register);
            }
            Kind::cr_reg => {
                let number = self.random.one_of(&[0_u32, 2, 3, 4, 8]);
                set_register(i, n, Register::CR0 + number);
            }
            Kind::dr_reg => {
                let number = self.random.below(8) as u32;
                set_register(i, n, Register::DR0 + number);
            }
            _ => return self.fixed_operand(i, n, kind),
        }
        Some(())
    }

    /// Operands without a choice of register.
    fn fixed_operand(&mut self, i: &mut Instruction, n: u32, kind: Kind) -> Option<()> {
        let value = self.random.operand();
        match kind {
            Kind::es => set_register(i, n, Register::ES),
            Kind::cs => set_register(i, n, Register::CS),
            Kind::ss => set_register(i, n, Register::SS),
            Kind::ds => set_register(i, n, Register::DS),
            Kind::fs => set_register(i, n, Register::FS),
            Kind::gs => set_register(i, n, Register::GS),
            Kind::al => set_register(i, n, Register::AL),
            Kind::cl => set_register(i, n, Register::CL),
            Kind::ax => set_register(i, n, Register::AX),
            Kind::dx => set_register(i, n, Register::DX),
            Kind::eax => set_register(i, n, Register::EAX),
            Kind::rax => set_register(i, n, Register::RAX),
            Kind::imm8 if n > 0 && i.op_kind(n - 1) == OpKind::Immediate16 => {
                // ENTER's nesting level; the size of its frame is the other.
                i.set_op_kind(n, OpKind::Immediate8_2nd);
                i.set_immediate8_2nd(if self.random.chance(50) { 0 } else { value as u8 });
            }
            Kind::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(value as u8);
            }
            Kind::imm8_const_1 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(1);
            }
            Kind::imm8sex16 => {
                i.set_op_kind(n, OpKind::Immediate8to16);
                i.set_immediate8to16((value as i8).into());
            }
            Kind::imm8sex32 => {
                i.set_op_kind(n, OpKind::Immediate8to32);
                i.set_immediate8to32((value as i8).into());
            }
            Kind::imm8sex64 => {
                i.set_op_kind(n, OpKind::Immediate8to64);
                i.set_immediate8to64((value as i8).into());
            }
            Kind::imm16 => {
                i.set_op_kind(n, OpKind::Immediate16);
                i.set_immediate16(value as u16);
            }
            Kind::imm32 => {
                i.set_op_kind(n, OpKind::Immediate32);
                i.set_immediate32(value as u32);
            }
            Kind::imm32sex64 => {
                i.set_op_kind(n, OpKind::Immediate32to64);
                i.set_immediate32to64((value as i32).into());
            }
            Kind::imm64 => {
                i.set_op_kind(n, OpKind::Immediate64);
                i.set_immediate64(value);
            }
            // To the next instruction: the block corrects it when the others are there.
            Kind::br16_1 | Kind::br16_2 => {
                i.set_op_kind(n, OpKind::NearBranch16);
                i.set_near_branch16(0);
            }
            Kind::br64_1 | Kind::br64_4 => {
                i.set_op_kind(n, OpKind::NearBranch64);
                i.set_near_branch64(0);
            }
            Kind::seg_rSI | Kind::es_rDI => {
                let short = if n > 0 {
                    matches!(i.op_kind(n - 1), OpKind::MemorySegESI | OpKind::MemoryESEDI)
                } else {
                    self.random.chance(15)
                };
                i.set_op_kind(
                    n,
                    match (kind, short) {
                        (Kind::seg_rSI, false) => OpKind::MemorySegRSI,
                        (Kind::seg_rSI, true) => OpKind::MemorySegESI,
                        (_, false) => OpKind::MemoryESRDI,
                        (_, true) => OpKind::MemoryESEDI,
                    },
                );
            }
            Kind::seg_rBX_al => {
                let short = self.random.chance(15);
                i.set_op_kind(n, OpKind::Memory);
                i.set_memory_base(if short { Register::EBX } else { Register::RBX });
                i.set_memory_index(Register::AL);
            }
            _ => return self.vector_operand(i, n, kind),
        }
        Some(())
    }
}

/// Whether an operand is memory at a vector of indices.
fn is_gathered(kind: Kind) -> bool {
    matches!(kind, Kind::mem_vsib32x | Kind::mem_vsib32y | Kind::mem_vsib64x | Kind::mem_vsib64y)
}

/// The low 48 bits, sign-extended.
const fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

fn set_register(i: &mut Instruction, n: u32, register: Register) {
    i.set_op_kind(n, OpKind::Register);
    i.set_op_register(n, register);
}
