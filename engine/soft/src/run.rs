//! The run loop: from one entry into guest code to the next intercept.
//!
//! Everything that is not plain execution is looked at between blocks, and behind one
//! test: the VMM's request word, invalidations, and the vCPU's own
//! [`attention`] bits. What lasts for one instruction (the interrupt shadow, RFLAGS.RF) or has to
//! be seen after each (single step, breakpoints) executes blocks instruction by instruction.
//!
//! Deviation: port breakpoints are the run loop's.

use std::sync::atomic::{AtomicU32, Ordering};

use arch_x86::emulate::{Cpu, Op, Stop, debug, event};
use arch_x86::engine::{Entry, Event, Intercept};
use arch_x86::exception::Exception;
use arch_x86::regs::{Seg, rflags};
use virt::dirty_ring::DirtyRing;

use crate::blocks::{Blocks, Found, MAX_BLOCK};
use crate::ram;
use crate::ranges::{NO_LOAD, Seen};
use crate::vcpu::{SoftVcpu, attention};

/// How the next block is to be executed.
enum Pace {
    /// As a whole.
    Block,
    /// One instruction.
    Single,
    /// One instruction, and traps are raised.
    Trace,
}

/// Whether an instruction traps with RFLAGS.TF.
enum Stepped {
    /// TF is clear, or the instruction delivers an event, which clears it.
    Never,
    /// After the instruction.
    Always,
    /// Not at all, and data breakpoints only after the next instruction: a load of SS.
    Held,
    /// If TF is still set after it: SYSCALL and SYSRET.
    ByNewFlags,
    /// It is a debug exception itself, INT1: what was held is part of it.
    Debug,
}

impl SoftVcpu {
    /// Runs guest code until it must come out.
    pub(crate) fn run(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept {
        let Some(mut blocks) = self.blocks.take() else {
            // `prepare` was not called.
            return Intercept::Interrupted;
        };
        let sync = std::sync::Arc::clone(&self.sync);
        sync.enter();
        // First of all: slots that were taken away must not be looked at any more.
        self.invalidate_if_asked();
        let from_outside = entry.fresh && self.may_be_written_from_outside();
        let by_others = entry.serialized && self.shared.vcpus.load(Ordering::Relaxed) > 1;
        if from_outside || by_others {
            self.check_code(&mut blocks);
        }
        self.wants_interrupt_window = entry.interrupt_window;
        self.wants_nmi_window = entry.nmi_window;
        self.update_attention();
        self.prepare_translated(&blocks);
        let intercept = match entry.inject.map_or(Ok(()), |event| event::deliver(self, event)) {
            Ok(()) => self.execute_blocks(&mut blocks, request),
            Err(_) => {
                self.undelivered = entry.inject;
                self.taken_intercept()
            }
        };
        self.drop_written_code(&mut blocks);
        sync.leave();
        self.blocks = Some(blocks);
        intercept
    }

    /// Whether somebody outside the machine may have written to decoded code.
    fn may_be_written_from_outside(&self) -> bool {
        !self.shared.options.writes_are_told || self.sync.code.take_written()
    }

    fn execute_blocks(&mut self, blocks: &mut Blocks, request: &AtomicU32) -> Intercept {
        let sync = std::sync::Arc::clone(&self.sync);
        loop {
            if request.load(Ordering::SeqCst) | self.attention | sync.waiting() != 0 {
                match self.attend(blocks, request) {
                    Ok(Pace::Block) => {}
                    Ok(pace) => match self.execute_one(blocks, pace) {
                        Ok(()) => continue,
                        Err(intercept) => return intercept,
                    },
                    Err(intercept) => return intercept,
                }
            } else if sync.polled().is_poisoned() {
                // What that was for has been seen.
                sync.polled().show(&self.itlb.keys);
            }
            let executed = match self.known_block(blocks) {
                Some(found) => self.execute_found(blocks, found),
                None => self.find_block(blocks).and_then(|found| {
                    if self.attention & attention::CODE_WRITTEN == 0 {
                        self.execute_found(blocks, found)
                    } else {
                        Ok(())
                    }
                }),
            };
            if let Err(stop) = executed
                && let Err(intercept) = self.stopped(stop)
            {
                return intercept;
            }
        }
    }

    /// The block at RIP, if the jump cache knows it.
    #[inline(always)]
    fn known_block(&self, blocks: &Blocks) -> Option<Found> {
        blocks.jump(self.cpl, self.itlb.space(), self.rip, self.itlb.key(self.rip))
    }

    #[inline(always)]
    fn execute_found(&mut self, blocks: &mut Blocks, mut found: Found) -> Result<(), Stop> {
        if found.code == 0 {
            match blocks.is_hot(found.block) {
                Some(place) => found = self.translate(blocks, found, &place),
                None if self.is_notable() && blocks.is_noted(found.block) => {
                    return self.execute_noting(blocks, found);
                }
                None => {}
            }
        }
        if found.code == 0 {
            self.execute(blocks.ops(found.run), found.run.bytes)
        } else if self.lockstep.is_on() {
            self.execute_in_lockstep(blocks, found)
        } else {
            self.execute_translated(blocks, found.code)
        }
    }

    /// Whether it matters where instructions read.
    #[inline(always)]
    fn is_notable(&self) -> bool {
        self.cpl == 0 || self.tlb.has_large()
    }

    /// Executes a block of `bytes` bytes.
    #[inline(always)]
    pub(crate) fn execute(&mut self, ops: &[Op<Self>], bytes: u16) -> Result<(), Stop> {
        self.execute_each(ops, bytes, |_, _| {})
    }

    /// The same; notes where the block's instructions read, for when it is translated.
    #[cold]
    fn execute_noting(&mut self, blocks: &mut Blocks, found: Found) -> Result<(), Stop> {
        let mut seen = [Seen::Nowhere; MAX_BLOCK];
        self.last_load = NO_LOAD;
        let executed = self.execute_each(blocks.ops(found.run), found.run.bytes, |vcpu, n| {
            seen[n % MAX_BLOCK] = vcpu.seen();
            vcpu.last_load = NO_LOAD;
        });
        blocks.note(found.run, &seen);
        executed
    }

    /// Executes a block of `bytes` bytes; calls `done` behind each instruction.
    #[inline(always)]
    fn execute_each(
        &mut self,
        ops: &[Op<Self>],
        bytes: u16,
        mut done: impl FnMut(&mut Self, usize),
    ) -> Result<(), Stop> {
        let Some((last, body)) = ops.split_last() else { return Ok(()) };
        let start = self.rip;
        // An instruction that does not end a block has no use for RIP.
        for (n, op) in body.iter().enumerate() {
            let executed = (op.exec)(self, &op.insn);
            done(self, n);
            if executed.is_err() || self.leave_block {
                return self.left_early(ops, n, executed);
            }
        }
        let end = start.wrapping_add(bytes.into());
        self.rip = end;
        self.statistics.instructions += ops.len() as u64;
        let executed = (last.exec)(self, &last.insn);
        done(self, body.len());
        if executed.is_err() {
            self.rip = end.wrapping_sub(last.insn.len.into());
            self.statistics.instructions -= 1;
        }
        executed
    }

    /// The block was left at or after instruction `n`: sets RIP.
    #[cold]
    #[inline(never)]
    fn left_early(
        &mut self,
        ops: &[Op<Self>],
        n: usize,
        executed: Result<(), Stop>,
    ) -> Result<(), Stop> {
        let done = if executed.is_ok() { n + 1 } else { n };
        let bytes: u64 = ops[..done].iter().map(|op| u64::from(op.insn.len)).sum();
        self.rip = self.rip.wrapping_add(bytes);
        self.statistics.instructions += done as u64;
        self.leave_block = false;
        executed
    }

    /// An instruction did not complete: delivers its fault, or gives its intercept.
    #[inline(never)]
    fn stopped(&mut self, stop: Stop) -> Result<(), Intercept> {
        self.leave_block = false;
        match stop {
            Stop::Fault => self.deliver(self.exception),
            Stop::Intercept => Err(self.taken_intercept()),
        }
    }

    /// Delivers an exception that an instruction or a trap has raised, or comes out with it.
    fn deliver(&mut self, exception: Exception) -> Result<(), Intercept> {
        if self.intercepts(exception.vector) {
            return Err(Intercept::Exception(exception));
        }
        event::deliver(self, Event::Exception(exception)).map_err(|_| self.taken_intercept())
    }

    /// DR6 bits of the trap that [`Cpu::trap_after`](arch_x86::emulate::Cpu) asked for.
    fn take_later_trap(&mut self) -> u64 {
        self.set_attention(attention::TRAP, false);
        std::mem::take(&mut self.later_trap)
    }

    fn taken_intercept(&mut self) -> Intercept {
        self.intercept.take().unwrap_or(Intercept::Shutdown)
    }

    fn invalidate_if_asked(&mut self) {
        if self.sync.wants_invalidation() {
            let sync = std::sync::Arc::clone(&self.sync);
            sync.acknowledge(|| {
                self.view.renew(self.shared.memory.view());
                self.flush_translations();
            });
        }
    }

    /// What is to be done between blocks.
    #[cold]
    #[inline(never)]
    fn attend(&mut self, blocks: &mut Blocks, request: &AtomicU32) -> Result<Pace, Intercept> {
        self.leave_block = false;
        self.sync.take_kick();
        self.invalidate_if_asked();
        self.drop_written_code(blocks);
        if self.attention & attention::MODE != 0 {
            self.attend_modes();
        }
        if let Some(exception) = debug::trap(self.take_later_trap(), false) {
            // Before anything else at this boundary.
            self.deliver(exception)?;
        }
        let ring_is_full = self.view.ring().is_some_and(DirtyRing::is_nearly_full);
        if request.load(Ordering::SeqCst) != 0 || ring_is_full {
            return Err(Intercept::Interrupted);
        }
        if self.attention & attention::WINDOW != 0 && !self.shadow {
            let nmi = self.wants_nmi_window && !self.nmi_blocked;
            return Err(if nmi { Intercept::NmiWindow } else { Intercept::InterruptWindow });
        }
        if self.flags & rflags::RF != 0 && self.attention & attention::TRACE == 0 {
            // It holds breakpoints on the next instruction, and there are none; a fault of that pushes it anyway.
            self.flags &= !rflags::RF;
            self.update_attention();
            self.leave_block = false;
        }
        Ok(if self.attention & attention::TRACE != 0 {
            Pace::Trace
        } else if self.attention & attention::SINGLE != 0 || self.shared.options.modes.poison {
            Pace::Single
        } else {
            Pace::Block
        })
    }

    /// Executes one instruction, after which what lasts for one is over.
    #[inline(never)]
    fn execute_one(&mut self, blocks: &mut Blocks, pace: Pace) -> Result<(), Intercept> {
        if matches!(pace, Pace::Trace)
            && !self.held
            && let Ok((linear, _)) = self.code_address()
            && let Some(exception) = debug::instruction(self, linear)
        {
            return self.deliver(exception);
        }
        let after_held = std::mem::take(&mut self.held);
        let held = if after_held { self.data_hits } else { 0 };
        self.data_hits = 0;
        match self.fetch_and_execute_one(blocks) {
            Ok(Stepped::Held) if !after_held => {
                self.held = true;
                Ok(())
            }
            Ok(Stepped::Debug) => {
                if held != 0 {
                    debug::record(self, held);
                }
                Ok(())
            }
            Ok(stepped) if matches!(pace, Pace::Trace) => {
                let bits = held | self.data_hits | self.take_later_trap();
                // Of several loads of SS in a row the first one holds.
                let again = matches!(stepped, Stepped::Held) && self.flags & rflags::TF != 0;
                let stepped = again || matches!(stepped, Stepped::Always);
                debug::trap(bits, stepped).map_or(Ok(()), |exception| self.deliver(exception))
            }
            Ok(_) => Ok(()),
            Err(stop) => {
                self.hold(held, stop);
                self.stopped(stop)
            }
        }
    }

    /// An instruction after a load of SS did not complete: what was held follows the
    /// delivery of its fault, or waits on.
    fn hold(&mut self, bits: u64, stop: Stop) {
        if bits == 0 {
            return;
        }
        if stop == Stop::Fault {
            self.trap_after(bits);
        } else {
            (self.held, self.data_hits) = (true, bits);
        }
    }

    /// Executes one instruction; gives whether it trapped: `Never`, `Always`, or `Held`.
    fn fetch_and_execute_one(&mut self, blocks: &mut Blocks) -> Result<Stepped, Stop> {
        let found = match self.known_block(blocks) {
            Some(found) => found,
            None => self.find_block(blocks)?,
        };
        let Some(op) = blocks.ops(found.run).first() else { return Ok(Stepped::Never) };
        let undefined = blocks.undefined_flags(found.run);
        let (shadow, resume) = (self.shadow, self.flags & rflags::RF);
        self.shadow = false;
        self.flags &= !rflags::RF;
        self.update_attention();
        let start = self.rip;
        let traced = self.attention & attention::TRACE != 0;
        let kind = if traced { self.stepped() } else { Stepped::Never };
        self.rip = start.wrapping_add(op.insn.len.into());
        let executed = (op.exec)(self, &op.insn);
        self.leave_block = false;
        if executed.is_err() {
            self.rip = start;
            if executed == Err(Stop::Intercept) {
                self.shadow = shadow;
                self.flags |= resume;
                self.update_attention();
            }
        } else {
            self.statistics.instructions += 1;
            if undefined != 0 {
                self.poison(undefined);
            }
        }
        executed.map(|()| match kind {
            Stepped::ByNewFlags if self.flags & rflags::TF != 0 => Stepped::Always,
            Stepped::ByNewFlags => Stepped::Never,
            kind => kind,
        })
    }

    /// Whether the instruction at RIP traps after a step.
    /// See: AMD APM vol. 2, 13.1.4; vol. 3, SYSCALL, MOV; Intel SDM vol. 3, 6.8.3.
    fn stepped(&mut self) -> Stepped {
        let stepping = self.flags & rflags::TF != 0;
        let mut opcode = 0;
        let mut at = 0;
        while at < 15 {
            let linear = self.code_place.0.wrapping_add(self.rip).wrapping_add(at);
            let Some(fetched) = self.itlb.find(linear) else { break };
            let byte: u8 = fetched.page.load(linear % ram::SIZE).unwrap_or(0);
            at += 1;
            match (opcode, byte) {
                (0, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) => {}
                (0, 0x40..=0x4f) if self.mode64 => {}
                (0, 0x0f) => opcode = 0x0f,
                // INTO that does nothing is an instruction like any other.
                (0, 0xce) if !self.status.of() => break,
                (0, 0xcc..=0xce) => return Stepped::Never,
                (0, 0xf1) => return Stepped::Debug,
                (0x0f, 0x05 | 0x07) if stepping => return Stepped::ByNewFlags,
                (0, 0x17) if !self.mode64 => return Stepped::Held,
                (0, 0x8e) => opcode = 0x8e,
                (0x8e, modrm) if modrm >> 3 & 7 == Seg::Ss as u8 => return Stepped::Held,
                _ => break,
            }
        }
        if stepping { Stepped::Always } else { Stepped::Never }
    }
}
