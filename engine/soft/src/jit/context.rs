//! What translated code knows of its vCPU: fields at fixed distances from `gs:`.

use core::mem::offset_of;

use arch_x86::emulate::Status;
use arch_x86::regs::{SysReg, rflags};

use crate::itlb::InstructionTlb;
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
    /// The TLB's entries for operands, with the rights of now.
    pub table: u64,
    /// The jump cache's entries.
    pub jumps: u64,
    /// The VMM's request word.
    pub request: u64,
    /// The word that says that an invalidation waits.
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
    RIP = rip;
    ATTENTION = attention;
    FLAGS = jit.flags;
    SAVED = jit.saved;
    THIS = jit.this;
    TABLE = jit.table;
    JUMPS = jit.jumps;
    REQUEST = jit.request;
    WAITING = jit.waiting;
    STEP = jit.step;
    STEP_LAST = jit.step_last;
    BLOCK = jit.block;
    HOST_GS = jit.host_gs;
    BLOCKS_LEFT = jit.blocks_left;
    ENDING = jit.ending;
    STOPPED_AT = jit.stopped_at;
    VECTORS = jit.vectors;
    HOST_MXCSR = jit.host_mxcsr;
    CR0 = cr0;
    CR4 = cr4;
    FX = fx;
    YMM_HIGH = ymm_high;
}

/// The count of executed instructions.
pub(crate) const INSTRUCTIONS: u32 =
    offset_of!(SoftVcpu, statistics) as u32 + offset_of!(Statistics, instructions) as u32;
/// The two keys of the instruction TLB.
pub(crate) const KEYS: u32 =
    offset_of!(SoftVcpu, itlb) as u32 + offset_of!(InstructionTlb, keys) as u32;

/// The field of a general-purpose register.
pub(crate) const fn gpr(n: u8) -> u32 {
    GPRS + n as u32 * 8
}

/// The field of XCR0.
pub(crate) const XCR0: u32 = offset_of!(SoftVcpu, sysregs) as u32 + SysReg::Xcr0 as u32 * 8;
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

/// The field of a segment's base.
pub(crate) const fn segment_base(n: u8) -> u32 {
    let segments = offset_of!(SoftVcpu, segments) as u32;
    let base = offset_of!(arch_x86::regs::Segment, base) as u32;
    segments + n as u32 * size_of::<arch_x86::regs::Segment>() as u32 + base
}
