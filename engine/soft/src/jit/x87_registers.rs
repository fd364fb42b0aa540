//! [`X87Stubs`]: the guest's x87 registers into the host's, and back.
//!
//! MMX registers are a part of them. As with vector registers ([`super::vector_registers`]) translated code loads
//! them when it comes to an instruction that needs them, and they stay until Rust is called. They are saved and loaded
//! by XSAVE and XRSTOR, which can leave XMM registers and MXCSR alone.
//!
//! - As long as they are loaded, x87 instructions may execute, and all exceptions are masked: none is this process's.
//! - Rust finds an empty stack and the control word that a process starts with.
//! - What the processor keeps of the last instruction (its opcode, its address, its operand's) is the host's, and no
//!   business of the guest's: the guest's, which only the interpreter changes, stays in its fields.

use arch_x86::regs::cr0;

use super::assembler::{Assembler, Opcode, condition};
use super::context;

const RAX: u8 = 0;
const RCX: u8 = 1;
const RDX: u8 = 2;
const RSI: u8 = 6;
const T1: u8 = 11;

/// The component of XSAVE's that is saved and loaded, as a bit: the x87. See: AMD APM vol. 2, 11.5.2.
const COMPONENT: u32 = 1;
/// The control word's exception masks.
pub(super) const MASKS: u32 = 0x3f;
/// The status word's summary of exceptions that are not masked, where it follows the control word.
const PENDING: u32 = 1 << (16 + 7);

/// Addresses of the stubs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct X87Stubs {
    /// To be called if nothing is loaded, with the address of an `Op` in R10: then it is, or the interpreter goes on
    /// there, to the block's end. EFLAGS and R11 change, and nothing else of the host's.
    pub load: u64,
    /// To be called if something is loaded, when the guest's registers are in their fields: then nothing is. Changes
    /// EFLAGS, RAX, RCX, RDX, RSI and R11.
    save: u64,
}

impl X87Stubs {
    /// Assembles what leads out of translated code.
    pub fn assemble_save(&mut self, code: &mut Assembler) {
        self.save = code.here();
        save(code);
    }

    /// Assembles the rest; `refused` is where to jump to instead of returning.
    pub fn assemble_load(&mut self, code: &mut Assembler, refused: u64) {
        self.load = code.here();
        load(code, refused);
    }

    /// Saves the registers if they are loaded: see [`save`](Self::save).
    pub fn save_if_loaded(&self, code: &mut Assembler) {
        code.compare_byte(context::X87, 0);
        let nothing = code.jump_if(condition::EQUAL);
        code.call(self.save);
        code.bind(nothing);
    }
}

/// XSAVE (4) or XRSTOR (5) of the component. RAX and RDX change.
fn exchange(code: &mut Assembler, which: u8) {
    code.set(RAX, COMPONENT.into());
    code.set(RDX, 0);
    let opcode = Opcode { bytes: &[0x0f, 0xae], ..Opcode::default() };
    code.memory(opcode, which, code.place_of(context::FX));
}

fn save(code: &mut Assembler) {
    code.stub(true);
    code.load_zero_extended_word(RSI, context::FOP);
    code.load(RCX, context::FIP);
    code.load(T1, context::FDP);
    exchange(code, 4);
    code.store_16(context::FOP, RSI);
    code.store(context::FIP, RCX);
    code.store(context::FDP, T1);
    // FNINIT. See: System V ABI, AMD64 supplement, 3.2.1 (what a function finds).
    code.raw(&[0xdb, 0xe3]);
    code.store_value(context::X87, 0);
    code.end_stub();
}

/// Checks what [`crate::vector`] checks, and loads.
fn load(code: &mut Assembler, refused: u64) {
    code.stub(true);
    code.test_bits(context::CR0, (cr0::EM | cr0::TS) as u32);
    let off = code.jump_if(condition::NOT_EQUAL);
    code.load_32(T1, context::FCW);
    // and r11d, bits; cmp r11d, masks.
    code.raw(&[0x41, 0x81, 0xe3]);
    code.raw(&(MASKS | PENDING).to_le_bytes());
    code.raw(&[0x41, 0x83, 0xfb, MASKS as u8]);
    let unmasked = code.jump_if(condition::NOT_EQUAL);
    code.store_value(context::X87, 1);
    code.store(context::SAVED, RAX);
    code.copy(T1, RDX);
    // XSAVE may have said that it is as after a reset.
    code.store_value(context::XSTATE_BV, COMPONENT);
    exchange(code, 5);
    code.copy(RDX, T1);
    code.load(RAX, context::SAVED);
    code.end_stub();
    code.stub(true);
    code.bind(off);
    code.bind(unmasked);
    code.jump(refused);
    code.stub(false);
}
