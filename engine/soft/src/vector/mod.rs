//! x87, MMX, SSE and AVX instructions (all of x86-64-v3's, AES, PCLMULQDQ, SHA, and VEX's forms of them),
//! executed by the host's own instruction on the guest's register file.
//!
//! `lower` picks the function for a decoded instruction. Those that compute call a stub
//! (`stub`, `table`) which the build script assembled, so that the interpreter needs no executable memory made at
//! run time; moves, control and state instructions are plain code:
//!
//! - `simd`: MMX and SSE through the stubs; `x87`: the same for the x87;
//! - `moves`: moves, and the simplest operations;
//! - `x87_control`: control and status words, environment;
//! - `state`: FXSAVE, FXRSTOR, MXCSR, EMMS; `xsave`: XSAVE and its kin;
//! - `vex`: AVX through stubs of its own (`vex_stub`, `vex_table`); `vex_parts`: AVX by elements;
//! - `check`: #UD, #NM and #MF by CR0 and CR4; `memory`: operands; `image`: the
//!   fields of the register file.
//!
//! Not implemented: 3DNow!, AVX-512 and what is newer; XSAVES. `arch_x86::emulate`
//! has MOVNTI, POPCNT, CRC32, fences and prefetches.
//!
//! Deviations:
//! - x87 instructions do not update the last instruction's opcode, address and operand
//!   address (they read as loaded last), and the selectors that belong to them are always 0;
//! - an unmasked SSE overflow or underflow also sets MXCSR.PE where only the exponent does not fit;
//! - an unmasked exception of DPPS or DPPD sets flags as if all their steps had been made, or none;
//! - an MMX instruction that faults leaves the x87's TOP and tags alone, where Intel's processors may
//!   have changed them already;
//! - of MASKMOVQ and MASKMOVDQU only the bytes that are stored fault, of XRSTOR's area those that are
//!   loaded.

use arch_x86::emulate::{Cpu, Mode, Op, decode};
use iced_x86::{Code, Instruction};

mod check;
mod image;
mod memory;
mod moves;
mod simd;
mod state;
mod stub;
mod table;
mod vex;
mod vex_parts;
mod vex_stub;
mod vex_table;
mod x87;
mod x87_control;
mod xsave;

#[cfg(test)]
mod exception_test;
#[cfg(test)]
mod native_test;
#[cfg(test)]
mod state_test;
#[cfg(test)]
mod vex_test;

/// The semantics of a decoded x87, MMX or SSE instruction; `None` if it is none, or if
/// the host cannot execute it (see [`offered`]). It never ends a block.
#[must_use]
pub fn lower<C: Cpu>(instruction: &Instruction, mode: Mode) -> Option<Op<C>> {
    let mut insn = decode::operands(instruction, mode);
    let exec = moves::lower(instruction, &mut insn)
        .or_else(|| state::lower(instruction))
        .or_else(|| xsave::lower(instruction))
        .or_else(|| vex::lower(instruction, &mut insn))
        .or_else(|| vex_parts::lower(instruction, &mut insn))
        .or_else(|| x87_control::lower(instruction))
        .or_else(|| simd::lower(instruction, &mut insn))
        .or_else(|| x87::lower(instruction, &mut insn))?;
    Some(Op { exec, insn })
}

/// Which registers an instruction's vector operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Registers {
    /// XMM, and the upper halves stay, or MMX: no VEX prefix.
    Sse,
    /// YMM, or XMM with upper halves that are cleared: a VEX prefix.
    Avx,
}

/// An instruction that the host executes as [`lower`]'s function does, given the guest's registers and MXCSR
/// with all exceptions masked, and its operands, of whatever kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alike {
    pub registers: Registers,
    /// A memory operand must be aligned to its size.
    pub aligned: bool,
}

/// Whether the host executes an instruction as [`lower`]'s function does: then it is one that accesses all of its
/// memory operand, or nothing.
pub(crate) fn alike(i: &Instruction) -> Option<Alike> {
    let alike = |registers, aligned| Some(Alike { registers, aligned });
    if let Some((_, form)) = table::Form::find(i.code()) {
        // Conversions to MMX registers, which use MXCSR as well.
        let mixed = form.class() == table::Class::Float && form.first() == table::Operand::Mm;
        let is_vector = form.class() != table::Class::X87 && !mixed;
        let executes = is_vector && form.extension().host_has();
        return executes.then_some(Alike { registers: Registers::Sse, aligned: form.aligned() });
    }
    if let Some((_, form)) = vex_table::Form::find(i.code()) {
        let executes = form.host_has();
        return executes.then_some(Alike { registers: Registers::Avx, aligned: form.aligned() });
    }
    match i.code() {
        Code::VEX_Vzeroupper | Code::VEX_Vzeroall if Extension::Avx.host_has() => {
            alike(Registers::Avx, false)
        }
        Code::Emms => alike(Registers::Sse, false),
        code if moves::is_alike(code) => alike(Registers::Sse, moves::is_aligned(code)),
        _ => None,
    }
}

/// The memory operand of an x87 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct X87Operand {
    /// Its size; 0 if there is none.
    pub size: u8,
    /// It is written, rather than read.
    pub written: bool,
}

/// The operand of an x87 instruction that computes, loads or stores: such a one the host executes as [`lower`]'s
/// function does, given the guest's registers with all exceptions masked, but for the last instruction's addresses.
pub(crate) fn x87_operand(i: &Instruction) -> Option<X87Operand> {
    let (_, form) = table::Form::find(i.code())?;
    let executes = form.class() == table::Class::X87 && form.extension().host_has();
    executes.then_some(X87Operand { size: form.memory(), written: form.memory_written() })
}

/// The extensions of the vector instruction set that CPUID names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Extension {
    /// x87, MMX, FXSAVE, SSE and SSE2: every x86-64 processor has them.
    Base,
    Sse3,
    Ssse3,
    Sse41,
    Sse42,
    Aes,
    Pclmulqdq,
    Sha,
    Avx,
    Avx2,
    Fma,
    F16c,
    Vaes,
    Vpclmulqdq,
}

impl Extension {
    /// All, in the order of their age.
    pub const ALL: [Extension; 14] = [
        Extension::Base,
        Extension::Sse3,
        Extension::Ssse3,
        Extension::Sse41,
        Extension::Sse42,
        Extension::Aes,
        Extension::Pclmulqdq,
        Extension::Sha,
        Extension::Avx,
        Extension::Avx2,
        Extension::Fma,
        Extension::F16c,
        Extension::Vaes,
        Extension::Vpclmulqdq,
    ];

    /// Whether the host executes it.
    #[must_use]
    pub fn host_has(self) -> bool {
        match self {
            Extension::Base => true,
            Extension::Sse3 => is_x86_feature_detected!("sse3"),
            Extension::Ssse3 => is_x86_feature_detected!("ssse3"),
            Extension::Sse41 => is_x86_feature_detected!("sse4.1"),
            Extension::Sse42 => is_x86_feature_detected!("sse4.2"),
            Extension::Aes => is_x86_feature_detected!("aes"),
            Extension::Pclmulqdq => is_x86_feature_detected!("pclmulqdq"),
            Extension::Sha => is_x86_feature_detected!("sha"),
            Extension::Avx => is_x86_feature_detected!("avx"),
            Extension::Avx2 => is_x86_feature_detected!("avx2"),
            Extension::Fma => is_x86_feature_detected!("fma"),
            Extension::F16c => is_x86_feature_detected!("f16c"),
            Extension::Vaes => is_x86_feature_detected!("vaes"),
            Extension::Vpclmulqdq => is_x86_feature_detected!("vpclmulqdq"),
        }
    }
}

/// The extensions that this engine executes on this host: what CPUID may offer.
pub fn offered() -> impl Iterator<Item = Extension> {
    Extension::ALL.into_iter().filter(|extension| extension.host_has())
}
