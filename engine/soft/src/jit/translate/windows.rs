//! [`Window`]: accesses of a block that share one look-up.
//!
//! Fields of one structure, pushes one after the other, neighbours in an array: accesses by the same registers,
//! unchanged in between, at distances that are known. One look-up of all that lies between the lowest and the
//! highest of them says that they are in one page that may be accessed so; then they are at known distances from it.
//! Nothing is executed before that is known: if it is not so, each of them is executed with a
//! look-up of its own, out of the way.

use core::ops::Range;

use iced_x86::{OpKind, Register};

use super::super::assembler::{Address, Jump, condition};
use super::super::shape::{Encoding, Map, Shape};
use super::flags::Recovery;
use super::loaded::Loaded;
use super::{Flags, Home, RSP, STACK, Step, T0, Translator, home};

/// How far accesses may be apart, in bytes: accesses that are far from each other are seldom in one page.
const REACH: i64 = 512;

/// Accesses that share a look-up.
pub(super) struct Window {
    /// The instructions from the first access to the last one.
    steps: Range<usize>,
    /// Of all accesses, relative to the address of the first one.
    low: i32,
    size: u32,
    written: bool,
    /// What the first access has to be aligned to; the others then are.
    alignment: u8,
    /// The last access is that of a return behind the instructions.
    returns: bool,
}

/// A look-up that has been made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// What is to be added to an access's displacement: then it is at that distance from the operand's place.
    displacement: i64,
    /// How much RSP has changed since, and how much of that is yet to be done.
    pushed: i64,
    owed: i64,
}

/// A window's instructions have to be executed one by one, out of the way.
pub(super) struct OneByOne {
    jumps: Vec<Jump>,
    steps: Range<usize>,
    /// What registers are loaded before, and which flags are lost.
    loaded: Loaded,
    lost: Option<Recovery>,
    /// Where translated code goes on, and where it expects the flags.
    back: u64,
    flags: Flags,
    /// Or it does not go on, but returns.
    returns: bool,
}

/// How an address is made, but for its displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub base: Register,
    pub index: Register,
    pub scale: u32,
    pub segment: Register,
    short: bool,
}

impl Base {
    const STACK: Self = Self {
        base: Register::RSP,
        index: Register::None,
        scale: 1,
        segment: Register::None,
        short: false,
    };
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub base: Base,
    pub displacement: i64,
    pub size: u32,
    pub written: bool,
    pub alignment: u8,
}

impl Access {
    /// The access of an instruction that executes as itself on one operand in memory; `pushed` is how much RSP has
    /// changed since the window's start.
    pub fn of(step: &Step<'_>, pushed: i64) -> Option<Self> {
        let encoding = step.encoding.as_ref()?;
        if let Some(displacement) = stack_displacement(step, encoding) {
            let (displacement, written) = (displacement + pushed, displacement < 0);
            return Some(Self { base: Base::STACK, displacement, size: 8, written, alignment: 1 });
        }
        let (size, written, alignment) = match (&step.vector, &step.x87) {
            (Some(vector), _) if !vector.bare && encoding.rm().is_none() => {
                (vector.size, vector.written, vector.alignment)
            }
            (_, Some(x87)) if x87.is_on_memory() => {
                (x87.operand.size.into(), x87.operand.written, 1)
            }
            (Some(_), _) | (_, Some(_)) => return None,
            (None, None) => {
                let shape = Shape::of(encoding).filter(|_| encoding.rm().is_none())?;
                let size = step.instruction.memory_size().size() as u32;
                if names_high_byte(encoding, shape) || !matches!(size, 1 | 2 | 4 | 8) {
                    return None;
                }
                (size, shape.rm.writes(), 1)
            }
        };
        let i = &step.instruction;
        let segment = match i.memory_segment() {
            segment @ (Register::FS | Register::GS) => segment,
            _ => Register::None,
        };
        let base = Base {
            base: i.memory_base(),
            index: i.memory_index(),
            scale: i.memory_index_scale(),
            segment,
            short: encoding.address_size,
        };
        // EIP wraps where RIP does not; a short address is cut off behind the displacement.
        if base.short || !matches!(size, 1..=32) {
            return None;
        }
        let displacement = i.memory_displacement64() as i64;
        let pushed = if base.base == Register::RSP { pushed } else { 0 };
        Some(Self {
            base,
            displacement: displacement.checked_add(pushed)?,
            size,
            written,
            alignment,
        })
    }
}

/// Where PUSH and POP access memory, relative to RSP before them.
pub(super) fn stack_displacement(step: &Step<'_>, encoding: &Encoding<'_>) -> Option<i64> {
    if encoding.map != Map::One || encoding.operand_size || encoding.lock || encoding.vex.is_some()
    {
        return None;
    }
    match encoding.opcode {
        0x50..=0x57 | 0x68 | 0x6a => Some(-8),
        0x58..=0x5f if encoding.in_opcode() != RSP => Some(0),
        _ => None,
    }
    .filter(|_| step.vector.is_none())
}

/// Whether RSP is an operand of an instruction.
fn names_stack_pointer(step: &Step<'_>) -> bool {
    let i = &step.instruction;
    let is_register = |n| i.op_kind(n) == OpKind::Register;
    (0..i.op_count()).any(|n| is_register(n) && i.op_register(n).full_register() == Register::RSP)
}

/// How much an instruction of the stack changes RSP by.
const fn pushes(displacement: Option<i64>) -> i64 {
    match displacement {
        Some(0) => 8,
        Some(_) => -8,
        None => 0,
    }
}

/// Whether an instruction is translated without memory and temporary registers.
fn is_plain(step: &Step<'_>) -> bool {
    let i = &step.instruction;
    let mut operands = (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register);
    is_alone(step) && operands.all(|n| is_on_host(i.op_register(n)))
}

/// Whether a register, if it is a general-purpose one, is one of the host's.
pub(super) fn is_on_host(register: Register) -> bool {
    let number = register.full_register().number() as u8;
    !register.is_gpr() || matches!(home(number), Home::Host(_))
}

/// Whether an instruction executes as itself, without memory.
pub(super) fn is_alone(step: &Step<'_>) -> bool {
    let Some(encoding) = &step.encoding else { return false };
    let i = &step.instruction;
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        return false;
    }
    if step.vector.is_some() || step.x87.is_some_and(|x87| x87.is_alone()) {
        return true;
    }
    let is_short = !encoding.lock && encoding.vex.is_none();
    let is_implied = is_short
        && match (encoding.map, encoding.opcode) {
            (Map::One, 0xb8..=0xbf) | (Map::Two, 0xc8..=0xcf) => !encoding.operand_size,
            // On AL to RAX, with an immediate operand.
            (Map::One, 0xa8 | 0xa9) => true,
            (Map::One, opcode) => opcode < 0x40 && opcode & 6 == 4,
            _ => false,
        };
    let shape = Shape::of(encoding).filter(|_| encoding.rm().is_some());
    is_implied || shape.is_some_and(|shape| !names_high_byte(encoding, shape))
}

/// Whether an operand may be AH, CH, DH or BH: some such instructions are the interpreter's.
const fn names_high_byte(encoding: &Encoding<'_>, shape: Shape) -> bool {
    encoding.rex == 0
        && (shape.byte_reg && encoding.reg() >= 4
            || shape.byte_rm && matches!(encoding.rm(), Some(4..)))
}

impl Window {
    /// The window that starts with the first of `steps` from `start` on; `None` if there is none. They may be followed by a
    /// return.
    pub fn find(steps: &[Step<'_>], start: usize, returns: bool) -> Option<Self> {
        let first = Access::of(steps.get(start)?, 0)?;
        let (mut low, mut high) = (0, i64::from(first.size));
        let mut window = Self {
            steps: start..start + 1,
            low: 0,
            size: first.size,
            written: first.written,
            alignment: first.alignment,
            returns: false,
        };
        let mut count = 1;
        let mut pushed = 0;
        let mut to = start;
        for (n, step) in steps.iter().enumerate().skip(start) {
            let stack =
                step.encoding.as_ref().and_then(|encoding| stack_displacement(step, encoding));
            match Access::of(step, pushed) {
                _ if n == start => {}
                Some(access) if access.base == first.base => {
                    let distance = access.displacement.wrapping_sub(first.displacement);
                    let span =
                        low.min(distance)..high.max(distance.saturating_add(access.size.into()));
                    let alignment = window.alignment.max(access.alignment);
                    let aligned = access.alignment == 1 || distance % i64::from(alignment) == 0;
                    let near = span.end.saturating_sub(span.start) <= REACH;
                    if !near || !aligned {
                        break;
                    }
                    (low, high) = (span.start, span.end);
                    window.written |= access.written;
                    window.alignment = alignment;
                    window.steps.end = n + 1;
                    count += 1;
                }
                None if is_plain(step) => {}
                _ => break,
            }
            pushed += pushes(stack);
            if changes(step, &first.base, stack.is_some()) {
                break;
            }
            to = n + 1;
        }
        // What a return pops, if RSP is known there, and nothing between takes temporary registers.
        let distance = pushed.saturating_sub(first.displacement);
        let span = low.min(distance)..high.max(distance.saturating_add(8));
        let is_near = span.end.saturating_sub(span.start) <= REACH;
        if returns && to == steps.len() && first.base == Base::STACK && is_near {
            (low, high) = (span.start, span.end);
            window.steps.end = to;
            window.returns = true;
            count += 1;
        }
        window.low = low as i32;
        window.size = (high - low) as u32;
        (count > 1).then_some(window)
    }
}

/// Whether an instruction changes a register that the addresses are made with.
fn changes(step: &Step<'_>, base: &Base, is_stack: bool) -> bool {
    // What PUSH and POP do to RSP is known.
    let is_known = |register| is_stack && register == Register::RSP;
    let changes = |register| step.writes(register) && !is_known(register);
    changes(base.base) || changes(base.index)
}

impl Translator<'_> {
    /// Translates the instructions of a window. Gives where the next one is.
    pub(super) fn window(&mut self, steps: &[Step<'_>], window: Window) -> usize {
        let (range, first) = (window.steps.clone(), &steps[window.steps.start]);
        let needed = steps[range.clone()].iter().map(Step::needed);
        self.expect_loaded(needed.fold(Loaded::NONE, Loaded::with), first);
        self.flags_are_lost();
        let (loaded, lost) = (self.loaded, self.pending);
        let is_aligned = window.low % i32::from(window.alignment) == 0;
        let lower = if is_aligned { window.low } else { 0 };
        let displacement = self.first_address(first, lower);
        let mut jumps = Vec::new();
        if window.alignment > 1 {
            // test r10b, alignment - 1.
            self.code.raw(&[0x41, 0xf6, 0xc2, window.alignment - 1]);
            jumps.push(self.code.jump_if(condition::NOT_EQUAL));
        }
        if window.low != lower {
            let lower = Address { base: Some(T0), index: None, displacement: window.low };
            self.code.lea(true, T0, lower);
        }
        let is_stack = first
            .encoding
            .as_ref()
            .is_some_and(|encoding| stack_displacement(first, encoding).is_some());
        jumps.push(if is_stack {
            self.look_up_stack(window.size, window.written)
        } else {
            self.look_up_operand(first, window.size, window.written)
        });
        let displacement = -displacement - i64::from(window.low);
        self.open = Some(Open { displacement, pushed: 0, owed: 0 });
        let returns = window.returns;
        for step in &steps[range.clone()] {
            if names_stack_pointer(step) {
                self.settle_stack();
            }
            self.step(step);
        }
        self.return_place = self.in_window(0, true).filter(|_| returns);
        self.settle_stack();
        self.open = None;
        let end = range.end;
        let (back, flags) = (self.code.here(), self.flags);
        self.one_by_one.push(OneByOne { jumps, steps: range, loaded, lost, back, flags, returns });
        end
    }

    /// The first access's address, and so much more, into T0. Gives its displacement.
    fn first_address(&mut self, step: &Step<'_>, more: i32) -> i64 {
        let Some(encoding) = &step.encoding else { return 0 };
        if let Some(displacement) = stack_displacement(step, encoding) {
            let lowest = displacement as i32 + more;
            let at = Address { base: Some(STACK), index: None, displacement: lowest };
            self.code.lea(true, T0, at);
            return displacement;
        }
        self.linear_address_and(step, encoding, more);
        step.instruction.memory_displacement64() as i64
    }

    /// The place of an operand at `displacement`, if it is in a window whose look-up was made.
    pub(super) fn in_window(&self, displacement: u64, by_stack: bool) -> Option<Address> {
        if self.place.is_some() {
            return self.place;
        }
        let open = self.open?;
        let pushed = if by_stack { open.pushed } else { 0 };
        let distance = (displacement as i64).wrapping_add(pushed).wrapping_add(open.displacement);
        Some(Address { displacement: distance as i32, ..Self::operand() })
    }

    /// The place of an instruction's operand, if that is in a window whose look-up was made.
    pub(super) fn in_window_of(&self, step: &Step<'_>) -> Option<Address> {
        let i = &step.instruction;
        self.in_window(i.memory_displacement64(), i.memory_base() == Register::RSP)
    }

    /// Changes RSP; in a window, at its end.
    pub(super) fn move_stack(&mut self, by: i32) {
        match &mut self.open {
            Some(open) => {
                open.pushed += i64::from(by);
                open.owed += i64::from(by);
            }
            None => self.add_to_stack(by),
        }
    }

    /// Does to RSP what is yet to be done.
    fn settle_stack(&mut self) {
        let owed = self.open.as_mut().map_or(0, |open| core::mem::take(&mut open.owed));
        if owed != 0 {
            self.add_to_stack(owed as i32);
        }
    }

    /// No flags change.
    fn add_to_stack(&mut self, by: i32) {
        self.code.lea(true, STACK, Address { base: Some(STACK), index: None, displacement: by });
    }

    /// Windows whose look-up has missed.
    pub(super) fn windows_one_by_one(&mut self, steps: &[Step<'_>], last: &Step<'_>) {
        for window in core::mem::take(&mut self.one_by_one) {
            self.bind_misses(window.jumps);
            self.flags = if window.lost.is_some() { Flags::Lost } else { Flags::Field };
            self.recovery = window.lost;
            self.loaded = window.loaded;
            for step in &steps[window.steps] {
                self.step(step);
            }
            if window.returns {
                self.last(last);
                continue;
            }
            match (self.flags, window.flags) {
                (_, Flags::Lost) => {}
                // EFLAGS have them as well then.
                (Flags::Host | Flags::Lost, _) => self.store_flags(),
                (Flags::Field, Flags::Host | Flags::Both) => self.load_flags(),
                _ => {}
            }
            self.code.jump(window.back);
        }
    }
}
