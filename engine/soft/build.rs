//! Assembles the stubs through which `vector` executes x87, MMX, SSE and AVX
//! instructions: each is the host's own instruction with fixed operands.
//!
//! Written to `OUT_DIR`: `stubs.bin` (code, for the text section), and `forms.rs` and
//! `vex_forms.rs` (the tables that say what each stub is). AVX's are `vex`'s; the others' calling
//! convention is System V's, with the arguments
//!
//! - `rdi`: the first operand (16 bytes; x87: the FXSAVE image),
//! - `rsi`: the second operand (16 bytes; x87: the memory operand),
//! - `rdx`: what else goes in and out: `vector::stub::Context`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use iced_x86::{
    Code, Encoder, Instruction, InstructionInfoFactory, MemoryOperand, Mnemonic, OpAccess,
    OpCodeOperandKind as Kind, OpKind, Register, RflagsBits,
};

use classify::{Class, classify, may_be_unaligned, reads_xmm0};

#[path = "build/classify.rs"]
mod classify;
#[path = "build/vex.rs"]
mod vex;

/// Offsets in `vector::stub::Context`.
mod context {
    pub const XMM0: i64 = 0;
    pub const MXCSR: i64 = 16;
    pub const HOST_MXCSR: i64 = 20;
    pub const FLAGS: i64 = 24;
    pub const RAX: i64 = 32;
    pub const RDX: i64 = 40;
    pub const RCX: i64 = 48;
    pub const HOST_FCW: i64 = 56;
}

/// The operand in a slot. The names are those of `vector::table::Operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    None,
    Xmm,
    Mm,
    Gpr,
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/classify.rs");
    println!("cargo::rerun-if-changed=build/vex.rs");
    let mut stubs = Vec::new();
    let mut table = String::from("pub static FORMS: &[Form] = &[\n");
    for code in Code::values() {
        let Some((class, extension)) = classify(code) else { continue };
        let form = Form::of(code, class);
        while stubs.len() % 16 != 0 {
            stubs.push(0xcc);
        }
        let start = stubs.len();
        let variants = form.variants();
        for selector in 0..variants {
            let stub = form.assemble(selector as u8);
            assert_eq!(stubs.len(), start + usize::from(selector) * stub.len(), "{code:?}");
            stubs.extend(stub);
        }
        let stride = (stubs.len() - start) / usize::from(variants);
        form.write(&mut table, extension, start, stride);
    }
    table.push_str("];\n");
    let mut vex_table = String::new();
    vex::write(&mut stubs, &mut vex_table);
    assert!(stubs.len() < 1_500_000);
    let _ = writeln!(table, "pub const STUBS_SIZE: usize = {};", stubs.len());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("stubs.bin"), stubs).expect("OUT_DIR is writable");
    fs::write(out.join("forms.rs"), table).expect("OUT_DIR is writable");
    fs::write(out.join("vex_forms.rs"), vex_table).expect("OUT_DIR is writable");
}

/// One form of an instruction, with its canonical operands.
struct Form {
    code: Code,
    class: Class,
    /// The instruction, but for the immediate or ST(i).
    canonical: Instruction,
    /// Which operand the selector replaces.
    immediate: Option<u32>,
    sti: Option<u32>,
    first: Operand,
    second: Operand,
    first_written: bool,
    flags_in: bool,
    flags_out: bool,
    memory: usize,
    memory_written: bool,
}

impl Form {
    fn of(code: Code, class: Class) -> Self {
        let mut form = Self {
            code,
            class,
            canonical: Instruction::new(),
            immediate: None,
            sti: None,
            first: Operand::None,
            second: Operand::None,
            first_written: false,
            flags_in: false,
            flags_out: false,
            memory: 0,
            memory_written: false,
        };
        form.canonical.set_code(code);
        for n in 0..code.op_code().op_count() {
            form.set_operand(n, code.op_code().op_kind(n));
        }
        // Of forms whose memory operand became a register, the size is still wanted.
        form.memory = code.op_code().memory_size().size();
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&form.canonical);
        form.first_written = matches!(
            info.op0_access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        form.memory_written = form.class == Class::X87 && form.memory != 0 && form.first_written;
        const STATUS: u32 = RflagsBits::OF
            | RflagsBits::SF
            | RflagsBits::ZF
            | RflagsBits::AF
            | RflagsBits::CF
            | RflagsBits::PF;
        form.flags_out = form.canonical.rflags_modified() & STATUS != 0;
        assert!(!form.flags_out || form.canonical.rflags_modified() & STATUS == STATUS);
        // FCOMI leaves some flags alone on some processors.
        form.flags_in = form.canonical.rflags_read() & STATUS != 0
            || form.flags_out && form.class == Class::X87;
        form
    }

    fn set_operand(&mut self, n: u32, kind: Kind) {
        let pointer =
            if n == 0 && self.class != Class::X87 { Register::RDI } else { Register::RSI };
        let (operand, register) = match kind {
            Kind::imm8 => {
                self.canonical.set_op_kind(n, OpKind::Immediate8);
                self.immediate = Some(n);
                return;
            }
            Kind::st0 => (Operand::None, Some(Register::ST0)),
            Kind::sti_opcode => {
                self.sti = Some(n);
                (Operand::None, Some(Register::ST0))
            }
            Kind::mem => (Operand::None, None),
            // INSERTPS reads another element of a register than of memory.
            Kind::xmm_or_mem if self.code.mnemonic() == Mnemonic::Insertps => {
                (Operand::Xmm, Some(Register::XMM2))
            }
            Kind::xmm_or_mem => (Operand::Xmm, None),
            Kind::mm_or_mem => (Operand::Mm, None),
            Kind::r32_or_mem | Kind::r64_or_mem => (Operand::Gpr, None),
            Kind::xmm_reg | Kind::xmm_rm => {
                (Operand::Xmm, Some([Register::XMM1, Register::XMM2][n as usize]))
            }
            Kind::mm_reg | Kind::mm_rm => {
                (Operand::Mm, Some([Register::MM1, Register::MM2][n as usize]))
            }
            Kind::r32_reg if n == 0 => (Operand::Gpr, Some(Register::EAX)),
            Kind::r64_reg if n == 0 => (Operand::Gpr, Some(Register::RAX)),
            _ => panic!("{:?}: operand {n} is {kind:?}", self.code),
        };
        match register {
            Some(register) => {
                self.canonical.set_op_kind(n, OpKind::Register);
                self.canonical.set_op_register(n, register);
            }
            None => {
                self.canonical.set_op_kind(n, OpKind::Memory);
                self.canonical.set_memory_base(pointer);
            }
        }
        match n {
            0 => self.first = operand,
            1 => self.second = operand,
            _ => panic!("{:?}: {kind:?}", self.code),
        }
    }

    /// How many stubs the form has: one for each value of its selector.
    fn variants(&self) -> u16 {
        match (self.immediate, self.sti) {
            (Some(_), _) => 256,
            (_, Some(_)) => 8,
            _ => 1,
        }
    }

    fn assemble(&self, selector: u8) -> Vec<u8> {
        let mut instruction = self.canonical;
        if let Some(n) = self.immediate {
            instruction.set_immediate8(selector);
            assert_eq!(instruction.op_kind(n), OpKind::Immediate8);
        }
        if let Some(n) = self.sti {
            instruction.set_op_register(n, Register::ST0 + u32::from(selector));
        }
        let mut stub = Stub::default();
        match self.class {
            // An implicit operand that is overlooked would be the compiler's register.
            Class::Packed | Class::Float => self.assert_implicit_operands(),
            _ => {}
        }
        match self.class {
            Class::Packed => self.packed(&mut stub, instruction),
            Class::Float => {
                stub.memory(Code::Stmxcsr_m32, Register::RDX, context::HOST_MXCSR);
                stub.memory(Code::Ldmxcsr_m32, Register::RDX, context::MXCSR);
                self.packed(&mut stub, instruction);
                stub.memory(Code::Stmxcsr_m32, Register::RDX, context::MXCSR);
                stub.memory(Code::Ldmxcsr_m32, Register::RDX, context::HOST_MXCSR);
            }
            Class::String => self.string(&mut stub, instruction),
            Class::X87 => self.x87(&mut stub, instruction),
        }
        if self.first == Operand::Mm || self.second == Operand::Mm {
            stub.push(Instruction::with(Code::Emms));
        }
        stub.push(Instruction::with(Code::Retnq));
        stub.0
    }

    /// Panics unless the operands and XMM0 are all that the instruction uses.
    fn assert_implicit_operands(&self) {
        let mut factory = InstructionInfoFactory::new();
        let operands = 0..self.canonical.op_count();
        for used in factory.info(&self.canonical).used_registers() {
            let register = used.register();
            let named = operands.clone().any(|n| {
                self.canonical.op_kind(n) == OpKind::Register
                    && self.canonical.op_register(n).full_register() == register.full_register()
            });
            let pointer = register == Register::RDI || register == Register::RSI;
            let segment = register.is_segment_register();
            let xmm0 = register == Register::XMM0 && reads_xmm0(self.code.mnemonic());
            assert!(named || pointer || segment || xmm0, "{:?} uses {register:?}", self.code);
        }
    }

    fn packed(&self, stub: &mut Stub, instruction: Instruction) {
        if reads_xmm0(self.code.mnemonic()) {
            stub.load(Code::Movaps_xmm_xmmm128, Register::XMM0, Register::RDX, context::XMM0);
        }
        for (n, pointer) in [(0, Register::RDI), (1, Register::RSI)] {
            if instruction.op_count() <= n || instruction.op_kind(n) != OpKind::Register {
                continue;
            }
            let register = instruction.op_register(n);
            if register.is_xmm() {
                stub.load(Code::Movaps_xmm_xmmm128, register, pointer, 0);
            } else if register.is_mm() {
                stub.load(Code::Movq_mm_mmm64, register, pointer, 0);
            }
        }
        stub.push(instruction);
        if self.flags_out {
            stub.save_flags(Register::RDX);
        }
        if self.first_written && instruction.op0_kind() == OpKind::Register {
            let register = instruction.op0_register();
            let code = if register.is_xmm() {
                Code::Movaps_xmmm128_xmm
            } else if register.is_mm() {
                Code::Movq_mmm64_mm
            } else {
                Code::Mov_rm64_r64
            };
            stub.store(code, register.full_register_if_gpr(), Register::RDI, 0);
        }
    }

    fn string(&self, stub: &mut Stub, instruction: Instruction) {
        // RDX is an operand.
        let base = Register::R8;
        stub.push(Instruction::with2(Code::Mov_r64_rm64, base, Register::RDX).expect("operands"));
        stub.load(Code::Mov_r64_rm64, Register::RAX, base, context::RAX);
        stub.load(Code::Mov_r64_rm64, Register::RDX, base, context::RDX);
        stub.load(Code::Movaps_xmm_xmmm128, Register::XMM1, Register::RDI, 0);
        stub.push(instruction);
        stub.save_flags(base);
        stub.store(Code::Mov_rm64_r64, Register::RCX, base, context::RCX);
        stub.store(Code::Movaps_xmmm128_xmm, Register::XMM0, base, context::XMM0);
    }

    fn x87(&self, stub: &mut Stub, instruction: Instruction) {
        stub.memory(Code::Stmxcsr_m32, Register::RDX, context::HOST_MXCSR);
        stub.memory(Code::Fnstcw_m2byte, Register::RDX, context::HOST_FCW);
        stub.memory(Code::Fxrstor64_m512byte, Register::RDI, 0);
        if self.flags_in {
            stub.memory(Code::Push_rm64, Register::RDX, context::FLAGS);
            stub.push(Instruction::with(Code::Popfq));
        }
        stub.push(instruction);
        if self.flags_out {
            stub.save_flags(Register::RDX);
        }
        stub.memory(Code::Fxsave64_m512byte, Register::RDI, 0);
        stub.push(Instruction::with(Code::Fninit));
        stub.memory(Code::Fldcw_m2byte, Register::RDX, context::HOST_FCW);
        stub.memory(Code::Ldmxcsr_m32, Register::RDX, context::HOST_MXCSR);
    }

    fn write(&self, table: &mut String, extension: &str, stub: usize, stride: usize) {
        let aligned =
            self.memory == 16 && self.class != Class::X87 && !may_be_unaligned(self.class);
        let _ = writeln!(
            table,
            "Form {{ code: Code::{:?}, class: Class::{:?}, first: Operand::{:?}, \
             second: Operand::{:?}, extension: Extension::{extension}, memory: {}, \
             aligned: {aligned}, memory_written: {}, flags: {}, xmm0: {}, stub: {stub}, \
             stride: {}, selector_mask: {} }},",
            self.code,
            self.class,
            self.first,
            self.second,
            self.memory,
            self.memory_written,
            self.flags_out || self.flags_in,
            reads_xmm0(self.code.mnemonic()),
            if self.variants() == 1 { 0 } else { stride },
            self.variants() - 1,
        );
    }
}

/// Machine code, one instruction after the other.
#[derive(Default)]
struct Stub(Vec<u8>);

impl Stub {
    fn push(&mut self, instruction: Instruction) {
        let mut encoder = Encoder::new(64);
        encoder.encode(&instruction, 0).unwrap_or_else(|error| panic!("{instruction:?}: {error}"));
        self.0.extend(encoder.take_buffer());
    }

    /// An instruction with a memory operand only.
    fn memory(&mut self, code: Code, base: Register, offset: i64) {
        let operand = MemoryOperand::with_base_displ(base, offset);
        self.push(Instruction::with1(code, operand).expect("one memory operand"));
    }

    fn load(&mut self, code: Code, register: Register, base: Register, offset: i64) {
        let operand = MemoryOperand::with_base_displ(base, offset);
        self.push(Instruction::with2(code, register, operand).expect("a load"));
    }

    fn store(&mut self, code: Code, register: Register, base: Register, offset: i64) {
        let operand = MemoryOperand::with_base_displ(base, offset);
        self.push(Instruction::with2(code, operand, register).expect("a store"));
    }

    fn save_flags(&mut self, base: Register) {
        self.push(Instruction::with(Code::Pushfq));
        self.memory(Code::Pop_rm64, base, context::FLAGS);
    }
}

/// The whole of a general-purpose register; any other register as it is.
trait FullRegister {
    fn full_register_if_gpr(self) -> Register;
}

impl FullRegister for Register {
    fn full_register_if_gpr(self) -> Register {
        if self.is_gpr() { self.full_register() } else { self }
    }
}
