//! [`SoftVcpu`]: one virtual processor of the software CPU.

use std::sync::Arc;
use std::time::Duration;

use arch_x86::emulate::{Mode, Status, Stop};
use arch_x86::engine::{EngineVcpu, Entry, Event, Features, Intercept};
use arch_x86::exception::Exception;
use arch_x86::mmu::{Limits, Paging};
use arch_x86::regs::{Segment, State, SysReg, Table, YmmHigh, rflags};
use core::sync::atomic::{AtomicU32, Ordering};
use virt::Errno;
use virt::dirty_ring::DirtyRing;
use virt::memory::View;

use crate::address_spaces::AddressSpaces;
use crate::blocks::Blocks;
use crate::code_pages::{CodePages, PageId};
use crate::engine::{Kicker, Shared, Sync};
use crate::itlb::InstructionTlb;
use crate::jit::context::{Aside, Context, SignalPlace, SignalRoom, XsaveArea};
use crate::lockstep::{Divergence, Lockstep};
use crate::modes::Modes;
use crate::ranges::{NO_LOAD, Ranges};
use crate::tlb::{Rights, Tlb};

/// What the run loop has to look at before the next block.
pub(crate) mod attention {
    /// The interrupt shadow or RFLAGS.RF is on: they last for one instruction.
    pub const SINGLE: u32 = 1 << 0;
    /// RFLAGS.TF or a breakpoint is on.
    pub const TRACE: u32 = 1 << 1;
    /// A window that the entry waits for may be open.
    pub const WINDOW: u32 = 1 << 2;
    /// Decoded code was written to.
    pub const CODE_WRITTEN: u32 = 1 << 3;
    /// A debug trap follows what was executed.
    pub const TRAP: u32 = 1 << 4;
    /// A mode has something to do: see [`crate::modes`].
    pub const MODE: u32 = 1 << 5;
}

/// Decoded code that the guest has written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeWrite {
    pub page: PageId,
    pub granules: u64,
}

/// What the software CPU did, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions executed.
    pub instructions: u64,
    /// Instructions decoded.
    pub decoded: u64,
    /// Blocks translated to the host's code.
    pub translated: u64,
    /// Instructions in them.
    pub translated_instructions: u64,
    /// Time that translating them took. Measured only if instructions are counted.
    pub translation_time: Duration,
    /// Bytes of the host's code that are kept now.
    pub code_size: u64,
    /// Executions of a block by both interpreter and JIT, which agreed.
    pub compared: u64,
    /// Data translations entered into the TLB.
    pub tlb_fills: u64,
    /// Instruction translations entered into the TLB.
    pub itlb_fills: u64,
    /// Blocks that the jump cache did not know.
    pub block_lookups: u64,
    /// How often all decoded code was dropped because it was full.
    pub code_drops: u64,
}

/// One virtual processor: its registers, TLBs and decoded code.
///
/// The order of the first fields is what translated code expects: see `jit::context`.
#[repr(C)]
pub struct SoftVcpu {
    pub(crate) signals: SignalRoom,
    /// Translated code's.
    pub(crate) jit: Context,
    pub(crate) tlb: Tlb,
    pub(crate) aside: Aside,

    // The registers. The 17th general-purpose register is always zero: it
    // stands for "no register" in addresses. (Indices are 5 bits wide.)
    pub(crate) gprs: [u64; 32],
    pub(crate) rip: u64,
    pub(crate) status: Status,
    /// RFLAGS without the arithmetic flags.
    pub(crate) flags: u64,
    pub(crate) segments: [Segment; 8],
    pub(crate) cpl: u8,
    pub(crate) shadow: bool,
    pub(crate) nmi_blocked: bool,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) gdtr: Table,
    pub(crate) idtr: Table,
    pub(crate) debug: [u64; 8],
    pub(crate) sysregs: [u64; SysReg::COUNT],
    pub(crate) xsave: XsaveArea,
    pub(crate) ymm_high: YmmHigh,

    // Derived from the registers.
    pub(crate) mode64: bool,
    pub(crate) code_mode: Mode,
    /// Base and limit of CS, where they count.
    pub(crate) code_place: (u64, u32),
    /// With whose rights operands are accessed at levels 0 to 2, and at 3.
    pub(crate) rights: [Rights; 2],
    /// The one of these that holds.
    pub(crate) operand_rights: Rights,
    pub(crate) system_rights: Rights,
    pub(crate) check_alignment: bool,
    pub(crate) watch_data: bool,
    pub(crate) paging: Paging,

    // What the guest's CPUID and the VMM say.
    pub(crate) limits: Limits,
    pub(crate) features: Features,
    pub(crate) tsc_offset: u64,

    // Caches of the guest's memory.
    pub(crate) spaces: AddressSpaces,
    pub(crate) ranges: Ranges,
    /// Where was last read, while that is noted.
    pub(crate) last_load: u64,
    pub(crate) itlb: InstructionTlb,
    pub(crate) code_pages: CodePages,
    pub(crate) code_writes: Vec<CodeWrite>,
    /// Taken out while it is executed.
    pub(crate) blocks: Option<Box<Blocks>>,
    pub(crate) view: View,
    pub(crate) lockstep: Lockstep,

    // The run loop's.
    /// Bits of [`attention`].
    pub(crate) attention: u32,
    pub(crate) wants_interrupt_window: bool,
    pub(crate) wants_nmi_window: bool,
    /// Vectors whose exceptions come out.
    pub(crate) exception_intercepts: u32,
    /// The block is to be left after this instruction.
    pub(crate) leave_block: bool,
    /// DR6 bits of the data breakpoints that the instruction met.
    pub(crate) data_hits: u64,
    /// The last instruction loaded SS: `data_hits` are its, and no trap comes before the next one is
    /// done.
    pub(crate) held: bool,
    /// DR6 bits of the trap that follows what was executed.
    pub(crate) later_trap: u64,
    pub(crate) exception: Exception,
    /// How many PAUSEs were executed.
    pub(crate) pauses: u32,
    /// What the slow way of a load read.
    pub(crate) loaded: u64,
    pub(crate) intercept: Option<Intercept>,
    /// The entry's event, if an intercept kept it from being delivered.
    pub(crate) undelivered: Option<Event>,

    /// What undefined flags are made of.
    pub(crate) noise: u64,
    pub(crate) statistics: Statistics,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sync: Arc<Sync>,
}

impl SoftVcpu {
    pub(crate) fn new(shared: Arc<Shared>, sync: Arc<Sync>) -> Self {
        let mut vcpu = Self {
            signals: SignalRoom::EMPTY,
            jit: Context::default(),
            tlb: Tlb::keeping(shared.options.modes.tlb),
            aside: Aside::default(),
            gprs: [0; 32],
            rip: 0,
            status: Status::default(),
            flags: rflags::FIXED,
            segments: [Segment::default(); 8],
            cpl: 0,
            shadow: false,
            nmi_blocked: false,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            gdtr: Table::default(),
            idtr: Table::default(),
            debug: [0; 8],
            sysregs: [0; SysReg::COUNT],
            xsave: XsaveArea::at_reset(),
            ymm_high: YmmHigh::default(),
            mode64: false,
            code_mode: Mode::Bits16,
            code_place: (0, 0),
            rights: [Rights::Supervisor, Rights::User],
            operand_rights: Rights::Supervisor,
            system_rights: Rights::Supervisor,
            check_alignment: false,
            watch_data: false,
            paging: Paging::default(),
            limits: Limits::default(),
            features: Features::default(),
            tsc_offset: 0,
            spaces: AddressSpaces::new(0),
            ranges: Ranges::default(),
            last_load: NO_LOAD,
            itlb: InstructionTlb::new(),
            code_pages: CodePages::default(),
            code_writes: Vec::new(),
            blocks: None,
            view: shared.memory.view(),
            lockstep: Lockstep::new(shared.options.lockstep),
            attention: if shared.options.modes == Modes::USUAL { 0 } else { attention::MODE },
            wants_interrupt_window: false,
            wants_nmi_window: false,
            exception_intercepts: 0,
            leave_block: false,
            undelivered: None,
            data_hits: 0,
            held: false,
            later_trap: 0,
            exception: Exception::ud(),
            pauses: 0,
            loaded: 0,
            intercept: None,
            noise: 0x9e37_79b9_7f4a_7c15,
            statistics: Statistics::default(),
            shared,
            sync,
        };
        State::at_reset().write(&mut vcpu);
        vcpu
    }

    /// How many instructions have been executed, if that is counted.
    #[must_use]
    pub fn instructions(&self) -> Option<u64> {
        let options = &self.shared.options;
        let is_counted = options.counted || options.translated == 0;
        is_counted.then_some(self.statistics.instructions)
    }

    /// What has been done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut statistics = Statistics {
            tlb_fills: self.tlb.fills,
            itlb_fills: self.itlb.fills,
            ..self.statistics
        };
        if let Some(blocks) = &self.blocks {
            statistics.decoded = blocks.decoded;
            statistics.translated = blocks.translated;
            statistics.translated_instructions = blocks.translated_instructions;
            statistics.translation_time = blocks.translation_time;
            statistics.code_size = blocks.jit().map_or(0, |jit| jit.size() as u64);
            statistics.code_drops = blocks.drops;
        }
        statistics
    }

    /// Where interpreter and JIT did not agree in lockstep: why the last entry came out as failed.
    #[must_use]
    pub fn divergence(&self) -> Option<&Divergence> {
        self.lockstep.divergence()
    }

    /// What brings it out of guest code.
    #[must_use]
    pub fn kicker(&self) -> Kicker {
        Kicker::of(&self.sync)
    }

    /// Where a signal's handler is run that interrupts translated code, as long as this stays where it is.
    #[must_use]
    pub fn signal_room(&self) -> SignalPlace {
        SignalPlace::of(self)
    }

    pub(crate) fn set_attention(&mut self, bit: u32, on: bool) {
        if on {
            self.attention |= bit;
        } else {
            self.attention &= !bit;
        }
    }

    /// Records an exception.
    pub(crate) fn raise(&mut self, exception: Exception) -> Stop {
        self.exception = exception;
        Stop::Fault
    }

    /// Records an intercept.
    pub(crate) fn come_out(&mut self, intercept: Intercept) -> Stop {
        self.intercept = Some(intercept);
        Stop::Intercept
    }

    /// The guest's time stamp counter.
    #[inline]
    pub(crate) fn time_stamp(&self) -> u64 {
        crate::host::time_stamp_counter().wrapping_add(self.tsc_offset)
    }
}

impl EngineVcpu for SoftVcpu {
    fn load(&mut self) {}

    fn put(&mut self) {}

    fn prepare(&mut self) -> Result<(), Errno> {
        if self.blocks.is_none() {
            let vcpus = self.shared.vcpus.load(Ordering::Relaxed).max(1);
            self.blocks = Some(Box::new(Blocks::new(&self.shared.options, vcpus)));
        }
        Ok(())
    }

    fn enter(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept {
        self.run(entry, request)
    }

    fn take_undelivered(&mut self) -> Option<Event> {
        self.undelivered.take()
    }

    fn set_exception_intercepts(&mut self, vectors: u32) {
        self.exception_intercepts = vectors;
    }

    fn set_features(&mut self, features: Features) {
        self.features = features;
        // What is decoded may depend on them.
        if let Some(blocks) = &mut self.blocks {
            blocks.clear();
        }
        self.code_pages.clear();
        self.flush_translations();
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.update_paging();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }

    // It does not speculate on the guest's behalf.
    fn set_speculation_control(&mut self, _value: u64) {}

    fn forget_branches(&mut self) {}

    fn set_dirty_ring(&mut self, ring: Arc<DirtyRing>) {
        self.view.set_ring(ring);
    }

    fn tsc(&self) -> u64 {
        self.time_stamp()
    }

    fn flush_tlb(&mut self) {
        self.flush_translations();
    }
}
