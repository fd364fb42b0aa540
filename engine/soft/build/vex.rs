//! The stubs of AVX instructions: those with a VEX prefix.
//!
//! Each is the instruction itself and a return; what loads and saves its operands is the same for
//! all (`vector::vex_stub`). Operand `n` of a form is YMM`n` (XMM`n`) if it is a vector register; EAX or
//! RAX if it is a general-purpose register; and at RDI + 32 × `n` if it may be memory.

use std::fmt::Write as _;

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpCodeOperandKind as Kind, OpKind, Register, RflagsBits,
};

use crate::Stub;
use crate::classify::{compares_strings, uses_mxcsr};

/// What an operand is. The names are those of `vector::vex_table::Operand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    None,
    Vector,
    Gpr,
}

/// One form.
struct Form {
    code: Code,
    canonical: Instruction,
    immediate: bool,
    operands: [Operand; 4],
}

/// Appends the stubs of all forms to `stubs` and their table to `table`.
pub fn write(stubs: &mut Vec<u8>, table: &mut String) {
    table.push_str("pub static VEX_FORMS: &[Form] = &[\n");
    for code in Code::values() {
        if let Some(extensions) = extensions(code) {
            Form::of(code).write(&extensions, stubs, table);
        }
    }
    table.push_str("];\n");
}

/// What CPUID has to name for `code` to be executed, if it is by a stub.
fn extensions(code: Code) -> Option<Vec<&'static str>> {
    if code.encoding() != EncodingKind::VEX
        || !code.op_code().mode64()
        || is_plain_code(code.mnemonic())
    {
        return None;
    }
    let name = |feature: &CpuidFeature| {
        Some(match feature {
            CpuidFeature::AVX => "Avx",
            CpuidFeature::AVX2 => "Avx2",
            CpuidFeature::FMA => "Fma",
            CpuidFeature::F16C => "F16c",
            CpuidFeature::AES => "Aes",
            CpuidFeature::VAES => "Vaes",
            CpuidFeature::PCLMULQDQ => "Pclmulqdq",
            CpuidFeature::VPCLMULQDQ => "Vpclmulqdq",
            _ => return None,
        })
    };
    code.cpuid_features().iter().map(name).collect()
}

/// Instructions that are plain code, in `vector`: those whose memory operand is accessed in parts,
/// and those without operands.
fn is_plain_code(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Vzeroupper
            | Vzeroall
            | Vldmxcsr
            | Vstmxcsr
            | Vmaskmovdqu
            | Vmaskmovps
            | Vmaskmovpd
            | Vpmaskmovd
            | Vpmaskmovq
            | Vgatherdps
            | Vgatherdpd
            | Vgatherqps
            | Vgatherqpd
            | Vpgatherdd
            | Vpgatherdq
            | Vpgatherqd
            | Vpgatherqq
    )
}

/// The SSE instruction that a VEX one extends.
fn without_vex(mnemonic: Mnemonic) -> Option<Mnemonic> {
    let name = format!("{mnemonic:?}").to_lowercase();
    let name = name.strip_prefix('v')?;
    Mnemonic::values().find(|other| format!("{other:?}").to_lowercase() == name)
}

/// Whether MXCSR acts on it, or it may set MXCSR's flags.
fn is_float(mnemonic: Mnemonic) -> bool {
    let name = format!("{mnemonic:?}");
    let fused = ["Vfmadd", "Vfmsub", "Vfnmadd", "Vfnmsub", "Vcvtph2ps", "Vcvtps2ph"];
    without_vex(mnemonic).is_some_and(uses_mxcsr)
        || fused.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a memory operand must be aligned to its size.
fn must_be_aligned(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Vmovaps | Vmovapd | Vmovdqa | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa)
}

impl Form {
    fn of(code: Code) -> Form {
        let mut canonical = Instruction::new();
        canonical.set_code(code);
        let mut form = Form { code, canonical, immediate: false, operands: [Operand::None; 4] };
        for n in 0..code.op_code().op_count() {
            form.set_operand(n, code.op_code().op_kind(n));
        }
        form
    }

    fn set_operand(&mut self, n: u32, kind: Kind) {
        // VINSERTPS takes another element of a register than of memory.
        let is_insertion = self.code.mnemonic() == Mnemonic::Vinsertps;
        let (operand, register) = match kind {
            Kind::imm8 => {
                self.immediate = true;
                self.canonical.set_op_kind(n, OpKind::Immediate8);
                return;
            }
            Kind::xmm_or_mem if is_insertion => (Operand::Vector, Some(Register::XMM0 + n)),
            Kind::xmm_or_mem | Kind::ymm_or_mem => (Operand::Vector, None),
            Kind::r32_or_mem | Kind::r64_or_mem => (Operand::Gpr, None),
            Kind::mem => (Operand::None, None),
            Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                (Operand::Vector, Some(Register::XMM0 + n))
            }
            Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                (Operand::Vector, Some(Register::YMM0 + n))
            }
            Kind::r32_reg if n == 0 => (Operand::Gpr, Some(Register::EAX)),
            Kind::r64_reg if n == 0 => (Operand::Gpr, Some(Register::RAX)),
            _ => panic!("{:?}: operand {n} is {kind:?}", self.code),
        };
        self.operands[n as usize] = operand;
        match register {
            Some(register) => {
                self.canonical.set_op_kind(n, OpKind::Register);
                self.canonical.set_op_register(n, register);
            }
            None => {
                self.canonical.set_op_kind(n, OpKind::Memory);
                self.canonical.set_memory_base(Register::RDI);
                self.canonical.set_memory_displacement64(32 * u64::from(n));
                self.canonical.set_memory_displ_size(u32::from(n > 0));
            }
        }
    }

    fn write(&self, extensions: &[&str], stubs: &mut Vec<u8>, table: &mut String) {
        self.assert_implicit_operands();
        let start = stubs.len();
        let variants = if self.immediate { 256 } else { 1 };
        for immediate in 0..variants {
            let mut instruction = self.canonical;
            if self.immediate {
                instruction.set_immediate8(immediate as u8);
            }
            let mut stub = Stub::default();
            stub.push(instruction);
            stub.push(Instruction::with(Code::Retnq));
            stubs.extend(stub.0);
        }
        let stride = (stubs.len() - start) / variants;
        let mnemonic = self.code.mnemonic();
        let class = match without_vex(mnemonic) {
            Some(plain) if compares_strings(plain) => "String",
            _ if is_float(mnemonic) => "Float",
            _ if self.sets_flags() => "Flags",
            _ => "Packed",
        };
        let op_code = self.code.op_code();
        let place = match (self.canonical.op0_kind(), self.operands[0]) {
            (OpKind::Memory, _) => "Memory",
            (_, Operand::Gpr) => "Gpr",
            _ => "Vector",
        };
        let is4 = [Kind::xmm_is4, Kind::ymm_is4];
        let has_is4 = (0..op_code.op_count()).any(|n| is4.contains(&op_code.op_kind(n)));
        let _ = writeln!(
            table,
            "Form {{ code: Code::{:?}, class: Class::{class}, operands: [{}], extensions: &[{}], \
             memory: {}, aligned: {}, place: Place::{place}, written: {}, flags: {}, is4: {has_is4}, \
             stub: {start}, stride: {} }},",
            self.code,
            self.operands.map(|operand| format!("Operand::{operand:?}")).join(", "),
            extensions
                .iter()
                .map(|name| format!("Extension::{name}"))
                .collect::<Vec<_>>()
                .join(", "),
            op_code.memory_size().size(),
            must_be_aligned(mnemonic),
            self.writes_first(),
            self.sets_flags(),
            if self.immediate { stride } else { 0 },
        );
    }

    fn writes_first(&self) -> bool {
        let mut factory = InstructionInfoFactory::new();
        matches!(
            factory.info(&self.canonical).op0_access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        )
    }

    fn sets_flags(&self) -> bool {
        self.canonical.rflags_modified() & RflagsBits::ZF != 0
    }

    /// Panics unless the operands are all that the instruction uses, but for what the class says.
    fn assert_implicit_operands(&self) {
        if without_vex(self.code.mnemonic()).is_some_and(compares_strings) {
            return;
        }
        let mut factory = InstructionInfoFactory::new();
        for used in factory.info(&self.canonical).used_registers() {
            let register = used.register();
            let named = (0..self.canonical.op_count()).any(|n| {
                self.canonical.op_kind(n) == OpKind::Register
                    && self.canonical.op_register(n).full_register() == register.full_register()
            });
            let other = register == Register::RDI || register.is_segment_register();
            assert!(named || other, "{:?} uses {register:?}", self.code);
        }
    }
}
