//! Ways out of a translation: [`Translator::leave_to`], [`Translator::side_exit`].
//!
//! A way within the page is a jump of its own, once the block there is known (see [`super::super::links`]); so is one to
//! another page that has a mark ([`crate::page_marks`]), behind a look at that. Others look into the jump cache. What can't go on so goes by the dispatcher, out of the way.

use super::super::assembler::{Address, Jump, Opcode, condition};
use super::super::context;
use super::flags::{Flags, Recovery};
use super::steps::{Side, Step};
use super::{T0, T1, T2, Translator};
use crate::code_pages::PageId;
use crate::jump_cache as jump;

/// A jump to another block.
pub(crate) struct Exit {
    /// Where it leads, and in which page that is, if it is another one.
    pub target: u64,
    pub page: Option<PageId>,
    /// Address of the jump's distance.
    pub at: u64,
    /// Where it leads while there is no such block.
    pub otherwise: u64,
}

/// A way out of the translation, by the dispatcher.
pub(super) struct WayOut {
    /// What leads there.
    pub jumps: Vec<Jump>,
    /// Where it leads to, and in which page that is, if it is another one.
    pub target: u64,
    pub page: Option<PageId>,
    /// It leads to a block once that is known.
    pub link: Option<Jump>,
}

/// A way out of the middle of the translation.
pub(super) struct SideExit {
    jump: Jump,
    /// RIP at the start of the block that it leaves.
    rip: u64,
    target: u64,
    /// The flags there.
    flags: Flags,
    recovery: Option<Recovery>,
}

impl Translator<'_> {
    /// Goes on at `target`: in the same page by a jump of its own, once the block there is known.
    pub(super) fn leave_to(&mut self, target: u64) {
        if !self.chained {
            self.code.set(T0, target);
            self.code.jump(self.stubs.leave);
            return;
        }
        let mut jumps = Vec::new();
        if self.looks_before(target) {
            jumps.push(self.expect_no_request());
        }
        let marked = (self.marked)(target);
        if self.is_near(target) || marked.is_some() {
            let page = marked.filter(|_| !self.is_near(target)).map(|(page, mark)| {
                self.code.compare_32(context::mark(target), mark);
                jumps.push(self.code.jump_if(condition::NOT_EQUAL));
                page
            });
            let link = self.code.jump_ahead();
            self.ways_out.push(WayOut { jumps, target, page, link: Some(link) });
        } else {
            self.code.set(T0, target);
            self.code.load(T1, context::jumps(self.cpl));
            let distance = jump::distance(self.cpl, target);
            jumps.extend(self.jump_to_cached(distance, context::key(self.cpl, target)));
            self.ways_out.push(WayOut { jumps, target, page: None, link: None });
        }
    }

    /// Whether a way to `target` looks if the block is to be left: each loop has a way back.
    pub(super) const fn looks_before(&self, target: u64) -> bool {
        target <= self.rip || self.polls
    }

    /// Whether `target` is in the page that the block starts in.
    pub(super) const fn is_near(&self, target: u64) -> bool {
        (target ^ self.rip) >> 12 == 0
    }

    /// A branch that is followed: leaves where it does not lead to the next instruction.
    pub(super) fn follow(&mut self, step: &Step<'_>, side: &Side) {
        let &Side { condition, target, rip } = side;
        let Some(condition) = condition else { return };
        self.expect_flags(step);
        let jump = self.code.jump_if(condition);
        let (flags, recovery) = (self.flags, self.recovery);
        self.side_exits.push(SideExit { jump, rip, target, flags, recovery });
    }

    /// The ways out of the middle.
    pub(super) fn take_side_exits(&mut self) {
        for exit in core::mem::take(&mut self.side_exits) {
            (self.rip, self.flags, self.recovery) = (exit.rip, exit.flags, exit.recovery);
            let target = exit.target;
            if self.flags != Flags::Host && !self.looks_before(target) && self.is_near(target) {
                let (jumps, link) = (Vec::new(), Some(exit.jump));
                self.ways_out.push(WayOut { jumps, target, page: None, link });
                continue;
            }
            self.code.bind(exit.jump);
            self.store_flags();
            self.leave_to(target);
        }
    }

    /// The ways by the dispatcher.
    pub(super) fn take_ways_out(&mut self) {
        for WayOut { jumps, target, page, link } in core::mem::take(&mut self.ways_out) {
            let otherwise = self.code.here();
            if let Some(link) = link {
                let at = self.code.distance_of(link);
                self.exits.push(Exit { target, page, at, otherwise });
            }
            jumps.into_iter().chain(link).for_each(|jump| self.code.bind(jump));
            self.code.set(T0, target);
            self.code.jump(self.stubs.dispatch);
        }
    }

    /// Whether translated code is to be left. T1 and EFLAGS change.
    pub(super) fn expect_no_request(&mut self) -> Jump {
        self.code.load(T1, context::WAITING);
        self.code.test_word(T1);
        self.code.jump_if(condition::NOT_EQUAL)
    }

    /// Goes to the block at the address in T0 if the jump cache's entry `distance` from T1 has it, under the
    /// key in a field. T2 and EFLAGS change. Gives the ways on if it has not.
    pub(super) fn jump_to_cached(&mut self, distance: i32, key: u32) -> [Jump; 2] {
        let out = self.expect_cached(distance, key);
        let code = Address { base: Some(T1), index: None, displacement: distance + jump::CODE };
        // jmp [r11 + code].
        self.code.memory(Opcode { bytes: &[0xff], ..Opcode::default() }, 4, code);
        out
    }

    pub(super) fn expect_cached(&mut self, distance: i32, key: u32) -> [Jump; 2] {
        let at = |part| Address { base: Some(T1), index: None, displacement: distance + part };
        let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
        self.code.memory(compare, T0, at(jump::RIP));
        let other = self.code.jump_if(condition::NOT_EQUAL);
        self.code.load_32(T2, key);
        self.code.memory(Opcode { wide: false, ..compare }, T2, at(jump::KEY));
        [other, self.code.jump_if(condition::NOT_EQUAL)]
    }
}
