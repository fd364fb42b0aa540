//! What a VMM sees of the local APIC's task priority: KVM_TPR_ACCESS_REPORTING and KVM_SET_VAPIC_ADDR, for VMMs that spare
//! 32-bit guests the exits for it by changing their code.
//!
//! Reporting: an access, by page or by MSR, becomes an exit after its instruction ([`Exit::TaskPriority`]), with the address of that.
//! The word: a guest-physical address at which the task priority, the interrupt in service and the one that waits are written before each
//! entry, and the task priority is read after it. The guest may write it there; and only the VMM knows that it does. What cannot be
//! reached is left alone, as in Linux.
//!
//! See: Linux, arch/x86/kvm/lapic.c, `__report_tpr_access`, `kvm_lapic_sync_to_vapic`, `kvm_lapic_sync_from_vapic`.

use virt::Errno;
use virt::host::Host;

use super::{Exit, Vcpu};
use crate::engine::Engine;
use crate::regs::Regs;

/// The task priority, as one of the local APIC's MSRs.
pub(super) const TASK_PRIORITY_MSR: u32 = 0x808;
/// Where it is in the local APIC's page, in whole registers.
const TASK_PRIORITY: u64 = 0x80;

/// What was asked for, and what is to be told.
#[derive(Debug, Default)]
pub(super) struct TaskPriorityWatch {
    reports: bool,
    /// Of the instruction that is emulated, or was last.
    rip: u64,
    /// What is to be told: where the instruction is, and whether it wrote.
    access: Option<(u64, bool)>,
    word: Option<u64>,
}

impl TaskPriorityWatch {
    /// An instruction begins that may access the page.
    pub(super) const fn begin(&mut self, rip: u64) {
        self.rip = rip;
    }

    /// An exit that is due.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Exit> {
        let (rip, is_write) = self.access.take()?;
        Some(Exit::TaskPriority { rip, is_write })
    }
}

impl<E: Engine, H: Host> Vcpu<E, H> {
    /// Has accesses to the task priority become exits, or not.
    pub fn report_task_priority(&mut self, on: bool) {
        self.task_priority.reports = on;
    }

    /// Has the task priority be where the guest writes it without an exit, too; 0: nowhere.
    ///
    /// # Errors
    /// `EINVAL` if there is no memory for it.
    pub fn set_task_priority_word(&mut self, gpa: u64) -> Result<(), Errno> {
        let is_there = |vcpu: &mut Self| {
            let end = gpa.checked_add(3);
            end.is_some_and(|end| vcpu.has_slot(gpa) && vcpu.has_slot(end))
        };
        if gpa != 0 && !is_there(self) {
            return Err(Errno::EINVAL);
        }
        self.task_priority.word = Some(gpa).filter(|gpa| *gpa != 0);
        Ok(())
    }

    /// The page of the local APIC is accessed at an address.
    pub(super) fn note_page_access(&mut self, gpa: u64, is_write: bool) {
        if gpa & 0xff0 == TASK_PRIORITY {
            self.note_access(self.task_priority.rip, is_write);
        }
    }

    /// One of its MSRs is, by the instruction at RIP.
    pub(super) fn note_msr_access(&mut self, number: u32, is_write: bool) {
        if number == TASK_PRIORITY_MSR {
            self.note_access(self.engine.rip(), is_write);
        }
    }

    fn note_access(&mut self, rip: u64, is_write: bool) {
        if self.task_priority.reports {
            self.task_priority.access = Some((rip, is_write));
        }
    }

    /// Writes the word, if there is one: before an entry.
    #[inline]
    pub(super) fn write_task_priority_word(&mut self) {
        if let Some(gpa) = self.task_priority.word {
            self.write_word(gpa);
        }
    }

    #[inline(never)]
    fn write_word(&mut self, gpa: u64) {
        let state = self.lapic.state();
        let in_service = state.isr.highest().unwrap_or(0) & 0xf0;
        let waiting = state.irr.highest().unwrap_or(0);
        let _ = self.write_memory(gpa, &[state.tpr, in_service, 0, waiting]);
    }

    /// Reads it: after an entry.
    #[inline]
    pub(super) fn read_task_priority_word(&mut self) {
        if let Some(gpa) = self.task_priority.word {
            self.read_word(gpa);
        }
    }

    #[inline(never)]
    fn read_word(&mut self, gpa: u64) {
        let mut word = [0; 4];
        if self.read_memory(gpa, &mut word).is_ok() {
            self.lapic.set_task_priority(word[0]);
        }
    }
}
