//! [`State`]: a vCPU's registers as a value.

use super::{Attr, FxArea, Regs, Seg, Segment, SysReg, Table, YmmHigh, cr0, rflags, xcr0};
use crate::emulate::Status;

/// The neutral, grouped state of a vCPU's registers: for get, set, save and
/// reset only. The fields are exactly those of [`Regs`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `Regs`, documented there")]
pub struct State {
    pub gprs: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [Segment; 8],
    pub cpl: u8,
    pub gdtr: Table,
    pub idtr: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// DR0–DR3, DR6, DR7.
    pub debug: [u64; 6],
    pub sysregs: [u64; SysReg::COUNT],
    pub interrupt_shadow: bool,
    pub nmi_blocked: bool,
    pub fx: FxArea,
    pub ymm_high: YmmHigh,
}

/// The numbers of the debug registers, in the order of [`State::debug`].
pub const DEBUG_REGISTERS: [u8; 6] = [0, 1, 2, 3, 6, 7];

impl State {
    /// The state after a reset or INIT of the processor.
    /// See: AMD APM vol. 2, 14.1.3, table 14-1.
    #[must_use]
    pub fn at_reset() -> Self {
        let data = Segment { base: 0, limit: 0xffff, selector: 0, attr: Attr(0x93) };
        let mut segments = [data; 8];
        segments[Seg::Cs as usize] =
            Segment { base: 0xffff_0000, limit: 0xffff, selector: 0xf000, attr: Attr(0x9b) };
        segments[Seg::Ldtr as usize].attr = Attr(0x82);
        segments[Seg::Tr as usize].attr = Attr(0x8b);
        let table = Table { base: 0, limit: 0xffff };
        let mut sysregs = [0; SysReg::COUNT];
        sysregs[SysReg::Xcr0 as usize] = xcr0::X87;
        Self {
            gprs: [0; 16],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            segments,
            cpl: 0,
            gdtr: table,
            idtr: table,
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            debug: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            sysregs,
            interrupt_shadow: false,
            nmi_blocked: false,
            fx: FxArea::at_reset(),
            ymm_high: YmmHigh::default(),
        }
    }

    /// Reads the whole state out of an engine.
    #[must_use]
    pub fn read(regs: &impl Regs) -> Self {
        Self {
            gprs: core::array::from_fn(|n| regs.gpr(n as u8)),
            rip: regs.rip(),
            rflags: regs.rflags(),
            segments: Seg::ALL.map(|seg| regs.segment(seg)),
            cpl: regs.cpl(),
            gdtr: regs.gdtr(),
            idtr: regs.idtr(),
            cr0: regs.cr0(),
            cr2: regs.cr2(),
            cr3: regs.cr3(),
            cr4: regs.cr4(),
            efer: regs.efer(),
            debug: DEBUG_REGISTERS.map(|n| regs.dr(n)),
            sysregs: SysReg::ALL.map(|reg| regs.sysreg(reg)),
            interrupt_shadow: regs.interrupt_shadow(),
            nmi_blocked: regs.nmi_blocked(),
            fx: *regs.fxsave(),
            ymm_high: *regs.ymm_high(),
        }
    }

    /// Writes the whole state into an engine.
    pub fn write(&self, regs: &mut impl Regs) {
        for (n, value) in self.gprs.iter().enumerate() {
            regs.set_gpr(n as u8, *value);
        }
        regs.set_rip(self.rip);
        regs.set_efer(self.efer);
        regs.set_cr0(self.cr0);
        regs.set_cr2(self.cr2);
        regs.set_cr4(self.cr4);
        regs.set_cr3(self.cr3);
        for (seg, value) in Seg::ALL.iter().zip(self.segments) {
            regs.set_segment(*seg, value);
        }
        regs.set_cpl(self.cpl);
        regs.set_rflags(self.rflags);
        regs.set_gdtr(self.gdtr);
        regs.set_idtr(self.idtr);
        for (n, value) in DEBUG_REGISTERS.iter().zip(self.debug) {
            regs.set_dr(*n, value);
        }
        for (reg, value) in SysReg::ALL.iter().zip(self.sysregs) {
            regs.set_sysreg(*reg, value);
        }
        regs.set_interrupt_shadow(self.interrupt_shadow);
        regs.set_nmi_blocked(self.nmi_blocked);
        *regs.fxsave_mut() = self.fx;
        *regs.ymm_high_mut() = self.ymm_high;
    }
}

/// The state by itself, without a processor: for tests, and for what looks at a saved vCPU.
impl Regs for State {
    fn gpr(&self, n: u8) -> u64 {
        self.gprs[usize::from(n & 15)]
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.gprs[usize::from(n & 15)] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn status(&self) -> Status {
        Status::from_bits(self.rflags)
    }
    fn set_status(&mut self, status: Status) {
        self.rflags = self.rflags & !rflags::STATUS | status.bits();
    }
    fn segment(&self, seg: Seg) -> Segment {
        self.segments[seg as usize]
    }
    fn set_segment(&mut self, seg: Seg, value: Segment) {
        self.segments[seg as usize] = value;
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
    }
    fn gdtr(&self) -> Table {
        self.gdtr
    }
    fn set_gdtr(&mut self, table: Table) {
        self.gdtr = table;
    }
    fn idtr(&self) -> Table {
        self.idtr
    }
    fn set_idtr(&mut self, table: Table) {
        self.idtr = table;
    }
    fn cr0(&self) -> u64 {
        self.cr0
    }
    fn set_cr0(&mut self, value: u64) {
        self.cr0 = value;
    }
    fn cr2(&self) -> u64 {
        self.cr2
    }
    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }
    fn cr3(&self) -> u64 {
        self.cr3
    }
    fn set_cr3(&mut self, value: u64) {
        self.cr3 = value & !(1 << 63);
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn set_cr4(&mut self, value: u64) {
        self.cr4 = value;
    }
    fn efer(&self) -> u64 {
        self.efer
    }
    fn set_efer(&mut self, value: u64) {
        self.efer = value;
    }
    fn dr(&self, n: u8) -> u64 {
        let at = DEBUG_REGISTERS.iter().position(|number| *number == n);
        at.map_or(0, |at| self.debug[at])
    }
    fn set_dr(&mut self, n: u8, value: u64) {
        if let Some(at) = DEBUG_REGISTERS.iter().position(|number| *number == n) {
            self.debug[at] = value;
        }
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.sysregs[reg as usize]
    }
    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        self.sysregs[reg as usize] = value;
    }
    fn interrupt_shadow(&self) -> bool {
        self.interrupt_shadow
    }
    fn set_interrupt_shadow(&mut self, on: bool) {
        self.interrupt_shadow = on;
    }
    fn nmi_blocked(&self) -> bool {
        self.nmi_blocked
    }
    fn set_nmi_blocked(&mut self, on: bool) {
        self.nmi_blocked = on;
    }
    fn fxsave(&self) -> &FxArea {
        &self.fx
    }
    fn fxsave_mut(&mut self) -> &mut FxArea {
        &mut self.fx
    }
    fn ymm_high(&self) -> &YmmHigh {
        &self.ymm_high
    }
    fn ymm_high_mut(&mut self) -> &mut YmmHigh {
        &mut self.ymm_high
    }
}
