//! [`forward_regs`]: for what wraps an engine's registers.

/// The body of an `impl Regs` that hands everything through to a field.
macro_rules! forward_regs {
    ($($field:ident).+) => {
        fn gpr(&self, n: u8) -> u64 {
            self.$($field).+.gpr(n)
        }
        fn rip(&self) -> u64 {
            self.$($field).+.rip()
        }
        fn rflags(&self) -> u64 {
            self.$($field).+.rflags()
        }
        fn status(&self) -> $crate::emulate::Status {
            self.$($field).+.status()
        }
        fn segment(&self, seg: $crate::regs::Seg) -> $crate::regs::Segment {
            self.$($field).+.segment(seg)
        }
        fn segment_base(&self, seg: $crate::regs::Seg) -> u64 {
            self.$($field).+.segment_base(seg)
        }
        fn cpl(&self) -> u8 {
            self.$($field).+.cpl()
        }
        fn gdtr(&self) -> $crate::regs::Table {
            self.$($field).+.gdtr()
        }
        fn idtr(&self) -> $crate::regs::Table {
            self.$($field).+.idtr()
        }
        fn cr0(&self) -> u64 {
            self.$($field).+.cr0()
        }
        fn cr2(&self) -> u64 {
            self.$($field).+.cr2()
        }
        fn cr3(&self) -> u64 {
            self.$($field).+.cr3()
        }
        fn cr4(&self) -> u64 {
            self.$($field).+.cr4()
        }
        fn efer(&self) -> u64 {
            self.$($field).+.efer()
        }
        fn dr(&self, n: u8) -> u64 {
            self.$($field).+.dr(n)
        }
        fn sysreg(&self, reg: $crate::regs::SysReg) -> u64 {
            self.$($field).+.sysreg(reg)
        }
        fn interrupt_shadow(&self) -> bool {
            self.$($field).+.interrupt_shadow()
        }
        fn nmi_blocked(&self) -> bool {
            self.$($field).+.nmi_blocked()
        }
        fn fxsave(&self) -> &$crate::regs::FxArea {
            self.$($field).+.fxsave()
        }
        fn ymm_high(&self) -> &$crate::regs::YmmHigh {
            self.$($field).+.ymm_high()
        }
        fn set_gpr(&mut self, n: u8, value: u64) {
            self.$($field).+.set_gpr(n, value);
        }
        fn set_rip(&mut self, value: u64) {
            self.$($field).+.set_rip(value);
        }
        fn set_rflags(&mut self, value: u64) {
            self.$($field).+.set_rflags(value);
        }
        fn set_status(&mut self, status: $crate::emulate::Status) {
            self.$($field).+.set_status(status);
        }
        fn set_segment(&mut self, seg: $crate::regs::Seg, value: $crate::regs::Segment) {
            self.$($field).+.set_segment(seg, value);
        }
        fn set_cpl(&mut self, cpl: u8) {
            self.$($field).+.set_cpl(cpl);
        }
        fn set_gdtr(&mut self, table: $crate::regs::Table) {
            self.$($field).+.set_gdtr(table);
        }
        fn set_idtr(&mut self, table: $crate::regs::Table) {
            self.$($field).+.set_idtr(table);
        }
        fn set_cr0(&mut self, value: u64) {
            self.$($field).+.set_cr0(value);
        }
        fn set_cr2(&mut self, value: u64) {
            self.$($field).+.set_cr2(value);
        }
        fn set_cr3(&mut self, value: u64) {
            self.$($field).+.set_cr3(value);
        }
        fn set_cr4(&mut self, value: u64) {
            self.$($field).+.set_cr4(value);
        }
        fn set_efer(&mut self, value: u64) {
            self.$($field).+.set_efer(value);
        }
        fn set_dr(&mut self, n: u8, value: u64) {
            self.$($field).+.set_dr(n, value);
        }
        fn set_sysreg(&mut self, reg: $crate::regs::SysReg, value: u64) {
            self.$($field).+.set_sysreg(reg, value);
        }
        fn set_interrupt_shadow(&mut self, on: bool) {
            self.$($field).+.set_interrupt_shadow(on);
        }
        fn set_nmi_blocked(&mut self, on: bool) {
            self.$($field).+.set_nmi_blocked(on);
        }
        fn fxsave_mut(&mut self) -> &mut $crate::regs::FxArea {
            self.$($field).+.fxsave_mut()
        }
        fn ymm_high_mut(&mut self) -> &mut $crate::regs::YmmHigh {
            self.$($field).+.ymm_high_mut()
        }
    };
}
pub(crate) use forward_regs;
