//! Which forms of instructions are executed by a stub, and how.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic};

/// What a form is executed by. The names are those of `vector::table::Class`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Packed integers and everything else that has no use for MXCSR.
    Packed,
    /// SSE floating point: reads and writes MXCSR.
    Float,
    /// PCMPxSTRx, with its implicit operands.
    String,
    /// x87.
    X87,
}

/// Whether `code` is executed by a stub, how, and what CPUID calls it.
pub fn classify(code: Code) -> Option<(Class, &'static str)> {
    // Forms with WAIT in front are two instructions to a decoder.
    if code.encoding() != EncodingKind::Legacy || code.op_code().fwait() || !code.op_code().mode64()
    {
        return None;
    }
    if is_plain_code(code.mnemonic()) {
        return None;
    }
    let features = code.cpuid_features();
    let extension = features.iter().rev().find_map(|feature| {
        Some(match feature {
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 => "Base",
            CpuidFeature::MMX | CpuidFeature::SSE | CpuidFeature::SSE2 => "Base",
            CpuidFeature::SSE3 => "Sse3",
            CpuidFeature::SSSE3 => "Ssse3",
            CpuidFeature::SSE4_1 => "Sse41",
            CpuidFeature::SSE4_2 => "Sse42",
            CpuidFeature::AES => "Aes",
            CpuidFeature::PCLMULQDQ => "Pclmulqdq",
            CpuidFeature::SHA => "Sha",
            _ => return None,
        })
    })?;
    let x87 = [CpuidFeature::FPU, CpuidFeature::FPU287, CpuidFeature::FPU387];
    let class = match code.mnemonic() {
        _ if features.iter().any(|feature| x87.contains(feature)) => Class::X87,
        mnemonic if compares_strings(mnemonic) => Class::String,
        mnemonic if uses_mxcsr(mnemonic) => Class::Float,
        _ => Class::Packed,
    };
    Some((class, extension))
}

/// Instructions that are plain code, in `vector` or in `arch_x86::emulate`.
fn is_plain_code(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        // Moves.
        Movups | Movupd | Movaps | Movapd | Movdqa | Movdqu | Lddqu | Movss | Movsd | Movd | Movq
            | Movlps | Movlpd | Movhps | Movhpd | Movhlps | Movlhps | Movntps | Movntpd | Movntdq
            | Movntdqa | Movntq | Movnti | Movq2dq | Movdq2q | Maskmovq | Maskmovdqu
        // Control and state.
            | Fldcw | Fnstcw | Fnstsw | Fldenv | Fnstenv | Fnsave | Frstor | Fninit | Fnclex
            | Fnop | Fneni | Fndisi | Fnsetpm | Emms | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
            | Ldmxcsr | Stmxcsr
        // Not vector instructions at all.
            | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Lfence | Mfence | Sfence
            | Pause | Crc32 | Popcnt
    )
}

/// SSE instructions that MXCSR acts on or that may set its flags.
/// (RCPPS, RSQRTPS and the exact conversions are not among them.)
pub fn uses_mxcsr(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Addps
            | Addpd
            | Addss
            | Addsd
            | Subps
            | Subpd
            | Subss
            | Subsd
            | Mulps
            | Mulpd
            | Mulss
            | Mulsd
            | Divps
            | Divpd
            | Divss
            | Divsd
            | Minps
            | Minpd
            | Minss
            | Minsd
            | Maxps
            | Maxpd
            | Maxss
            | Maxsd
            | Sqrtps
            | Sqrtpd
            | Sqrtss
            | Sqrtsd
            | Cmpps
            | Cmppd
            | Cmpss
            | Cmpsd
            | Comiss
            | Comisd
            | Ucomiss
            | Ucomisd
            | Cvtpi2ps
            | Cvtsi2ss
            | Cvtsi2sd
            | Cvttps2pi
            | Cvttpd2pi
            | Cvttss2si
            | Cvttsd2si
            | Cvtps2pi
            | Cvtpd2pi
            | Cvtss2si
            | Cvtsd2si
            | Cvtps2pd
            | Cvtpd2ps
            | Cvtss2sd
            | Cvtsd2ss
            | Cvtdq2ps
            | Cvtps2dq
            | Cvttps2dq
            | Cvttpd2dq
            | Cvtpd2dq
            | Haddpd
            | Haddps
            | Hsubpd
            | Hsubps
            | Addsubpd
            | Addsubps
            | Roundps
            | Roundpd
            | Roundss
            | Roundsd
            | Dpps
            | Dppd
    )
}

/// PCMPxSTRx, which has implicit operands.
pub fn compares_strings(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Pcmpestri | Pcmpestri64 | Pcmpestrm | Pcmpestrm64 | Pcmpistri | Pcmpistrm)
}

/// SSE instructions with a memory operand of 16 bytes that need not be aligned.
/// See: Intel SDM vol. 2, 2.4, "Exceptions Type 4", and AMD APM vol. 4.
pub fn may_be_unaligned(class: Class) -> bool {
    class == Class::String
}

/// Instructions that read XMM0 besides their operands.
pub fn reads_xmm0(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(mnemonic, Pblendvb | Blendvps | Blendvpd | Sha256rnds2)
}
