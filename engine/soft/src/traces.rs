//! [`trace`]: the blocks that are translated together.
//!
//! Code mostly goes on where it went before. A block that is translated takes along the one that its branch has led to
//! more often, then that one's, and so on: from one to the next no flags are stored, and no jump is taken. Blocks of one
//! page only, so that what lets the first one be executed lets the others; none that has a translation of its own, which
//! is jumped to; and no loop of one block, which is translated in a way of its own.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use crate::blocks::{Blocks, MAX_BLOCK, Place};
use crate::code_pages::CodePages;
use crate::ram;

/// Blocks of a trace at most.
const MOST: usize = 8;

/// The blocks to be translated with `first`, which lies in one page and is executed in 64-bit mode: their numbers, in
/// the order in which they are executed.
pub fn trace(blocks: &Blocks, pages: &CodePages, first: u32) -> Vec<u32> {
    let mut trace = vec![first];
    let mut instructions = blocks.block(first).1.len();
    let mut last = first;
    while trace.len() < MOST
        && let Some(next) = successor(blocks, pages, last)
    {
        instructions += blocks.block(next).1.len();
        if trace.contains(&next) || instructions > MAX_BLOCK {
            break;
        }
        trace.push(next);
        last = next;
    }
    trace
}

/// The block that a block's branch has led to most often, if that is to be translated with it.
fn successor(blocks: &Blocks, pages: &CodePages, block: u32) -> Option<u32> {
    let place = blocks.place(block);
    let branch = branch(blocks, pages, block)?;
    let is_conditional = branch.flow_control() == FlowControl::ConditionalBranch;
    let behind = is_conditional.then_some(branch.next_ip());
    let known = |rip: u64| {
        // What leads back is a loop.
        let is_ahead = rip > place.rip && (rip ^ place.rip) / ram::SIZE == 0;
        blocks.known(&Place { rip, ..place }).filter(|_| is_ahead)
    };
    let behind = behind.and_then(known);
    let target = known(branch.near_branch_target());
    let executions = |block: Option<u32>| block.map_or(0, |block| blocks.executions(block));
    let next = if executions(target) > executions(behind) { target? } else { behind? };
    (!blocks.is_translated(next) && !is_loop(blocks, pages, next)).then_some(next)
}

/// Whether a block's branch leads to its own start.
fn is_loop(blocks: &Blocks, pages: &CodePages, block: u32) -> bool {
    branch(blocks, pages, block)
        .is_some_and(|branch| branch.near_branch_target() == blocks.place(block).rip)
}

/// The branch that ends a block, if it is one that may be followed.
fn branch(blocks: &Blocks, pages: &CodePages, block: u32) -> Option<Instruction> {
    let place = blocks.place(block);
    let (_, ops) = blocks.block(block);
    let (last, body) = ops.split_last()?;
    let before: u64 = body.iter().map(|op| u64::from(op.insn.len)).sum();
    let rip = place.rip.wrapping_add(before);
    let bytes = pages.kept(place.page, (rip % ram::SIZE) as usize, usize::from(last.insn.len));
    let branch = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    let follows = branch.is_jcc_short_or_near() || branch.is_jmp_short_or_near();
    // With another operand size RIP is cut off.
    (follows && branch.op0_kind() == OpKind::NearBranch64).then_some(branch)
}
