//! Registers: their names and bits, the accessor trait [`Regs`] under which an
//! engine shows the live state that it owns, and the neutral, grouped
//! [`State`] for get, set, save and reset.
//!
//! While a vCPU exists its engine owns the live state; the run loop and
//! [`crate::emulate`] work on it through [`Regs`], which is monomorphised.

use crate::emulate::Status;

/// General-purpose registers by their encoding.
pub mod gpr {
    #![allow(missing_docs, reason = "the names are the registers' own")]
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R8: u8 = 8;
    pub const R9: u8 = 9;
    pub const R10: u8 = 10;
    pub const R11: u8 = 11;
    pub const R12: u8 = 12;
    pub const R13: u8 = 13;
    pub const R14: u8 = 14;
    pub const R15: u8 = 15;
}

/// RFLAGS bits. See: AMD APM vol. 2, 3.1.6.
pub mod rflags {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const CF: u64 = 1 << 0;
    /// Reads as one.
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six flags that arithmetic sets.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// CR0 bits. See: AMD APM vol. 2, 3.1.1.
pub mod cr0 {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
    /// Every bit that is defined.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR4 bits. See: AMD APM vol. 2, 3.1.3.
pub mod cr4 {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const LA57: u64 = 1 << 12;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits. See: AMD APM vol. 2, 3.1.7.
pub mod efer {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const SVME: u64 = 1 << 12;
    pub const FFXSR: u64 = 1 << 14;
}

/// XCR0 bits: the state components of XSAVE. See: AMD APM vol. 2, 11.5.2.
pub mod xcr0 {
    /// x87 and MMX registers.
    pub const X87: u64 = 1 << 0;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// The upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
}

/// The segment registers, in the order of their encoding, then the two system
/// segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Seg {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// Extra, with a 64-bit base.
    Fs = 4,
    /// Extra, with a 64-bit base.
    Gs = 5,
    /// Local descriptor table.
    Ldtr = 6,
    /// Task.
    Tr = 7,
}

impl Seg {
    /// All eight, in order.
    pub const ALL: [Seg; 8] =
        [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs, Seg::Ldtr, Seg::Tr];
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes (already scaled by the granularity).
    pub limit: u32,
    /// The visible part.
    pub selector: u16,
    /// Access rights.
    pub attr: Attr,
}

/// A descriptor's access rights, as bits 8–15 and 20–23 of its upper half are
/// packed by SVM's VMCB: type 0–3, S 4, DPL 5–6, P 7, AVL 8, L 9, D/B 10, G 11.
/// See: AMD APM vol. 2, 15.5.1. A register that holds a null selector has P clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr(pub u16);

impl Attr {
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Code or data, rather than system.
    pub const S: u16 = 1 << 4;
    /// 64-bit code.
    pub const L: u16 = 1 << 9;
    /// 32-bit operands (code), 32-bit stack pointer (stack).
    pub const DB: u16 = 1 << 10;
    /// Limit counts 4 KiB pages.
    pub const G: u16 = 1 << 11;
    /// Type bit: code.
    pub const CODE: u16 = 1 << 3;
    /// Type bit: conforming code, or expand-down data.
    pub const CONFORMING: u16 = 1 << 2;
    /// Type bit: readable code, or writable data.
    pub const RW: u16 = 1 << 1;
    /// Type bit: accessed.
    pub const ACCESSED: u16 = 1 << 0;

    /// The four type bits.
    #[must_use]
    pub const fn kind(self) -> u16 {
        self.0 & 0xf
    }

    /// Descriptor privilege level.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }

    /// Whether all of `bits` are set.
    #[must_use]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Registers that instructions use and only WRMSR-like paths set: the
/// engine holds them because SYSCALL, SWAPGS and their kin work on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SysReg {
    /// SYSCALL's selectors.
    Star = 0,
    /// SYSCALL's target from 64-bit code.
    Lstar = 1,
    /// SYSCALL's target from compatibility mode.
    Cstar = 2,
    /// RFLAGS bits that SYSCALL clears.
    Sfmask = 3,
    /// SWAPGS's other base.
    KernelGsBase = 4,
    /// SYSENTER's CS.
    SysenterCs = 5,
    /// SYSENTER's RSP.
    SysenterEsp = 6,
    /// SYSENTER's RIP.
    SysenterEip = 7,
    /// What RDTSCP and RDPID read.
    TscAux = 8,
    /// Which state components XSAVE and its kin handle, and with it whether AVX is on: bits of [`xcr0`].
    /// XSETBV sets it, not WRMSR.
    Xcr0 = 9,
}

impl SysReg {
    /// How many there are.
    pub const COUNT: usize = 10;
    /// All, in order.
    pub const ALL: [SysReg; Self::COUNT] = [
        SysReg::Star,
        SysReg::Lstar,
        SysReg::Cstar,
        SysReg::Sfmask,
        SysReg::KernelGsBase,
        SysReg::SysenterCs,
        SysReg::SysenterEsp,
        SysReg::SysenterEip,
        SysReg::TscAux,
        SysReg::Xcr0,
    ];
}

/// The live state of one vCPU, as its engine shows it.
///
/// A setter has the register's full effect on translation (a write of CR3
/// flushes what the architecture says) but makes no architectural checks:
/// those, and the faults they raise, are [`crate::emulate`]'s.
pub trait Regs {
    /// A general-purpose register; `n` is below 16.
    fn gpr(&self, n: u8) -> u64;
    /// Sets all 64 bits of a general-purpose register; `n` is below 16.
    fn set_gpr(&mut self, n: u8, value: u64);
    /// The instruction pointer. While an instruction executes it already
    /// points behind it.
    fn rip(&self) -> u64;
    /// Sets the instruction pointer.
    fn set_rip(&mut self, value: u64);
    /// RFLAGS, whole.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS, whole.
    fn set_rflags(&mut self, value: u64);
    /// The six arithmetic flags, possibly not yet computed.
    fn status(&self) -> Status;
    /// Sets the six arithmetic flags.
    fn set_status(&mut self, status: Status);
    /// A segment register with its hidden part.
    fn segment(&self, seg: Seg) -> Segment;
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, seg: Seg, value: Segment);
    /// The base alone, for address computation.
    fn segment_base(&self, seg: Seg) -> u64 {
        self.segment(seg).base
    }
    /// Current privilege level.
    fn cpl(&self) -> u8;
    /// Sets the current privilege level (with CS and SS, on a transfer).
    fn set_cpl(&mut self, cpl: u8);
    /// Global descriptor table register.
    fn gdtr(&self) -> Table;
    /// Sets GDTR.
    fn set_gdtr(&mut self, table: Table);
    /// Interrupt descriptor table register.
    fn idtr(&self) -> Table;
    /// Sets IDTR.
    fn set_idtr(&mut self, table: Table);
    /// CR0.
    fn cr0(&self) -> u64;
    /// Sets CR0.
    fn set_cr0(&mut self, value: u64);
    /// CR2.
    fn cr2(&self) -> u64;
    /// Sets CR2.
    fn set_cr2(&mut self, value: u64);
    /// CR3 (bit 63, the no-flush hint, is never stored).
    fn cr3(&self) -> u64;
    /// Sets CR3; with bit 63 set and PCIDs on, keeps the new PCID's cached
    /// translations.
    fn set_cr3(&mut self, value: u64);
    /// CR4.
    fn cr4(&self) -> u64;
    /// Sets CR4.
    fn set_cr4(&mut self, value: u64);
    /// EFER.
    fn efer(&self) -> u64;
    /// Sets EFER.
    fn set_efer(&mut self, value: u64);
    /// DR0–DR3, DR6, DR7; other numbers read 0.
    fn dr(&self, n: u8) -> u64;
    /// Sets a debug register.
    fn set_dr(&mut self, n: u8, value: u64);
    /// One of the registers behind [`SysReg`].
    fn sysreg(&self, reg: SysReg) -> u64;
    /// Sets one of the registers behind [`SysReg`].
    fn set_sysreg(&mut self, reg: SysReg, value: u64);
    /// Whether the last instruction inhibits interrupts for one more.
    fn interrupt_shadow(&self) -> bool;
    /// Sets or ends the interrupt shadow.
    fn set_interrupt_shadow(&mut self, on: bool);
    /// Whether NMIs are held back until the next IRET.
    fn nmi_blocked(&self) -> bool;
    /// Sets (delivery of an NMI) or ends (IRET) the holding back of NMIs.
    fn set_nmi_blocked(&mut self, on: bool);
    /// The x87 and SSE registers in the layout of FXSAVE64.
    fn fxsave(&self) -> &FxArea;
    /// The same, to be changed.
    fn fxsave_mut(&mut self) -> &mut FxArea;
    /// The upper halves of the YMM registers.
    fn ymm_high(&self) -> &YmmHigh;
    /// The same, to be changed.
    fn ymm_high_mut(&mut self) -> &mut YmmHigh;

    /// Whether 64-bit or compatibility mode is active.
    fn long_mode(&self) -> bool {
        self.efer() & efer::LMA != 0
    }
    /// Whether CS says 64-bit mode.
    fn mode64(&self) -> bool {
        self.long_mode() && self.segment(Seg::Cs).attr.has(Attr::L)
    }
    /// Whether protected mode is on (and virtual-8086 mode is not).
    fn protected(&self) -> bool {
        self.cr0() & cr0::PE != 0 && self.rflags() & rflags::VM == 0
    }
}

/// x87, MXCSR and XMM registers in the layout of FXSAVE64 (REX.W form).
/// See: AMD APM vol. 2, 11.4.4.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FxArea(pub [u8; 512]);

impl FxArea {
    /// State after reset: FCW 0x37f, MXCSR 0x1f80, the rest zero.
    #[must_use]
    pub const fn at_reset() -> Self {
        let mut bytes = [0; 512];
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        // The mask of MXCSR bits that may be set, with DAZ.
        bytes[28] = 0xff;
        bytes[29] = 0xff;
        Self(bytes)
    }

    /// XMM register `n` (masked to 0–15).
    #[must_use]
    pub fn xmm(&self, n: u8) -> u128 {
        let at = 160 + usize::from(n & 15) * 16;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[at..at + 16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register `n` (masked to 0–15).
    pub fn set_xmm(&mut self, n: u8, value: u128) {
        let at = 160 + usize::from(n & 15) * 16;
        self.0[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    /// The SSE control and status register.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes([self.0[24], self.0[25], self.0[26], self.0[27]])
    }

    /// Sets the SSE control and status register.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[24..28].copy_from_slice(&value.to_le_bytes());
    }
}

impl core::fmt::Debug for FxArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FxArea").field("mxcsr", &self.mxcsr()).finish_non_exhaustive()
    }
}

/// The upper halves of the YMM registers, as XSAVE lays them out.
/// See: AMD APM vol. 2, 11.5.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct YmmHigh(pub [u128; 16]);

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

/// The body of an `impl Regs` that hands everything through to a field.
macro_rules! forward_regs {
    ($($field:ident).+) => {
        fn gpr(&self, n: u8) -> u64 {
            self.$($field).+.gpr(n)
        }
        fn rip(&self) -> u64 {
            self.$($field).+.rip()
        }
        fn rflags(&self) -> u64 {
            self.$($field).+.rflags()
        }
        fn status(&self) -> $crate::emulate::Status {
            self.$($field).+.status()
        }
        fn segment(&self, seg: $crate::regs::Seg) -> $crate::regs::Segment {
            self.$($field).+.segment(seg)
        }
        fn segment_base(&self, seg: $crate::regs::Seg) -> u64 {
            self.$($field).+.segment_base(seg)
        }
        fn cpl(&self) -> u8 {
            self.$($field).+.cpl()
        }
        fn gdtr(&self) -> $crate::regs::Table {
            self.$($field).+.gdtr()
        }
        fn idtr(&self) -> $crate::regs::Table {
            self.$($field).+.idtr()
        }
        fn cr0(&self) -> u64 {
            self.$($field).+.cr0()
        }
        fn cr2(&self) -> u64 {
            self.$($field).+.cr2()
        }
        fn cr3(&self) -> u64 {
            self.$($field).+.cr3()
        }
        fn cr4(&self) -> u64 {
            self.$($field).+.cr4()
        }
        fn efer(&self) -> u64 {
            self.$($field).+.efer()
        }
        fn dr(&self, n: u8) -> u64 {
            self.$($field).+.dr(n)
        }
        fn sysreg(&self, reg: $crate::regs::SysReg) -> u64 {
            self.$($field).+.sysreg(reg)
        }
        fn interrupt_shadow(&self) -> bool {
            self.$($field).+.interrupt_shadow()
        }
        fn nmi_blocked(&self) -> bool {
            self.$($field).+.nmi_blocked()
        }
        fn fxsave(&self) -> &$crate::regs::FxArea {
            self.$($field).+.fxsave()
        }
        fn ymm_high(&self) -> &$crate::regs::YmmHigh {
            self.$($field).+.ymm_high()
        }
        fn set_gpr(&mut self, n: u8, value: u64) {
            self.$($field).+.set_gpr(n, value);
        }
        fn set_rip(&mut self, value: u64) {
            self.$($field).+.set_rip(value);
        }
        fn set_rflags(&mut self, value: u64) {
            self.$($field).+.set_rflags(value);
        }
        fn set_status(&mut self, status: $crate::emulate::Status) {
            self.$($field).+.set_status(status);
        }
        fn set_segment(&mut self, seg: $crate::regs::Seg, value: $crate::regs::Segment) {
            self.$($field).+.set_segment(seg, value);
        }
        fn set_cpl(&mut self, cpl: u8) {
            self.$($field).+.set_cpl(cpl);
        }
        fn set_gdtr(&mut self, table: $crate::regs::Table) {
            self.$($field).+.set_gdtr(table);
        }
        fn set_idtr(&mut self, table: $crate::regs::Table) {
            self.$($field).+.set_idtr(table);
        }
        fn set_cr0(&mut self, value: u64) {
            self.$($field).+.set_cr0(value);
        }
        fn set_cr2(&mut self, value: u64) {
            self.$($field).+.set_cr2(value);
        }
        fn set_cr3(&mut self, value: u64) {
            self.$($field).+.set_cr3(value);
        }
        fn set_cr4(&mut self, value: u64) {
            self.$($field).+.set_cr4(value);
        }
        fn set_efer(&mut self, value: u64) {
            self.$($field).+.set_efer(value);
        }
        fn set_dr(&mut self, n: u8, value: u64) {
            self.$($field).+.set_dr(n, value);
        }
        fn set_sysreg(&mut self, reg: $crate::regs::SysReg, value: u64) {
            self.$($field).+.set_sysreg(reg, value);
        }
        fn set_interrupt_shadow(&mut self, on: bool) {
            self.$($field).+.set_interrupt_shadow(on);
        }
        fn set_nmi_blocked(&mut self, on: bool) {
            self.$($field).+.set_nmi_blocked(on);
        }
        fn fxsave_mut(&mut self) -> &mut $crate::regs::FxArea {
            self.$($field).+.fxsave_mut()
        }
        fn ymm_high_mut(&mut self) -> &mut $crate::regs::YmmHigh {
            self.$($field).+.ymm_high_mut()
        }
    };
}
pub(crate) use forward_regs;

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
