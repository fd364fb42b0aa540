//! The way into guest code and out: `enter` of a vCPU.
//!
//! On one processor it goes in again and again, until what comes out is the run loop's, or it is asked for by the request word or by
//! the host. What the host needs for itself is served each time interrupts are on in between. Each time, with interrupts off, it says first
//! that it is inside, and looks then whether it is to come out, and whether translations are to be dropped: so nobody is missed
//! ([`crate::presence`]).
//!
//! What of the host's registers VMRUN does not change by itself is put back when the guest is out, but for TSC_AUX, which is when the
//! thread may leave the processor. SPEC_CTRL is the host's with what the guest has set besides: so it never restricts less than the host
//! wants, where the host's code runs with it before it is put back. The core keeps what a guest writes to it. A processor that has a
//! guest's SPEC_CTRL in the VMCB (AMD APM vol. 2, 15.12) combines the two in the same way, and finds 0 there.
//!
//! Deviations. An NMI that waits for the end of the shadow of MOV SS, with interrupts off, is delivered only when the host interrupts next. An
//! interrupt whose delivery raises #AC is lost, as in the software CPU.
//!
//! See: AMD APM vol. 2, 15.5, 15.6, 15.20–15.22.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use arch_x86::emulate::debug::{self, dr6, dr7};
use arch_x86::engine::{Entry, Event, Intercept};
use arch_x86::exception::{self, Exception};
use arch_x86::hardware::{GuestFpu, Platform, Trace};
use arch_x86::regs::{Regs, cr4, rflags};
use virt::Errno;
use virt::dirty_ring::DirtyRing;

use crate::asid::Assigned;
use crate::engine::Shared;
use crate::events;
use crate::exits::{self, Cause};
use crate::processor::Processor;
use crate::resolve::Waiting;
use crate::vcpu::SvmVcpu;
use crate::virtualization::Local;
use crate::vmcb::{clean, tlb_control};

/// What the host has in registers that are the guest's meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    xcr0: Option<u64>,
    xss: Option<u64>,
    breakpoints: Option<[u64; 4]>,
    dr7: u64,
    speculation_control: Option<u64>,
}

/// What goes on.
enum Next {
    /// The guest.
    Enter,
    Out(Intercept),
}

impl<P: Platform, C: Processor> SvmVcpu<P, C> {
    /// Runs guest code until it must come out.
    pub(crate) fn run(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept {
        self.undelivered = entry.inject;
        if !matches!(entry.inject, Some(Event::Interrupt { .. } | Event::Nmi)) {
            // The run loop has done without the event.
            self.behind = None;
        }
        if let Some(gpa) = self.bad.take() {
            return Intercept::BadMemory { gpa };
        }
        self.want_window(entry.interrupt_window);
        let shared = Arc::clone(&self.shared);
        let intercept = shared.svm.platform.on_processor(|processor| {
            let Some(local) = shared.svm.local(processor) else {
                return Intercept::Failed(Errno::EIO);
            };
            let host_aux = self.arrive(local);
            let intercept = self.run_on(&shared, local, processor, entry, request);
            if let Some(aux) = host_aux {
                shared.svm.processor.set_tsc_aux(aux);
            }
            intercept
        });
        self.want_window(false);
        intercept
    }

    /// Comes to a processor; gives the host's TSC_AUX if it is not there any more.
    fn arrive(&mut self, local: &Local<P::Pages>) -> Option<u64> {
        let svm = &self.shared.svm;
        if local.is_new(self.number) && svm.features.prediction_barrier {
            svm.processor.forget_branches();
        }
        let host = local.tsc_aux();
        let differs = svm.features.tsc_aux && host != self.tsc_aux;
        differs.then(|| {
            svm.processor.set_tsc_aux(self.tsc_aux);
            host
        })
    }

    /// Goes in and comes out until the run loop is needed.
    fn run_on(
        &mut self,
        shared: &Shared<P, C>,
        local: &Local<P::Pages>,
        processor: u32,
        entry: &Entry,
        request: &AtomicU32,
    ) -> Intercept {
        let platform = &shared.svm.platform;
        loop {
            if entry.nmi_window && self.undelivered.is_none() && self.is_open_for_nmi() {
                return Intercept::NmiWindow;
            }
            let event = self.undelivered;
            // Delivers what is injected, and comes out at once: an NMI is next, or a #DB.
            let nmi_is_next = entry.nmi_window && event.is_some() && !self.nmi_blocked();
            let briefly = nmi_is_next || self.behind.is_some();
            let went = platform.without_interrupts(|| {
                if !local.is_on() {
                    return Err(Intercept::Failed(Errno::EIO));
                }
                shared.presence.enter(self.id, processor);
                let went = !self.is_held_back(request);
                if went {
                    self.switch(shared, local, processor, briefly);
                }
                shared.presence.leave(self.id);
                if went { Ok(()) } else { Err(Intercept::Interrupted) }
            });
            if let Err(intercept) = went {
                return intercept;
            }
            match self.came_out(event, processor) {
                Next::Enter => {}
                Next::Out(intercept) => return intercept,
            }
        }
    }

    fn is_open_for_nmi(&self) -> bool {
        !self.nmi_blocked() && !self.interrupt_shadow()
    }

    /// Whether it is not to go in.
    fn is_held_back(&self, request: &AtomicU32) -> bool {
        let ring_is_full = self.view.ring().is_some_and(DirtyRing::is_nearly_full);
        // What the thread is wanted for is done when the run loop asks whether it is interrupted.
        self.shared.svm.platform.is_wanted() || ring_is_full || request.load(Ordering::SeqCst) != 0
    }

    /// Has the guest come out when it is open for an interrupt, or not.
    fn want_window(&mut self, on: bool) {
        if self.intercepts.window != on {
            self.intercepts.window = on;
            events::set_window(&mut self.vmcb, on);
            self.update_intercepts();
        }
    }

    /// The switch into guest code and back. With interrupts off.
    fn switch(
        &mut self,
        shared: &Shared<P, C>,
        local: &Local<P::Pages>,
        processor: u32,
        briefly: bool,
    ) {
        let svm = &shared.svm;
        self.choose_asid(local, processor);
        if let Some(event) = self.undelivered.take() {
            self.inject(event);
            svm.platform.trace(Trace::Injection { vcpu: self.id, event });
        }
        // While the registers are the host's: who traces may use them.
        svm.platform.trace(Trace::Entry { vcpu: self.id, rip: self.vmcb.rip });
        self.vmcb.set(clean::DEBUG, |vmcb| &mut vmcb.dr6, dr6::FIXED);
        if briefly {
            svm.platform.interrupt(processor);
        }
        self.fpu.restore();
        let kept = self.lend_registers(local);
        let (physical, dr7) = (self.vmcb.physical(), self.vmcb.dr7);
        let is_again = self.behind.is_some();
        if is_again {
            // The breakpoint that it hit is not hit again.
            self.vmcb.set(clean::DEBUG, |vmcb| &mut vmcb.dr7, dr7::FIXED);
        }
        // SAFETY: interrupts are off, and the thread stays here: this is inside of the platform's functions that say so. SVM is on: the
        // caller has looked since interrupts are off, and it is switched off by an interrupt of this processor's. The VMCB's nested tables are the machine's, which
        // `shared` holds; a page that is taken out of them is used no more when who does that goes on, since the flushes were
        // looked at after this vCPU had said that it is inside. The maps intercept all, and `Intercepts` always has what the contract names.
        // The host's page is this processor's.
        unsafe { svm.processor.run(&mut self.vmcb, physical, local.host(), &mut self.gprs) };
        self.take_registers_back(&kept);
        svm.platform.trace(Trace::Exit {
            vcpu: self.id,
            rip: self.vmcb.rip,
            reason: self.vmcb.exit_code,
            info1: self.vmcb.exit_info1,
            info2: self.vmcb.exit_info2,
        });
        if exits::is_invalid(&self.vmcb) {
            self.refused(local);
        } else {
            self.vmcb.clean = if svm.features.clean_bits { clean::ALL } else { 0 };
        }
        self.vmcb.tlb_control = tlb_control::KEEP;
        self.vmcb.event_injection = 0;
        if exits::is_exception(&self.vmcb, exception::MC) {
            svm.processor.machine_check();
        }
        if is_again || exits::is_exception(&self.vmcb, exception::DB) {
            // It is as the handler would see it.
            self.vmcb.set(clean::DEBUG, |vmcb| &mut vmcb.dr7, dr7);
        }
    }

    /// The ASID for this entry, and whether translations are dropped. The processor's copy of the VMCB is good only if that was here.
    fn choose_asid(&mut self, local: &Local<P::Pages>, processor: u32) {
        let flushes = self.shared.nested.flushes();
        let flush = self.flush || flushes != self.flushes;
        (self.flush, self.flushes) = (false, flushes);
        let had = self.asid;
        let by_asid = self.shared.svm.features.flush_by_asid;
        let (asid, control) = local.asids().assign(processor, &mut self.asid, flush, by_asid);
        if self.asid != had {
            self.vmcb.clean = 0;
        }
        self.vmcb.set(clean::ASID, |vmcb| &mut vmcb.asid, asid);
        self.vmcb.tlb_control = control;
    }

    /// VMRUN did not take the VMCB: it may not have flushed what it was to, and the processor's copy is of something else.
    fn refused(&mut self, local: &Local<P::Pages>) {
        if self.vmcb.tlb_control == tlb_control::FLUSH_ALL {
            // The generation that it was to begin is not clean: the next assignment begins another.
            local.asids().restart();
        }
        self.asid = Assigned::default();
        self.flush = true;
        self.vmcb.clean = 0;
    }

    /// Has an event be delivered, and leaves in registers what goes with it.
    fn inject(&mut self, event: Event) {
        match event {
            Event::Nmi => self.set_nmi_blocked(true),
            Event::Interrupt { .. } => {}
            Event::Exception(raised) => match raised.vector {
                exception::PF => self.set_cr2(raised.payload),
                exception::DB => debug::record(self, raised.payload),
                _ => {}
            },
        }
        if let Event::Exception(raised) = event
            && is_fault(raised.vector)
        {
            self.vmcb.rflags |= rflags::RF;
        }
        self.vmcb.interrupt_shadow = 0;
        events::inject(&mut self.vmcb, event);
    }

    /// Loads the guest's registers that VMRUN does not load.
    fn lend_registers(&self, local: &Local<P::Pages>) -> Kept {
        let svm = &self.shared.svm;
        let processor = &svm.processor;
        let mut kept = Kept { dr7: processor.dr(7), ..Kept::default() };
        if debug::armed(self.vmcb.dr7) {
            if debug::armed(kept.dr7) {
                processor.set_dr(7, dr7::FIXED);
            }
            kept.breakpoints = Some([0, 1, 2, 3].map(|n| processor.dr(n)));
            self.set_breakpoints(&self.breakpoints);
        }
        let control = self.speculation_control & svm.features.speculation_control;
        if control != 0 {
            let host = processor.speculation_control();
            if host | control != host {
                processor.set_speculation_control(host | control);
                kept.speculation_control = Some(host);
            }
        }
        // Without OSXSAVE nothing in the guest depends on these.
        if svm.features.xsave && self.cr4 & cr4::OSXSAVE != 0 {
            let host = processor.xcr0();
            // A component that the host has not switched on the processor may not have: XSETBV would be refused.
            let guest = self.xcr0 & host;
            if host != guest {
                processor.set_xcr0(guest);
                kept.xcr0 = Some(host);
            }
            // The guest has no components of XSAVES's, and must not see the host's.
            if local.xss() != 0 {
                processor.set_xss(0);
                kept.xss = Some(local.xss());
            }
        }
        kept
    }

    /// Loads the host's again. VMRUN's end has left DR7 without breakpoints.
    fn take_registers_back(&self, kept: &Kept) {
        let processor = &self.shared.svm.processor;
        if let Some(host) = kept.speculation_control {
            processor.set_speculation_control(host);
        }
        if let Some(xcr0) = kept.xcr0 {
            processor.set_xcr0(xcr0);
        }
        if let Some(xss) = kept.xss {
            processor.set_xss(xss);
        }
        if let Some(breakpoints) = &kept.breakpoints {
            self.set_breakpoints(breakpoints);
        }
        if self.vmcb.dr6 != dr6::FIXED {
            processor.set_dr(6, dr6::FIXED);
        }
        if debug::armed(kept.dr7) {
            processor.set_dr(7, kept.dr7);
        }
    }

    fn set_breakpoints(&self, addresses: &[u64; 4]) {
        for (n, address) in (0..).zip(addresses) {
            self.shared.svm.processor.set_dr(n, *address);
        }
    }

    /// What becomes of an exit. `injected` is what the guest was entered with, on `processor`.
    fn came_out(&mut self, injected: Option<Event>, processor: u32) -> Next {
        let wanted = self.intercepts.exceptions;
        let cause = exits::cause(&self.vmcb, &self.shared.svm.features, wanted);
        self.undelivered = if exits::is_invalid(&self.vmcb) {
            // EXITINTINFO may be the last exit's.
            injected
        } else {
            events::undelivered(&self.vmcb, self.dr6, injected)
        };
        if self.undelivered == Some(Event::Nmi) {
            self.set_nmi_blocked(false);
        }
        if cause == Cause::Out(Intercept::Shutdown) {
            self.behind = None;
        }
        if self.undelivered.is_none()
            && let Some(raised) = self.behind.take()
        {
            // The event was delivered, and nothing of its handler executed: what it came out with comes again.
            if wanted >> raised.vector & 1 != 0 {
                return Next::Out(Intercept::Exception(raised));
            }
            self.undelivered = Some(Event::Exception(raised));
            return Next::Enter;
        }
        match cause {
            Cause::Host | Cause::MachineCheck => Next::Enter,
            Cause::Window => Next::Out(Intercept::InterruptWindow),
            Cause::Pause => {
                self.waiting = Waiting::Processor;
                Next::Out(Intercept::Interrupted)
            }
            Cause::Nested { gpa, write } => Next::Out(self.reached(gpa, write)),
            Cause::Raised(raised) => self.raised(raised),
            // What delivers an event is no hypercall.
            Cause::Undefined if self.undelivered.is_some() => self.raised(Exception::ud()),
            Cause::Undefined => Next::Out(Intercept::Undefined),
            Cause::Refused => {
                // Half of the word, as Linux's KVM tells it.
                let reason = self.vmcb.exit_code & 0xffff_ffff;
                Next::Out(Intercept::EntryRefused { reason, processor })
            }
            Cause::Out(Intercept::Exception(raised)) if self.undelivered.is_some() => {
                self.raised(raised)
            }
            Cause::Out(intercept) => {
                if intercept == Intercept::Shutdown {
                    self.undelivered = None;
                    // What the VMCB has of the guest is undefined; this nobody else sets again.
                    self.reset_pat();
                }
                Next::Out(intercept)
            }
        }
    }

    /// The guest is to have an exception, or what it makes of the one that was being delivered.
    fn raised(&mut self, raised: Exception) -> Next {
        let becomes = match self.undelivered.take() {
            Some(Event::Exception(first)) => raised.during(first.vector),
            // A trap: the event is delivered all the same, and the #DB when it was.
            Some(event) if raised.vector == exception::DB => {
                self.undelivered = Some(event);
                self.behind = Some(raised);
                return Next::Enter;
            }
            _ => Some(raised),
        };
        match becomes {
            Some(exception) => {
                self.undelivered = Some(Event::Exception(exception));
                Next::Enter
            }
            None => Next::Out(Intercept::Shutdown),
        }
    }

    /// The guest reached a page: a device's, or one that is found before the next entry.
    fn reached(&mut self, gpa: u64, write: bool) -> Intercept {
        let slot = self.view.slots().find(gpa);
        let is_memory = slot.is_some_and(|slot| !(write && slot.read_only));
        if !is_memory || !self.shared.nested.reaches(gpa) {
            // With an event on its way no instruction does it, which could be executed instead.
            let delivers = self.undelivered.is_some();
            return if delivers {
                Intercept::BadMemory { gpa }
            } else {
                Intercept::NestedFault { gpa, write }
            };
        }
        self.waiting = Waiting::Page { gpa, write };
        Intercept::Interrupted
    }
}

/// Whether an exception is pushed with RF set. See: AMD APM vol. 2, 3.1.6.
const fn is_fault(vector: u8) -> bool {
    use exception::{BP, DB, DF, MC, NMI, OF};
    !matches!(vector, DB | NMI | BP | OF | DF | MC)
}
