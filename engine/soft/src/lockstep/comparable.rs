//! [`Comparable`]: what can be executed twice, and be compared.
//!
//! Instructions that only change registers and memory, and only by what is in them, and of the registers no
//! other that says where memory is than CPL and segments. All others are the interpreter's function in translated
//! code, too. They end their block, and in lockstep they are not part of a block with those that can be compared.

use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};

use crate::jit::reads_count;
use crate::status_bits::status_bits;

/// A block that is being decoded.
pub(crate) struct Comparable {
    on: bool,
    /// Whether the instructions so far are comparable; there is at most one if not.
    so_far: Option<bool>,
    /// The flags that they leave undefined.
    undefined: u32,
}

impl Comparable {
    /// A block without instructions so far; if not `on`, everything stays as it is.
    pub const fn new(on: bool) -> Self {
        Self { on, so_far: None, undefined: 0 }
    }

    /// Whether the block has to end before an instruction of 64-bit mode: because that can't be compared, or
    /// what is before it can't, or it reads a flag that the block has left undefined.
    pub fn ends_before(&mut self, bytes: &[u8], rip: u64) -> bool {
        if !self.on {
            return false;
        }
        let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let comparable = instruction.len() == bytes.len() && is_comparable(&instruction);
        let alone = self.so_far == Some(false) || self.so_far.is_some() && !comparable;
        if alone || instruction.rflags_read() & self.undefined != 0 {
            return true;
        }
        self.so_far = Some(comparable);
        self.undefined = undefined_after(&instruction, self.undefined);
        false
    }

    /// Whether the block may be executed twice.
    pub fn is_comparable(&self) -> bool {
        !self.on || self.so_far == Some(true)
    }
}

/// The flags of RFLAGS that the first `count` instructions of a block leave undefined.
pub(super) fn undefined_flags(bytes: &[u8], count: usize) -> u64 {
    let decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let undefined =
        decoder.into_iter().take(count).fold(0, |before, i| undefined_after(&i, before));
    status_bits(undefined)
}

/// The flags that are undefined behind an instruction, with those that are before it.
fn undefined_after(i: &Instruction, before: u32) -> u32 {
    // With a count of 0 all flags stay.
    let stay = reads_count(i) || i.has_rep_prefix() || i.has_repne_prefix();
    let defined = if stay { 0 } else { i.rflags_modified() };
    before & !defined | i.rflags_undefined()
}

fn is_comparable(i: &Instruction) -> bool {
    if is_system(i.mnemonic()) {
        return true;
    }
    let flows = match i.flow_control() {
        FlowControl::Next => true,
        FlowControl::ConditionalBranch => true,
        FlowControl::UnconditionalBranch => i.is_jmp_short_or_near(),
        FlowControl::IndirectBranch => i.is_jmp_near_indirect(),
        FlowControl::Call => i.is_call_near(),
        FlowControl::IndirectCall => i.is_call_near_indirect(),
        FlowControl::Return => i.mnemonic() == Mnemonic::Ret,
        _ => false,
    };
    let plain = (0..i.op_count()).all(|n| i.op_kind(n) != OpKind::Register || is_plain(i, n));
    let by_features = i.cpuid_features().iter().all(|feature| is_computation(*feature));
    flows && plain && (by_features || is_integer(i.mnemonic()))
}

/// System instructions that only change registers of [`super::outcome::Registers`]. (Not STI: where a block ends behind it
/// is each way's own affair.)
fn is_system(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Syscall
            | Sysretq
            | Swapgs
            | Popfq
            | Iretq
            | Cli
            | Clac
            | Stac
            | Rdfsbase
            | Rdgsbase
            | Wrfsbase
            | Wrgsbase
    )
}

/// Whether an operand is a general-purpose, a vector, or an x87 register, or a control register that is read.
fn is_plain(i: &Instruction, n: u32) -> bool {
    let register = i.op_register(n);
    let is_read = n > 0 && register != Register::CR8;
    register.is_cr() && is_read
        || register.is_gpr()
        || register.is_vector_register()
        || register.is_mm()
        || register.is_st()
}

/// Extensions all of whose instructions only compute.
fn is_computation(feature: CpuidFeature) -> bool {
    use CpuidFeature as Has;
    matches!(
        feature,
        Has::FPU
            | Has::FPU287
            | Has::FPU387
            | Has::MMX
            | Has::SSE
            | Has::SSE2
            | Has::SSE3
            | Has::SSSE3
            | Has::SSE4_1
            | Has::SSE4_2
            | Has::AES
            | Has::PCLMULQDQ
            | Has::SHA
            | Has::AVX
            | Has::AVX2
            | Has::FMA
            | Has::F16C
            | Has::VAES
            | Has::VPCLMULQDQ
            | Has::CMOV
            | Has::POPCNT
            | Has::LZCNT
            | Has::MOVBE
            | Has::BMI1
            | Has::BMI2
            | Has::ADX
            | Has::MULTIBYTENOP
    )
}

/// Instructions of the processors before there were extensions that only compute, move data, or branch.
#[rustfmt::skip]
fn is_integer(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Adc | Add | And | Cmp | Dec | Div | Idiv | Imul | Inc | Mul | Neg | Not | Or | Sbb | Sub | Test | Xor
            | Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd
            | Bsf | Bsr | Bswap | Bt | Btc | Btr | Bts
            | Cmpxchg | Cmpxchg8b | Cmpxchg16b | Xadd | Xchg
            | Lea | Mov | Movsx | Movsxd | Movzx | Xlatb
            | Cbw | Cdq | Cdqe | Cqo | Cwd | Cwde
            | Clc | Cld | Cmc | Lahf | Sahf | Stc | Std
            | Enter | Leave | Pop | Push | Pushfq
            | Call | Jmp | Ret | Jcxz | Jecxz | Jrcxz | Loop | Loope | Loopne
            | Ja | Jae | Jb | Jbe | Je | Jg | Jge | Jl | Jle | Jne | Jno | Jnp | Jns | Jo | Jp | Js
            | Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl
            | Setle | Setne | Setno | Setnp | Setns | Seto | Setp | Sets
            | Cmpsb | Cmpsw | Cmpsd | Cmpsq | Lodsb | Lodsw | Lodsd | Lodsq | Movsb | Movsw | Movsd | Movsq
            | Scasb | Scasw | Scasd | Scasq | Stosb | Stosw | Stosd | Stosq
            | Endbr64 | Nop | Pause | Prefetch | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw
    )
}
