//! The registers of a vCPU: [`Regs`] for [`SoftVcpu`].
//!
//! What translation and decoding depend on (privilege, modes, paging) is
//! derived here, once, whenever one of the registers that decide it is set.

use arch_x86::emulate::debug::dr7;
use arch_x86::emulate::{Mode, Status};
use arch_x86::mmu::Paging;
use arch_x86::regs::{
    Attr, DEBUG_REGISTERS, FxArea, Regs, Seg, Segment, SysReg, Table, YmmHigh, cr0, cr4, efer,
    rflags,
};

use crate::invalidate::CR3_NO_FLUSH;
use crate::jit::context::Returns;
use crate::tlb::Rights;
use crate::vcpu::{SoftVcpu, attention};

impl SoftVcpu {
    /// Derives with whose rights accesses are made.
    pub(crate) fn update_rights(&mut self) {
        let checked = self.flags & rflags::AC != 0 && self.cr0 & cr0::AM != 0;
        let lifted = self.cr4 & cr4::SMAP != 0 && self.flags & rflags::AC != 0;
        self.check_alignment = self.cpl == 3 && checked;
        let all = self.watch_data;
        let watched = |rights, or| if all || or { Rights::Watched } else { rights };
        let supervisor = if lifted { Rights::SmapLifted } else { Rights::Supervisor };
        self.use_rights([watched(supervisor, false), watched(Rights::User, checked)]);
        self.operand_rights = self.rights[usize::from(self.cpl == 3)];
        self.system_rights = watched(Rights::Supervisor, false);
        self.itlb.set_mode(self.code_mode, self.cpl);
        if self.lockstep.keeps_from_fast_way() {
            self.keep_from_fast_way();
        }
    }

    /// Operands are accessed with these rights from now on, at the levels 0 to 2 and at 3.
    pub(crate) fn use_rights(&mut self, rights: [Rights; 2]) {
        self.rights = rights;
        // Each access is to be looked at.
        match rights {
            [Rights::Watched, _] => self.tlb.forget_stretches(),
            [_, Rights::Watched] => self.tlb.forget_stacks(),
            _ => {}
        }
        self.jit.tables = rights.map(|rights| self.tlb.table(rights));
    }

    /// Derives how code is decoded, and where it lies.
    pub(crate) fn update_mode(&mut self) {
        let cs = self.segments[Seg::Cs as usize];
        self.mode64 = self.efer & efer::LMA != 0 && cs.attr.has(Attr::L);
        self.code_mode = Mode::of(self);
        // Decoded code is found by RIP: that depends on CS outside 64-bit mode.
        let place = if self.mode64 { (0, u32::MAX) } else { (cs.base, cs.limit) };
        if place != self.code_place {
            self.code_place = place;
            self.itlb.flush_all();
        }
        self.update_rights();
    }

    /// Paging or the rights that it grants changed.
    pub(crate) fn update_paging(&mut self) {
        self.paging = Paging::new(self.cr0, self.cr3, self.cr4, self.efer, self.limits);
        self.restart_address_spaces();
        self.update_mode();
    }

    /// Marks what the run loop has to look at because of these registers.
    pub(crate) fn update_attention(&mut self) {
        let trace = self.flags & rflags::TF != 0 || self.debug[7] & dr7::ENABLE != 0;
        self.set_attention(attention::TRACE, trace);
        let single = self.shadow || self.flags & rflags::RF != 0;
        self.set_attention(attention::SINGLE, single);
        let window = self.wants_interrupt_window && self.flags & rflags::IF != 0
            || self.wants_nmi_window && !self.nmi_blocked;
        self.set_attention(attention::WINDOW, window);
        self.leave_block |= self.attention != 0;
    }
}

/// Whether DR7 enables a breakpoint on data (or I/O, whose matching is not data's).
fn watches_data(dr7: u64) -> bool {
    (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 != 0)
}

impl Regs for SoftVcpu {
    #[inline(always)]
    fn gpr(&self, n: u8) -> u64 {
        self.gprs[usize::from(n & 31)]
    }
    #[inline(always)]
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.gprs[usize::from(n & 31)] = value;
    }
    #[inline(always)]
    fn rip(&self) -> u64 {
        self.rip
    }
    #[inline(always)]
    fn set_rip(&mut self, value: u64) {
        self.rip = value;
    }
    #[inline]
    fn rflags(&self) -> u64 {
        self.flags | self.status.bits()
    }
    #[inline]
    fn set_rflags(&mut self, value: u64) {
        self.status = Status::from_bits(value);
        let flags = value & !rflags::STATUS | rflags::FIXED;
        let changed = flags ^ self.flags;
        self.flags = flags;
        if changed & rflags::AC != 0 {
            self.update_rights();
        }
        if changed & (rflags::TF | rflags::RF | rflags::IF) != 0 {
            self.update_attention();
        }
    }
    #[inline(always)]
    fn status(&self) -> Status {
        self.status
    }
    #[inline(always)]
    fn set_status(&mut self, status: Status) {
        self.status = status;
    }
    #[inline]
    fn segment(&self, seg: Seg) -> Segment {
        self.segments[seg as usize]
    }
    fn set_segment(&mut self, seg: Seg, value: Segment) {
        self.segments[seg as usize] = value;
        if seg == Seg::Cs {
            self.update_mode();
        }
    }
    #[inline(always)]
    fn segment_base(&self, seg: Seg) -> u64 {
        self.segments[seg as usize].base
    }
    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn set_cpl(&mut self, cpl: u8) {
        if self.cpl != cpl {
            self.cpl = cpl;
            self.update_rights();
        }
    }
    fn gdtr(&self) -> Table {
        self.gdtr
    }
    fn set_gdtr(&mut self, table: Table) {
        self.gdtr = table;
        self.aside.returns = Returns::default();
    }
    fn idtr(&self) -> Table {
        self.idtr
    }
    fn set_idtr(&mut self, table: Table) {
        self.idtr = table;
    }
    fn cr0(&self) -> u64 {
        self.cr0
    }
    fn set_cr0(&mut self, value: u64) {
        let changed = self.cr0 ^ value;
        self.cr0 = value;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.update_paging();
        } else if changed & cr0::AM != 0 {
            self.update_rights();
        }
    }
    fn cr2(&self) -> u64 {
        self.cr2
    }
    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }
    fn cr3(&self) -> u64 {
        self.cr3
    }
    fn set_cr3(&mut self, value: u64) {
        self.cr3 = value & !CR3_NO_FLUSH;
        self.paging.cr3 = self.cr3;
        self.switch_address_space(value & CR3_NO_FLUSH != 0);
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn set_cr4(&mut self, value: u64) {
        let changed = self.cr4 ^ value;
        self.cr4 = value;
        // See: AMD APM vol. 2, 5.5.2; a change of any of these flushes all.
        let paging =
            cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::LA57;
        if changed & paging != 0 {
            self.update_paging();
        }
    }
    fn efer(&self) -> u64 {
        self.efer
    }
    fn set_efer(&mut self, value: u64) {
        if self.efer != value {
            self.efer = value;
            self.update_paging();
        }
    }
    fn dr(&self, n: u8) -> u64 {
        self.debug.get(usize::from(n)).copied().unwrap_or(0)
    }
    fn set_dr(&mut self, n: u8, value: u64) {
        if DEBUG_REGISTERS.contains(&n) {
            self.debug[usize::from(n)] = value;
        }
        self.watch_data = watches_data(self.debug[7]);
        self.update_rights();
        self.update_attention();
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.sysregs[reg as usize]
    }
    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        self.sysregs[reg as usize] = value;
    }
    fn interrupt_shadow(&self) -> bool {
        self.shadow
    }
    fn set_interrupt_shadow(&mut self, on: bool) {
        self.shadow = on;
        self.update_attention();
    }
    fn nmi_blocked(&self) -> bool {
        self.nmi_blocked
    }
    fn set_nmi_blocked(&mut self, on: bool) {
        self.nmi_blocked = on;
        self.update_attention();
    }
    fn fxsave(&self) -> &FxArea {
        &self.xsave.fx
    }
    fn fxsave_mut(&mut self) -> &mut FxArea {
        &mut self.xsave.fx
    }
    fn ymm_high(&self) -> &YmmHigh {
        &self.ymm_high
    }
    fn ymm_high_mut(&mut self) -> &mut YmmHigh {
        &mut self.ymm_high
    }
    #[inline(always)]
    fn mode64(&self) -> bool {
        self.mode64
    }
}
