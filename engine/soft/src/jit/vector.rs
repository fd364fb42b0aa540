//! [`Vector`]: MMX, SSE and AVX instructions that are translated by executing themselves, on the guest's vector
//! registers, or its MMX ones, in the host's.
//!
//! They are those of [`crate::vector`] of which nothing is implied but what is in the same register here (XMM0;
//! RAX, RCX and RDX of PCMPxSTRx) and that do not have both XMM and MMX operands.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::shape::{Encoding, Map};
use super::vector_registers::level;
use crate::vector::{self, Registers};

/// Where an instruction has a general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum General {
    None,
    /// In ModRM's `reg`, which is written.
    Reg,
    /// In ModRM's `rm`, if that is no memory.
    Rm {
        written: bool,
    },
}

/// What a vector instruction does with its operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vector {
    /// What has to be loaded: see [`level`].
    pub level: u8,
    /// Its registers are MMX ones, which are the x87's: these have to be loaded instead.
    pub mmx: bool,
    pub general: General,
    /// Size of the memory operand, if it has one, and what that must be aligned to.
    pub size: u32,
    pub alignment: u8,
    /// The memory operand is written, rather than read.
    pub written: bool,
    /// It has no ModRM byte.
    pub bare: bool,
}

impl Vector {
    /// A valid instruction, if it is one that is translated so.
    pub fn of(i: &Instruction, encoding: &Encoding<'_>) -> Option<Self> {
        let alike = vector::alike(i)?;
        let is_vex = encoding.vex.is_some();
        let unclear = encoding.operand_size && encoding.repeat.is_some();
        if is_vex != (alike.registers == Registers::Avx) || unclear || encoding.lock {
            return None;
        }
        let mut has_vector = false;
        let mut vector = Self {
            mmx: i.code() == Code::Emms,
            level: if is_vex { level::AVX } else { level::SSE },
            general: General::None,
            size: 0,
            alignment: 1,
            written: i.op_count() > 0 && i.op0_kind() == OpKind::Memory,
            bare: i.op_count() == 0,
        };
        for n in 0..i.op_count() {
            match i.op_kind(n) {
                OpKind::Register if is_vector(i.op_register(n)) => has_vector = true,
                OpKind::Register if i.op_register(n).is_mm() => vector.mmx = true,
                OpKind::Register => vector.general = general(encoding, n, i.op_register(n))?,
                OpKind::Memory => vector.size = i.memory_size().size() as u32,
                OpKind::Immediate8 => {}
                _ => return None,
            }
        }
        if vector.mmx {
            // How the x87's registers are loaded: see `x87_registers`.
            if has_vector || !is_x86_feature_detected!("xsave") {
                return None;
            }
            vector.level = level::NONE;
        }
        if vector.bare {
            return Some(vector);
        }
        if !matches!(vector.size, 0 | 1 | 2 | 4 | 8 | 16 | 32)
            || (vector.size == 0) != encoding.rm().is_some()
        {
            return None;
        }
        // The host's rule, whatever the table says: a misaligned operand is left to the interpreter.
        if alike.aligned || !is_vex && vector.size == 16 && !may_be_unaligned(i.mnemonic()) {
            vector.alignment = vector.size.max(1) as u8;
        }
        Some(vector)
    }
}

fn is_vector(register: Register) -> bool {
    register.is_xmm() || register.is_ymm()
}

/// Where operand `n` is, a general-purpose register. Gives `None` if it is another, or can't be told.
fn general(encoding: &Encoding<'_>, n: u32, register: Register) -> Option<General> {
    if !register.is_gpr32() && !register.is_gpr64() {
        return None;
    }
    let written = n == 0;
    Some(match (encoding.map, encoding.opcode) {
        // CVTxx2SI, MOVMSKPx, PEXTRW, PMOVMSKB.
        (Map::Two, 0x2c | 0x2d | 0x50 | 0xc5 | 0xd7) if written => General::Reg,
        // MOVD and MOVQ; PEXTRx and EXTRACTPS.
        (Map::Two, 0x7e) | (Map::Three3a, 0x14..=0x17) if written => General::Rm { written },
        // CVTSI2xx, MOVD and MOVQ, PINSRx.
        (Map::Two, 0x2a | 0x6e | 0xc4) | (Map::Three3a, 0x20 | 0x22) if !written => {
            General::Rm { written }
        }
        _ => return None,
    })
}

/// SSE instructions whose memory operand of 16 bytes need not be aligned.
/// See: Intel SDM vol. 2, 2.4, "Exceptions Type 4".
fn may_be_unaligned(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Lddqu, Movdqu, Movupd, Movups, Pcmpestri, Pcmpestri64, Pcmpestrm, Pcmpestrm64, Pcmpistri,
        Pcmpistrm,
    };
    matches!(
        mnemonic,
        Lddqu
            | Movdqu
            | Movupd
            | Movups
            | Pcmpestri
            | Pcmpestri64
            | Pcmpestrm
            | Pcmpestrm64
            | Pcmpistri
            | Pcmpistrm
    )
}
