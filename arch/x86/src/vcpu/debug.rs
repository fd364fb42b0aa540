//! Single step and breakpoints for a debugger: [`GuestDebug`], on any engine.
//!
//! While the engine is entered, and only then, the debugger's RFLAGS.TF, DR0–DR3 and DR7 are in its registers, and the
//! exceptions that come of them come out ([`Intercept::Exception`](crate::engine::Intercept::Exception)). Between two
//! entries the registers are the guest's own. So that the guest does not see the difference:
//!
//! - events are delivered here, into a frame with the guest's own flags. A step over an instruction that faults, or over an
//!   event, ends at the handler's first instruction, as with QEMU's TCG;
//! - instructions that see or change TF (PUSHF, POPF, IRET, INT n, SYSCALL, what switches tasks) are executed here when
//!   they are stepped over;
//! - with hardware breakpoints DR7.GD is on, and MOV DR, which then raises an exception, is executed here.
//!
//! What an instruction raises is the debugger's, the guest's, or both's. What is the guest's is delivered when it goes on.
//! An instruction that is completed here, or by the VMM's answer, has been stepped over when it is ([`Debugger::completed`]).
//!
//! As on hardware: a load of SS and the instruction behind it are one step; a repeated string is a step an iteration;
//! HLT is stepped over, and the vCPU halts when it goes on. See: AMD APM vol. 2, 13.1.4, 8.5.
//!
//! Deviations: PUSHF and SYSCALL behind a load of SS show TF. While there are hardware breakpoints a task switch
//! leaves the guest's own local ones enabled.
//!
//! Linux's KVM keeps TF in the guest's flags, and gives all debug exceptions to the debugger; there a fault's handler runs within the
//! step. See: Linux, arch/x86/kvm/x86.c, `kvm_set_rflags`, `kvm_vcpu_do_singlestep`; arch/x86/kvm/svm/svm.c, `db_interception`.

use core::sync::atomic::AtomicU32;

use virt::Errno;
use virt::host::Host;

use super::access::Emulator;
use super::{Exit, Vcpu};
use crate::emulate::debug::{self, dr6, dr7};
use crate::emulate::decode::MAX_LENGTH;
use crate::emulate::event;
use crate::engine::{Engine, EngineVcpu, Entry, Event};
use crate::exception::{self, Exception};
use crate::guest_debug::{DebugCause, GuestDebug};
use crate::regs::{Regs, Seg, cr0, rflags};

/// What a debugger wants, and what it is to be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Debugger {
    wanted: GuestDebug,
    /// DR0–DR3 and DR7, if the breakpoints are the debugger's.
    registers: Option<([u64; 4], u64)>,
    /// What it is to be told before the guest goes on: bits of DR6.
    due: u64,
}

impl Debugger {
    /// DR7 of its breakpoints.
    pub fn control(&self) -> u64 {
        self.registers.map_or(0, |(_, control)| control)
    }

    /// Whether registers of the guest's have to make room for the debugger's.
    pub fn needs_registers(&self) -> bool {
        self.wanted.single_step || self.registers.is_some()
    }

    /// Whether it steps.
    pub fn steps(&self) -> bool {
        self.wanted.single_step
    }

    /// Whether it keeps interrupts and NMIs from the guest.
    pub fn blocks_interrupts(&self) -> bool {
        self.wanted.blocks_interrupts
    }

    /// Whether the guest's own breakpoints are not active.
    pub fn has_breakpoints(&self) -> bool {
        self.registers.is_some()
    }

    /// An instruction, or an iteration of one, was completed without the engine, and met breakpoints; gives those that are
    /// the guest's.
    pub fn completed(&mut self, met: u64) -> u64 {
        if self.wanted.single_step {
            self.due |= dr6::BS;
        }
        if self.registers.is_none() {
            return met;
        }
        self.due |= met;
        0
    }

    /// Forgets what has happened.
    pub fn reset(&mut self) {
        self.due = 0;
    }
}

/// When an instruction that sees or changes RFLAGS.TF traps for the guest.
/// See: AMD APM vol. 2, 13.1.4; vol. 3, SYSCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traps {
    /// If TF was set before.
    Before,
    /// If it still is: INT n, which clears it.
    Still,
    /// If it is set now.
    After,
}

/// Whether the instruction that `code` begins with sees or changes RFLAGS.TF. `tasks`: far transfers may switch tasks.
/// INT3 does if `int3` says so.
fn sees_trap_flag(code: &[u8], mode64: bool, tasks: bool, int3: bool) -> Option<Traps> {
    let is_prefix = |byte: &u8| match byte {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => true,
        0x40..=0x4f => mode64,
        _ => false,
    };
    let start = code.iter().position(|byte| !is_prefix(byte))?;
    match code[start..] {
        // PUSHF, POPF, IRET.
        [0x9c | 0x9d | 0xcf, ..] => Some(Traps::Before),
        [0xcc, ..] => int3.then_some(Traps::Still),
        // INT n, INTO, INT1.
        [0xcd | 0xce | 0xf1, ..] => Some(Traps::Still),
        // SYSCALL, SYSRET.
        [0x0f, 0x05 | 0x07, ..] => Some(Traps::After),
        // CALL and JMP to another segment, or task.
        [0x9a | 0xea, ..] if tasks => Some(Traps::Before),
        [0xff, modrm, ..] if tasks && matches!(modrm >> 3 & 7, 3 | 5) => Some(Traps::Before),
        _ => None,
    }
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Sets what a debugger wants from now on.
    pub fn set_debug(&mut self, wanted: &GuestDebug) {
        let breakpoints = wanted.registers();
        let registers = breakpoints.map(|(addresses, control)| (addresses, control | dr7::GD));
        let due = if wanted.single_step { self.debugger.due & dr6::BS } else { 0 };
        self.debugger = Debugger { wanted: *wanted, registers, due };
        let mut vectors = 0;
        if wanted.software_breakpoints {
            vectors |= 1 << exception::BP;
        }
        if registers.is_some() {
            vectors |= 1 << exception::DB;
        }
        // A fault ends a step.
        self.engine.set_exception_intercepts(if wanted.single_step { u32::MAX } else { vectors });
    }

    /// Has an exception delivered to the guest when it is run next, with RIP as it is. What goes with it in CR2, DR6 and DR7
    /// is there already: the payload does not count. With #BP and #OF, RIP is at INT3 or INTO, and moves behind it then.
    ///
    /// # Errors
    /// `EINVAL` if there is no such exception; `EBUSY` if another event is on its way.
    pub fn inject(&mut self, exception: Exception) -> Result<(), Errno> {
        if exception.vector > 31 || exception.vector == exception::NMI {
            return Err(Errno::EINVAL);
        }
        if self.pending.event.is_some() {
            return Err(Errno::EBUSY);
        }
        self.raise(self.with_payload(exception));
        Ok(())
    }

    /// An exception whose payload is in the registers already.
    pub(super) fn with_payload(&self, exception: Exception) -> Exception {
        let payload = match exception.vector {
            exception::PF => self.engine.cr2(),
            exception::DB => self.engine.dr(6) & dr6::WRITABLE,
            _ => 0,
        };
        Exception { payload, ..exception }
    }

    /// What the debugger is to be told now.
    pub(super) fn debug_exit(&mut self) -> Option<Exit> {
        let due = core::mem::take(&mut self.debugger.due);
        if due == 0 {
            return None;
        }
        let (stepped, breakpoints) = (due & dr6::BS != 0, (due & dr6::B) as u8);
        Some(self.debug(DebugCause::Exception { stepped, breakpoints }))
    }

    fn debug(&self, cause: DebugCause) -> Exit {
        let rip = self.engine.rip();
        let linear = self.engine.segment_base(Seg::Cs).wrapping_add(rip);
        let address = if self.engine.mode64() { rip } else { linear & 0xffff_ffff };
        Exit::Debug { cause, address }
    }

    /// What an entry that does not come to be was to have the engine see.
    fn seen_later(&mut self, entry: &Entry) {
        self.fresh |= entry.fresh;
        self.serialized |= entry.serialized;
    }

    /// Goes into the guest with the debugger's registers, and handles what comes out; or delivers an event, or executes an
    /// instruction, without them. Gives an exit if the VMM is needed.
    #[inline(never)]
    pub(super) fn enter_debugged(&mut self, request: &AtomicU32) -> Option<Exit> {
        let mut entry = self.next_entry();
        if let Some(event) = entry.inject.take() {
            self.seen_later(&entry);
            return self.deliver(event);
        }
        if self.debugger.steps() {
            if let Some(traps) = self.next_sees_trap_flag() {
                self.seen_later(&entry);
                return self.step_without_trap_flag(traps);
            }
            // It comes out after an instruction anyway.
            (entry.interrupt_window, entry.nmi_window) = (false, false);
        }
        let lent = self.lend_trap_flag();
        let own = self.lend_debug_registers();
        self.write_task_priority_word();
        let intercept = self.engine.enter(&entry, request);
        self.read_task_priority_word();
        self.take_debug_registers_back(own);
        self.take_trap_flag_back(lent);
        self.statistics.came_out(&intercept);
        self.handle(intercept)
    }

    /// Sets RFLAGS.TF for a step. Gives whether it was not set by the guest.
    pub(super) fn lend_trap_flag(&mut self) -> bool {
        let flags = self.engine.rflags();
        let lent = self.debugger.steps() && flags & rflags::TF == 0;
        if lent {
            self.engine.set_rflags(flags | rflags::TF);
        }
        lent
    }

    pub(super) fn take_trap_flag_back(&mut self, lent: bool) {
        if lent {
            let flags = self.engine.rflags();
            self.engine.set_rflags(flags & !rflags::TF);
        }
    }

    /// Puts the debugger's breakpoints into the registers; gives the guest's own.
    fn lend_debug_registers(&mut self) -> Option<([u64; 4], u64)> {
        let (addresses, control) = self.debugger.registers?;
        let own = (debug::addresses(&self.engine), self.engine.dr(7));
        self.set_breakpoints(&addresses, control);
        Some(own)
    }

    fn take_debug_registers_back(&mut self, own: Option<([u64; 4], u64)>) {
        if let Some((addresses, control)) = own {
            self.set_breakpoints(&addresses, control);
        }
    }

    fn set_breakpoints(&mut self, addresses: &[u64; 4], control: u64) {
        for (n, address) in (0..).zip(addresses) {
            self.engine.set_dr(n, *address);
        }
        self.engine.set_dr(7, control);
    }

    /// DR0–DR3 and DR7 that are active.
    pub(super) fn breakpoints(&self) -> ([u64; 4], u64) {
        let own = || (debug::addresses(&self.engine), self.engine.dr(7));
        self.debugger.registers.unwrap_or_else(own)
    }

    /// Delivers an event to the guest.
    #[inline(never)]
    fn deliver(&mut self, event: Event) -> Option<Exit> {
        let mut emulator = Emulator::new(self);
        let delivered = event::deliver(&mut emulator, event);
        let met = emulator.met();
        if delivered.is_err() {
            let exit = emulator.give_up();
            self.put_back(event);
            return exit;
        }
        self.statistics.injected(Some(event));
        self.replay.forget_reads();
        self.trap(met, false);
        None
    }

    /// Whether the next instruction sees or changes RFLAGS.TF, and is not one to come out at.
    fn next_sees_trap_flag(&mut self) -> Option<Traps> {
        let mut bytes = [0; MAX_LENGTH];
        // If it can't be fetched, the engine finds out.
        let len = Emulator::new(self).fetch(&mut bytes).ok()?;
        let regs = &self.engine;
        let tasks = regs.cr0() & cr0::PE != 0 && !regs.long_mode();
        let int3 = !self.debugger.wanted.software_breakpoints;
        sees_trap_flag(&bytes[..len], regs.mode64(), tasks, int3)
    }

    /// Executes the next instruction with the guest's own RFLAGS.TF.
    #[inline(never)]
    fn step_without_trap_flag(&mut self, traps: Traps) -> Option<Exit> {
        let (flags, shadow) = (self.engine.rflags(), self.engine.interrupt_shadow());
        // These last for one instruction; IRET loads the one.
        self.engine.set_rflags(flags & !rflags::RF);
        self.engine.set_interrupt_shadow(false);
        match self.execute(false) {
            Ok(met) => {
                let before = flags & rflags::TF != 0;
                let after = self.engine.rflags() & rflags::TF != 0;
                let stepped = match traps {
                    Traps::Before => before,
                    Traps::Still => before && after,
                    Traps::After => after,
                };
                self.trap(met, stepped);
                None
            }
            Err(exit) => {
                let resume = flags & rflags::RF;
                self.engine.set_rflags(self.engine.rflags() | resume);
                self.engine.set_interrupt_shadow(shadow);
                exit
            }
        }
    }

    /// Handles an exception that came out of the engine.
    pub(super) fn exception(&mut self, exception: Exception) -> Option<Exit> {
        match exception.vector {
            exception::DB if exception.payload != 0 => self.debug_exception(exception.payload),
            exception::BP if self.debugger.wanted.software_breakpoints => {
                Some(self.debug(DebugCause::SoftwareBreakpoint))
            }
            // An instruction's own: INT1, INT3, INTO.
            exception::DB | exception::BP | exception::OF => self.emulate(),
            exception::UD => self.undefined(),
            _ => {
                self.raise(exception);
                None
            }
        }
    }

    /// Tells the debugger's debug exceptions from the guest's.
    fn debug_exception(&mut self, bits: u64) -> Option<Exit> {
        let mine = if self.debugger.has_breakpoints() { dr6::B | dr6::BD } else { 0 };
        if bits & mine & dr6::BD != 0 {
            // MOV DR, which has not been executed.
            let wanted = self.debugger.wanted.register_accesses;
            return if wanted {
                Some(self.debug(DebugCause::RegisterAccess))
            } else {
                self.emulate()
            };
        }
        let mut guests = bits & !mine;
        let mut due = bits & mine;
        if self.debugger.steps() {
            due |= bits & dr6::BS;
            if self.engine.rflags() & rflags::TF == 0 {
                guests &= !dr6::BS;
            }
        }
        if guests != 0 {
            self.raise(Exception::db(guests));
        }
        self.debugger.due |= due;
        None
    }
}
