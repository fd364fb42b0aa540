//! [`translate`]: from the bytes of a block to code of the host's.
//!
//! The guest's instructions are the host's: most are executed as they are, on the guest's own registers,
//! with another memory operand. What is not translated is executed by the interpreter's function, in
//! between. So is every access that misses the TLB: there is no other slow way.
//!
//! | guest | here |
//! |---|---|
//! | RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8, R12–R14 | themselves |
//! | RSP | R9: the host's stack stays the host's |
//! | R9, R10, R11, R15 | fields of the vCPU; R10, R11 and R15 are temporary |
//! | vector registers, MXCSR | themselves, once they are loaded: see [`super::vector_registers`] |
//! | x87 and MMX registers | the same: see [`super::x87_registers`] |
//! | arithmetic flags | between blocks a field; within a block EFLAGS, from where they are made on |
//!
//! Blocks that are executed one after the other are translated together: where a branch between them does not lead to
//! the next one, the translation is left ([`ways_out`]).
//!
//! The look-up in the TLB changes EFLAGS; flags that are there only are stored before it, for the access may fault, or
//! can be made again ([`Flags`]).

mod bits;
mod branches;
mod checked;
mod control;
mod flags;
mod integer;
mod loaded;
mod loops;
mod memory;
mod returns;
mod steps;
mod stretches;
mod strings;
mod system;
mod vectors;
mod ways_out;
mod windows;
mod x87;

use std::ops::Range;

use arch_x86::emulate::Op;
use arch_x86::engine::Features;

use super::assembler::{Address, Assembled, Assembler, Jump, Opcode, condition, group};
use super::context;
use super::stubs::Stubs;
use crate::code_pages::PageId;
use crate::ranges::Seen;
use crate::vcpu::{SoftVcpu, attention};
use branches::{SecondTarget, UnknownTarget};
use flags::{Flags, Recovery};
use loaded::Loaded;
use loops::Loop;
pub(crate) use steps::reads_count;
use steps::{ARITHMETIC, Step, steps};
pub(super) use system::flat;
use ways_out::{Asked, Exit, SideExit, WayOut};
use windows::Window;

/// Temporary registers.
const T0: u8 = 10;
const T1: u8 = 11;
const T2: u8 = 15;
/// Where the guest's RSP is.
const STACK: u8 = 9;
const RAX: u8 = 0;
const RBP: u8 = 5;
const RSP: u8 = 4;

/// `mov r64, r/m64` and `mov r/m64, r64`.
const LOAD: Opcode<'_> = Opcode { prefixes: &[], wide: true, rex: false, bytes: &[0x8b] };
const SAVE: Opcode<'_> = Opcode { prefixes: &[], wide: true, rex: false, bytes: &[0x89] };

/// Where a guest's register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Host(u8),
    Field(i32),
}

const fn home(guest: u8) -> Home {
    match guest {
        RSP => Home::Host(STACK),
        9 => Home::Field(context::kept(0)),
        10 => Home::Field(context::kept(1)),
        11 => Home::Field(context::kept(2)),
        15 => Home::Field(context::kept(3)),
        _ => Home::Host(guest),
    }
}

/// An access that misses the TLB: the instruction is executed by the interpreter, out of the way.
struct Slow {
    jump: Jump,
    /// Others that lead here.
    more: Vec<Jump>,
    op: u64,
    /// The number of its block.
    block: u32,
    /// Where translated code goes on.
    back: u64,
    /// The flags were lost before the instruction.
    lost: Option<Recovery>,
    /// Translated code then expects the flags in EFLAGS.
    flags: bool,
    /// What it expects to be loaded.
    loaded: Loaded,
    /// The instruction before it holds interrupts.
    shadowed: bool,
    /// The instruction ends the block: the dispatcher goes on, from behind the block.
    end: Option<u64>,
    /// It is an IRETQ, which is noted.
    returns: bool,
}

/// A block that is translated.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Its number.
    pub block: u32,
    /// Where it is.
    pub page: PageId,
    pub rip: u64,
    /// The guest's bytes.
    pub bytes: &'a [u8],
    /// The interpreter's forms of the instructions.
    pub ops: &'a [Op<SoftVcpu>],
    /// Where they were seen to read.
    pub seen: &'a [Seen],
}

/// Gives what page is at an address, and its mark: see [`crate::page_marks`].
pub(super) type Marked<'a> = &'a dyn Fn(u64) -> Option<(PageId, u32)>;

/// What is translated.
pub(super) struct Source<'a> {
    /// Blocks, each of which the branch at the end of the one before it leads to.
    pub parts: &'a [Part<'a>],
    /// The privilege level at which they are executed.
    pub cpl: u8,
    /// Whether it leads to other blocks.
    pub chained: bool,
    /// What the guest is offered.
    pub features: Features,
    /// What page is at an address, and its mark: see [`crate::page_marks`].
    pub marked: Marked<'a>,
    /// Whether the block at an address in a page ignores the flags that it is entered with, if it is known.
    pub ignores: &'a dyn Fn(PageId, u64) -> Option<bool>,
    /// Each block counts itself, and looks at its end whether it is to come back: see [`crate::modes`].
    pub polls: bool,
    /// Each block counts its instructions.
    pub counts: bool,
}

/// A block's translation.
pub(super) struct Translation {
    pub code: Assembled,
    pub exits: Vec<Exit>,
    /// It looks at no flags that it is entered with.
    pub ignores_flags: bool,
}

/// Translates a block of 64-bit mode that will be executed at an address, what is seldom executed of it at the end
/// of some room. Gives `None` if the bytes are not what the interpreter's forms were made of.
pub(super) fn translate(
    source: &Source<'_>,
    stubs: &Stubs,
    (base, room): (u64, Range<u64>),
) -> Option<Translation> {
    let mut steps = steps(source)?;
    let a_loop = Loop::of(source, &mut steps);
    let last_part = source.parts.last()?;
    let mut translator = Translator {
        code: Assembler::split(base, room),
        stubs,
        flags: Flags::Field,
        recovery: None,
        pending: None,
        loaded: Loaded::NONE,
        slow: Vec::new(),
        chained: source.chained,
        block: last_part.block,
        head: source.parts.first()?.rip,
        rip: last_part.rip,
        page: last_part.page,
        cpl: source.cpl,
        loads: Vec::new(),
        open: None,
        one_by_one: Vec::new(),
        return_place: None,
        retries: Vec::new(),
        second_targets: Vec::new(),
        unknown_targets: Vec::new(),
        place: None,
        end: last_part.rip.wrapping_add(last_part.bytes.len() as u64),
        marked: source.marked,
        ignores: source.ignores,
        ignores_flags: flags::ignores(&steps),
        asked: Vec::new(),
        side_exits: Vec::new(),
        ways_out: Vec::new(),
        exits: Vec::new(),
        is_lifted: false,
        shadowed: false,
        shadow_next: false,
        polls: source.polls,
    };
    if source.counts {
        translator.code.count(context::INSTRUCTIONS, steps.len() as u8);
    }
    if source.polls {
        translator.count_block();
    }
    translator.expect_loaded_at_entry(&steps);
    let (last, body) = steps.split_last()?;
    translator.body(body, last);
    match a_loop {
        Some(a_loop) => translator.go_round(&steps, &a_loop, base),
        None => translator.last(last),
    }
    translator.code.cold(true);
    translator.windows_one_by_one(body, last);
    translator.take_second_targets();
    translator.take_unknown_targets();
    translator.slow_ways();
    translator.take_side_exits();
    translator.take_ways_out();
    translator.take_asked();
    let Translator { code, mut exits, ignores_flags, .. } = translator;
    let code = code.finish()?;
    exits.iter_mut().for_each(|exit| exit.place(&code));
    Some(Translation { code, exits, ignores_flags })
}

struct Translator<'a> {
    code: Assembler,
    stubs: &'a Stubs,
    flags: Flags,
    /// How flags that are in EFLAGS, or lost, are made again; and those that were lost before the look-up that
    /// was made last.
    recovery: Option<Recovery>,
    pending: Option<Recovery>,
    /// What is certainly loaded.
    loaded: Loaded,
    slow: Vec<Slow>,
    loads: Vec<loaded::Load>,
    /// The window that is being translated, and those whose look-up may miss.
    open: Option<windows::Open>,
    one_by_one: Vec<windows::OneByOne>,
    /// Where the address is that the last instruction returns to, if a window's look-up has found it.
    return_place: Option<Address>,
    /// Look-ups that may yet be in the table.
    retries: Vec<stretches::Retry>,
    second_targets: Vec<SecondTarget>,
    unknown_targets: Vec<UnknownTarget>,
    /// Where the instruction's operand is, if that is known without a look-up: see [`loops`].
    place: Option<Address>,
    /// The block leads to others, and not to Rust.
    chained: bool,
    /// The number of the block that is translated.
    block: u32,
    /// The privilege level.
    cpl: u8,
    /// RIP at the start.
    head: u64,
    /// RIP at the start of the block that is left, and the page that is in; and RIP behind the last one.
    rip: u64,
    page: PageId,
    end: u64,
    marked: Marked<'a>,
    ignores: &'a dyn Fn(PageId, u64) -> Option<bool>,
    /// It looks at no flags that it is entered with.
    ignores_flags: bool,
    asked: Vec<Asked>,
    side_exits: Vec<SideExit>,
    ways_out: Vec<WayOut>,
    exits: Vec<Exit>,
    /// SMAP is lifted: a kernel accesses a program's memory.
    is_lifted: bool,
    /// The instruction that is translated is the one behind an STI; or the next one is.
    shadowed: bool,
    shadow_next: bool,
    /// Each way out of the block looks whether it is to be left.
    polls: bool,
}

impl Translator<'_> {
    /// Has the run loop look at its modes behind this block, after so many.
    fn count_block(&mut self) {
        self.code.count(context::BLOCKS_LEFT, 0xff); // -1
        let more = self.code.jump_if(condition::NOT_EQUAL);
        self.code.change_field(group::OR, context::ATTENTION, attention::MODE);
        self.code.load(T0, context::ALWAYS);
        self.code.store(context::POLLED, T0);
        self.code.bind(more);
    }

    /// The instructions before the last one.
    fn body(&mut self, body: &[Step<'_>], last: &Step<'_>) {
        let mut next = 0;
        let returns = self.returns(last);
        while let Some(step) = body.get(next) {
            // What STI holds is looked at instruction by instruction.
            let window = if self.shadow_next { None } else { Window::find(body, next, returns) };
            if let Some(window) = window {
                next = self.window(body, window);
            } else {
                self.step(step);
                next += 1;
            }
        }
    }

    /// An instruction that the block goes on behind.
    fn step(&mut self, step: &Step<'_>) {
        self.shadowed = core::mem::take(&mut self.shadow_next);
        self.block = step.block;
        self.note_lifted(step);
        if let Some(side) = &step.side {
            self.follow(step, side);
            return;
        }
        if let Some(encoding) = &step.encoding
            && (self.system(step, encoding)
                || self.control(step, encoding)
                || self.checked(step, encoding)
                || self.string(step, encoding))
        {
            return;
        }
        if !self.native(step) {
            self.interpret(step, self.stubs.step);
            (self.flags, self.recovery) = (Flags::Field, None);
        }
    }

    /// The last instruction.
    fn last(&mut self, step: &Step<'_>) {
        self.shadowed = core::mem::take(&mut self.shadow_next);
        self.block = step.block;
        if let Some(place) = self.return_place.take() {
            self.return_from(place, step);
            return;
        }
        if self.near_branch(step) {
            return;
        }
        if step.changed != ARITHMETIC {
            self.store_flags();
        }
        if self.branch(step) || self.system_branch(step) {
            return;
        }
        let is_native = self.native(step)
            || step.encoding.as_ref().is_some_and(|encoding| {
                self.checked(step, encoding)
                    || self.string(step, encoding)
                    || self.repeated_string(step, encoding)
            });
        if is_native {
            self.leave_to(self.end);
            return;
        }
        self.code.set(T0, self.end);
        self.code.store(context::RIP, T0);
        self.interpret(step, self.stubs.step_last);
        self.code.jump(self.way_on());
    }

    /// Where to go on at RIP.
    const fn way_on(&self) -> u64 {
        if self.chained { self.stubs.dispatch_from_rip } else { self.stubs.leave_from_rip }
    }

    /// Has the interpreter execute the instruction.
    fn interpret(&mut self, step: &Step<'_>, stub: u64) {
        debug_assert!(self.open.is_none(), "a window has none but native instructions");
        self.store_flags();
        if self.shadowed {
            self.code.store_byte_value(context::SHADOW, 1);
        }
        self.call_with(step.op, stub);
        self.loaded = Loaded::NONE;
    }

    /// Calls a stub that executes the instruction `op`, or may have the interpreter go on there.
    fn call_with(&mut self, op: u64, stub: u64) {
        self.code.store_value(context::BLOCK, self.block);
        self.code.set(T0, op);
        self.code.call(stub);
    }
}
