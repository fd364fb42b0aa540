//! [`Divergence`]: what a person is told, and the search for the instruction.

use core::fmt;

use arch_x86::emulate::Op;
use arch_x86::engine::Features;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use super::outcome::Registers;
use crate::blocks::{Blocks, Found, Place};
use crate::ram;
use crate::vcpu::SoftVcpu;

/// Something that is otherwise by the JIT than by the interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: a register's name, for example.
    pub what: String,
    /// Its value by the interpreter.
    pub interpreter: String,
    /// Its value by the JIT.
    pub jit: String,
}

impl Difference {
    pub(super) fn new(what: impl Into<String>, interpreter: String, jit: String) -> Self {
        Self { what: what.into(), interpreter, jit }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, interpreter, jit } = self;
        write!(f, "{what} is {interpreter} by the interpreter, {jit} by the JIT")
    }
}

/// The first instruction behind which the interpreter and the JIT do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Where it is; if it could not be found, where its block starts.
    pub rip: u64,
    /// Its bytes; if it could not be found, those of its block.
    pub bytes: Vec<u8>,
    /// Whether it was found: executing its block again up to it has again come to differences.
    pub found: bool,
    /// What is otherwise.
    pub differences: Vec<Difference>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = spaced(&self.bytes);
        if self.found {
            let instruction = disassembled(&self.bytes, self.rip);
            write!(f, "interpreter and JIT disagree on {instruction} ({bytes})")?;
        } else {
            write!(f, "interpreter and JIT disagree on a block ({bytes})")?;
        }
        write!(f, " at RIP {:#x}", self.rip)?;
        for (n, difference) in self.differences.iter().enumerate() {
            write!(f, "{} {difference}", if n == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

/// Bytes as people write them.
pub(super) fn spaced(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(" ")
}

fn disassembled(bytes: &[u8], rip: u64) -> String {
    let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    IntelFormatter::new().format(&instruction, &mut text);
    text
}

impl SoftVcpu {
    /// Finds the instruction of a block on which the interpreter and the JIT disagree: executes more and
    /// more of it in both ways. The state is `before`'s, then and now. All decoded code is dropped.
    pub(super) fn find_divergence(
        &mut self,
        blocks: &mut Blocks,
        found: Found,
        before: &Registers,
        all_miss: bool,
        differences: Vec<Difference>,
    ) -> Divergence {
        let place = blocks.place(found.block);
        let offset = (place.rip % ram::SIZE) as usize;
        let bytes = self.code_pages.kept(place.page, offset, found.run.bytes.into()).to_vec();
        let ops = blocks.ops(found.run).to_vec();
        let mut divergence =
            Divergence { rip: place.rip, bytes: bytes.clone(), found: false, differences };
        let mut end = 0;
        for (n, op) in ops.iter().enumerate() {
            let start = end;
            end += usize::from(op.insn.len);
            let found = only_block(blocks, place, &ops[..=n], &bytes[..end], self.features);
            if found.code == 0 {
                continue;
            }
            let twice = self.execute_twice(blocks, found, before, all_miss);
            self.undo(before);
            if !twice.differences.is_empty() {
                divergence = Divergence {
                    rip: place.rip.wrapping_add(start as u64),
                    bytes: bytes[start..end].to_vec(),
                    found: true,
                    differences: twice.differences,
                };
                break;
            }
        }
        self.drop_code(blocks);
        divergence
    }
}

/// Makes a block of instructions, and drops all others.
fn only_block(
    blocks: &mut Blocks,
    place: Place,
    ops: &[Op<SoftVcpu>],
    bytes: &[u8],
    features: Features,
) -> Found {
    blocks.clear();
    let first = blocks.next();
    for op in ops {
        blocks.push(*op);
    }
    let found = blocks.add(place, first, bytes.len());
    blocks.translate(&[(found.block, bytes)], features, |_| None)
}
