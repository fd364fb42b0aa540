//! Registers of the system that are no more than fields: control registers and selectors, to be read, and the bases of
//! FS and GS: [`Translator::control`].

use arch_x86::regs::{Seg, cr4};
use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::super::assembler::{Jump, Opcode, condition};
use super::super::context;
use super::super::shape::Encoding;
use super::{Home, Step, T0, T2, Translator, home};

impl Translator<'_> {
    /// Translates such an instruction. Gives false, and has done nothing, if it is none.
    pub(super) fn control(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) -> bool {
        let i = &step.instruction;
        let is_selector = i.code() == Code::Mov_rm16_Sreg;
        if encoding.lock || encoding.operand_size && !is_selector || encoding.vex.is_some() {
            return false;
        }
        match i.code() {
            Code::Mov_r64_cr if self.cpl == 0 => match control_register(i.op1_register()) {
                Some(field) => self.read_field(field, number(i)),
                // CR8 is the interrupt controller's.
                None => return false,
            },
            Code::Rdfsbase_r64 | Code::Rdgsbase_r64 => {
                let off = self.expect_bases();
                self.read_field(base(i), number(i));
                self.on_miss(off, step, None);
            }
            Code::Wrfsbase_r64 | Code::Wrgsbase_r64 => self.write_base(step),
            Code::Mov_rm16_Sreg | Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg => {
                self.read_selector(step, encoding);
            }
            _ => return false,
        }
        true
    }

    /// MOV of a segment register: its selector, of 16 bits in memory, and with zeros above it in a register, unless
    /// the operand size is 16 bits.
    fn read_selector(&mut self, step: &Step<'_>, encoding: &Encoding<'_>) {
        let selector = context::segment_selector(step.instruction.op1_register().number() as u8);
        let store = Opcode { prefixes: &[0x66], bytes: &[0x89], ..Opcode::default() };
        if let Some(rm) = encoding.rm()
            && encoding.operand_size
        {
            self.code.load_zero_extended_word(T2, selector);
            match home(rm) {
                Home::Host(host) => self.code.registers(store, T2, host),
                Home::Field(field) => self.code.store_16(field, T2),
            }
            return;
        }
        if let Some(rm) = encoding.rm() {
            let host = match home(rm) {
                Home::Host(host) => host,
                Home::Field(_) => T2,
            };
            self.code.load_zero_extended_word(host, selector);
            self.give(rm, host);
            return;
        }
        self.flags_are_lost();
        self.linear_address(step, encoding);
        let miss = self.look_up_operand(step, 2, true);
        self.code.load_zero_extended_word(T2, selector);
        self.code.memory(store, T2, Self::operand());
        self.on_miss(miss, step, None);
    }

    /// A field into a guest's register. No flags change.
    fn read_field(&mut self, field: i32, guest: u8) {
        let host = match home(guest) {
            Home::Host(host) => host,
            Home::Field(_) => T2,
        };
        self.code.load(host, field);
        self.give(guest, host);
    }

    /// Whether CR4 lets the bases be accessed. See: AMD APM vol. 3, RDFSBASE.
    fn expect_bases(&mut self) -> Jump {
        self.flags_are_lost();
        self.code.test_bits(context::CR4, cr4::FSGSBASE as u32);
        self.code.jump_if(condition::EQUAL)
    }

    fn write_base(&mut self, step: &Step<'_>) {
        let off = self.expect_bases();
        let host = self.take(number(&step.instruction), T2);
        // With five levels of tables more addresses are canonical: the interpreter knows.
        // shl r10, 16; sar r10, 16; cmp r10, host.
        self.code.copy(T0, host);
        self.code.raw(&[0x49, 0xc1, 0xe2, 16, 0x49, 0xc1, 0xfa, 16]);
        let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
        self.code.registers(compare, host, T0);
        let other = self.code.jump_if(condition::NOT_EQUAL);
        self.code.store(base(&step.instruction), host);
        if step.instruction.mnemonic() == Mnemonic::Wrgsbase {
            self.code.copy(T0, host);
            self.gs_changed();
        }
        self.finish(step, [off, other]);
    }
}

/// The number of the general-purpose register.
fn number(i: &Instruction) -> u8 {
    i.op0_register().number() as u8
}

/// The field of a control register.
const fn control_register(register: Register) -> Option<i32> {
    match register {
        Register::CR0 => Some(context::CR0),
        Register::CR2 => Some(context::CR2),
        Register::CR3 => Some(context::CR3),
        Register::CR4 => Some(context::CR4),
        _ => None,
    }
}

/// The field of the base that an instruction is about.
fn base(i: &Instruction) -> i32 {
    let segment = match i.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => Seg::Fs,
        _ => Seg::Gs,
    };
    context::segment_base(segment as u8)
}
