//! From bytes to an [`Op`]: iced-x86 decodes, [`lower`] picks the function and
//! fills in its operands.
//!
//! [`lower`] knows integer and system instructions; vector and x87 ones are
//! the engine's ([`Undecoded::Foreign`]).
//!
//! By vendor ([`Feature::AmdEncodings`]), AMD's processors first, then Intel's:
//! - an operand-size prefix gives near branches in 64-bit mode 16-bit operands, as in other modes
//!   (what is pushed and popped, RIP, a 16-bit distance), or is ignored;
//! - REX.W does nothing to far JMP and CALL through memory, LSS, LFS and LGS, or makes their offset one
//!   of 64 bits;
//! - LOCK MOV CR0 is MOV CR8, or no instruction;
//! - 0F 0D with a register is no instruction, or a NOP;
//! - UD0 ends with its opcode, or has a ModRM byte.
//!
//! See: AMD APM vol. 3, 1.2.2, 1.2.7 and the instructions; Intel SDM vol. 2, JMP, CALL, RET, UD.

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, OpKind, Register,
};

use super::operand::HIGH_BYTE;
use super::{Cpu, Exec, Feature, Insn, Op, Stop};
use super::{
    alu, atomic, bcd, bits, branch, condition, mov, muldiv, nop, random, shift, stack, string,
    system,
};
use crate::engine::Features;
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg};

/// The longest instruction. See: AMD APM vol. 3, 1.1.
pub const MAX_LENGTH: usize = 15;

/// How code is decoded: the default operand and address sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, and code segments with D clear.
    Bits16 = 2,
    /// Code segments with D set.
    Bits32 = 4,
    /// 64-bit mode.
    Bits64 = 8,
}

impl Mode {
    /// The mode that `regs` is in.
    #[must_use]
    pub fn of(regs: &impl Regs) -> Self {
        let attr = regs.segment(Seg::Cs).attr;
        if regs.long_mode() && attr.has(Attr::L) {
            Self::Bits64
        } else if attr.has(Attr::DB) {
            Self::Bits32
        } else {
            Self::Bits16
        }
    }

    const fn bits(self) -> u32 {
        self as u32 * 8
    }
}

/// An instruction ready to execute.
pub struct Decoded<C> {
    /// What to execute.
    pub op: Op<C>,
    /// Whether the next instruction may not be the one behind it, or may run in other
    /// circumstances: branches, repeated strings, and most system instructions. Of the others, some change
    /// what comes between two instructions (RFLAGS.TF and IF, the interrupt shadow): the engine sees that in
    /// its registers.
    pub ends_block: bool,
}

/// Why there is no [`Op`] for some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// The instruction continues behind the bytes given.
    Truncated,
    /// Neither an integer nor a system instruction.
    Foreign(Instruction),
}

/// Decodes the instruction at `rip`, of which `bytes` are the first, for a guest whose CPUID
/// offers `features`. Bytes that are no instruction decode as one that faults.
///
/// # Errors
/// If more bytes are needed, or another decoder.
// Not inline: the decoder is large for a kernel's stack.
#[inline(never)]
pub fn decode<C: Cpu>(
    bytes: &[u8],
    rip: u64,
    mode: Mode,
    features: Features,
) -> Result<Decoded<C>, Undecoded> {
    let amd = features.has(Feature::AmdEncodings);
    let options = if amd { DecoderOptions::AMD } else { DecoderOptions::NONE };
    // Where it is: it is large to be moved.
    let mut decoder = Decoder::try_with_ip(mode.bits(), bytes, rip, options);
    let Ok(decoder) = &mut decoder else { return Err(Undecoded::Truncated) };
    let instruction = decoder.decode();
    match decoder.last_error() {
        DecoderError::NoMoreBytes if bytes.len() < MAX_LENGTH => return Err(Undecoded::Truncated),
        DecoderError::NoMoreBytes => return Ok(fault(too_long, &instruction)),
        // What continues behind the 15th byte.
        DecoderError::InvalidInstruction if instruction.len() >= MAX_LENGTH => {
            return Ok(fault(too_long, &instruction));
        }
        _ => {}
    }
    lower(&instruction, mode).ok_or(Undecoded::Foreign(instruction))
}

/// Picks the semantics of a decoded instruction; `None` if it is neither an
/// integer nor a system instruction.
pub fn lower<C: Cpu>(i: &Instruction, mode: Mode) -> Option<Decoded<C>> {
    if i.code() == Code::INVALID {
        return Some(fault(undefined, i));
    }
    let mut insn = operands(i, mode);
    let exec = mov::lower(i)
        .or_else(|| alu::lower(i))
        .or_else(|| branch::lower(i, mode))
        .or_else(|| stack::lower(i, mode))
        .or_else(|| condition::lower(i))
        .or_else(|| shift::lower(i))
        .or_else(|| bits::lower(i))
        .or_else(|| muldiv::lower(i))
        .or_else(|| atomic::lower(i))
        .or_else(|| string::lower(i))
        .or_else(|| random::lower(i))
        .or_else(|| nop::lower(i))
        .or_else(|| bcd::lower(i));
    if let Some(exec) = exec {
        let repeats = insn.prefixes & (Insn::REP | Insn::REPNE) != 0 && i.is_string_instruction();
        let ends_block = i.flow_control() != FlowControl::Next || repeats;
        return Some(Decoded { op: Op { exec, insn }, ends_block });
    }
    let exec = system::lower(i, mode, &mut insn)?;
    Some(Decoded { op: Op { exec, insn }, ends_block: !is_frequent(i.code()) })
}

/// System instructions that a kernel executes all the time, and that change nothing but registers.
const fn is_frequent(code: Code) -> bool {
    matches!(
        code,
        Code::Cli
            | Code::Sti
            | Code::Pushfq
            | Code::Popfq
            | Code::Clac
            | Code::Stac
            | Code::Swapgs
            | Code::Rdtsc
            | Code::Rdtscp
            | Code::Mov_r64_cr
            | Code::Rdfsbase_r64
            | Code::Rdgsbase_r64
            | Code::Wrfsbase_r64
            | Code::Wrgsbase_r64
    )
}

/// An instruction that raises what `exec` raises. Its length is that of the bytes that say so: the
/// run loop steps back by it, and a write to any of them changes what they mean.
fn fault<C: Cpu>(exec: Exec<C>, i: &Instruction) -> Decoded<C> {
    let insn = Insn { len: i.len().clamp(1, MAX_LENGTH) as u8, ..Insn::default() };
    Decoded { op: Op { exec, insn }, ends_block: true }
}

/// The semantics of what is no instruction, or one that is not offered: #UD.
///
/// # Errors
/// Always.
pub fn undefined<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    Err(cpu.fault(Exception::ud()))
}

/// An instruction of more than 15 bytes. See: AMD APM vol. 2, 8.2.14.
fn too_long<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    Err(cpu.fault(Exception::gp(0)))
}

/// Fills in everything that [`Insn`] documents.
#[must_use]
pub fn operands(i: &Instruction, mode: Mode) -> Insn {
    let mut insn = Insn { len: i.len() as u8, address_size: mode as u8, ..Insn::default() };
    for (has, prefix) in [
        (i.has_lock_prefix(), Insn::LOCK),
        (i.has_rep_prefix(), Insn::REP),
        (i.has_repne_prefix(), Insn::REPNE),
    ] {
        if has {
            insn.prefixes |= prefix;
        }
    }
    let count = i.op_count();
    if count > 0 {
        insn.operand_size = operand_size(i, 0);
    }
    for n in 0..count {
        operand(i, n, mode, &mut insn);
    }
    insn
}

fn operand(i: &Instruction, n: u32, mode: Mode, insn: &mut Insn) {
    match i.op_kind(n) {
        OpKind::Register => {
            let number = register_number(i.op_register(n));
            match n {
                0 => insn.reg = number,
                1 => insn.rm = number,
                _ => insn.extra = number,
            }
        }
        OpKind::Memory => memory(i, mode, insn),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
            insn.disp = i.near_branch_target();
        }
        OpKind::FarBranch16 => {
            insn.disp = i.far_branch16().into();
            insn.imm = i.far_branch_selector().into();
        }
        OpKind::FarBranch32 => {
            insn.disp = i.far_branch32().into();
            insn.imm = i.far_branch_selector().into();
        }
        OpKind::Immediate64 => insn.disp = i.immediate64(),
        OpKind::Immediate8_2nd => insn.extra = i.immediate8_2nd(),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => insn.imm = i.immediate(n) as i32,
        kind => string_operand(i, kind, mode, insn),
    }
}

/// The implied memory operands of string instructions.
fn string_operand(i: &Instruction, kind: OpKind, mode: Mode, insn: &mut Insn) {
    insn.address_size = match kind {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
        _ => 8,
    };
    if !matches!(kind, OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI) {
        insn.seg = register_number(segment(i, mode));
    }
}

fn memory(i: &Instruction, mode: Mode, insn: &mut Insn) {
    let (base, index) = (i.memory_base(), i.memory_index());
    // RIP-relative displacements are already absolute.
    if base != Register::None && !matches!(base, Register::RIP | Register::EIP) {
        insn.base = register_number(base);
    }
    // VSIB's index is a vector register, XLAT's is AL: both have their own semantics.
    if index.is_gpr() && index != Register::AL {
        insn.index = register_number(index);
    }
    insn.scale = i.memory_index_scale().trailing_zeros() as u8;
    insn.disp = i.memory_displacement64();
    insn.seg = register_number(segment(i, mode));
    insn.address_size = match (base, index) {
        (Register::None, index) if index.is_gpr() => index.size() as u8,
        (Register::None, _) => match i.memory_displ_size() {
            2 => 2,
            4 => 4,
            8 => 8,
            _ => mode as u8,
        },
        (base, _) => base.size() as u8,
    };
    let based = insn.seg == Seg::Fs as u8 || insn.seg == Seg::Gs as u8;
    if mode == Mode::Bits64 && insn.address_size == 8 && !based {
        insn.prefixes |= Insn::FLAT;
    }
}

/// The segment of the memory operand. In 64-bit mode the overrides of four of them are ignored.
/// See: AMD APM vol. 3, 1.2.4.
fn segment(i: &Instruction, mode: Mode) -> Register {
    let ignored =
        matches!(i.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS);
    if mode == Mode::Bits64 && ignored {
        let on_stack = matches!(
            i.memory_base(),
            Register::RSP | Register::ESP | Register::RBP | Register::EBP
        );
        return if on_stack { Register::SS } else { Register::DS };
    }
    i.memory_segment()
}

/// The number of any register, byte registers as [`Insn`] wants them.
pub(super) fn register_number(register: Register) -> u8 {
    let number = register.number() as u8;
    if !register.is_gpr8() {
        return number;
    }
    // iced-x86 counts AL–BL, AH–BH, SPL–R15L.
    match number {
        0..4 => number,
        4..8 => (number - 4) | HIGH_BYTE,
        _ => number - 4,
    }
}

/// Size of operand `n` in bytes: of its register, or as accessed in memory.
pub(super) fn operand_size(i: &Instruction, n: u32) -> u8 {
    match i.op_kind(n) {
        OpKind::Register => i.op_register(n).size() as u8,
        _ => i.memory_size().size() as u8,
    }
}

/// Expands to `$body` with `$T` the integer type of `$size` bytes; leaves the function with `None`
/// for any other size.
macro_rules! by_size {
    ($size:expr, $T:ident => $body:expr) => {
        match $size {
            1 => {
                type $T = u8;
                $body
            }
            _ => by_size!(wide $size, $T => $body),
        }
    };
    // Without 8-bit forms.
    (wide $size:expr, $T:ident => $body:expr) => {
        match $size {
            2 => {
                type $T = u16;
                $body
            }
            4 => {
                type $T = u32;
                $body
            }
            8 => {
                type $T = u64;
                $body
            }
            _ => return None,
        }
    };
}
pub(super) use by_size;
