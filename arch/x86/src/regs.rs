//! Registers: their names and bits, the accessor trait [`Regs`] under which an
//! engine shows the live state that it owns, and the neutral, grouped
//! [`State`] for get, set, save and reset.
//!
//! While a vCPU exists its engine owns the live state; the run loop and
//! [`crate::emulate`] work on it through [`Regs`], which is monomorphised.

use crate::emulate::Status;

mod forward;
mod state;
mod vector;

pub(crate) use forward::forward_regs;
pub use state::{DEBUG_REGISTERS, State};
pub use vector::{FxArea, YmmHigh};

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
    /// Available to software.
    pub const AVL: u16 = 1 << 8;
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
