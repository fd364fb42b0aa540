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
//! | arithmetic flags | between blocks a field; within a block EFLAGS, from where they are made on |
//!
//! The look-up in the TLB changes EFLAGS; flags that are there only are stored before it, for the access may fault, or
//! can be made again ([`Flags`]).

mod branches;
mod checked;
mod control;
mod flags;
mod integer;
mod loops;
mod memory;
mod stacks;
mod strings;
mod system;
mod vectors;
mod windows;

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use arch_x86::emulate::{Feature, Op};
use arch_x86::engine::Features;

use super::assembler::{Address, Assembled, Assembler, Jump, Opcode, condition, group};
use super::context;
use super::shape::Encoding;
use super::stubs::Stubs;
use super::vector::Vector;
use super::vector_registers::level;
use crate::jump_cache as jump;
use crate::vcpu::{SoftVcpu, attention};
use flags::{Flags, Recovery};
use loops::Loop;
use windows::Windows;

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
    Field(u32),
}

const fn home(guest: u8) -> Home {
    match guest {
        RSP => Home::Host(STACK),
        9 | 10 | 11 | 15 => Home::Field(context::gpr(guest)),
        _ => Home::Host(guest),
    }
}

/// One instruction of a block.
struct Step<'a> {
    instruction: Instruction,
    encoding: Option<Encoding<'a>>,
    /// Address of the interpreter's form.
    op: u64,
    /// The arithmetic flags that it reads, and those that it changes.
    read: u32,
    changed: u32,
    /// How its flags are made again, if they may be lost.
    recovery: Option<Recovery>,
    /// It is executed on vector registers.
    vector: Option<Vector>,
    /// What of them is needed behind it.
    later: u8,
}

/// An access that misses the TLB: the instruction is executed by the interpreter, out of the way.
struct Slow {
    jump: Jump,
    /// Others that lead here.
    more: Vec<Jump>,
    op: u64,
    /// Where translated code goes on.
    back: u64,
    /// The flags were lost before the instruction.
    lost: Option<Recovery>,
    /// Translated code then expects the flags in EFLAGS.
    flags: bool,
    /// What of the vector registers it expects to be loaded.
    vectors: u8,
    /// The instruction before it holds interrupts.
    shadowed: bool,
    /// The instruction ends the block: the dispatcher goes on, from behind the block.
    end: Option<u64>,
}

/// A way out of the block, by the dispatcher.
struct WayOut {
    jumps: Vec<Jump>,
    target: u64,
    /// One of them leads to a block of the same page once that is known.
    link: Option<Jump>,
}

/// What is translated.
pub(super) struct Source<'a> {
    /// The guest's bytes.
    pub bytes: &'a [u8],
    /// Where they are.
    pub rip: u64,
    /// The privilege level at which they are executed.
    pub cpl: u8,
    /// Whether it leads to other blocks.
    pub chained: bool,
    /// What the guest is offered.
    pub features: Features,
    /// The interpreter's forms of the instructions.
    pub ops: &'a [Op<SoftVcpu>],
    /// The block's number.
    pub block: u32,
    /// Each block counts itself, and looks at its end whether it is to come back: see [`crate::modes`].
    pub polls: bool,
    /// Each block counts its instructions.
    pub counts: bool,
}

/// The arithmetic flags, as iced-x86 numbers them.
const ARITHMETIC: u32 = iced_x86::RflagsBits::OF
    | iced_x86::RflagsBits::SF
    | iced_x86::RflagsBits::ZF
    | iced_x86::RflagsBits::AF
    | iced_x86::RflagsBits::CF
    | iced_x86::RflagsBits::PF;

/// A jump to another block of the same page.
pub(super) struct Exit {
    /// Where it leads.
    pub target: u64,
    /// Address of the jump's distance.
    pub at: u64,
    /// Where it leads while there is no such block.
    pub otherwise: u64,
}

/// A block's translation.
pub(super) struct Translation {
    pub code: Assembled,
    pub exits: Vec<Exit>,
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
    let mut translator = Translator {
        code: Assembler::split(base, room),
        stubs,
        flags: Flags::Field,
        recovery: None,
        pending: None,
        vectors: level::NONE,
        slow: Vec::new(),
        chained: source.chained,
        block: source.block,
        rip: source.rip,
        cpl: source.cpl,
        loads: Vec::new(),
        open: None,
        one_by_one: Vec::new(),
        retries: Vec::new(),
        place: None,
        end: source.rip.wrapping_add(source.bytes.len() as u64),
        ways_out: Vec::new(),
        exits: Vec::new(),
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
    translator.expect_vectors_at_entry(&steps);
    let (last, body) = steps.split_last()?;
    translator.body(body);
    match a_loop {
        Some(a_loop) => translator.go_round(&steps, &a_loop, base),
        None => translator.last(last),
    }
    translator.code.cold(true);
    translator.windows_one_by_one(body);
    translator.slow_ways();
    translator.ways_out();
    let Translator { code, mut exits, .. } = translator;
    let code = code.finish();
    for exit in &mut exits {
        exit.at = code.place(exit.at);
        exit.otherwise = code.place(exit.otherwise);
    }
    Some(Translation { code, exits })
}

/// Decodes once more.
fn steps<'a>(source: &Source<'a>) -> Option<Vec<Step<'a>>> {
    let mut decoder = Decoder::with_ip(64, source.bytes, source.rip, DecoderOptions::NONE);
    let mut steps = Vec::with_capacity(source.ops.len());
    let mut at = 0;
    for op in source.ops {
        let instruction = decoder.decode();
        if instruction.len() != usize::from(op.insn.len) {
            return None;
        }
        let bytes = source.bytes.get(at..at + instruction.len())?;
        at += instruction.len();
        let constants = decoder.get_constant_offsets(&instruction);
        let by_count = reads_count(&instruction);
        // MOV of a control register leaves undefined what iced-x86 says it modifies: here all stays.
        let stays = by_count || instruction.mnemonic() == Mnemonic::Mov;
        let changed = instruction.rflags_modified() & ARITHMETIC;
        let encoding = match instruction.is_invalid() || !is_offered(&instruction, source.features)
        {
            true => None,
            false => Encoding::of(bytes, &constants),
        };
        steps.push(Step {
            vector: encoding.and_then(|encoding| Vector::of(&instruction, &encoding)),
            later: level::NONE,
            recovery: None,
            encoding,
            op: core::ptr::from_ref(op).expose_provenance() as u64,
            // With a count of 0 all flags stay.
            read: instruction.rflags_read() & ARITHMETIC | if by_count { ARITHMETIC } else { 0 },
            changed: if stays { 0 } else { changed },
            instruction,
        });
    }
    vectors::look_ahead(&mut steps);
    flags::look_ahead(&mut steps);
    Some(steps)
}

/// Whether an integer instruction that the interpreter asks CPUID about is what it seems to be.
fn is_offered(i: &Instruction, features: Features) -> bool {
    match i.mnemonic() {
        Mnemonic::Popcnt => features.has(Feature::Popcnt),
        Mnemonic::Tzcnt => features.has(Feature::Bmi1),
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

struct Translator<'a> {
    code: Assembler,
    stubs: &'a Stubs,
    flags: Flags,
    /// How flags that are in EFLAGS, or lost, are made again; and those that were lost before the look-up that
    /// was made last.
    recovery: Option<Recovery>,
    pending: Option<Recovery>,
    /// What of the vector registers is certainly loaded.
    vectors: u8,
    slow: Vec<Slow>,
    loads: Vec<vectors::Load>,
    /// The window that is being translated, and those whose look-up may miss.
    open: Option<windows::Open>,
    one_by_one: Vec<windows::OneByOne>,
    /// Look-ups of the stack that may yet be in the table.
    retries: Vec<stacks::Retry>,
    /// Where the instruction's operand is, if that is known without a look-up: see [`loops`].
    place: Option<Address>,
    /// The block leads to others, and not to Rust.
    chained: bool,
    /// The block's number.
    block: u32,
    /// The privilege level.
    cpl: u8,
    /// RIP at the block's start, and behind it.
    rip: u64,
    end: u64,
    ways_out: Vec<WayOut>,
    exits: Vec<Exit>,
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
        self.code.store(context::WAITING, T0);
        self.code.bind(more);
    }

    /// The instructions before the last one.
    fn body(&mut self, body: &[Step<'_>]) {
        let mut windows = Windows::new();
        let mut next = 0;
        while let Some(step) = body.get(next) {
            // What STI holds is looked at instruction by instruction.
            let window = if self.shadow_next { None } else { windows.find(body, next) };
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
            self.store_flags();
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
        self.vectors = level::NONE;
    }

    /// Calls a stub that executes the instruction `op`, or may have the interpreter go on there.
    fn call_with(&mut self, op: u64, stub: u64) {
        self.code.store_value(context::BLOCK, self.block);
        self.code.set(T0, op);
        self.code.call(stub);
    }

    /// Goes on at `target`: in the same page by a jump of its own, once the block there is known.
    fn leave_to(&mut self, target: u64) {
        if !self.chained {
            self.code.set(T0, target);
            self.code.jump(self.stubs.leave);
            return;
        }
        let mut jumps = Vec::new();
        if self.looks_before(target) {
            jumps.push(self.expect_no_request());
        }
        if self.is_near(target) {
            let link = self.code.jump_ahead();
            self.ways_out.push(WayOut { jumps, target, link: Some(link) });
        } else {
            self.code.set(T0, target);
            self.code.load(T1, context::jumps(self.cpl));
            let distance = jump::distance(self.cpl, target);
            jumps.append(&mut self.jump_to_cached(distance, context::key(self.cpl, target)));
            self.ways_out.push(WayOut { jumps, target, link: None });
        }
    }

    /// Whether a way to `target` looks if the block is to be left: each loop has a way back.
    const fn looks_before(&self, target: u64) -> bool {
        target <= self.rip || self.polls
    }

    /// Whether `target` is in the page that the block starts in.
    const fn is_near(&self, target: u64) -> bool {
        (target ^ self.rip) >> 12 == 0
    }

    /// The ways by the dispatcher.
    fn ways_out(&mut self) {
        for WayOut { jumps, target, link } in core::mem::take(&mut self.ways_out) {
            let otherwise = self.code.here();
            if let Some(link) = link {
                self.exits.push(Exit { target, at: self.code.distance_of(link), otherwise });
            }
            jumps.into_iter().chain(link).for_each(|jump| self.code.bind(jump));
            self.code.set(T0, target);
            self.code.jump(self.stubs.dispatch);
        }
    }

    /// Whether translated code is to be left. T1 and EFLAGS change.
    fn expect_no_request(&mut self) -> Jump {
        self.code.load(T1, context::WAITING);
        self.code.test_word(T1);
        self.code.jump_if(condition::NOT_EQUAL)
    }

    /// Goes to the block at the address in T0 if the jump cache's entry `distance` from T1 has it, under the
    /// key in a field. T2 and EFLAGS change. Gives the ways on if it has not.
    fn jump_to_cached(&mut self, distance: i32, key: u32) -> Vec<Jump> {
        let out = self.expect_cached(distance, key);
        let code = Address { base: Some(T1), index: None, displacement: distance + jump::CODE };
        // jmp [r11 + code].
        self.code.memory(Opcode { bytes: &[0xff], ..Opcode::default() }, 4, code);
        out
    }

    fn expect_cached(&mut self, distance: i32, key: u32) -> Vec<Jump> {
        let at = |part| Address { base: Some(T1), index: None, displacement: distance + part };
        let compare = Opcode { wide: true, bytes: &[0x39], ..Opcode::default() };
        self.code.memory(compare, T0, at(jump::RIP));
        let other = self.code.jump_if(condition::NOT_EQUAL);
        self.code.load_32(T2, key);
        self.code.memory(Opcode { wide: false, ..compare }, T2, at(jump::KEY));
        vec![other, self.code.jump_if(condition::NOT_EQUAL)]
    }
}
