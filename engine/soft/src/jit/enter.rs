//! From Rust into translated code and back: [`SoftVcpu::execute_translated`], and the functions that
//! translated code calls.

use arch_x86::emulate::{Access, Cpu, Op, Stop};
use arch_x86::regs::{Seg, Segment};

use super::context::{self, Returns};
use super::translate::flat;
use crate::blocks::Blocks;
use crate::ranges::Ranges;
use crate::vcpu::SoftVcpu;

/// How a step ended: what [`super::context::Context::ending`] says.
pub(super) mod ending {
    /// The block is to be left behind the instruction.
    pub const LEFT: u32 = 1;
    /// The guest faults.
    pub const FAULT: u32 = 2;
    /// An intercept.
    pub const INTERCEPT: u32 = 3;
    /// What the instruction needs can't be had: the interpreter executes the block from there on.
    pub const REFUSED: u32 = 4;
    /// The block is at its end, and the run loop has something to look at.
    pub const DONE: u32 = 5;
    /// An indirect branch leads to code that it does not know yet.
    pub const MET: u32 = 6;
}

impl SoftVcpu {
    /// What translated code has to know that may be elsewhere at each entry.
    pub(crate) fn prepare_translated(&mut self, blocks: &Blocks) {
        self.aside.all_jumps = blocks.jumps_address();
        self.update_tables();
        self.jit.polled = self.sync.polled().address();
        self.aside.step = step as *const () as u64;
        self.aside.step_last = step_last as *const () as u64;
        self.aside.step_return = step_return as *const () as u64;
    }

    /// Lets translated code know where the processor's own data is.
    #[inline(always)]
    fn show_gs(&mut self) {
        let range = &self.tlb.ranges[Ranges::RAM];
        let distance = self.segments[Seg::Gs as usize].base.wrapping_sub(range.tag);
        self.jit.gs_limit = range.limit.saturating_sub(context::GS_REACH.into());
        let is_in = distance < self.jit.gs_limit;
        self.jit.gs_place = if is_in { range.page.wrapping_add(distance) } else { 0 };
    }

    /// Lets translated code know the instruction TLB's keys.
    #[inline(always)]
    fn show_keys(&mut self) {
        if self.aside.shown != self.itlb.keys {
            self.aside.shown = self.itlb.keys;
            self.sync.polled().show(&self.aside.shown);
        }
    }

    /// Executes translated code from `code` on, until the dispatcher knows no way on or an
    /// instruction does not complete.
    pub(crate) fn execute_translated(
        &mut self,
        blocks: &mut Blocks,
        code: u64,
    ) -> Result<(), Stop> {
        let Some(jit) = blocks.jit_mut() else { return Ok(()) };
        self.jit.set_status(self.status);
        self.show_keys();
        self.show_gs();
        let this = core::ptr::from_mut(self);
        let enter = jit.stubs().enter as usize;
        // SAFETY: `enter` is the address of the stub of this type, in memory that `blocks` keeps.
        let enter: extern "sysv64" fn(*mut Self, u64) -> u32 =
            unsafe { core::mem::transmute(core::ptr::with_exposed_provenance::<()>(enter)) };
        // `self` is not used while translated code has its address. RSP then points into it, and what is pushed lies in
        // `signals`, which is nothing else's; the functions that are called from there have this thread's own stack again.
        // `code` is that of a block in `blocks` which the jump cache knows, or that was just made, and so is what was met;
        // nothing in `blocks` changes meanwhile.
        let mut ending = enter(this, code);
        while ending != 0 && self.jit.ending == ending::MET {
            jit.meet(self.aside.site, self.aside.met);
            ending = enter(this, self.aside.met);
        }
        self.status = self.jit.status();
        if ending == 0 { Ok(()) } else { self.stopped_in_translated(blocks) }
    }

    /// An instruction did not complete, or the block is to be left behind it, or to the interpreter: sets RIP.
    #[cold]
    fn stopped_in_translated(&mut self, blocks: &Blocks) -> Result<(), Stop> {
        if self.jit.ending == ending::DONE {
            return Ok(());
        }
        let (start, ops) = blocks.block(self.jit.block);
        let distance = self.aside.stopped_at - ops.as_ptr().expose_provenance() as u64;
        let n = distance as usize / size_of::<Op<Self>>();
        let executed = match self.jit.ending {
            ending::LEFT | ending::REFUSED => Ok(()),
            ending::FAULT => Err(Stop::Fault),
            _ => Err(Stop::Intercept),
        };
        let done = if self.jit.ending == ending::LEFT { n + 1 } else { n };
        let bytes = |ops: &[Op<Self>]| ops.iter().map(|op| u16::from(op.insn.len)).sum::<u16>();
        self.rip = start.wrapping_add(bytes(&ops[..done]).into());
        if self.shared.options.counted {
            self.statistics.instructions -= (ops.len() - done) as u64;
        }
        self.leave_block = false;
        if self.jit.ending == ending::REFUSED {
            return self.execute(&ops[done..], bytes(&ops[done..]));
        }
        executed
    }

    /// Executes one instruction for translated code. Gives whether that goes on.
    fn step_for_translated(&mut self, op: &Op<Self>, last: bool) -> u32 {
        self.status = self.jit.status();
        // STI before it, if it is on: it is over then.
        let shadow = std::mem::take(&mut self.shadow);
        let executed = (op.exec)(self, &op.insn);
        self.jit.set_status(self.status);
        self.show_keys();
        self.show_gs();
        self.jit.ending = match executed {
            Ok(()) if last => {
                self.leave_block = false;
                if self.attention == 0 {
                    return 0;
                }
                ending::DONE
            }
            Ok(()) if !self.leave_block && self.attention == 0 => return 0,
            Ok(()) => ending::LEFT,
            Err(Stop::Fault) => ending::FAULT,
            Err(Stop::Intercept) => {
                self.shadow = shadow;
                ending::INTERCEPT
            }
        };
        self.aside.stopped_at = core::ptr::from_ref(op).expose_provenance() as u64;
        1
    }
}

impl SoftVcpu {
    /// An IRETQ was executed: notes the segments that it has led to, if they are what programs mostly have.
    fn note_return(&mut self) {
        let global = u64::from(self.gdtr.limit);
        let mut noted = Returns::default();
        for (n, seg) in [Seg::Cs, Seg::Ss].into_iter().enumerate() {
            let segment = self.segments[seg as usize];
            let selector = segment.selector;
            let offset = u64::from(selector & !7);
            let is_usual = segment == Segment { selector, ..flat(seg, 3) } && self.cpl == 3;
            if !is_usual || !self.mode64 || selector & 4 != 0 || offset + 7 > global {
                return;
            }
            let place = self.gdtr.base.wrapping_add(offset);
            let Ok(descriptor) = self.load(place, Access::System) else { return };
            noted.selectors |= u32::from(selector) << (16 * n);
            (noted.places[n], noted.descriptors[n]) = (place, descriptor);
        }
        self.aside.returns = noted;
    }
}

/// Called by the stub `step`.
extern "sysv64" fn step(vcpu: *mut SoftVcpu, op: *const Op<SoftVcpu>) -> u32 {
    // SAFETY: translated code gives the address of its vCPU, which `execute_translated` has borrowed and does not
    // use meanwhile, and that of an instruction of the block that it was made with.
    let (vcpu, op) = unsafe { (&mut *vcpu, &*op) };
    vcpu.step_for_translated(op, false)
}

/// Called by the stub `step_last`.
extern "sysv64" fn step_last(vcpu: *mut SoftVcpu, op: *const Op<SoftVcpu>) -> u32 {
    // SAFETY: as in `step`.
    let (vcpu, op) = unsafe { (&mut *vcpu, &*op) };
    vcpu.step_for_translated(op, true)
}

/// Called by the stub `step_return`.
extern "sysv64" fn step_return(vcpu: *mut SoftVcpu, op: *const Op<SoftVcpu>) -> u32 {
    // SAFETY: as in `step`.
    let (vcpu, op) = unsafe { (&mut *vcpu, &*op) };
    let stopped = vcpu.step_for_translated(op, true);
    if stopped == 0 || vcpu.jit.ending == ending::DONE {
        vcpu.note_return();
    }
    stopped
}
