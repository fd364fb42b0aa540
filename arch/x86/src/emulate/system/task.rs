//! Hardware task switches: to a TSS or through a task gate, by JMP, CALL, an event, or IRET.
//!
//! A switch has two halves. First everything is checked and every page that it touches is
//! probed, in the old task: a fault there leaves the instruction to be restarted. Then the old
//! task is saved and the new one's registers are loaded; what is wrong with its segments is
//! found afterwards, and is a fault of the *new* task, at its first instruction. An instruction
//! that switched has thus completed, and delivers that fault itself.
//!
//! Long mode has none of this: there it is #GP before anybody comes here. With PAE paging CR3's
//! load reads no page-directory-pointer entries (see [`crate::mmu`]).
//!
//! See: Intel SDM vol. 3, chapter 8 (8.3, table 8-1); AMD APM vol. 2, chapter 12.

use super::debug::{dr6, dr7};
use super::event::deliver;
use super::frame::Frame;
use super::segment::{self, Descriptor, fetch, fetch_global, global_address, is_null, kind, rpl};
use super::tss::invalid;
use super::{check_target, gp, np, selector_error, store_sized};
use crate::emulate::{Access, Cpu, Stop};
use crate::engine::Event;
use crate::exception::Exception;
use crate::regs::{Attr, Seg, Segment, cr0, gpr, rflags};

/// What becomes of the links between the tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// JMP: the old task is no longer busy.
    None,
    /// CALL and events: the new task links back to the old one, which stays busy.
    Nested,
    /// IRET: back to a task that is busy; the old one no longer is.
    Back,
}

/// What an event brings to its task.
pub(super) struct Arrival {
    /// The flags that are saved in the interrupted task.
    pub flags: u64,
    /// The error code to be pushed in the new task.
    pub error: Option<u32>,
    /// The EXT bit of error codes.
    pub ext: u32,
    /// INT n or its kin, which have completed when the switch is made.
    pub instruction: bool,
}

/// Where a TSS holds the registers that are saved: one after the other, `size` bytes apart.
/// See: Intel SDM vol. 3, figures 8-2 and 8-10.
#[derive(Clone, Copy)]
struct Format {
    size: u8,
    /// Offset of EIP; EFLAGS, eight registers, the segments and the LDT follow.
    start: u32,
    segments: u32,
    /// Bytes that the TSS must have.
    length: u32,
}

const WIDE: Format = Format { size: 4, start: 0x20, segments: 6, length: 0x68 };
const NARROW: Format = Format { size: 2, start: 0x0e, segments: 4, length: 0x2c };

const EIP: u32 = 0;
const EFLAGS: u32 = 1;
const GPRS: u32 = 2;
const SEGMENTS: u32 = 10;
/// Offsets of CR3 and of the debug trap flag in a TSS of 32 bits.
const CR3: usize = 0x1c;
const TRAP: usize = 0x64;

/// The flags that a TSS can set.
const LOADED: u64 = rflags::STATUS
    | rflags::TF
    | rflags::IF
    | rflags::DF
    | rflags::IOPL
    | rflags::NT
    | rflags::RF
    | rflags::VM
    | rflags::AC
    | rflags::VIF
    | rflags::VIP
    | rflags::ID;

impl Format {
    const fn of(attr: Attr) -> Self {
        if attr.kind() & 8 != 0 { WIDE } else { NARROW }
    }

    /// Linear address of field `n` of the TSS at `base`.
    fn address(self, base: u64, n: u32) -> u64 {
        linear(base, self.start + n * u32::from(self.size))
    }
}

fn linear(base: u64, offset: u32) -> u64 {
    base.wrapping_add(offset.into()) & 0xffff_ffff
}

/// A new task's TSS as it was read.
struct Image {
    format: Format,
    bytes: [u8; WIDE.length as usize],
}

impl Image {
    fn read<C: Cpu>(cpu: &mut C, target: &Descriptor) -> Result<Self, Stop> {
        let format = Format::of(target.attr());
        let mut image = Self { format, bytes: [0; WIDE.length as usize] };
        let bytes = image.bytes.get_mut(..format.length as usize).unwrap_or_default();
        cpu.load_bytes(linear(target.base(), 0), bytes, Access::System)?;
        Ok(image)
    }

    /// `size` bytes at `offset`.
    fn at(&self, offset: usize, size: u8) -> u64 {
        let field = self.bytes.iter().skip(offset).take(size.into());
        field.rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn field(&self, n: u32) -> u64 {
        let Format { size, start, .. } = self.format;
        self.at((start + n * u32::from(size)) as usize, size)
    }

    /// The selector of segment register `n` in their order; a TSS of 16 bits has no FS and GS.
    fn selector(&self, n: u32) -> u16 {
        if n < self.format.segments { self.field(SEGMENTS + n) as u16 } else { 0 }
    }

    fn local_table(&self) -> u16 {
        self.field(SEGMENTS + self.format.segments) as u16
    }

    fn has_cr3(&self) -> bool {
        self.format.size == 4
    }

    fn traps(&self) -> bool {
        self.has_cr3() && self.bytes.get(TRAP).is_some_and(|byte| byte & 1 != 0)
    }
}

/// JMP or CALL to `found`, a TSS or a task gate that `selector` names, neither looked at yet
/// beyond its type.
pub(super) fn transfer<C: Cpu>(
    cpu: &mut C,
    link: Link,
    selector: u16,
    found: Descriptor,
) -> Result<(), Stop> {
    let error = selector_error(selector);
    if found.attr().dpl() < cpu.cpl().max(rpl(selector)) {
        return Err(gp(cpu, error));
    }
    if !found.attr().has(Attr::P) {
        return Err(np(cpu, error));
    }
    let (selector, target) = if found.system_kind() == Some(kind::TASK_GATE) {
        through_gate(cpu, found.low, 0)?
    } else {
        (selector, found)
    };
    let flags = cpu.rflags();
    let started = switch(cpu, link, selector, target, flags, 0)?;
    let entered = started.and_then(|()| check_entry(cpu, 0));
    settle(cpu, entered)
}

/// IRET with NT set: back to the task that the current one was nested in.
pub(super) fn go_back<C: Cpu>(cpu: &mut C) -> Result<(), Stop> {
    let current = cpu.segment(Seg::Tr).base;
    let selector = cpu.load::<u16>(linear(current, 0), Access::System)?;
    let busy = |found: &Descriptor| matches!(found.system_kind(), Some(kind) if kind & !8 == kind::TSS16 | kind::BUSY);
    let Some(target) = fetch_global(cpu, selector)?.filter(busy) else {
        return Err(invalid(cpu, selector, 0));
    };
    if !target.attr().has(Attr::P) {
        return Err(np(cpu, selector_error(selector)));
    }
    let flags = cpu.rflags() & !rflags::NT;
    let started = switch(cpu, Link::Back, selector, target, flags, 0)?;
    let entered = started.and_then(|()| check_entry(cpu, 0));
    settle(cpu, entered)
}

/// An event whose gate in the IDT is the task gate `gate`, which has been checked.
///
/// Unless it is an instruction's, a fault of the new task is the caller's to deliver.
pub(super) fn arrive<C: Cpu>(cpu: &mut C, gate: u64, event: &Arrival) -> Result<(), Stop> {
    let (selector, target) = through_gate(cpu, gate, event.ext)?;
    let size = Format::of(target.attr()).size;
    let started = switch(cpu, Link::Nested, selector, target, event.flags, event.ext)?;
    let entered = started
        .and_then(|()| match event.error {
            None => Ok(()),
            Some(error) => push_error(cpu, error, size, event.ext),
        })
        .and_then(|()| check_entry(cpu, event.ext));
    if event.instruction { settle(cpu, entered) } else { entered }
}

/// The error code is pushed at the size of the TSS. See: Intel SDM vol. 3, 6.12.2.
fn push_error<C: Cpu>(cpu: &mut C, error: u32, size: u8, ext: u32) -> Result<(), Stop> {
    let mut frame = Frame::current(cpu).with_error(ext);
    frame.push(cpu, error.into(), size)?;
    frame.commit(cpu);
    Ok(())
}

/// The new task's instruction pointer is looked at last.
fn check_entry<C: Cpu>(cpu: &mut C, ext: u32) -> Result<(), Stop> {
    let (code, rip) = (cpu.segment(Seg::Cs), cpu.rip());
    check_target(cpu, &code, rip, ext)
}

/// Ends an instruction that has switched: a fault of the new task is delivered to it here, as the
/// engine would blame it on the instruction.
fn settle<C: Cpu>(cpu: &mut C, entered: Result<(), Stop>) -> Result<(), Stop> {
    match entered {
        Err(Stop::Fault) => {
            let exception = cpu.last_fault();
            deliver(cpu, Event::Exception(exception))
        }
        other => other,
    }
}

/// The task that a task gate names.
fn through_gate<C: Cpu>(cpu: &mut C, gate: u64, ext: u32) -> Result<(u16, Descriptor), Stop> {
    let selector = (gate >> 16) as u16;
    let error = selector_error(selector) | ext;
    let available =
        |found: &Descriptor| matches!(found.system_kind(), Some(kind::TSS | kind::TSS16));
    let Some(target) = fetch_global(cpu, selector)?.filter(available) else {
        return Err(gp(cpu, error));
    };
    if !target.attr().has(Attr::P) {
        return Err(np(cpu, error));
    }
    Ok((selector, target))
}

/// Switches to the task of `target`, which is there and available (or, for IRET, busy).
///
/// # Errors
/// A fault of the old task, in which nothing has changed. What the result holds is the new task's.
fn switch<C: Cpu>(
    cpu: &mut C,
    link: Link,
    selector: u16,
    target: Descriptor,
    flags: u64,
    ext: u32,
) -> Result<Result<(), Stop>, Stop> {
    let new = Format::of(target.attr());
    if target.limit() < new.length - 1 {
        return Err(invalid(cpu, selector, ext));
    }
    let old = cpu.segment(Seg::Tr);
    let format = Format::of(old.attr);
    if !old.attr.has(Attr::P) || old.limit < format.length - 1 {
        return Err(invalid(cpu, old.selector, ext));
    }
    let image = Image::read(cpu, &target)?;
    let leaves = (link != Link::Nested).then(|| global_address(cpu, old.selector)).flatten();
    probe(cpu, format, &old, link, &target, leaves)?;

    if let Some(descriptor) = leaves {
        let byte = cpu.load::<u8>(descriptor.wrapping_add(5), Access::System)?;
        let byte = byte & !(kind::BUSY as u8);
        cpu.store(descriptor.wrapping_add(5), byte, Access::System)?;
    }
    save(cpu, format, &old, flags)?;
    if link == Link::Nested {
        cpu.store(linear(target.base(), 0), old.selector, Access::System)?;
    }
    let mut target = target;
    if link != Link::Back {
        target.mark_busy(cpu)?;
    }
    cpu.set_segment(Seg::Tr, target.segment(selector));
    load(cpu, &image, link);
    Ok(load_segments(cpu, &image, ext))
}

/// Faults, if any of what the switch writes would.
fn probe<C: Cpu>(
    cpu: &mut C,
    format: Format,
    old: &Segment,
    link: Link,
    target: &Descriptor,
    leaves: Option<u64>,
) -> Result<(), Stop> {
    let saved = (SEGMENTS + format.segments) * u32::from(format.size);
    cpu.probe_write(format.address(old.base, EIP), saved as usize, Access::System)?;
    if link == Link::Nested {
        cpu.probe_write(linear(target.base(), 0), 2, Access::System)?;
    }
    if link != Link::Back {
        cpu.probe_write(target.type_address(), 1, Access::System)?;
    }
    match leaves {
        Some(descriptor) => cpu.probe_write(descriptor.wrapping_add(5), 1, Access::System),
        None => Ok(()),
    }
}

/// Saves the old task. CR3 and LDTR are never saved, and what is above a selector stays.
fn save<C: Cpu>(cpu: &mut C, format: Format, old: &Segment, flags: u64) -> Result<(), Stop> {
    let at = |n| format.address(old.base, n);
    store_sized(cpu, at(EIP), cpu.rip(), format.size, Access::System)?;
    store_sized(cpu, at(EFLAGS), flags, format.size, Access::System)?;
    for n in 0..8 {
        let value = cpu.gpr(n);
        store_sized(cpu, at(GPRS + u32::from(n)), value, format.size, Access::System)?;
    }
    for (n, seg) in (0..format.segments).zip(Seg::ALL) {
        cpu.store(at(SEGMENTS + n), cpu.segment(seg).selector, Access::System)?;
    }
    Ok(())
}

/// Loads all that can't be wrong. The segment registers have their selectors but are not usable
/// yet. What a TSS of 16 bits does not hold is cleared.
fn load<C: Cpu>(cpu: &mut C, image: &Image, link: Link) {
    if image.has_cr3() && cpu.cr0() & cr0::PG != 0 {
        cpu.set_cr3(image.at(CR3, 4));
    }
    cpu.set_cr0(cpu.cr0() | cr0::TS);
    let breakpoints = cpu.dr(7);
    if breakpoints & dr7::LOCAL != 0 {
        cpu.set_dr(7, breakpoints & !dr7::LOCAL);
    }
    for n in gpr::RAX..=gpr::RDI {
        cpu.set_gpr(n, image.field(GPRS + u32::from(n)));
    }
    cpu.set_rip(image.field(EIP));
    let nested = if link == Link::Nested { rflags::NT } else { 0 };
    let flags = image.field(EFLAGS) & LOADED | rflags::FIXED | nested;
    cpu.set_rflags(flags);
    for (n, seg) in (0..6).zip(Seg::ALL) {
        cpu.set_segment(seg, segment::null(image.selector(n)));
    }
    cpu.set_segment(Seg::Ldtr, segment::null(image.local_table()));
    let virtual_8086 = flags & rflags::VM != 0;
    cpu.set_cpl(if virtual_8086 { 3 } else { rpl(image.selector(Seg::Cs as u32)) });
}

/// Loads the descriptors of the new task's selectors. See: Intel SDM vol. 3, table 8-1.
fn load_segments<C: Cpu>(cpu: &mut C, image: &Image, ext: u32) -> Result<(), Stop> {
    load_local_table(cpu, image.local_table(), ext)?;
    if cpu.rflags() & rflags::VM != 0 {
        for (n, seg) in (0..6).zip(Seg::ALL) {
            cpu.set_segment(seg, segment::virtual_8086(image.selector(n)));
        }
    } else {
        load_code(cpu, image.selector(Seg::Cs as u32), ext)?;
        load_stack(cpu, image.selector(Seg::Ss as u32), ext)?;
        for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
            load_data(cpu, seg, image.selector(seg as u32), ext)?;
        }
    }
    if image.traps() {
        cpu.trap_after(dr6::BT);
    }
    Ok(())
}

fn load_local_table<C: Cpu>(cpu: &mut C, selector: u16, ext: u32) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let table = |found: &Descriptor| found.system_kind() == Some(kind::LDT);
    match fetch_global(cpu, selector)?.filter(table) {
        Some(found) if found.attr().has(Attr::P) => {
            cpu.set_segment(Seg::Ldtr, found.segment(selector));
            Ok(())
        }
        _ => Err(invalid(cpu, selector, ext)),
    }
}

/// The current level is the selector's already.
fn load_code<C: Cpu>(cpu: &mut C, selector: u16, ext: u32) -> Result<(), Stop> {
    let level = rpl(selector);
    let right = |found: &Descriptor| {
        let dpl = found.attr().dpl();
        found.is_code() && if found.is_conforming() { dpl <= level } else { dpl == level }
    };
    let Some(mut found) = not_null(cpu, selector)?.filter(right) else {
        return Err(invalid(cpu, selector, ext));
    };
    if !found.attr().has(Attr::P) {
        return Err(np(cpu, selector_error(selector) | ext));
    }
    found.mark_accessed(cpu)?;
    cpu.set_segment(Seg::Cs, found.segment(selector));
    Ok(())
}

fn load_stack<C: Cpu>(cpu: &mut C, selector: u16, ext: u32) -> Result<(), Stop> {
    let Some(mut found) = not_null(cpu, selector)?.filter(Descriptor::is_writable_data) else {
        return Err(invalid(cpu, selector, ext));
    };
    if !found.attr().has(Attr::P) {
        return Err(cpu.fault(Exception::ss(selector_error(selector) | ext)));
    }
    if found.attr().dpl() != cpu.cpl() || rpl(selector) != cpu.cpl() {
        return Err(invalid(cpu, selector, ext));
    }
    found.mark_accessed(cpu)?;
    cpu.set_segment(Seg::Ss, found.segment(selector));
    Ok(())
}

fn load_data<C: Cpu>(cpu: &mut C, seg: Seg, selector: u16, ext: u32) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let Some(mut found) = fetch(cpu, selector)?.filter(Descriptor::is_readable) else {
        return Err(invalid(cpu, selector, ext));
    };
    if !found.attr().has(Attr::P) {
        return Err(np(cpu, selector_error(selector) | ext));
    }
    if !found.is_conforming() && found.attr().dpl() < cpu.cpl().max(rpl(selector)) {
        return Err(invalid(cpu, selector, ext));
    }
    found.mark_accessed(cpu)?;
    cpu.set_segment(seg, found.segment(selector));
    Ok(())
}

/// The descriptor of a selector that may not be null.
fn not_null<C: Cpu>(cpu: &mut C, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if is_null(selector) { Ok(None) } else { fetch(cpu, selector) }
}
