//! [`Loop`]: a block that ends with a jump back to its own start.
//!
//! Such a block is translated twice: as any block, for its first round and for rounds in which an access misses the
//! TLB, and once more for all other rounds ([`Translator::go_round`]). There the flags that a round ends with are not
//! kept, for the next one makes others before anything looks at them; should it come to a fault before, they are
//! made again ([`Recovery`]).
//!
//! If all accesses move on by the same distance in each round they are *streams*: neighbouring ones share one. Before
//! the loop each stream is looked up, and so is for how many rounds it stays in its page; so many rounds need no look-up,
//! and no look at what waits. They are no more than [`ROUNDS`]: what waits does so for some ten microseconds at most.
//!
//! Where the streams are on the host, and how many rounds may follow, is in the temporary registers R10, R11 and R15.
//! If there are more than two streams, or the loop has instructions that need these registers, it is in
//! fields of the vCPU, and an access takes its stream's place from there.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::super::assembler::{Address, Jump, Opcode, condition};
use super::super::context;
use super::super::shape::Map;
use super::branches::condition_of;
use super::flags::{self, Recovery};
use super::loaded::Loaded;
use super::windows::{Access, Base, is_alone, is_on_host, stack_displacement};
use super::{Flags, Source, Step, T0, T1, T2, Translator};
use crate::ram;

/// How far a stream's accesses may be apart, in bytes.
const REACH: i64 = 512;
/// How far a stream may move in a round: beyond that a page is left too soon to be worth it.
const STRIDE: i64 = 1024;
/// Rounds between two looks at what waits, where no stream leaves its page.
const ROUNDS: u32 = 1024;
/// Where streams are, if it is in registers.
const PLACES: [u8; 2] = [T0, T1];

/// What is known of a loop.
pub(super) struct Loop {
    /// The condition under which it goes on.
    condition: u8,
    /// How the flags are made again at its start.
    recovery: Recovery,
    /// If all accesses are of streams.
    streams: Option<Streams>,
}

#[derive(Default)]
struct Streams {
    streams: Vec<Stream>,
    /// By instruction: its stream, and the distance from its address at the loop's start.
    accesses: Vec<Option<(usize, i64)>>,
    /// Where they are is in fields.
    in_fields: bool,
}

/// Accesses by the same registers.
struct Stream {
    base: Base,
    /// Of all of them, relative to what the registers come to at the loop's start.
    low: i64,
    high: i64,
    /// How far it moves in a round.
    stride: i64,
    written: bool,
    /// What its lowest address has to be aligned to.
    alignment: u8,
}

impl Loop {
    /// The loop that a block is; `None` if it is none, or none whose flags can be made again.
    pub fn of(source: &Source<'_>, steps: &mut [Step<'_>]) -> Option<Self> {
        // What counts, or looks for requests at each block's end, has to see each round.
        if !source.chained || source.polls || source.counts {
            return None;
        }
        let [part] = source.parts else { return None };
        let last = steps.last()?;
        let encoding = last.encoding.as_ref()?;
        let condition = condition_of(encoding)?;
        let is_loop = last.instruction.near_branch_target() == part.rip;
        let holds = steps.iter().any(|step| step.instruction.mnemonic() == Mnemonic::Sti);
        if !is_loop || holds {
            return None;
        }
        let recovery = flags::look_around(steps)?;
        let (_, body) = steps.split_last()?;
        Some(Self { condition, recovery, streams: Streams::of(body) })
    }
}

impl Streams {
    /// The streams that all accesses are of; `None` if there are others, or too many.
    fn of(body: &[Step<'_>]) -> Option<Self> {
        let mut moves = Moves::default();
        body.iter().for_each(|step| moves.note(step));
        let strides = std::mem::take(&mut moves);
        let mut streams = Self::default();
        for step in body {
            // What waits would do so for too long.
            if step.x87.is_some_and(|x87| x87.is_long) {
                return None;
            }
            let access = match Access::of(step, 0) {
                Some(access) if !is_stack(step) => Some(access),
                None if is_alone(step) || is_address_only(step) => None,
                _ => return None,
            };
            let access = match access {
                Some(access) => Some(streams.add(&access, &moves, &strides)?),
                None => None,
            };
            streams.in_fields |= !has_no_temporaries(&step.instruction);
            streams.accesses.push(access);
            moves.note(step);
        }
        streams.in_fields |= streams.streams.len() > PLACES.len();
        Some(streams)
    }

    /// Adds an access to a stream. Gives which it is, and the distance at the loop's start.
    fn add(&mut self, access: &Access, moves: &Moves, strides: &Moves) -> Option<(usize, i64)> {
        let stride = strides.of(&access.base)?;
        let low = access.displacement.checked_add(moves.of(&access.base)?)?;
        let (high, alignment) = (low.checked_add(access.size.into())?, access.alignment);
        let is_aligned = stride % i64::from(alignment) == 0;
        if stride.abs() > STRIDE
            || i32::try_from(low).is_err() && !is_absolute(&access.base)
            || !is_aligned
        {
            return None;
        }
        let Some(n) = self.streams.iter().position(|stream| stream.base == access.base) else {
            let n = self.streams.len();
            let (base, written) = (access.base, access.written);
            self.streams.push(Stream { base, low, high, stride, written, alignment });
            return (n < context::STREAMS).then_some((n, low));
        };
        let stream = &mut self.streams[n];
        let coarsest = i64::from(stream.alignment.max(alignment));
        if coarsest > 1 && low.wrapping_sub(stream.low) % coarsest != 0 {
            return None;
        }
        stream.low = stream.low.min(low);
        stream.high = stream.high.max(high);
        stream.written |= access.written;
        stream.alignment = stream.alignment.max(alignment);
        let near = stream.high.checked_sub(stream.low)? <= REACH;
        near.then_some((n, low))
    }
}

/// Whether an address is known without a register.
fn is_absolute(base: &Base) -> bool {
    matches!(base.base, Register::None | Register::RIP) && base.index == Register::None
}

/// How far registers have moved on, from the loop's start.
#[derive(Default)]
struct Moves {
    /// By number; `None`: nobody knows.
    registers: [Distance; 16],
}

#[derive(Clone, Copy)]
struct Distance(Option<i64>);

impl Default for Distance {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl Moves {
    /// An instruction is executed.
    fn note(&mut self, step: &Step<'_>) {
        let by = constant_step(&step.instruction);
        let registers = self.registers.iter_mut().enumerate();
        for (_, Distance(distance)) in registers.filter(|(n, _)| step.written >> n & 1 != 0) {
            *distance = match (*distance, by) {
                (Some(distance), Some(by)) => distance.checked_add(by),
                _ => None,
            };
        }
    }

    /// How far an address has.
    fn of(&self, base: &Base) -> Option<i64> {
        let of = |register: Register| match register {
            Register::None | Register::RIP => Some(0),
            register => self.registers[register.full_register().number() & 15].0,
        };
        of(base.base)?.checked_add(of(base.index)?.checked_mul(base.scale.into())?)
    }
}

/// What an instruction adds to the register that it writes, if that is all it does to it.
fn constant_step(i: &Instruction) -> Option<i64> {
    let is_wide = i.op0_kind() == OpKind::Register && i.op0_register().is_gpr64();
    let value = match i.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(i.immediate(1) as i64),
        _ => None,
    };
    match i.mnemonic() {
        _ if !is_wide => None,
        Mnemonic::Add => value,
        Mnemonic::Sub => value?.checked_neg(),
        Mnemonic::Inc => Some(1),
        Mnemonic::Dec => Some(-1),
        Mnemonic::Lea if i.memory_index() == Register::None => {
            let is_it = i.memory_base() == i.op0_register();
            is_it.then_some(i.memory_displacement64() as i64)
        }
        _ => None,
    }
}

/// Whether the instruction's general-purpose registers are the host's.
fn has_no_temporaries(i: &Instruction) -> bool {
    let mut operands = (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register);
    operands.all(|n| is_on_host(i.op_register(n)))
        && is_on_host(i.memory_base())
        && is_on_host(i.memory_index())
}

/// Whether it accesses the stack by RSP as it changes it.
fn is_stack(step: &Step<'_>) -> bool {
    step.encoding.as_ref().is_none_or(|encoding| stack_displacement(step, encoding).is_some())
}

/// Whether it only computes an address, or does nothing with it.
pub(super) fn is_address_only(step: &Step<'_>) -> bool {
    let Some(encoding) = &step.encoding else { return false };
    let is_lea = encoding.map == Map::One && encoding.opcode == 0x8d && !encoding.operand_size;
    let is_nothing = matches!(
        step.instruction.mnemonic(),
        Mnemonic::Nop | Mnemonic::Prefetcht0 | Mnemonic::Prefetchnta | Mnemonic::Prefetchw
    );
    !encoding.lock && (is_nothing || is_lea)
}

impl Translator<'_> {
    /// Translates the jump that ends a loop, and the loop's further rounds. `first` is where its first one starts.
    pub(super) fn go_round(&mut self, steps: &[Step<'_>], a_loop: &Loop, first: u64) {
        let Some((last, body)) = steps.split_last() else { return };
        self.expect_flags(last);
        let again = self.code.jump_if(a_loop.condition);
        self.leave_loop();
        self.code.bind(again);
        (self.flags, self.recovery) = (Flags::Lost, Some(a_loop.recovery));
        self.pending = self.recovery;
        let start = self.code.here();
        let request = self.expect_no_request();
        // What is loaded at the end is not known: a round may have been the interpreter's.
        self.loaded = Loaded::NONE;
        self.expect_loaded_at_entry(steps);
        let misses = match &a_loop.streams {
            Some(streams) => {
                let misses = self.streams(streams);
                let top = self.code.here();
                self.round(body, streams);
                self.expect_flags(last);
                self.next_round(streams, a_loop.condition, [top, start]);
                misses
            }
            None => {
                self.body(body, last);
                self.expect_flags(last);
                self.code.jump_back_if(a_loop.condition, start);
                Vec::new()
            }
        };
        self.leave_loop();
        self.code.cold(true);
        if !misses.is_empty() {
            misses.into_iter().for_each(|miss| self.code.bind(miss));
            self.store_lost_flags(Some(a_loop.recovery));
            self.code.jump(first);
        }
        self.code.bind(request);
        self.store_lost_flags(Some(a_loop.recovery));
        self.code.set(T0, self.head);
        self.code.jump(self.stubs.dispatch);
        self.code.cold(false);
    }

    /// The loop is over; the flags are those that it ended with.
    fn leave_loop(&mut self) {
        (self.flags, self.recovery) = (Flags::Host, None);
        self.leave_to(self.end);
    }

    /// Looks the streams up: see the module's head for what is where then. Gives the ways on if that can't be.
    fn streams(&mut self, streams: &Streams) -> Vec<Jump> {
        let mut misses = Vec::new();
        self.code.set(T2, ROUNDS.into());
        for (n, stream) in streams.streams.iter().enumerate() {
            self.stream_address(stream);
            if stream.alignment > 1 {
                // test r10b, alignment - 1.
                self.code.raw(&[0x41, 0xf6, 0xc2, stream.alignment - 1]);
                misses.push(self.code.jump_if(condition::NOT_EQUAL));
            }
            let size = (stream.high - stream.low) as u32;
            misses.push(self.look_up(size, stream.written));
            self.code.store(context::LOOP_ROUNDS, T2);
            self.rounds_in_page(stream, size);
            self.code.limit(T2, context::LOOP_ROUNDS);
            let place = Address { base: Some(T0), index: Some((T1, 0)), displacement: 0 };
            let is_last = n + 1 == streams.streams.len();
            let place_to = if is_last && !streams.in_fields { PLACES[n] } else { T0 };
            self.code.lea(true, place_to, place);
            if !is_last || streams.in_fields {
                self.code.store(context::stream(n), T0);
            } else if n > 0 {
                self.code.load(T0, context::stream(0));
            }
        }
        if streams.in_fields {
            self.code.store(context::LOOP_ROUNDS, T2);
        }
        misses
    }

    /// A stream's lowest address into T0. T1 changes.
    fn stream_address(&mut self, stream: &Stream) {
        if is_absolute(&stream.base) {
            self.code.set(T0, stream.low as u64);
        } else {
            let is = |register: &Register| *register != Register::None;
            let base = Some(stream.base.base).filter(is);
            let base = base.map(|base| self.address_register(base, T0));
            let scale = stream.base.scale.trailing_zeros() as u8;
            let index = Some(stream.base.index).filter(is);
            let index = index.map(|index| (self.address_register(index, T1), scale));
            let displacement = stream.low as i32;
            self.code.lea(true, T0, Address { base, index, displacement });
        }
        match stream.base.segment {
            Register::FS => self.code.add_field(T0, context::segment_base(4)),
            Register::GS => self.code.add_field(T0, context::segment_base(5)),
            _ => {}
        }
    }

    /// How many more rounds a stream stays in its page for, into T2, or fewer: its offset in the page is in T0.
    fn rounds_in_page(&mut self, stream: &Stream, size: u32) {
        if stream.stride == 0 {
            return;
        }
        if stream.stride > 0 {
            // mov r15d, room; sub r15d, r10d.
            self.code.set(T2, u64::from(ram::SIZE as u32 - size));
            self.code.registers(Opcode { bytes: &[0x29], ..Opcode::default() }, T0, T2);
        } else {
            self.code.copy(T2, T0);
        }
        let shift = stream.stride.unsigned_abs().next_power_of_two().trailing_zeros() as u8;
        self.code.shift_right(T2, shift);
    }

    /// A round without a look-up, but for its jump.
    fn round(&mut self, body: &[Step<'_>], streams: &Streams) {
        for (step, access) in body.iter().zip(&streams.accesses) {
            self.place = access.map(|(n, low)| {
                let displacement = (low - streams.streams[n].low) as i32;
                Address { base: Some(self.stream_place(streams, n)), index: None, displacement }
            });
            self.step(step);
        }
        self.place = None;
    }

    /// Goes on at `top`, until the loop ends, or the rounds are over: then the loop is prepared again, at `start`.
    fn next_round(&mut self, streams: &Streams, condition: u8, [top, start]: [u64; 2]) {
        let over = self.code.jump_if(condition ^ 1);
        for (n, stream) in
            streams.streams.iter().enumerate().filter(|(_, stream)| stream.stride != 0)
        {
            let displacement = stream.stride as i32;
            let place = self.stream_place(streams, n);
            self.code.lea(true, place, Address { base: Some(place), index: None, displacement });
            if streams.in_fields {
                self.code.store(context::stream(n), place);
            }
        }
        if streams.in_fields {
            self.code.load_32(T2, context::LOOP_ROUNDS);
        }
        // sub r15d, 1.
        self.code.raw(&[0x41, 0x83, 0xef, 1]);
        if streams.in_fields {
            self.code.store_32(context::LOOP_ROUNDS, T2);
        }
        self.code.jump_back_if(condition::NOT_BELOW, top);
        self.code.jump(start);
        self.code.bind(over);
    }

    /// A register that has where a stream is.
    fn stream_place(&mut self, streams: &Streams, n: usize) -> u8 {
        if !streams.in_fields {
            return PLACES[n];
        }
        self.code.load(T0, context::stream(n));
        T0
    }
}
