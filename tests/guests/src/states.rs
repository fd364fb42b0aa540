//! Registers to start with in each mode, and the descriptor tables that they name.

use hv::x86::{Attr, Seg, Segment, State, Table, cr0, cr4, efer, gpr, rflags};

use crate::guest::Memory;
use crate::layout::{at, selector};

/// Access rights, as [`Attr`] packs them.
mod rights {
    pub const CODE64: u16 = 0xa9b;
    pub const CODE32: u16 = 0xc9b;
    pub const DATA: u16 = 0xc93;
    pub const USER: u16 = 0x60;
    pub const BUSY_TSS: u16 = 0x8b;
    pub const LOCAL_TABLE: u16 = 0x82;
    pub const VIRTUAL_8086: u16 = 0xf3;
}

/// A descriptor of a code or data segment with base 0.
#[must_use]
pub fn descriptor(limit: u32, attr: u16) -> u64 {
    let (limit, attr) = (u64::from(limit), u64::from(attr));
    limit & 0xffff | (limit >> 16 & 0xf) << 48 | (attr & 0xff) << 40 | (attr >> 8) << 52
}

/// A descriptor of a segment with a base, or of a system segment; in long mode a zero quadword follows.
#[must_use]
pub fn system_descriptor(base: u64, limit: u32, attr: u16) -> u64 {
    descriptor(limit, attr) | (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56
}

/// An interrupt gate of long mode.
#[must_use]
pub fn gate(target: u64, ist: u8, dpl: u8) -> [u64; 2] {
    let low = target & 0xffff
        | u64::from(selector::CODE) << 16
        | u64::from(ist) << 32
        | (0x8e | u64::from(dpl) << 5) << 40
        | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}

/// An interrupt gate of protected mode.
#[must_use]
pub fn gate32(target: u64) -> u64 {
    target & 0xffff | u64::from(selector::CODE32) << 16 | 0x8e << 40 | (target >> 16 & 0xffff) << 48
}

/// Writes the GDT and the task state segments.
pub fn write_tables(memory: &Memory) {
    let flat = |attr: u16| descriptor(0xf_ffff, attr);
    let entries = [
        0,
        flat(rights::CODE64),
        flat(rights::DATA),
        flat(rights::CODE32),
        flat(rights::CODE32 | rights::USER),
        flat(rights::DATA | rights::USER),
        flat(rights::CODE64 | rights::USER),
        descriptor(0xffff, 0x09b),
        descriptor(0xffff, 0x093),
        system_descriptor(at::TSS, 0x67, 0x89),
        0,
        system_descriptor(at::TSS32, 0x67, 0x89),
        flat(rights::DATA & !Attr::P),
        flat(rights::CODE64 & !Attr::P),
        flat(rights::DATA & !Attr::RW),
        flat(rights::CODE64 | Attr::CONFORMING),
        system_descriptor(at::LDT, 0xf, 0x82),
        0,
        flat(rights::CODE64 | Attr::DB),
    ];
    for (n, entry) in (0..).zip(entries) {
        memory.write_u64(at::GDT + n * 8, entry);
    }
    memory.write(at::TSS, &[0; 0x68]);
    memory.write_u64(at::TSS + 4, at::STACK0);
    for n in 0..7 {
        memory.write_u64(at::TSS + 36 + n * 8, at::IST + n * 0x1000);
    }
    memory.write(at::TSS32, &[0; 0x68]);
    for tss in [at::TSS, at::TSS32] {
        // No permission map: it would lie behind the limit.
        memory.write(tss + 0x66, &0x68_u16.to_le_bytes());
    }
    memory.write(at::TSS32 + 4, &(at::STACK0 as u32).to_le_bytes());
    memory.write(at::TSS32 + 8, &u32::from(selector::DATA).to_le_bytes());
}

fn flat(selector: u16, attr: u16) -> Segment {
    Segment { base: 0, limit: !0, selector, attr: Attr(attr) }
}

fn data_segments(state: &mut State, segment: Segment) {
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        state.segments[seg as usize] = segment;
    }
}

/// 64-bit mode at [`at::CODE`], level 0, interrupts off, with the tables at `root`.
#[must_use]
pub fn long_mode(root: u64) -> State {
    let mut state = protected_mode();
    state.cr0 |= cr0::PG;
    state.cr3 = root;
    state.cr4 = cr4::PAE | cr4::PGE | cr4::DE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    state.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    state.segments[Seg::Cs as usize] = flat(selector::CODE, rights::CODE64);
    let tss = Segment { base: at::TSS, selector: selector::TSS, limit: 0x67, ..Segment::default() };
    state.segments[Seg::Tr as usize] = Segment { attr: Attr(rights::BUSY_TSS), ..tss };
    state.idtr = Table { base: at::IDT, limit: 0xfff };
    state
}

/// Makes level 3 of `state`, at [`at::USER_CODE`], with every port open to it.
#[must_use]
pub fn user(mut state: State) -> State {
    let long = state.efer & efer::LMA != 0;
    let (code, attr) = if long {
        (selector::USER_CODE, rights::CODE64)
    } else {
        (selector::USER_CODE32, rights::CODE32)
    };
    state.segments[Seg::Cs as usize] = flat(code, attr | rights::USER);
    data_segments(&mut state, flat(selector::USER_DATA, rights::DATA | rights::USER));
    state.cpl = 3;
    state.rip = at::USER_CODE;
    state.gprs[usize::from(gpr::RSP)] = at::USER_STACK;
    state.rflags |= rflags::IOPL;
    state
}

/// 32-bit protected mode at [`at::CODE`], level 0, interrupts and paging off.
#[must_use]
pub fn protected_mode() -> State {
    let mut state = State::at_reset();
    state.rip = at::CODE;
    state.gprs[usize::from(gpr::RSP)] = at::STACK;
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM;
    state.cr4 = cr4::DE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    state.segments[Seg::Cs as usize] = flat(selector::CODE32, rights::CODE32);
    data_segments(&mut state, flat(selector::DATA, rights::DATA));
    let tss =
        Segment { base: at::TSS32, selector: selector::TSS32, limit: 0x67, ..Segment::default() };
    state.segments[Seg::Tr as usize] = Segment { attr: Attr(rights::BUSY_TSS), ..tss };
    state.gdtr = Table { base: at::GDT, limit: selector::BEYOND - 1 };
    state.idtr = Table { base: at::IDT32, limit: 0x7ff };
    state
}

/// Real mode at [`at::CODE`] (CS is 0x1000), with every other segment at 0.
#[must_use]
pub fn real_mode() -> State {
    let mut state = State::at_reset();
    let code = &mut state.segments[Seg::Cs as usize];
    code.selector = (at::CODE >> 4) as u16;
    code.base = at::CODE;
    state.rip = 0;
    state.gprs[usize::from(gpr::RSP)] = 0x5000;
    state.idtr = Table { base: 0, limit: 0x3ff };
    state
}

/// Virtual-8086 mode at [`at::CODE`] (CS is 0x1000), with every other segment at 0, I/O privilege
/// level `iopl`, and a permission map that opens all ports below 0x100.
#[must_use]
pub fn virtual_8086(iopl: u64) -> State {
    let mut state = protected_mode();
    let segment = |base: u64| Segment {
        base,
        limit: 0xffff,
        selector: (base >> 4) as u16,
        attr: Attr(rights::VIRTUAL_8086),
    };
    data_segments(&mut state, segment(0));
    state.segments[Seg::Cs as usize] = segment(at::CODE);
    state.segments[Seg::Tr as usize].limit = 0x68 + 0x20;
    state.rip = 0;
    state.gprs[usize::from(gpr::RSP)] = 0x5000;
    state.rflags |= rflags::VM | iopl << 12;
    state.cpl = 3;
    state
}

/// 16-bit protected mode at [`at::CODE16`], level 0.
#[must_use]
pub fn protected_16() -> State {
    let mut state = protected_mode();
    let segment = |selector, attr| Segment { limit: 0xffff, ..flat(selector, attr) };
    data_segments(&mut state, segment(selector::DATA16, rights::DATA & 0xff));
    state.segments[Seg::Cs as usize] = segment(selector::CODE16, rights::CODE32 & 0xff);
    state.rip = at::CODE16;
    state.gprs[usize::from(gpr::RSP)] = 0x5000;
    state
}

/// Compatibility mode at [`at::CODE`], level 0, with the tables at `root`.
#[must_use]
pub fn compatibility(root: u64) -> State {
    let mut state = long_mode(root);
    state.segments[Seg::Cs as usize] = flat(selector::CODE32, rights::CODE32);
    state
}

/// The local descriptor table at [`at::LDT`], which has `entries`, in LDTR; gives their selectors.
pub fn local_table<const N: usize>(
    memory: &Memory,
    state: &mut State,
    entries: [u64; N],
) -> [u16; N] {
    for (n, entry) in (0..).zip(entries) {
        memory.write_u64(at::LDT + n * 8, entry);
    }
    let (limit, attr) = (N as u32 * 8 - 1, Attr(rights::LOCAL_TABLE));
    let table = Segment { base: at::LDT, limit, selector: selector::LDT, attr };
    state.segments[Seg::Ldtr as usize] = table;
    std::array::from_fn(|n| (n as u16 * 8) | 4)
}
