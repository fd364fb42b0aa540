//! What translated code knows of its vCPU: fields at fixed distances from `gs:`.

use core::mem::offset_of;

use arch_x86::emulate::Status;
use arch_x86::regs::{Segment, SysReg, rflags};

use crate::itlb::InstructionTlb;
use crate::page_marks::{self, PageMarks};
use crate::tlb::{Stretch, Tlb};
use crate::vcpu::{SoftVcpu, Statistics};

/// The part of a vCPU that only translated code uses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    /// The arithmetic flags, as translated code keeps them between blocks: SF, ZF, AF, PF and CF as LAHF has
    /// them in the first byte, OF in the second.
    pub flags: u16,
    /// A register, for a moment.
    pub saved: u64,
    /// The vCPU's own address.
    pub this: u64,
    /// The TLB's entries for a supervisor's operands, and for those while SMAP is lifted.
    pub supervisor: u64,
    pub smap_lifted: u64,
    /// The TLB's entries for operands, at levels 0 to 2 and at 3.
    pub tables: [u64; 2],
    /// The jump cache's entries, at levels 0 to 2 and at 3.
    pub jumps: [u64; 2],
    /// All of them: not for translated code.
    pub all_jumps: u64,
    /// The address of the word that says that translated code is to be left.
    pub waiting: u64,
    /// [`super::enter`]'s functions that execute one instruction.
    pub step: u64,
    pub step_last: u64,
    /// Number of the block that is executed.
    pub block: u32,
    /// How a step ended that did not go on: see [`super::enter`].
    pub ending: u32,
    /// The instruction at which it did.
    pub stopped_at: u64,
    /// Whether the guest's vector registers and MXCSR are in the host's: a level, see [`super::vector_registers`].
    pub vectors: u32,
    /// The thread's own MXCSR, while the guest's is loaded.
    pub host_mxcsr: u32,
    /// The thread's own GS base.
    pub host_gs: u64,
    /// How many blocks may be executed until a mode has something to do: see [`crate::modes`].
    pub blocks_left: u64,
    /// A word that is never 0, to poll instead.
    pub always: u64,
    /// Where a loop's streams are, and how many rounds may follow: see [`super::translate`].
    pub streams: [u64; STREAMS],
    pub loop_rounds: u64,
}

impl Context {
    /// The arithmetic flags.
    pub fn status(&self) -> Status {
        let [low, overflow] = self.flags.to_le_bytes();
        Status::from_bits((u64::from(low) | u64::from(overflow) << 11) & rflags::STATUS)
    }

    /// Sets the arithmetic flags.
    pub fn set_status(&mut self, status: Status) {
        let bits = status.bits();
        self.flags = u16::from_le_bytes([bits as u8, (bits >> 11) as u8]);
    }
}

macro_rules! offsets {
    ($($name:ident = $($field:ident).+;)*) => {$(
        pub(crate) const $name: u32 = offset_of!(SoftVcpu, $($field).+) as u32;
    )*};
}

offsets! {
    GPRS = gprs;
    ATTENTION = attention;
    RIP = rip;
    FLAGS = jit.flags;
    SAVED = jit.saved;
    THIS = jit.this;
    WAITING = jit.waiting;
    STEP = jit.step;
    STEP_LAST = jit.step_last;
    BLOCK = jit.block;
    HOST_GS = jit.host_gs;
    BLOCKS_LEFT = jit.blocks_left;
    ALWAYS = jit.always;
    STREAMS_START = jit.streams;
    LOOP_ROUNDS = jit.loop_rounds;
    ENDING = jit.ending;
    STOPPED_AT = jit.stopped_at;
    VECTORS = jit.vectors;
    HOST_MXCSR = jit.host_mxcsr;
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
    SUPERVISOR = jit.supervisor;
    SMAP_LIFTED = jit.smap_lifted;
    FX = fx;
    YMM_HIGH = ymm_high;
}

/// The page of the stack at a privilege level.
pub(crate) const fn stack(cpl: u8) -> u32 {
    let stacks = offset_of!(SoftVcpu, tlb) + offset_of!(Tlb, stacks);
    stacks as u32 + if cpl == 3 { size_of::<Stretch>() as u32 } else { 0 }
}

/// A range.
pub(crate) const fn range(n: usize) -> u32 {
    let ranges = offset_of!(SoftVcpu, tlb) + offset_of!(Tlb, ranges);
    (ranges + n * size_of::<Stretch>()) as u32
}

/// Parts of a stack or a range.
pub(crate) const STRETCH_TAG: u32 = offset_of!(Stretch, tag) as u32;
pub(crate) const STRETCH_PAGE: u32 = offset_of!(Stretch, page) as u32;
pub(crate) const STRETCH_LIMIT: u32 = offset_of!(Stretch, limit) as u32;

/// Streams of a loop at most.
pub(crate) const STREAMS: usize = 4;

/// Where a loop's stream is.
pub(crate) const fn stream(n: usize) -> u32 {
    STREAMS_START + n as u32 * 8
}

/// The count of executed instructions.
pub(crate) const INSTRUCTIONS: u32 =
    offset_of!(SoftVcpu, statistics) as u32 + offset_of!(Statistics, instructions) as u32;
/// The keys of the instruction TLB: by privilege level, and by half of the address space.
pub(crate) const KEYS: u32 =
    offset_of!(SoftVcpu, itlb) as u32 + offset_of!(InstructionTlb, keys) as u32;
/// The privilege level, as the instruction TLB has it.
pub(crate) const ITLB_CPL: u32 =
    offset_of!(SoftVcpu, itlb) as u32 + offset_of!(InstructionTlb, cpl) as u32;

/// The key of code at a privilege level, in the half of the address space that `rip` is in.
pub(crate) const fn key(cpl: u8, rip: u64) -> u32 {
    KEYS + cpl as u32 * 8 + (rip >> 63) as u32 * 4
}

/// The mark of the page of a kernel's code at `rip`.
pub(crate) const fn mark(rip: u64) -> u32 {
    let marks = offset_of!(SoftVcpu, itlb) + offset_of!(InstructionTlb, marks);
    (marks + offset_of!(PageMarks, current) + page_marks::place(rip) * size_of::<u32>()) as u32
}

/// The address of the TLB's entries for operands at a privilege level.
pub(crate) const fn table(cpl: u8) -> u32 {
    let tables = offset_of!(SoftVcpu, jit) as u32 + offset_of!(Context, tables) as u32;
    tables + if cpl == 3 { 8 } else { 0 }
}

/// The address of the jump cache's entries for a privilege level.
pub(crate) const fn jumps(cpl: u8) -> u32 {
    let jumps = offset_of!(SoftVcpu, jit) as u32 + offset_of!(Context, jumps) as u32;
    jumps + if cpl == 3 { 8 } else { 0 }
}

/// The field of a general-purpose register.
pub(crate) const fn gpr(n: u8) -> u32 {
    GPRS + n as u32 * 8
}

/// The field of a register of the system.
pub(crate) const fn sysreg(register: SysReg) -> u32 {
    offset_of!(SoftVcpu, sysregs) as u32 + register as u32 * 8
}

/// With whose rights operands are accessed at a privilege level.
pub(crate) const fn rights(cpl: u8) -> u32 {
    offset_of!(SoftVcpu, rights) as u32 + if cpl == 3 { 1 } else { 0 }
}

/// The field of XCR0.
pub(crate) const XCR0: u32 = sysreg(SysReg::Xcr0);
/// The field of MXCSR. See: AMD APM vol. 2, 11.4.4.
pub(crate) const MXCSR: u32 = FX + 24;

/// The field of an XMM register.
pub(crate) const fn xmm(n: u8) -> u32 {
    FX + 160 + n as u32 * 16
}

/// The field of the upper half of a YMM register.
pub(crate) const fn ymm_high(n: u8) -> u32 {
    YMM_HIGH + n as u32 * 16
}

const fn segment(n: u8) -> u32 {
    offset_of!(SoftVcpu, segments) as u32 + n as u32 * size_of::<Segment>() as u32
}

/// The field of a segment's base.
pub(crate) const fn segment_base(n: u8) -> u32 {
    segment(n) + offset_of!(Segment, base) as u32
}

/// The field of a segment's limit.
pub(crate) const fn segment_limit(n: u8) -> u32 {
    segment(n) + offset_of!(Segment, limit) as u32
}

/// The field of a segment's selector.
pub(crate) const fn segment_selector(n: u8) -> u32 {
    segment(n) + offset_of!(Segment, selector) as u32
}

/// The field of a segment's access rights.
pub(crate) const fn segment_attr(n: u8) -> u32 {
    segment(n) + offset_of!(Segment, attr) as u32
}
