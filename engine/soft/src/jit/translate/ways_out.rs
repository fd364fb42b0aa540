//! Ways out of a translation: [`Translator::leave_to`], [`Translator::follow`].
//!
//! Flags that are in EFLAGS only are stored on the way, unless the block that it leads to ignores them.
//!
//! A way within the page is a jump of its own, once the block there is known (see [`super::super::links`]); so is one to
//! another page that has a mark ([`crate::page_marks`]), behind a look at that. Others look into the jump cache. What can't
//! go on so goes by the dispatcher, out of the way.

use super::super::assembler::{Address, Assembled, Jump, Opcode, condition};
use super::super::context;
use super::super::links::{Link, Storing};
use super::flags::{Flags, Recovery};
use super::steps::{Side, Step, Way};
use super::{T0, T1, T2, Translator};
use crate::code_pages::PageId;
use crate::jump_cache as jump;

/// A jump to another block.
pub(crate) struct Exit {
    /// Where it leads, and in which page that is.
    pub target: u64,
    pub page: PageId,
    pub link: Link,
}

impl Exit {
    /// Its addresses are where the code is after all.
    pub fn place(&mut self, code: &Assembled) {
        let Link { at, otherwise, storing } = &mut self.link;
        let storing = storing.iter_mut();
        let storing = storing.flat_map(|Storing { start, at, otherwise }| [start, at, otherwise]);
        for address in [at, otherwise].into_iter().chain(storing) {
            *address = code.place(*address);
        }
    }
}

/// A way out of the translation, by the dispatcher.
pub(super) struct WayOut {
    /// What leads there.
    jumps: Vec<Jump>,
    /// Where it leads to.
    target: u64,
    /// The page that is in, if it is known, as it has to be for a link.
    page: PageId,
    /// It leads to a block once that is known.
    link: Option<Jump>,
    /// The flags on the link, if they have not been stored.
    flags: Option<(Flags, Option<Recovery>)>,
}

/// A way out of a loop, by the dispatcher: who asked for that is to be heard.
pub(super) struct Asked {
    jump: Jump,
    target: u64,
    /// How the flags are made again.
    recovery: Recovery,
}

/// A way out of the middle of the translation.
pub(super) struct SideExit {
    jump: Jump,
    /// RIP at the start of the block that it leaves, and the page that is in.
    rip: u64,
    page: PageId,
    target: u64,
    /// The flags there.
    flags: Flags,
    recovery: Option<Recovery>,
}

impl Translator<'_> {
    /// Goes on at `target`: by a jump of its own, once the block there is known, if that is in the same page, or
    /// in one that has a mark.
    pub(super) fn leave_to(&mut self, target: u64) {
        if self.is_one_jump(target) {
            let link = self.code.jump_ahead();
            self.leave_by(link, target);
            return;
        }
        if self.goes_round(target) {
            self.go_back(target);
            return;
        }
        self.store_flags();
        if !self.chained {
            self.code.set(T0, target);
            self.code.jump(self.stubs.leave);
            return;
        }
        let mut jumps = Vec::new();
        if self.looks_before(target) {
            jumps.push(self.expect_no_request());
        }
        let (mut link, mut page) = (None, self.page);
        if self.is_near(target) {
            link = Some(self.code.jump_ahead());
        } else if let Some((there, mark)) = (self.marked)(target) {
            self.code.compare_32(context::mark(target), mark);
            jumps.push(self.code.jump_if(condition::NOT_EQUAL));
            (link, page) = (Some(self.code.jump_ahead()), there);
        } else {
            self.code.set(T0, target);
            self.code.load(T1, context::jumps(self.cpl));
            let distance = jump::distance(self.cpl, target);
            jumps.extend(self.jump_to_cached(distance, context::key(self.cpl, target)));
        }
        self.ways_out.push(WayOut { jumps, target, page, link, flags: None });
    }

    /// Whether flags that can be made again are left lost on a way back: unless the block there is known not to ignore
    /// them. Heads of loops mostly do; where it turns out that one does not, they are stored on the way, out of the way.
    fn goes_round(&self, target: u64) -> bool {
        let are_stored = matches!(self.flags, Flags::Field | Flags::Both);
        let is_way_back = self.chained && self.is_near(target) && !self.polls;
        let can_be_lost = is_way_back && !are_stored && self.recovery.is_some();
        let is_own = target == self.head && self.ignores_flags;
        can_be_lost && (is_own || (self.ignores)(self.page, target).unwrap_or(target != self.head))
    }

    /// The way back: no flags are stored but where it is left.
    fn go_back(&mut self, target: u64) {
        self.flags_are_lost();
        let jump = self.expect_no_request();
        if let Some(recovery) = self.recovery {
            self.asked.push(Asked { jump, target, recovery });
        }
        let link = self.code.jump_ahead();
        self.leave_by(link, target);
    }

    /// The ways out of loops.
    pub(super) fn take_asked(&mut self) {
        for Asked { jump, target, recovery } in core::mem::take(&mut self.asked) {
            self.code.bind(jump);
            self.store_lost_flags(Some(recovery));
            self.code.set(T0, target);
            self.code.jump(self.stubs.dispatch);
        }
    }

    /// Whether nothing has to be looked at on the way to `target`, so that EFLAGS stay.
    pub(super) const fn is_one_jump(&self, target: u64) -> bool {
        self.chained && self.is_near(target) && !self.looks_before(target)
    }

    /// Goes on at `target`, in the same page, by a jump that was made.
    pub(super) fn leave_by(&mut self, jump: Jump, target: u64) {
        let flags = (self.flags, self.recovery);
        let is_stored = matches!(self.flags, Flags::Field | Flags::Both);
        let flags = (!is_stored).then_some(flags);
        let (jumps, page, link) = (Vec::new(), self.page, Some(jump));
        self.ways_out.push(WayOut { jumps, target, page, link, flags });
    }

    /// Whether a way to `target` looks if the block is to be left. Ways that do not lead from the start of a translation to
    /// one that is further up: so each loop has one that does.
    pub(super) const fn looks_before(&self, target: u64) -> bool {
        target <= self.head || self.polls
    }

    /// Whether `target` is in the page that the block starts in.
    pub(super) const fn is_near(&self, target: u64) -> bool {
        (target ^ self.rip) >> 12 == 0
    }

    /// A branch that is followed: leaves where it does not lead to the next instruction.
    pub(super) fn follow(&mut self, step: &Step<'_>, side: &Side) {
        let &Side { way, rip, page } = side;
        match way {
            Way::Jump => {}
            Way::Unless { condition, target } => {
                self.expect_flags(step);
                let jump = self.code.jump_if(condition);
                let (flags, recovery) = (self.flags, self.recovery);
                self.side_exits.push(SideExit { jump, rip, page, target, flags, recovery });
            }
            Way::Call { target, mark } => {
                self.flags_are_lost();
                let moved = mark.map(|mark| {
                    self.code.compare_32(context::mark(target), mark);
                    self.code.jump_if(condition::NOT_EQUAL)
                });
                self.push_return(step);
                moved.into_iter().for_each(|jump| self.or_on_miss(jump));
            }
            Way::Return { target } => self.follow_return(step, target),
        }
    }

    /// The ways out of the middle.
    pub(super) fn take_side_exits(&mut self) {
        for exit in core::mem::take(&mut self.side_exits) {
            (self.rip, self.page) = (exit.rip, exit.page);
            (self.flags, self.recovery) = (exit.flags, exit.recovery);
            if self.is_one_jump(exit.target) {
                self.leave_by(exit.jump, exit.target);
            } else {
                self.code.bind(exit.jump);
                self.leave_to(exit.target);
            }
        }
    }

    /// The ways by the dispatcher.
    pub(super) fn take_ways_out(&mut self) {
        for WayOut { jumps, target, page, link, flags } in core::mem::take(&mut self.ways_out) {
            let start = self.code.here();
            let storing = flags.map(|(flags, recovery)| {
                (self.flags, self.recovery) = (flags, recovery);
                self.store_flags();
                let jump = self.code.jump_ahead();
                self.code.bind(jump);
                let (at, otherwise) = (self.code.distance_of(jump), self.code.here());
                Storing { start, at, otherwise }
            });
            if let Some(jump) = link {
                let at = self.code.distance_of(jump);
                self.exits.push(Exit {
                    target,
                    page,
                    link: Link { at, otherwise: start, storing },
                });
                self.code.bind_to(jump, start);
            }
            jumps.into_iter().for_each(|jump| self.code.bind(jump));
            self.code.set(T0, target);
            self.code.jump(self.stubs.dispatch);
        }
    }

    /// Whether translated code is to be left. T1 and EFLAGS change.
    pub(super) fn expect_no_request(&mut self) -> Jump {
        self.code.load(T1, context::POLLED);
        self.code.test_word(T1);
        self.code.jump_if(condition::NOT_EQUAL)
    }

    /// Goes to the block at the address in T0 if the jump cache's entry `distance` from T1 has it, under one of the keys that
    /// are shown, and the translation is not to be left. T2 and EFLAGS change. Gives the ways on if it has not.
    pub(super) fn jump_to_cached(&mut self, distance: i32, key: i32) -> [Jump; 2] {
        let out = self.expect_cached(distance, key);
        let code = Address { base: Some(T1), index: None, displacement: distance + jump::CODE };
        // jmp [r11 + code].
        self.code.memory(Opcode { bytes: &[0xff], ..Opcode::default() }, 4, code);
        out
    }

    pub(super) fn expect_cached(&mut self, distance: i32, key: i32) -> [Jump; 2] {
        let at = |part| Address { base: Some(T1), index: None, displacement: distance + part };
        let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
        self.code.memory(compare, T0, at(jump::RIP));
        let other = self.code.jump_if(condition::NOT_EQUAL);
        // The key is poisoned if translated code is to be left: see `crate::polled`.
        self.code.load(T2, context::POLLED);
        let load = Opcode { bytes: &[0x8b], ..Opcode::default() };
        self.code.memory(load, T2, Address { base: Some(T2), index: None, displacement: key });
        self.code.memory(Opcode { wide: false, ..compare }, T2, at(jump::KEY));
        [other, self.code.jump_if(condition::NOT_EQUAL)]
    }
}
