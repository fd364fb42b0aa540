//! Which translations a vCPU drops, and when: CR3, INVLPG, INVPCID, and all that changes paging.
//!
//! See: AMD APM vol. 2, 5.5.1, 5.5.3; vol. 3, INVLPG, INVPCID.

use std::sync::atomic::Ordering;

use arch_x86::regs::cr4;

use crate::address_spaces::{AddressSpaces, Switched};
use crate::jump_cache;
use crate::tlb::Rights;
use crate::vcpu::SoftVcpu;

/// CR3's bit that keeps the translations of the PCID that is switched to.
pub(crate) const CR3_NO_FLUSH: u64 = 1 << 63;
/// CR3's bits that hold the PCID.
const PCID: u64 = 0xfff;

impl SoftVcpu {
    /// The PCID in CR3: 0 while there are none.
    const fn pcid(&self) -> u16 {
        if self.cr4 & cr4::PCIDE != 0 { (self.cr3 & PCID) as u16 } else { 0 }
    }

    /// Drops every translation, of all PCIDs.
    pub(crate) fn flush_translations(&mut self) {
        self.tlb.flush_all();
        self.itlb.flush_all();
    }

    /// Drops every translation because paging changed, and forgets what PCIDs there were.
    pub(crate) fn restart_address_spaces(&mut self) {
        self.flush_translations();
        self.spaces = AddressSpaces::new(self.pcid());
        self.switch(Switched { space: self.spaces.current(), known: true });
    }

    /// CR3 was set; `keep` if with bit 63.
    pub(crate) fn switch_address_space(&mut self, keep: bool) {
        let to = self.spaces.switch(self.pcid());
        self.switch(Switched { known: to.known && keep && self.cr4 & cr4::PCIDE != 0, ..to });
    }

    /// Makes an address space current, with what it has if that is known to be right.
    fn switch(&mut self, to: Switched) {
        self.tlb.switch(to.space, to.known);
        // MOV to CR3 serializes: what other vCPUs have written to code is to be seen.
        // See: AMD APM vol. 2, 7.6.4.
        let alone = self.shared.vcpus.load(Ordering::Relaxed) <= 1;
        self.itlb.switch(to.space, to.known && alone);
        self.update_tables();
    }

    /// Lets translated code know where the current address space's tables are.
    pub(crate) fn update_tables(&mut self) {
        self.jit.tables = self.rights.map(|rights| self.tlb.table(rights));
        self.aside.supervisor = self.tlb.table(Rights::Supervisor);
        self.aside.smap_lifted = self.tlb.table(Rights::SmapLifted);
        let part =
            |cpl| self.aside.all_jumps.wrapping_add(jump_cache::part(cpl, self.itlb.space()));
        self.jit.jumps = [0, 3].map(part);
    }

    /// Drops the translations of a page: the current PCID's, and global ones.
    pub(crate) fn drop_page(&mut self, linear: u64) {
        self.tlb.flush_page(linear);
        self.itlb.flush_page(linear);
    }

    /// Drops what INVPCID says. Of a PCID that is not current all goes, as it does with its next switch.
    pub(crate) fn drop_pcid(&mut self, kind: u64, pcid: u64, linear: u64) {
        let pcid = (pcid & PCID) as u16;
        match kind {
            0 if self.spaces.is_current(pcid) => self.drop_page(linear),
            1 if self.spaces.is_current(pcid) => self.drop_current(),
            0 | 1 => self.spaces.forget(pcid),
            2 => self.flush_translations(),
            _ => {
                self.spaces.forget_others();
                self.drop_current();
            }
        }
    }

    /// Drops what is not global of the current PCID.
    fn drop_current(&mut self) {
        self.switch(Switched { space: self.spaces.current(), known: false });
    }
}
