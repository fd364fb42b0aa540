//! What `prepare` does: finds the host's page for what the guest reached, and has it mapped.
//!
//! Entering the guest may not sleep; finding a page may. So a fault comes out as an interruption, and is served here on the way
//! back in. Where there is no slot, or none that may be written, it came out as an access to a device: that needs the slots only.

use arch_x86::hardware::Platform;
use virt::Errno;
use virt::memory::PAGE;

use crate::nested::Mapped;
use crate::nested::tree::Mapping;
use crate::processor::Processor;
use crate::vcpu::SvmVcpu;

/// How often a page is looked for that the host changes at the same time. The guest asks again.
const ATTEMPTS: u32 = 4;

/// What the vCPU waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    Nothing,
    /// A page.
    Page {
        /// An address in it.
        gpa: u64,
        /// It is to be written.
        write: bool,
    },
    /// Another vCPU.
    Processor,
}

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Mapped(Mapped),
    /// It is no slot's any more: the guest sees.
    NoSlot,
    /// The host has nothing there.
    Nothing,
}

impl<P: Platform, C: Processor> SvmVcpu<P, C> {
    /// Does what it waits for.
    pub(crate) fn resolve(&mut self) -> Result<(), Errno> {
        let waiting = core::mem::replace(&mut self.waiting, Waiting::Nothing);
        match waiting {
            Waiting::Nothing => {
                self.view.refresh(&self.shared.memory);
            }
            Waiting::Processor => self.shared.svm.platform.yield_now(),
            Waiting::Page { gpa, write } => {
                self.reserve.fill(&self.shared.svm.platform)?;
                for _ in 0..ATTEMPTS {
                    match self.map(gpa, write) {
                        Found::Mapped(Mapped::Done) | Found::NoSlot => break,
                        // It may have been this that changed it: what is only read becomes a page of its own when it is to be written.
                        Found::Mapped(Mapped::Again) => {}
                        Found::Mapped(Mapped::Busy) => self.shared.svm.platform.yield_now(),
                        Found::Nothing => {
                            self.bad = Some(gpa);
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn map(&mut self, gpa: u64, write: bool) -> Found {
        let shared = &*self.shared;
        let platform = &shared.svm.platform;
        // First: what changes from here on is noticed.
        let ticket = shared.nested.ticket();
        self.view.refresh(&shared.memory);
        let gpa = gpa & !(PAGE - 1);
        // A logged page is marked by this, before the guest can write to it.
        let Ok((hva, _)) = self.view.host_address(gpa, write) else { return Found::NoSlot };
        let Ok(page) = platform.host_page(hva, write) else { return Found::Nothing };
        let mut mapping =
            Mapping { gpa, hva, physical: page.physical, size: page.size, writable: write };
        // What the host lets be written at once is had for writing, and counts as written where that is logged: so it is with Linux's
        // KVM, and programs count on it.
        if !write
            && page.writable
            && self.view.host_address(gpa, true).is_ok()
            && let Ok(page) = platform.host_page(hva, true)
        {
            mapping =
                Mapping { physical: page.physical, size: page.size, writable: true, ..mapping };
        }
        Found::Mapped(shared.nested.map(ticket, &self.view, mapping, &mut self.reserve))
    }
}
