//! Delivery of exceptions and interrupts through the guest's vector table.
//!
//! [`deliver`] is for events that happen to the guest; INT n and its kin are
//! instructions and deliver themselves. Task gates lead to `task`.
//!
//! See: AMD APM vol. 2, 8.6–8.9.

use super::frame::Frame;
use super::segment::{self, Descriptor, fetch, is_null, kind};
use super::{check_target, gp, np, selector_error, task, tss};
use crate::emulate::{Access, Cpu, Insn, Stop};
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception};
use crate::regs::{Attr, Seg, gpr, rflags};

/// How often delivery may fault before the processor is considered shut down. A contributory chain
/// ends after three; a benign fault (#AC of a handler at level 3) could repeat for ever.
const MAX_NESTED: u32 = 8;

/// Delivers `event`: afterwards the guest is at its handler.
///
/// RIP is what is to be pushed: the faulting instruction's, or the next one's. A
/// fault during delivery is delivered instead, or becomes a double fault; after a third
/// the result is [`Intercept::Shutdown`]. CR2 and DR6 are set here. Ends the interrupt
/// shadow; after an NMI further ones are held back. Whether the guest can take the event now was for the caller to ask.
///
/// # Errors
/// Only [`Stop::Intercept`]: nothing has been delivered (but memory on a stack may have been
/// written), and the same event can be delivered again; but after a task switch.
pub fn deliver<C: Cpu>(cpu: &mut C, event: Event) -> Result<(), Stop> {
    let mut exception = match event {
        Event::Exception(exception) => exception,
        Event::Nmi => {
            let raised = attempt(cpu, &Delivery::external(exception::NMI))?;
            // Until IRET, even if it is another handler's.
            cpu.set_nmi_blocked(true);
            match raised {
                None => return Ok(()),
                Some(raised) => raised,
            }
        }
        Event::Interrupt { vector } => match attempt(cpu, &Delivery::external(vector))? {
            None => return Ok(()),
            Some(raised) => raised,
        },
    };
    for _ in 0..MAX_NESTED {
        let Some(raised) = attempt(cpu, &Delivery::exception(exception))? else {
            leave_payload(cpu, exception);
            return Ok(());
        };
        let Some(next) = raised.during(exception.vector) else { break };
        if next.vector == exception::DF {
            // The processor had found the page faults that a double fault hides: handlers look
            // at CR2 to recognise an overflown stack.
            leave_address(cpu, exception);
            leave_address(cpu, raised);
        }
        exception = next;
    }
    Err(cpu.intercept(Intercept::Shutdown))
}

/// One delivery: nothing, or the exception that it raised.
fn attempt<C: Cpu>(cpu: &mut C, delivery: &Delivery) -> Result<Option<Exception>, Stop> {
    match delivery.run(cpu) {
        Ok(()) => {
            cpu.set_interrupt_shadow(false);
            Ok(None)
        }
        Err(Stop::Fault) => Ok(Some(cpu.last_fault())),
        Err(Stop::Intercept) => Err(Stop::Intercept),
    }
}

fn leave_address<C: Cpu>(cpu: &mut C, exception: Exception) {
    if exception.vector == exception::PF {
        cpu.set_cr2(exception.payload);
    }
}

/// CR2 of a page fault; DR6 and DR7 of a debug exception.
/// See: AMD APM vol. 2, 8.4.1, 13.1.1.3.
fn leave_payload<C: Cpu>(cpu: &mut C, exception: Exception) {
    leave_address(cpu, exception);
    if exception.vector == exception::DB {
        super::debug::record(cpu, exception.payload);
    }
}

/// INT n.
pub(super) fn int_n<C: Cpu>(cpu: &mut C, insn: &Insn) -> Result<(), Stop> {
    let flags = cpu.rflags();
    if flags & rflags::VM != 0 && flags & rflags::IOPL != rflags::IOPL {
        return Err(gp(cpu, 0));
    }
    Delivery::software(insn.imm as u8).run(cpu)
}

/// INT3.
pub(super) fn int3<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_intercept(cpu, Exception::plain(exception::BP))?;
    Delivery::software(exception::BP).run(cpu)
}

/// INTO.
pub(super) fn into<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    if !cpu.status().of() {
        return Ok(());
    }
    check_intercept(cpu, Exception::plain(exception::OF))?;
    Delivery::software(exception::OF).run(cpu)
}

/// INT1: a debug exception that no privilege check stops.
pub(super) fn int1<C: Cpu>(cpu: &mut C, _: &Insn) -> Result<(), Stop> {
    check_intercept(cpu, Exception::db(0))?;
    Delivery { instruction: true, ..Delivery::external(exception::DB) }.run(cpu)
}

/// The exception of an instruction that delivers itself comes out if the run loop has asked for it.
fn check_intercept<C: Cpu>(cpu: &mut C, exception: Exception) -> Result<(), Stop> {
    if cpu.intercepts(exception.vector) {
        return Err(cpu.intercept(Intercept::Exception(exception)));
    }
    Ok(())
}

/// What is delivered, once.
struct Delivery {
    vector: u8,
    error: Option<u32>,
    /// INT n, INT3, INTO: the gate's privilege level counts.
    software: bool,
    /// An instruction delivers itself: it has completed then.
    instruction: bool,
    /// The error code's EXT bit: the event is not the program's own doing.
    ext: u32,
    /// The instruction is to be restarted: its breakpoint must not hit again.
    resume: bool,
}

/// Where a gate leads.
struct Target {
    code: Descriptor,
    selector: u16,
    offset: u64,
    cpl: u8,
    /// Interrupt gates clear IF, trap gates do not.
    masks: bool,
}

impl Delivery {
    fn external(vector: u8) -> Self {
        Self { vector, error: None, software: false, instruction: false, ext: 1, resume: false }
    }

    fn software(vector: u8) -> Self {
        Self { vector, error: None, software: true, instruction: true, ext: 0, resume: false }
    }

    /// Faults are pushed with RF set, traps and aborts are not; #DB is either, and its
    /// handler's business. See: AMD APM vol. 2, 3.1.6 (RF).
    fn exception(exception: Exception) -> Self {
        let vector = exception.vector;
        // INT3's and INTO's, given back.
        if matches!(vector, exception::BP | exception::OF) {
            return Self { instruction: false, ..Self::software(vector) };
        }
        let resume =
            !matches!(vector, exception::DB | exception::NMI | exception::DF | exception::MC);
        let error = exception.error;
        Self { vector, error, software: false, instruction: false, ext: 1, resume }
    }

    fn run<C: Cpu>(&self, cpu: &mut C) -> Result<(), Stop> {
        if cpu.cr0() & crate::regs::cr0::PE == 0 {
            self.real_mode(cpu)
        } else if cpu.long_mode() {
            self.long_mode(cpu)
        } else {
            self.protected_mode(cpu)
        }
    }

    /// The error code of a fault in the vector table's entry.
    fn entry_error(&self) -> u32 {
        u32::from(self.vector) << 3 | 2 | self.ext
    }

    fn pushed_flags<C: Cpu>(&self, cpu: &C) -> u64 {
        let flags = cpu.rflags();
        if self.resume {
            flags | rflags::RF
        } else if self.software {
            flags & !rflags::RF
        } else {
            flags
        }
    }

    /// Through the table of far pointers. No error codes. See: AMD APM vol. 2, 8.6.
    fn real_mode<C: Cpu>(&self, cpu: &mut C) -> Result<(), Stop> {
        let table = cpu.idtr();
        let offset = u32::from(self.vector) * 4;
        if offset + 3 > u32::from(table.limit) {
            return Err(gp(cpu, self.entry_error()));
        }
        let entry = cpu.load::<u32>(table.base.wrapping_add(offset.into()), Access::System)?;
        let mut frame = Frame::current(cpu);
        let flags = self.pushed_flags(cpu);
        frame.push(cpu, flags, 2)?;
        frame.push(cpu, cpu.segment(Seg::Cs).selector.into(), 2)?;
        frame.push(cpu, cpu.rip(), 2)?;
        let code = segment::real_mode(cpu, Seg::Cs, (entry >> 16) as u16);
        let offset = u64::from(entry & 0xffff);
        check_target(cpu, &code, offset, self.ext)?;
        frame.commit(cpu);
        let cleared = rflags::IF | rflags::TF | rflags::AC | rflags::RF;
        cpu.set_rflags(cpu.rflags() & !cleared);
        cpu.set_segment(Seg::Cs, code);
        cpu.set_rip(offset);
        Ok(())
    }

    /// The checks that gates of all modes share. See: AMD APM vol. 2, 8.7.1, 8.9.
    fn check_gate<C: Cpu>(&self, cpu: &mut C, gate: Attr, kinds: &[u16]) -> Result<(), Stop> {
        let error = self.entry_error();
        if gate.has(Attr::S) || !kinds.contains(&gate.kind()) {
            return Err(gp(cpu, error));
        }
        if self.software && gate.dpl() < cpu.cpl() {
            return Err(gp(cpu, error));
        }
        if !gate.has(Attr::P) {
            return Err(np(cpu, error));
        }
        Ok(())
    }

    /// The code segment that a gate leads to.
    fn target<C: Cpu>(
        &self,
        cpu: &mut C,
        selector: u16,
        offset: u64,
        masks: bool,
    ) -> Result<Target, Stop> {
        if is_null(selector) {
            return Err(gp(cpu, self.ext));
        }
        let error = selector_error(selector) | self.ext;
        let Some(mut code) = fetch(cpu, selector)? else { return Err(gp(cpu, error)) };
        let attr = code.attr();
        let wrong_mode = cpu.long_mode() && (!attr.has(Attr::L) || attr.has(Attr::DB));
        if !code.is_code() || attr.dpl() > cpu.cpl() || wrong_mode {
            return Err(gp(cpu, error));
        }
        if !attr.has(Attr::P) {
            return Err(np(cpu, error));
        }
        let cpl = if code.is_conforming() { cpu.cpl() } else { attr.dpl() };
        if cpu.rflags() & rflags::VM != 0 && cpl != 0 {
            return Err(gp(cpu, error));
        }
        code.mark_accessed(cpu)?;
        Ok(Target { code, selector: selector & !3 | u16::from(cpl), offset, cpl, masks })
    }

    /// See: AMD APM vol. 2, 8.9.
    fn long_mode<C: Cpu>(&self, cpu: &mut C) -> Result<(), Stop> {
        let table = cpu.idtr();
        let offset = u32::from(self.vector) * 16;
        if offset + 15 > u32::from(table.limit) {
            return Err(gp(cpu, self.entry_error()));
        }
        let address = table.base.wrapping_add(offset.into());
        let gate = cpu.load::<u64>(address, Access::System)?;
        let high = cpu.load::<u64>(address.wrapping_add(8), Access::System)?;
        let attr = gate_attr(gate);
        self.check_gate(cpu, attr, &[kind::INTERRUPT_GATE, kind::TRAP_GATE])?;
        let masks = attr.kind() == kind::INTERRUPT_GATE;
        let offset = gate_offset(gate) | high << 32;
        let target = self.target(cpu, (gate >> 16) as u16, offset, masks)?;

        let inner = target.cpl < cpu.cpl();
        let old_pointer = cpu.gpr(gpr::RSP);
        let pointer = match (gate >> 32 & 7) as u8 {
            0 if inner => tss::long_stack_pointer(cpu, target.cpl, self.ext)?,
            0 => old_pointer,
            n => tss::interrupt_stack(cpu, n, self.ext)?,
        };
        let mut frame = Frame::long(pointer & !15, stack_access(target.cpl), self.ext);
        frame.push(cpu, cpu.segment(Seg::Ss).selector.into(), 8)?;
        frame.push(cpu, old_pointer, 8)?;
        self.push_return(cpu, &mut frame, 8)?;
        let code = target.code.segment(target.selector);
        check_target(cpu, &code, target.offset, self.ext)?;

        frame.commit(cpu);
        self.enter(cpu, &target);
        if inner {
            let stack = segment::null_stack(target.cpl.into(), target.cpl);
            cpu.set_segment(Seg::Ss, stack);
        }
        Ok(())
    }

    /// See: AMD APM vol. 2, 8.7.
    fn protected_mode<C: Cpu>(&self, cpu: &mut C) -> Result<(), Stop> {
        let table = cpu.idtr();
        let offset = u32::from(self.vector) * 8;
        if offset + 7 > u32::from(table.limit) {
            return Err(gp(cpu, self.entry_error()));
        }
        let gate = cpu.load::<u64>(table.base.wrapping_add(offset.into()), Access::System)?;
        let attr = gate_attr(gate);
        let kinds = [
            kind::TASK_GATE,
            kind::INTERRUPT_GATE_16,
            kind::TRAP_GATE_16,
            kind::INTERRUPT_GATE,
            kind::TRAP_GATE,
        ];
        self.check_gate(cpu, attr, &kinds)?;
        if attr.kind() == kind::TASK_GATE {
            let arrival = task::Arrival {
                flags: self.pushed_flags(cpu),
                error: self.error,
                ext: self.ext,
                instruction: self.instruction,
            };
            return task::arrive(cpu, gate, &arrival);
        }
        let wide = attr.kind() & 8 != 0;
        let offset = if wide { gate_offset(gate) } else { gate & 0xffff };
        let masks = matches!(attr.kind(), kind::INTERRUPT_GATE | kind::INTERRUPT_GATE_16);
        let target = self.target(cpu, (gate >> 16) as u16, offset, masks)?;

        let size = if wide { 4 } else { 2 };
        let virtual_8086 = cpu.rflags() & rflags::VM != 0;
        let inner = target.cpl < cpu.cpl();
        let mut frame = if inner {
            tss::inner_stack(cpu, target.cpl, self.ext)?
        } else {
            Frame::current(cpu).with_error(self.ext)
        };
        if virtual_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                frame.push(cpu, cpu.segment(seg).selector.into(), size)?;
            }
        }
        if inner {
            frame.push(cpu, cpu.segment(Seg::Ss).selector.into(), size)?;
            frame.push(cpu, cpu.gpr(gpr::RSP), size)?;
        }
        self.push_return(cpu, &mut frame, size)?;
        let code = target.code.segment(target.selector);
        check_target(cpu, &code, target.offset, self.ext)?;

        frame.commit(cpu);
        self.enter(cpu, &target);
        if inner {
            cpu.set_segment(Seg::Ss, frame.segment());
        }
        if virtual_8086 {
            for seg in [Seg::Gs, Seg::Fs, Seg::Ds, Seg::Es] {
                cpu.set_segment(seg, segment::null(0));
            }
        }
        Ok(())
    }

    /// Pushes flags, CS, the instruction pointer and the error code.
    fn push_return<C: Cpu>(&self, cpu: &mut C, frame: &mut Frame, size: u8) -> Result<(), Stop> {
        let flags = self.pushed_flags(cpu);
        frame.push(cpu, flags, size)?;
        frame.push(cpu, cpu.segment(Seg::Cs).selector.into(), size)?;
        frame.push(cpu, cpu.rip(), size)?;
        match self.error {
            Some(error) => frame.push(cpu, error.into(), size),
            None => Ok(()),
        }
    }

    /// Goes to the handler; what is left is the stack segment.
    fn enter<C: Cpu>(&self, cpu: &mut C, target: &Target) {
        let mut cleared = rflags::TF | rflags::NT | rflags::VM | rflags::RF;
        if target.masks {
            cleared |= rflags::IF;
        }
        cpu.set_rflags(cpu.rflags() & !cleared);
        cpu.set_segment(Seg::Cs, target.code.segment(target.selector));
        cpu.set_cpl(target.cpl);
        cpu.set_rip(target.offset);
    }
}

fn gate_attr(gate: u64) -> Attr {
    Attr((gate >> 40 & 0xff) as u16)
}

/// Bits 0–31 of a gate's offset.
pub(super) fn gate_offset(gate: u64) -> u64 {
    gate & 0xffff | gate >> 32 & 0xffff_0000
}

/// How the stack of a handler at `cpl` is written.
pub(super) fn stack_access(cpl: u8) -> Access {
    if cpl < 3 { Access::System } else { Access::Operand }
}
