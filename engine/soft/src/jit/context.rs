//! What translated code knows of its vCPU: fields at fixed distances from the host's RSP, which points into the vCPU.
//!
//! | from RSP | there is |
//! |---|---|
//! | below -128 | [`SignalRoom`] |
//! | -128 to -1 | [`Context`] |
//! | 0 on | [`Tlb`], with the stretches at its start; then all else |
//!
//! Short displacements are shorter code, which is what a busy kernel's translation waits for most. Translated code pushes nothing
//! but return addresses of stubs, below the red zone; Rust has the thread's own stack.

use core::mem::offset_of;

use arch_x86::emulate::Status;
use arch_x86::regs::{FxArea, Segment, SysReg, rflags};

use crate::itlb::Keys;
use crate::page_marks::{self, PageMarks};
use crate::polled;
use crate::tlb::{Stretch, Tlb};
use crate::vcpu::SoftVcpu;

/// How many bytes below the host's RSP a signal leaves alone, and what is called must.
/// See: System V ABI, AMD64 supplement, 3.2.2.
pub(crate) const RED_ZONE: i32 = 128;

/// Room for what a signal pushes while translated code is executed: its frame, which has all registers that the
/// processor has (11 KiB with AMX), and those of its handler.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct SignalRoom([u8; 64 << 10]);

impl SignalRoom {
    pub const EMPTY: Self = Self([0; _]);
}

/// Where the room for signals of a vCPU is, and where it keeps the thread's own RSP meanwhile: for who has handlers of a stranger's
/// run, which may want more room than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalPlace {
    /// The addresses from which on, and below which, the room is.
    pub room: [u64; 2],
    /// The address of the thread's RSP. What is below that is unused while RSP is in the room.
    pub host_stack: u64,
}

impl SignalPlace {
    pub(crate) fn of(vcpu: &SoftVcpu) -> Self {
        let start = core::ptr::from_ref(vcpu).expose_provenance() as u64;
        let end = start + size_of::<SignalRoom>() as u64;
        let stack_pointer = start + STACK_POINTER as u64;
        Self {
            room: [start, end],
            host_stack: stack_pointer.wrapping_add_signed(HOST_STACK.into()),
        }
    }
}

/// The x87 and vector registers, where XSAVE and XRSTOR can be told to save and load them.
#[repr(C, align(64))]
pub(crate) struct XsaveArea {
    pub fx: FxArea,
    /// See: AMD APM vol. 2, 11.5.4.
    header: [u64; 8],
}

impl XsaveArea {
    pub const fn at_reset() -> Self {
        Self { fx: FxArea::at_reset(), header: [0; 8] }
    }
}

/// What translated code uses most: in the red zone, that is within reach of a displacement of one byte. It is as large as that:
/// there is room.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    /// The TLB's entries for operands, at levels 0 to 2 and at 3.
    pub tables: [u64; 2],
    /// The jump cache's entries, at levels 0 to 2 and at 3.
    pub jumps: [u64; 2],
    /// Where a kernel's GS base is on the host, if it and [`GS_REACH`] bytes are in the range of its map of RAM; else 0.
    pub gs_place: u64,
    /// The distance of GS's base from the start of that range has to be below this.
    pub gs_limit: u64,
    /// R9, R10, R11 and R15, while translated code is executed.
    pub kept: [u64; KEPT.len()],
    /// The address of [`crate::polled`].
    pub polled: u64,
    /// A register, for a moment.
    pub saved: u64,
    /// The arithmetic flags, as translated code keeps them between blocks: OF in the first byte; SF, ZF, AF, PF and
    /// CF as LAHF has them in the second. Always stored and loaded as a word: as two bytes they cost a busy
    /// kernel a fifth of its time on a Zen 5.
    pub flags: u16,
    /// Number of the block that is executed.
    pub block: u32,
    /// Whether the guest's vector registers and MXCSR are in the host's: a level, see [`super::vector_registers`].
    pub vectors: u32,
    /// Whether its x87 registers are: see [`super::x87_registers`].
    pub x87: u32,
    /// How a step ended that did not go on: see [`super::enter`].
    pub ending: u32,
}

/// How far from GS's base a kernel has its processor's own data.
pub(crate) const GS_REACH: u32 = 256 << 10;

/// The guest's registers that have no register of the host's.
pub(crate) const KEPT: [u8; 4] = [9, 10, 11, 15];

/// What it seldom uses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aside {
    /// The TLB's entries for a supervisor's operands, and for those while SMAP is lifted.
    pub supervisor: u64,
    pub smap_lifted: u64,
    /// All of the jump cache's entries: not for translated code.
    pub all_jumps: u64,
    /// [`super::enter`]'s functions that execute one instruction.
    pub step: u64,
    pub step_last: u64,
    pub step_return: u64,
    /// The instruction at which a step ended that did not go on.
    pub stopped_at: u64,
    /// The site of an indirect branch, and the code that it leads to: see [`super::sites`].
    pub site: u64,
    pub met: u64,
    /// What a kernel returns to.
    pub returns: Returns,
    /// The thread's own RSP.
    pub host_stack: u64,
    /// The thread's own MXCSR, while the guest's is loaded.
    pub host_mxcsr: u32,
    /// How many blocks may be executed until a mode has something to do: see [`crate::modes`].
    pub blocks_left: u64,
    /// The address of what says that it is always to come out.
    pub always: u64,
    /// The keys that were shown to translated code.
    pub shown: Keys,
    /// Where a loop's streams are, and how many rounds may follow: see [`super::translate`].
    pub streams: [u64; STREAMS],
    pub loop_rounds: u64,
    /// How many elements of a repeated instruction are left: see [`super::translate`].
    pub remaining: u64,
}

/// The segments that a kernel has returned to by IRETQ: the flat ones of 64-bit mode.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returns {
    /// CS, and above it SS.
    pub selectors: u32,
    /// Where their descriptors are.
    pub places: [u64; 2],
    /// What these said.
    pub descriptors: [u64; 2],
}

impl Default for Returns {
    /// None: nothing is ever at such an address.
    fn default() -> Self {
        Self { selectors: 0, places: [1 << 62; 2], descriptors: [0; 2] }
    }
}

impl Context {
    /// The arithmetic flags.
    pub fn status(&self) -> Status {
        let [overflow, low] = self.flags.to_le_bytes();
        Status::from_bits((u64::from(low) | u64::from(overflow) << 11) & rflags::STATUS)
    }

    /// Sets the arithmetic flags.
    pub fn set_status(&mut self, status: Status) {
        let bits = status.bits();
        self.flags = u16::from_le_bytes([(bits >> 11) as u8 & 1, bits as u8]);
    }
}

macro_rules! offsets {
    ($($name:ident = $($field:ident).+;)*) => {$(
        pub(crate) const $name: i32 = from_stack(offset_of!(SoftVcpu, $($field).+));
    )*};
}

/// Where RSP points.
const STACK_POINTER: usize = offset_of!(SoftVcpu, tlb);
const _: () = {
    assert!(STACK_POINTER - offset_of!(SoftVcpu, jit) == RED_ZONE as usize);
    assert!(size_of::<Context>() == RED_ZONE as usize);
    assert!(STACK_POINTER.is_multiple_of(16));
    assert!(offset_of!(XsaveArea, header) == 512);
    assert!(offset_of!(Tlb, stacks) == 0);
    assert!(offset_of!(SoftVcpu, signals) == 0);
};

/// The distance from RSP to a field of the vCPU.
const fn from_stack(offset: usize) -> i32 {
    offset as i32 - STACK_POINTER as i32
}

/// The distance from RSP to the vCPU.
pub(crate) const VCPU: i32 = from_stack(0);

offsets! {
    GPRS = gprs;
    ATTENTION = attention;
    RIP = rip;
    FLAGS = jit.flags;
    SAVED = jit.saved;
    POLLED = jit.polled;
    STEP = aside.step;
    STEP_LAST = aside.step_last;
    STEP_RETURN = aside.step_return;
    RETURN_SELECTORS = aside.returns.selectors;
    RETURN_PLACES = aside.returns.places;
    RETURN_DESCRIPTORS = aside.returns.descriptors;
    NMI_BLOCKED = nmi_blocked;
    BLOCK = jit.block;
    SITE = aside.site;
    MET = aside.met;
    HOST_STACK = aside.host_stack;
    BLOCKS_LEFT = aside.blocks_left;
    ALWAYS = aside.always;
    STREAMS_START = aside.streams;
    LOOP_ROUNDS = aside.loop_rounds;
    REMAINING = aside.remaining;
    ENDING = jit.ending;
    STOPPED_AT = aside.stopped_at;
    VECTORS = jit.vectors;
    X87 = jit.x87;
    HOST_MXCSR = aside.host_mxcsr;
    CR0 = cr0;
    CR2 = cr2;
    CR3 = cr3;
    CR4 = cr4;
    EFER = efer;
    RFLAGS = flags;
    CPL = cpl;
    SHADOW = shadow;
    OPERAND_RIGHTS = operand_rights;
    WANTS_INTERRUPT_WINDOW = wants_interrupt_window;
    TSC_OFFSET = tsc_offset;
    SUPERVISOR = aside.supervisor;
    SMAP_LIFTED = aside.smap_lifted;
    FX = xsave.fx;
    XSTATE_BV = xsave.header;
    STACKS = tlb.stacks;
    RANGES = tlb.ranges;
    TABLES = jit.tables;
    JUMPS = jit.jumps;
    KEPT_REGISTERS = jit.kept;
    GS_PLACE = jit.gs_place;
    GS_LIMIT = jit.gs_limit;
    ITLB_CPL = itlb.cpl;
    MARKS = itlb.marks;
    RIGHTS = rights;
    INSTRUCTIONS = statistics.instructions;
    SEGMENTS = segments;
    SYSREGS = sysregs;
    YMM_HIGH = ymm_high;
}

/// The page of the stack at a privilege level.
pub(crate) const fn stack(cpl: u8) -> i32 {
    STACKS + if cpl == 3 { size_of::<Stretch>() as i32 } else { 0 }
}

/// A range.
pub(crate) const fn range(n: usize) -> i32 {
    RANGES + (n * size_of::<Stretch>()) as i32
}

/// Parts of a stack or a range.
pub(crate) const STRETCH_TAG: i32 = offset_of!(Stretch, tag) as i32;
pub(crate) const STRETCH_PAGE: i32 = offset_of!(Stretch, page) as i32;
pub(crate) const STRETCH_LIMIT: i32 = offset_of!(Stretch, limit) as i32;

/// Streams of a loop at most.
pub(crate) const STREAMS: usize = 4;

/// Where a loop's stream is.
pub(crate) const fn stream(n: usize) -> i32 {
    STREAMS_START + n as i32 * 8
}

/// Where the keys are from the address that is at [`POLLED`].
pub(crate) const KEYS: i32 = polled::KEYS as i32;

/// That of code at a privilege level, in the half of the address space that `rip` is in.
pub(crate) const fn key(cpl: u8, rip: u64) -> i32 {
    KEYS + cpl as i32 * 8 + (rip >> 63) as i32 * 4
}

/// The mark of the page of a kernel's code at `rip`.
pub(crate) const fn mark(rip: u64) -> i32 {
    let current = offset_of!(PageMarks, current) + page_marks::place(rip) * size_of::<u32>();
    MARKS + current as i32
}

/// The address of the TLB's entries for operands at a privilege level.
pub(crate) const fn table(cpl: u8) -> i32 {
    TABLES + if cpl == 3 { 8 } else { 0 }
}

/// The address of the jump cache's entries for a privilege level.
pub(crate) const fn jumps(cpl: u8) -> i32 {
    JUMPS + if cpl == 3 { 8 } else { 0 }
}

/// The field of a general-purpose register, for the ways in and out.
pub(crate) const fn gpr(n: u8) -> i32 {
    GPRS + n as i32 * 8
}

/// Where translated code has one of [`KEPT`].
pub(crate) const fn kept(n: usize) -> i32 {
    KEPT_REGISTERS + n as i32 * 8
}

/// Of a return's code (0) and stack segment (1): where the descriptor is, and what it said.
pub(crate) const fn return_place(n: usize) -> i32 {
    RETURN_PLACES + n as i32 * 8
}

pub(crate) const fn return_descriptor(n: usize) -> i32 {
    RETURN_DESCRIPTORS + n as i32 * 8
}

/// The field of a register of the system.
pub(crate) const fn sysreg(register: SysReg) -> i32 {
    SYSREGS + register as i32 * 8
}

/// With whose rights operands are accessed at a privilege level.
pub(crate) const fn rights(cpl: u8) -> i32 {
    RIGHTS + if cpl == 3 { 1 } else { 0 }
}

/// The field of XCR0.
pub(crate) const XCR0: i32 = sysreg(SysReg::Xcr0);
/// The field of MXCSR. See: AMD APM vol. 2, 11.4.4.
pub(crate) const MXCSR: i32 = FX + 24;

/// The fields of the x87's control and status words, and of its last instruction: opcode, address, operand's address.
pub(crate) const FCW: i32 = FX;
pub(crate) const FOP: i32 = FX + 6;
pub(crate) const FIP: i32 = FX + 8;
pub(crate) const FDP: i32 = FX + 16;

/// The field of an XMM register.
pub(crate) const fn xmm(n: u8) -> i32 {
    FX + 160 + n as i32 * 16
}

/// The field of the upper half of a YMM register.
pub(crate) const fn ymm_high(n: u8) -> i32 {
    YMM_HIGH + n as i32 * 16
}

const fn segment(n: u8) -> i32 {
    SEGMENTS + n as i32 * size_of::<Segment>() as i32
}

/// The field of a segment's base.
pub(crate) const fn segment_base(n: u8) -> i32 {
    segment(n) + offset_of!(Segment, base) as i32
}

/// The field of a segment's limit.
pub(crate) const fn segment_limit(n: u8) -> i32 {
    segment(n) + offset_of!(Segment, limit) as i32
}

/// The field of a segment's selector.
pub(crate) const fn segment_selector(n: u8) -> i32 {
    segment(n) + offset_of!(Segment, selector) as i32
}

/// The field of a segment's access rights.
pub(crate) const fn segment_attr(n: u8) -> i32 {
    segment(n) + offset_of!(Segment, attr) as i32
}
