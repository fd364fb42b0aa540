//! [`Tracer`]: the blocks that are translated together.
//!
//! Code mostly goes on where it went before. A block that is translated takes along the one that its branch has led to
//! more often, then that one's, and so on: from one to the next no flags are stored, and no jump is taken. These are
//! blocks of one page, so that what lets the first one be executed lets the others; none that has a translation of its
//! own, which is jumped to; and no loop of one block, which is translated in a way of its own.
//!
//! A short function that calls no other is taken along with the call, whatever translations of it there are, up to its
//! return and what follows the call. It may lie in another page if that has a mark ([`crate::page_marks`]).

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use crate::blocks::{Blocks, MAX_BLOCK, Place};
use crate::code_pages::{CodePages, PageId};
use crate::ram;

/// Blocks of a trace at most, of a function in it, and instructions of that.
const MOST: usize = 12;
const MOST_OF_CALLEE: usize = 3;
const INSTRUCTIONS_OF_CALLEE: usize = 6;

/// Where blocks are looked for.
pub struct Tracer<'a> {
    pub blocks: &'a Blocks,
    pub pages: &'a CodePages,
    /// The page at an address, and its mark, if it has one.
    pub marked: &'a dyn Fn(u64) -> Option<(PageId, u32)>,
}

impl Tracer<'_> {
    /// The blocks to be translated with `first`, which lies in one page and is executed in 64-bit mode: their numbers, in
    /// the order in which they are executed.
    pub fn trace(&self, first: u32) -> Vec<u32> {
        let mut trace = vec![first];
        if self.is_loop(first) {
            return trace;
        }
        let mut last = first;
        loop {
            let next = self.next(last);
            let Some(end) = next.last().copied() else { break };
            let blocks = trace.len() + next.len();
            let all = trace.iter().chain(&next);
            let instructions: usize = all.map(|block| self.blocks.block(*block).1.len()).sum();
            let is_new = next.iter().all(|block| !trace.contains(block));
            if blocks > MOST || instructions > MAX_BLOCK || !is_new {
                break;
            }
            trace.extend(next);
            last = end;
        }
        trace
    }

    /// What is to follow a block: the one that its branch has led to most often, or a function that it calls and
    /// what is behind the call; nothing if it is to end the trace.
    fn next(&self, block: u32) -> Vec<u32> {
        let Some(branch) = self.branch(block) else { return Vec::new() };
        if branch.flow_control() == FlowControl::Call {
            return self.call(block, &branch).unwrap_or_default();
        }
        let next = self.successor(block, &branch);
        next.filter(|next| self.may_follow(*next)).into_iter().collect()
    }

    /// Whether a block is not better jumped to.
    fn may_follow(&self, block: u32) -> bool {
        !self.blocks.is_translated(block) && !self.is_loop(block)
    }

    /// The function that a call leads to, and what is behind the call.
    fn call(&self, block: u32, call: &Instruction) -> Option<Vec<u32>> {
        let place = self.blocks.place(block);
        let behind = self.blocks.known(&Place { rip: call.next_ip(), ..place })?;
        let rip = call.near_branch_target();
        let is_near = (rip ^ place.rip) / ram::SIZE == 0;
        let page = if is_near { place.page } else { (self.marked)(rip)?.0 };
        let is_here = (call.next_ip() ^ place.rip) / ram::SIZE == 0;
        if !is_here || !self.may_follow(behind) {
            return None;
        }
        let mut function = vec![self.blocks.known(&Place { rip, page, ..place })?];
        let mut instructions = 0;
        loop {
            let last = *function.last()?;
            instructions += self.blocks.block(last).1.len();
            if instructions > INSTRUCTIONS_OF_CALLEE || self.is_loop(last) {
                return None;
            }
            if self.returns(last) {
                function.push(behind);
                return Some(function);
            }
            let branch = self.branch(last).filter(|i| i.flow_control() != FlowControl::Call)?;
            let next = self.successor(last, &branch)?;
            if function.len() == MOST_OF_CALLEE || function.contains(&next) {
                return None;
            }
            function.push(next);
        }
    }

    /// The block that a block's branch has led to most often; nothing if that leads back, which is a loop.
    fn successor(&self, block: u32, branch: &Instruction) -> Option<u32> {
        let place = self.blocks.place(block);
        let is_conditional = branch.flow_control() == FlowControl::ConditionalBranch;
        let behind = is_conditional.then_some(branch.next_ip());
        let known = |rip: u64| {
            let is_near = (rip ^ place.rip) / ram::SIZE == 0;
            self.blocks.known(&Place { rip, ..place }).filter(|_| is_near)
        };
        let behind = behind.and_then(known);
        let target = known(branch.near_branch_target());
        let executions =
            |block: Option<u32>| block.map_or(0, |block| self.blocks.executions(block));
        let most = if executions(target) > executions(behind) { target } else { behind };
        most.filter(|next| self.blocks.place(*next).rip > place.rip)
    }

    /// Whether a block's branch leads to its own start.
    fn is_loop(&self, block: u32) -> bool {
        let start = self.blocks.place(block).rip;
        self.branch(block).is_some_and(|branch| branch.near_branch_target() == start)
    }

    /// Whether a block ends with a return.
    fn returns(&self, block: u32) -> bool {
        self.last(block).is_some_and(|last| last.code() == Code::Retnq)
    }

    /// The branch that ends a block, if it is one that may be followed.
    fn branch(&self, block: u32) -> Option<Instruction> {
        let branch = self.last(block)?;
        let follows =
            branch.is_jcc_short_or_near() || branch.is_jmp_short_or_near() || branch.is_call_near();
        // With another operand size RIP is cut off.
        (follows && branch.op0_kind() == OpKind::NearBranch64).then_some(branch)
    }

    /// The last instruction of a block.
    fn last(&self, block: u32) -> Option<Instruction> {
        let place = self.blocks.place(block);
        let (_, ops) = self.blocks.block(block);
        let (last, body) = ops.split_last()?;
        let before: u64 = body.iter().map(|op| u64::from(op.insn.len)).sum();
        let rip = place.rip.wrapping_add(before);
        let (at, size) = ((rip % ram::SIZE) as usize, usize::from(last.insn.len));
        let bytes = self.pages.kept(place.page, at, size);
        Some(Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode())
    }
}
