//! [`case`]: a random case from a seed.

use arch_x86::emulate::decode::MAX_LENGTH;
use arch_x86::regs::rflags;
use iced_x86::{
    Code, DecoderError, Encoder, EncodingKind, FlowControl, Instruction, OpCodeOperandKind, OpKind,
};

use crate::case::Case;
use crate::forms::{Forms, Kind, behind_wait};
use crate::latitude::{Undefined, reads};
use crate::layout::{CODE, CODE_SIZE, PAGE};
use crate::operands::Builder;
use crate::random::Random;
use crate::vendor::Vendor;

/// At most this many instructions in a block.
const LONGEST: u64 = 8;

/// The case that `seed` stands for.
#[must_use]
pub fn case(seed: u64, forms: &Forms, has_bases: bool) -> Case {
    let mut builder = Builder::new(seed, has_bases);
    let length = if builder.random.chance(55) { 1 } else { 2 + builder.random.below(LONGEST - 1) };
    if forms.kind == Kind::Vector {
        builder.choose_vector();
    }
    let rip = start(&mut builder.random);
    let mut block = Block { rip, next: rip, code: Vec::new(), branches: Vec::new() };
    let mut undefined = Undefined::default();
    let mut tries = 0;
    while (block.code.len() as u64) < length && tries < 64 {
        tries += 1;
        let Some(made) = instructions(&mut builder, forms, block.next, length > 1) else {
            continue;
        };
        let size = made.iter().map(|(bytes, _)| bytes.len() as u64).sum::<u64>();
        if block.next + size > CODE + CODE_SIZE && !builder.random.chance(2) {
            continue;
        }
        if made.iter().any(|(_, instruction)| reads(instruction) & undefined.flags != 0) {
            continue;
        }
        for (bytes, instruction) in made {
            undefined.execute(&instruction);
            builder.execute(&instruction);
            block.push(bytes, &instruction);
        }
    }
    block.set_targets(&mut builder.random);
    let mut flags =
        builder.random.bits() & (rflags::STATUS | rflags::ID) | rflags::IF | rflags::FIXED;
    for (flag, percent) in [(rflags::DF, 20), (rflags::AC, 4), (rflags::TF, 1), (rflags::NT, 1)] {
        if builder.random.chance(percent) {
            flags |= flag;
        }
    }
    Case {
        seed,
        vendor: forms.vendor,
        rip,
        code: block.code,
        gprs: builder.gprs,
        rflags: flags,
        bases: builder.bases,
        vector: builder.vector,
        patches: builder.patches,
    }
}

/// Where a block starts: sometimes such that it crosses into the next page, or runs out of code.
fn start(random: &mut Random) -> u64 {
    match random.below(20) {
        0 | 1 => CODE + PAGE - random.below(40),
        2 => CODE + CODE_SIZE - 1 - random.below(15),
        _ => CODE + random.below(PAGE / 2),
    }
}

/// An instruction's bytes, and it as it is decoded.
type Made = (Vec<u8>, Instruction);

/// An instruction at `rip`, or the two that one of the forms is.
fn instructions(builder: &mut Builder, forms: &Forms, rip: u64, block: bool) -> Option<Vec<Made>> {
    if builder.random.chance(2) {
        let bytes = arbitrary(&mut builder.random);
        return Some(vec![decoded(bytes, forms, rip)?]);
    }
    let code = forms.choose(&mut builder.random, block);
    let Some(code) = behind_wait(code) else {
        return Some(vec![instruction(builder, forms, code, rip)?]);
    };
    let wait = decoded(vec![0x9b], forms, rip)?;
    Some(vec![wait, instruction(builder, forms, code, rip + 1)?])
}

fn instruction(builder: &mut Builder, forms: &Forms, code: Code, rip: u64) -> Option<Made> {
    let mut instruction = builder.instruction(code)?;
    if is_relative(&instruction) {
        match instruction.op0_kind() {
            OpKind::NearBranch16 => instruction.set_near_branch16((rip + 2) as u16),
            _ => instruction.set_near_branch64(rip + 2),
        }
    }
    let bytes = match code.op_code().encoding() {
        EncodingKind::VEX => {
            let mut bytes = encode_vex(&mut builder.random, &instruction, rip)?;
            if builder.random.chance(2)
                && let Some(other) =
                    with_other_operand(&mut builder.random, &mut bytes, rip, forms.vendor)
            {
                return Some((bytes, other));
            }
            bytes
        }
        _ => encode(&instruction, rip)?,
    };
    let more = builder.random.chance(10);
    let bytes = if more { with_prefixes(&mut builder.random, &bytes) } else { bytes };
    decoded(bytes, forms, rip)
}

fn is_relative(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
    ) && matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch64)
}

/// How many bytes a relative branch's distance has. They are its last.
fn size_of_distance(instruction: &Instruction) -> usize {
    match instruction.op_code().op0_kind() {
        OpCodeOperandKind::br16_1 | OpCodeOperandKind::br64_1 => 1,
        OpCodeOperandKind::br16_2 => 2,
        _ => 4,
    }
}

fn encode(instruction: &Instruction, rip: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.encode(instruction, rip).ok()?;
    Some(encoder.take_buffer())
}

/// The instruction in any of its encodings: with three bytes of prefix where two would do, and
/// bits that it ignores.
fn encode_vex(random: &mut Random, instruction: &Instruction, rip: u64) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(64);
    encoder.set_prevent_vex2(random.chance(30));
    encoder.set_vex_wig(random.below(2) as u32);
    encoder.set_vex_lig(random.below(2) as u32);
    encoder.encode(instruction, rip).ok()?;
    Some(encoder.take_buffer())
}

/// Names another register in VEX.vvvv. Where the form has no such operand it is no instruction then, on any
/// processor; gives it if it is that.
fn with_other_operand(
    random: &mut Random,
    bytes: &mut [u8],
    rip: u64,
    vendor: Vendor,
) -> Option<Instruction> {
    let prefix = bytes.iter().position(|byte| matches!(byte, 0xc4 | 0xc5))?;
    let at = if bytes[prefix] == 0xc5 { prefix + 1 } else { prefix + 2 };
    let (old, flipped) = (bytes[at], 0x08 << random.below(4));
    bytes[at] ^= flipped;
    let instruction = vendor.decoder(bytes, rip).decode();
    if instruction.is_invalid() {
        return Some(instruction);
    }
    bytes[at] = old;
    None
}

/// `bytes` if the instruction at their start may be tested, without those behind it.
fn decoded(mut bytes: Vec<u8>, forms: &Forms, rip: u64) -> Option<Made> {
    let mut decoder = forms.vendor.decoder(&bytes, rip);
    let instruction = decoder.decode();
    let cut_off = decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() < MAX_LENGTH;
    if cut_off || !forms.allows(&instruction, &bytes) {
        return None;
    }
    if instruction.code() != Code::INVALID {
        bytes.truncate(instruction.len());
    }
    Some((bytes, instruction))
}

/// The instruction with some prefixes more, most of which mean nothing.
fn with_prefixes(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..if random.chance(3) { 14 } else { 1 + random.below(3) } {
        all.push(match random.below(10) {
            0..=2 => 0x66,
            3 => 0x67,
            4 => 0xf0,
            5 => 0xf2,
            6 => 0xf3,
            7 => random.one_of(&[0x26, 0x2e, 0x36, 0x3e]),
            _ => 0x40 | random.below(16) as u8,
        });
    }
    all.extend_from_slice(bytes);
    all
}

/// Any opcode of the first two maps, and random bytes behind it.
fn arbitrary(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    if random.chance(30) {
        bytes.push(random.one_of(&[0x66, 0xf2, 0xf3, 0x48, 0x40, 0xf0]));
    }
    if random.chance(60) {
        bytes.push(0x0f);
    }
    bytes.extend_from_slice(&random.bits().to_le_bytes());
    bytes
}

/// A block that is being made.
struct Block {
    rip: u64,
    next: u64,
    code: Vec<Vec<u8>>,
    /// Which instructions are relative branches, whether they are loops, and the sizes of their distances.
    branches: Vec<(usize, bool, usize)>,
}

impl Block {
    fn push(&mut self, bytes: Vec<u8>, instruction: &Instruction) {
        self.next += bytes.len() as u64;
        if is_relative(instruction) {
            let loops = instruction.is_loop() || instruction.is_loopcc();
            self.branches.push((self.code.len(), loops, size_of_distance(instruction)));
        }
        self.code.push(bytes);
    }

    /// Lets the branches go to other instructions, mostly forwards.
    fn set_targets(&mut self, random: &mut Random) {
        let mut starts = vec![self.rip];
        for bytes in &self.code {
            starts.push(starts[starts.len() - 1] + bytes.len() as u64);
        }
        for (n, loops, size) in &self.branches {
            // Seldom without an end: that takes a tick of the timer.
            let backwards = if *loops { random.chance(20) } else { random.below(500) == 0 };
            let target = if backwards {
                starts[random.below(*n as u64 + 1) as usize]
            } else if random.chance(10) {
                // Into nothing.
                starts[*n].wrapping_add(u64::from(random.bits() as i32 as u32) & 0x7fff_ffff)
            } else {
                starts[n + 1 + random.below((starts.len() - n - 1) as u64) as usize]
            };
            let distance = target.wrapping_sub(starts[n + 1]) as i64;
            let reached = match *size {
                1 => distance == i64::from(distance as i8),
                2 => true,
                _ => distance == i64::from(distance as i32),
            };
            if reached {
                let bytes = &mut self.code[*n];
                let at = bytes.len() - size;
                bytes[at..].copy_from_slice(&distance.to_le_bytes()[..*size]);
            }
        }
    }
}
