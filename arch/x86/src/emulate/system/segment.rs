//! Descriptors, and loading of data and stack segments.
//!
//! See: AMD APM vol. 2, 4.5–4.9.

use super::{gp, np, selector_error};
use crate::emulate::{Access, Cpu, Stop};
use crate::exception::Exception;
use crate::regs::{Attr, Seg, Segment, rflags};

/// System descriptor types. See: AMD APM vol. 2, table 4-6.
pub(super) mod kind {
    pub const LDT: u16 = 2;
    pub const TSS16: u16 = 1;
    pub const TSS: u16 = 9;
    pub const CALL_GATE_16: u16 = 4;
    pub const TASK_GATE: u16 = 5;
    pub const INTERRUPT_GATE_16: u16 = 6;
    pub const TRAP_GATE_16: u16 = 7;
    pub const CALL_GATE: u16 = 12;
    pub const INTERRUPT_GATE: u16 = 14;
    pub const TRAP_GATE: u16 = 15;
    /// Makes a TSS busy.
    pub const BUSY: u16 = 2;
}

/// A descriptor as it stands in a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub low: u64,
    /// Bits 64 to 127 of a system descriptor of long mode, otherwise 0.
    pub high: u64,
    /// Linear address.
    address: u64,
}

impl Descriptor {
    pub fn attr(&self) -> Attr {
        Attr((self.low >> 40 & 0xff | self.low >> 44 & 0xf00) as u16)
    }

    pub fn base(&self) -> u64 {
        self.low >> 16 & 0x00ff_ffff | self.low >> 32 & 0xff00_0000 | self.high << 32
    }

    pub fn limit(&self) -> u32 {
        let raw = (self.low & 0xffff | self.low >> 32 & 0xf_0000) as u32;
        if self.attr().has(Attr::G) { raw << 12 | 0xfff } else { raw }
    }

    pub fn is_code(&self) -> bool {
        self.attr().has(Attr::S | Attr::CODE)
    }

    pub fn is_conforming(&self) -> bool {
        self.attr().has(Attr::S | Attr::CODE | Attr::CONFORMING)
    }

    /// Data, or code that can be read.
    pub fn is_readable(&self) -> bool {
        self.attr().has(Attr::S) && (!self.is_code() || self.attr().has(Attr::RW))
    }

    pub fn is_writable_data(&self) -> bool {
        self.attr().has(Attr::S | Attr::RW) && !self.is_code()
    }

    /// The type of a system descriptor; `None` for code and data.
    pub fn system_kind(&self) -> Option<u16> {
        (!self.attr().has(Attr::S)).then(|| self.attr().kind())
    }

    /// What a segment register holds after a load.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), selector, attr: self.attr() }
    }

    /// Linear address of the byte that holds the type.
    pub fn type_address(&self) -> u64 {
        self.address.wrapping_add(5)
    }

    /// Sets the accessed bit, in the table too.
    pub fn mark_accessed<C: Cpu>(&mut self, cpu: &mut C) -> Result<(), Stop> {
        self.set_type_bits(cpu, Attr::ACCESSED)
    }

    /// Makes a TSS busy, in the table too.
    pub fn mark_busy<C: Cpu>(&mut self, cpu: &mut C) -> Result<(), Stop> {
        self.set_type_bits(cpu, kind::BUSY)
    }

    /// The byte is written only if it changes: tables may lie in read-only pages.
    fn set_type_bits<C: Cpu>(&mut self, cpu: &mut C, bits: u16) -> Result<(), Stop> {
        if !self.attr().has(bits) {
            self.low |= u64::from(bits) << 40;
            let byte = (self.low >> 40) as u8;
            cpu.store(self.type_address(), byte, Access::System)?;
        }
        Ok(())
    }
}

/// A null selector: one of the four whose index and table bit are zero.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The selector's requested privilege level.
pub(super) const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// Reads a descriptor of 8 bytes; `None` if it lies outside its table.
pub(super) fn fetch<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Option<Descriptor>, Stop> {
    let Some(address) = locate(cpu, selector, 8) else { return Ok(None) };
    let low = cpu.load::<u64>(address, Access::System)?;
    Ok(Some(Descriptor { low, high: 0, address }))
}

/// Reads a descriptor; in long mode a system descriptor has 16 bytes. `None` if it
/// lies outside its table.
pub(super) fn fetch_any<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Option<Descriptor>, Stop> {
    let Some(mut found) = fetch(cpu, selector)? else { return Ok(None) };
    if cpu.long_mode() && !found.attr().has(Attr::S) {
        let Some(address) = locate(cpu, selector, 16) else { return Ok(None) };
        found.high = cpu.load::<u64>(address.wrapping_add(8), Access::System)?;
    }
    Ok(Some(found))
}

/// As [`fetch`], from the GDT only: `None` for a selector of the LDT.
pub(super) fn fetch_global<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if selector & 4 != 0 { Ok(None) } else { fetch(cpu, selector) }
}

/// Linear address of a descriptor in the GDT; `None` for a null selector too.
pub(super) fn global_address<C: Cpu>(cpu: &C, selector: u16) -> Option<u64> {
    let global = selector & 4 == 0 && !is_null(selector);
    global.then(|| locate(cpu, selector, 8)).flatten()
}

/// Linear address of a descriptor of `size` bytes.
fn locate<C: Cpu>(cpu: &C, selector: u16, size: u32) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (cpu.gdtr().base, u32::from(cpu.gdtr().limit))
    } else {
        let ldtr = cpu.segment(Seg::Ldtr);
        if !ldtr.attr.has(Attr::P) {
            return None;
        }
        (ldtr.base, ldtr.limit)
    };
    let offset = u32::from(selector & !7);
    (offset + size - 1 <= limit).then(|| base.wrapping_add(u64::from(offset)))
}

/// The segment register of real mode: selector and base change, and the segment becomes present,
/// writable data (or code) of level 0; the limit and D stay, as programs that reach
/// beyond 64 KiB in real mode know.
pub(super) fn real_mode<C: Cpu>(cpu: &C, seg: Seg, selector: u16) -> Segment {
    let old = cpu.segment(seg);
    let kind = if seg == Seg::Cs { 0x9b } else { 0x93 };
    let attr = Attr(old.attr.0 & (Attr::DB | Attr::G) | kind);
    Segment { selector, base: u64::from(selector) << 4, attr, ..old }
}

/// A segment register of virtual-8086 mode. See: Intel SDM vol. 3, 21.2.1.
pub(super) fn virtual_8086(selector: u16) -> Segment {
    Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attr: Attr(0xf3) }
}

/// A segment register that holds a null selector.
///
/// The base is cleared, as Intel's and newer processors of AMD's do.
pub(super) fn null(selector: u16) -> Segment {
    Segment { selector, base: 0, limit: 0, attr: Attr(0) }
}

/// SS with a null selector, as 64-bit mode has it at privilege level `cpl`.
pub(super) fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment { attr: Attr(u16::from(cpl & 3) << 5), ..null(selector) }
}

/// What a load of `selector` puts into a data or stack segment register, with
/// the checks of the current mode.
pub(super) fn load<C: Cpu>(cpu: &mut C, seg: Seg, selector: u16) -> Result<Segment, Stop> {
    if !cpu.protected() {
        let vm = cpu.rflags() & rflags::VM != 0;
        return Ok(if vm { virtual_8086(selector) } else { real_mode(cpu, seg, selector) });
    }
    if seg == Seg::Ss {
        let (cpl, long) = (cpu.cpl(), cpu.mode64());
        return load_stack(cpu, selector, cpl, long);
    }
    load_data(cpu, selector)
}

/// ES, DS, FS, GS in protected mode.
fn load_data<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Segment, Stop> {
    if is_null(selector) {
        return Ok(null(selector));
    }
    let error = selector_error(selector);
    let Some(mut found) = fetch(cpu, selector)? else { return Err(gp(cpu, error)) };
    let attr = found.attr();
    if !found.is_readable() {
        return Err(gp(cpu, error));
    }
    let outer = rpl(selector) > attr.dpl() || cpu.cpl() > attr.dpl();
    if !found.is_conforming() && outer {
        return Err(gp(cpu, error));
    }
    if !attr.has(Attr::P) {
        return Err(np(cpu, error));
    }
    found.mark_accessed(cpu)?;
    Ok(found.segment(selector))
}

/// SS for code at level `cpl`, which is 64-bit code if `long`.
pub(super) fn load_stack<C: Cpu>(
    cpu: &mut C,
    selector: u16,
    cpl: u8,
    long: bool,
) -> Result<Segment, Stop> {
    if is_null(selector) {
        if long && cpl != 3 && rpl(selector) == cpl {
            return Ok(null_stack(selector, cpl));
        }
        return Err(gp(cpu, 0));
    }
    let error = selector_error(selector);
    let Some(mut found) = fetch(cpu, selector)? else { return Err(gp(cpu, error)) };
    if rpl(selector) != cpl || found.attr().dpl() != cpl || !found.is_writable_data() {
        return Err(gp(cpu, error));
    }
    if !found.attr().has(Attr::P) {
        return Err(cpu.fault(Exception::ss(error)));
    }
    found.mark_accessed(cpu)?;
    Ok(found.segment(selector))
}

/// After a return to outer level `cpl`: data segments that it may not use become null.
/// A null selector with a privilege level in it loses that; Linux counts on it, and processors
/// do it, but no manual says so. Its base stays, which FS and GS can have without a descriptor.
/// See: AMD APM vol. 2, 4.11 (privilege checks of control transfers).
pub(super) fn drop_inner_segments<C: Cpu>(cpu: &mut C, cpl: u8) {
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let old = cpu.segment(seg);
        if is_null(old.selector) {
            cpu.set_segment(seg, Segment { selector: 0, ..old });
            continue;
        }
        let conforming = old.attr.has(Attr::CODE | Attr::CONFORMING);
        if old.attr.has(Attr::P) && old.attr.dpl() < cpl && !conforming {
            cpu.set_segment(seg, null(0));
        }
    }
}
