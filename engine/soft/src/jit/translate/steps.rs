//! [`Step`]: what is known of an instruction before it is translated.

use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfo, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use arch_x86::emulate::Feature;
use arch_x86::engine::Features;

use super::super::shape::Encoding;
use super::super::vector::Vector;
use super::super::x87::X87;
use super::branches::condition_of;
use super::flags::{self, Recovery};
use super::loaded::{self, Loaded};
use super::{Marked, Part, Source};
use crate::code_pages::PageId;
use crate::ranges::Seen;

/// The arithmetic flags, as iced-x86 numbers them.
pub(super) const ARITHMETIC: u32 = iced_x86::RflagsBits::OF
    | iced_x86::RflagsBits::SF
    | iced_x86::RflagsBits::ZF
    | iced_x86::RflagsBits::AF
    | iced_x86::RflagsBits::CF
    | iced_x86::RflagsBits::PF;

/// Those that a comparison of the x87's makes.
const COMPARED: u32 =
    iced_x86::RflagsBits::ZF | iced_x86::RflagsBits::PF | iced_x86::RflagsBits::CF;

/// One instruction.
pub(super) struct Step<'a> {
    pub instruction: Instruction,
    pub encoding: Option<Encoding<'a>>,
    /// Address of the interpreter's form.
    pub op: u64,
    /// The arithmetic flags that it reads, and those that it changes.
    pub read: u32,
    pub changed: u32,
    /// How its flags are made again, if they may be lost.
    pub recovery: Option<Recovery>,
    /// It is executed on vector registers.
    pub vector: Option<Vector>,
    /// It is executed on x87 registers.
    pub x87: Option<X87>,
    /// What registers are needed behind it.
    pub later: Loaded,
    /// The general-purpose registers that it may write, a bit each.
    pub written: u16,
    /// The number of its block.
    pub block: u32,
    /// Where it was seen to read.
    pub seen: Seen,
    /// It is a branch that is followed: the next instruction is where it leads, unless it leaves.
    pub side: Option<Side>,
}

impl Step<'_> {
    /// Whether it may write a general-purpose register, or a part of it.
    pub fn writes(&self, register: Register) -> bool {
        register.is_gpr() && self.written & bit(register) != 0
    }
}

/// The bit of a general-purpose register.
fn bit(register: Register) -> u16 {
    1 << (register.full_register().number() & 15)
}

/// The general-purpose registers that an instruction may write.
fn written(information: &InstructionInfo) -> u16 {
    use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
    let used = information.used_registers().iter();
    used.filter(|used| matches!(used.access(), Write | CondWrite | ReadWrite | ReadCondWrite))
        .map(iced_x86::UsedRegister::register)
        .filter(|register| register.is_gpr())
        .fold(0, |bits, register| bits | bit(register))
}

/// A branch that is followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub way: Way,
    /// RIP at the start of the block that it ends, and the page that is in.
    pub rip: u64,
    pub page: PageId,
}

/// How a branch leads to the next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Always.
    Jump,
    /// Unless the condition holds: then it leads to the target.
    Unless { condition: u8, target: u64 },
    /// It is a call; the page that it leads to has to have the mark, if it is another one.
    Call { target: u64, mark: Option<u32> },
    /// It is a return, if it leads to the target.
    Return { target: u64 },
}

/// Decodes once more.
pub(super) fn steps<'a>(source: &Source<'a>) -> Option<Vec<Step<'a>>> {
    let mut steps = Vec::new();
    let mut information = InstructionInfoFactory::new();
    for (n, part) in source.parts.iter().enumerate() {
        add_steps(&mut steps, &mut information, part, source.features)?;
        if let Some(next) = source.parts.get(n + 1) {
            let last = steps.last_mut()?;
            let way = way(last, part, next, source.marked)?;
            last.side = Some(Side { way, rip: part.rip, page: part.page });
        }
    }
    loaded::look_ahead(&mut steps);
    flags::look_ahead(&mut steps);
    Some(steps)
}

/// How the branch that ends a block leads to the next one; `None` if it does not.
fn way(step: &Step<'_>, part: &Part<'_>, next: &Part<'_>, marked: Marked<'_>) -> Option<Way> {
    let (i, encoding) = (&step.instruction, step.encoding.as_ref()?);
    let (target, behind) = (i.near_branch_target(), i.next_ip());
    if let Some(condition) = condition_of(encoding) {
        let other = Way::Unless { condition: condition ^ 1, target: behind };
        return match next.rip {
            rip if rip == behind => Some(Way::Unless { condition, target }),
            rip if rip == target => Some(other),
            _ => None,
        };
    }
    match i.mnemonic() {
        Mnemonic::Jmp if target == next.rip && part.page == next.page => Some(Way::Jump),
        Mnemonic::Call if target == next.rip => {
            let mark = match (target ^ part.rip) >> 12 {
                0 => None,
                _ => Some(marked(target).filter(|(page, _)| *page == next.page)?.1),
            };
            Some(Way::Call { target, mark })
        }
        Mnemonic::Ret => Some(Way::Return { target: next.rip }),
        _ => None,
    }
}

fn add_steps<'a>(
    steps: &mut Vec<Step<'a>>,
    information: &mut InstructionInfoFactory,
    part: &Part<'a>,
    features: Features,
) -> Option<()> {
    let mut decoder = Decoder::with_ip(64, part.bytes, part.rip, DecoderOptions::NONE);
    let mut at = 0;
    for (op, seen) in part.ops.iter().zip(part.seen) {
        let instruction = decoder.decode();
        if instruction.len() != usize::from(op.insn.len) {
            return None;
        }
        let bytes = part.bytes.get(at..at + instruction.len())?;
        at += instruction.len();
        let constants = decoder.get_constant_offsets(&instruction);
        let by_count = reads_count(&instruction);
        // MOV of a control register leaves undefined what iced-x86 says it modifies: here all stays.
        let stays = by_count || instruction.mnemonic() == Mnemonic::Mov;
        let changed = instruction.rflags_modified() & ARITHMETIC;
        let encoding = match instruction.is_invalid() || !is_offered(&instruction, features) {
            true => None,
            false => Encoding::of(bytes, &constants),
        };
        let x87 = encoding.and_then(|encoding| X87::of(&instruction, &encoding));
        // FCOMI and its kin leave some flags alone on some processors.
        let changed = if x87.is_some() { changed & COMPARED } else { changed };
        steps.push(Step {
            vector: encoding.and_then(|encoding| Vector::of(&instruction, &encoding)),
            x87,
            later: Loaded::NONE,
            recovery: None,
            encoding,
            op: core::ptr::from_ref(op).expose_provenance() as u64,
            // With a count of 0 all flags stay.
            read: instruction.rflags_read() & ARITHMETIC | if by_count { ARITHMETIC } else { 0 },
            changed: if stays { 0 } else { changed },
            instruction,
            written: written(information.info(&instruction)),
            block: part.block,
            seen: *seen,
            side: None,
        });
    }
    Some(())
}

/// Whether an integer instruction that the interpreter asks CPUID about is what it seems to be.
fn is_offered(i: &Instruction, features: Features) -> bool {
    match i.mnemonic() {
        Mnemonic::Popcnt => features.has(Feature::Popcnt),
        Mnemonic::Movbe => features.has(Feature::Movbe),
        Mnemonic::Crc32 => features.has(Feature::Sse42),
        Mnemonic::Adcx | Mnemonic::Adox => features.has(Feature::Adx),
        Mnemonic::Tzcnt
        | Mnemonic::Andn
        | Mnemonic::Bextr
        | Mnemonic::Blsi
        | Mnemonic::Blsmsk
        | Mnemonic::Blsr => features.has(Feature::Bmi1),
        Mnemonic::Bzhi
        | Mnemonic::Mulx
        | Mnemonic::Pdep
        | Mnemonic::Pext
        | Mnemonic::Rorx
        | Mnemonic::Sarx
        | Mnemonic::Shlx
        | Mnemonic::Shrx => features.has(Feature::Bmi2),
        Mnemonic::Lzcnt => features.has(Feature::Lzcnt),
        Mnemonic::Cmpxchg16b => features.has(Feature::Cmpxchg16b),
        Mnemonic::Clac | Mnemonic::Stac => features.has(Feature::Smap),
        Mnemonic::Rdtscp => features.has(Feature::Rdtscp),
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            features.has(Feature::Fsgsbase)
        }
        _ => true,
    }
}

/// A shift whose count may be 0.
pub(crate) fn reads_count(i: &Instruction) -> bool {
    use Mnemonic::{Rcl, Rcr, Rol, Ror, Sal, Sar, Shl, Shld, Shr, Shrd};
    if !matches!(i.mnemonic(), Rcl | Rcr | Rol | Ror | Sal | Sar | Shl | Shld | Shr | Shrd) {
        return false;
    }
    let last = i.op_count() - 1;
    i.op_kind(last) == OpKind::Register || i.immediate(last) & 31 == 0
}
