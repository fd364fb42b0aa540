//! [`VectorStubs`]: the guest's vector registers into the host's, and back.
//!
//! Translated code loads them when it comes to an instruction that needs them, and from then on they and MXCSR
//! are the guest's: through other blocks, too, until Rust is called, which may change them and may
//! look at the guest's. What lets such instructions execute (CR0, CR4, XCR0, and MXCSR's masks) only changes
//! in Rust. So it is looked at when the registers are loaded: as long as they are, nothing is in the way.

use arch_x86::regs::{cr0, cr4, xcr0};

use super::assembler::{Assembler, Opcode, Vex, condition};
use super::context;
use crate::vector::Extension;

/// What of the registers is loaded: [`context::Context::vectors`].
pub(super) mod level {
    /// Nothing: they are the host's own.
    pub const NONE: u8 = 0;
    /// All, but AVX instructions may not execute.
    pub const SSE: u8 = 1;
    /// All.
    pub const AVX: u8 = 2;
}

const T1: u8 = 11;
/// MXCSR's exception masks.
const MASKS: u32 = 0x1f80;
/// MXCSR's exception flags.
const MXCSR_FLAGS: u32 = 0x3f;
/// MXCSR's bits that every x86-64 processor has.
const MXCSR_BITS: u32 = 0xffff;

/// Addresses of the stubs. All may change EFLAGS and R11, and nothing else of the host's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VectorStubs {
    /// To be called to have [`level::SSE`], with the address of an `Op` in R10. If it can't be had the interpreter
    /// goes on there, to the block's end.
    pub load_sse: u64,
    /// The same for [`level::AVX`].
    pub load_avx: u64,
    /// To be called if something is loaded: then nothing is.
    save: u64,
}

impl VectorStubs {
    /// Assembles what leads out of translated code.
    pub fn assemble_save(&mut self, code: &mut Assembler) {
        self.save = code.here();
        save(code);
    }

    /// Assembles the rest; `refused` is where to jump to instead of returning.
    pub fn assemble_load(&mut self, code: &mut Assembler, refused: u64) {
        let load = code.here();
        load_registers(code);
        self.load_sse = checked(code, level::SSE, load, refused);
        self.load_avx = checked(code, level::AVX, load, refused);
    }

    /// Saves the registers if they are loaded.
    pub fn save_if_loaded(&self, code: &mut Assembler) {
        code.compare_byte(context::VECTORS, level::NONE);
        let nothing = code.jump_if(condition::EQUAL);
        code.call(self.save);
        code.bind(nothing);
    }

    /// The stub that loads what `level` needs.
    pub fn load(&self, level: u8) -> u64 {
        if level == level::AVX { self.load_avx } else { self.load_sse }
    }
}

/// LDMXCSR (2) or STMXCSR (3) of a field.
fn mxcsr(code: &mut Assembler, which: u8, offset: i32) {
    let opcode = Opcode { bytes: &[0x0f, 0xae], ..Opcode::default() };
    code.memory(opcode, which, code.place_of(offset));
}

/// Loads MXCSR from the field at `offset`, unless what is in it now, which is in the field at `now`, is the same but
/// for the bits that do not matter. (LDMXCSR takes as long as a hundred other instructions on some processors.)
fn change_mxcsr(code: &mut Assembler, now: i32, offset: i32, matter: u32) {
    code.load_32(T1, now);
    code.xor_field_32(T1, offset);
    // test r11d, matter.
    code.raw(&[0x41, 0xf7, 0xc3]);
    code.raw(&matter.to_le_bytes());
    let same = code.jump_if(condition::EQUAL);
    mxcsr(code, 2, offset);
    code.bind(same);
}

/// MOVUPS (VMOVUPS with AVX) between an XMM register and a field: 10 loads, 11 stores.
fn move_low(code: &mut Assembler, opcode: u8, n: u8) {
    if Extension::Avx.host_has() {
        let opcode = Vex { map: 1, opcode, ..Vex::default() };
        code.vex_memory(opcode, n, code.place_of(context::xmm(n)));
    } else {
        let bytes = [0x0f, opcode];
        let opcode = Opcode { bytes: &bytes, ..Opcode::default() };
        code.memory(opcode, n, code.place_of(context::xmm(n)));
    }
}

/// VINSERTF128 (18) or VEXTRACTF128 (19) of an upper half.
fn move_high(code: &mut Assembler, opcode: u8, n: u8) {
    let register = if opcode == 0x18 { n } else { 0 };
    let vex = Vex { map: 3, prefix: 1, length: true, register, ..Vex::default() };
    code.vex_memory(Vex { opcode, ..vex }, n, code.place_of(context::ymm_high(n)));
    code.raw(&[1]);
}

/// VZEROUPPER: SSE instructions are slow while upper halves are in use.
/// See: Intel Optimization Reference Manual, 15.3 (mixing AVX code with SSE code).
fn zero_upper(code: &mut Assembler) {
    code.raw(&[0xc5, 0xf8, 0x77]);
}

fn save(code: &mut Assembler) {
    code.stub(true);
    let avx = Extension::Avx.host_has();
    for n in 0..16 {
        move_low(code, 0x11, n);
        if avx {
            move_high(code, 0x19, n);
        }
    }
    if avx {
        zero_upper(code);
    }
    mxcsr(code, 3, context::MXCSR);
    // A function may leave any flags behind. See: System V ABI, AMD64 supplement, 3.2.1.
    change_mxcsr(code, context::MXCSR, context::HOST_MXCSR, !MXCSR_FLAGS);
    code.store_value(context::VECTORS, level::NONE.into());
    code.end_stub();
}

fn load_registers(code: &mut Assembler) {
    code.stub(true);
    mxcsr(code, 3, context::HOST_MXCSR);
    change_mxcsr(code, context::HOST_MXCSR, context::MXCSR, !0);
    if Extension::Avx.host_has() {
        // Upper halves that are zero stay unused.
        let vex = Vex { map: 1, ..Vex::default() };
        code.vex_memory(Vex { opcode: 0x10, ..vex }, 0, code.place_of(context::ymm_high(0)));
        for n in 1..16 {
            // vorps xmm0, xmm0, field.
            code.vex_memory(Vex { opcode: 0x56, ..vex }, 0, code.place_of(context::ymm_high(n)));
        }
        // vptest xmm0, xmm0.
        let test = Vex { map: 2, prefix: 1, opcode: 0x17, ..Vex::default() };
        code.vex_registers(test, 0, 0);
        let unused = code.jump_if(condition::EQUAL);
        for n in 0..16 {
            move_low(code, 0x10, n);
            move_high(code, 0x18, n);
        }
        code.end_stub();
        code.stub(true);
        code.bind(unused);
        zero_upper(code);
    }
    for n in 0..16 {
        move_low(code, 0x10, n);
    }
    code.end_stub();
}

/// Checks what [`crate::vector`] checks, and jumps to `load`.
fn checked(code: &mut Assembler, wanted: u8, load: u64, refused: u64) -> u64 {
    let mut out = Vec::new();
    // and r11d, bits; cmp r11d, value.
    let compare = |code: &mut Assembler, offset: i32, bits: u32, value: u32| {
        code.load_32(T1, offset);
        code.raw(&[0x41, 0x81, 0xe3]);
        code.raw(&bits.to_le_bytes());
        code.raw(&[0x41, 0x81, 0xfb]);
        code.raw(&value.to_le_bytes());
    };
    code.stub(true);
    let at = code.here();
    // Loaded, but not enough.
    code.compare_byte(context::VECTORS, level::NONE);
    out.push(code.jump_if(condition::NOT_EQUAL));
    code.test_bits(context::CR0, (cr0::EM | cr0::TS) as u32);
    out.push(code.jump_if(condition::NOT_EQUAL));
    code.test_bits(context::CR4, cr4::OSFXSR as u32);
    out.push(code.jump_if(condition::EQUAL));
    // An exception that is not masked would be this process's.
    compare(code, context::MXCSR, !MXCSR_BITS | MASKS, MASKS);
    out.push(code.jump_if(condition::NOT_EQUAL));
    if Extension::Avx.host_has() {
        const ON: u32 = (xcr0::SSE | xcr0::AVX) as u32;
        code.test_bits(context::CR4, cr4::OSXSAVE as u32);
        let off = code.jump_if(condition::EQUAL);
        compare(code, context::XCR0, ON, ON);
        let not_on = code.jump_if(condition::NOT_EQUAL);
        code.store_value(context::VECTORS, level::AVX.into());
        code.jump(load);
        code.bind(off);
        code.bind(not_on);
    }
    if wanted == level::SSE {
        code.store_value(context::VECTORS, level::SSE.into());
        code.jump(load);
    }
    for jump in out {
        code.bind(jump);
    }
    code.jump(refused);
    code.stub(false);
    at
}
