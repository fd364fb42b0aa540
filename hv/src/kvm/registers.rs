//! The neutral [`State`] from and to KVM's structures. No ioctls: those are `transfer`'s.
//!
//! [`Registers`] is all of them together. What KVM has beyond a [`State`] (pending exceptions, more of the XSAVE area) stays as it is.

use arch_x86::regs::{Attr, FxArea, Seg, Segment, State, SysReg, Table, YmmHigh, xcr0};
use arch_x86::xstate;
use kvm_bindings::{
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_debugregs, kvm_dtable, kvm_regs,
    kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

use crate::x86::msr;

/// The MSRs that hold [`SysReg`]s, with these; XCR0 is none.
pub(super) const MSRS: [(SysReg, u32); 9] = [
    (SysReg::Star, msr::STAR),
    (SysReg::Lstar, msr::LSTAR),
    (SysReg::Cstar, msr::CSTAR),
    (SysReg::Sfmask, msr::SFMASK),
    (SysReg::KernelGsBase, msr::KERNEL_GS_BASE),
    (SysReg::SysenterCs, msr::SYSENTER_CS),
    (SysReg::SysenterEsp, msr::SYSENTER_ESP),
    (SysReg::SysenterEip, msr::SYSENTER_EIP),
    (SysReg::TscAux, msr::TSC_AUX),
];

/// Where XSTATE_BV is in the XSAVE area. See: AMD APM vol. 2, 11.5.4.
const XSTATE_BV: usize = xstate::LEGACY_SIZE;

/// What KVM keeps a vCPU's registers in.
#[derive(Default)]
pub(super) struct Registers {
    pub regs: kvm_regs,
    pub sregs: kvm_sregs,
    pub debug: kvm_debugregs,
    pub events: kvm_vcpu_events,
    pub xcrs: kvm_xcrs,
    pub xsave: kvm_xsave,
    /// In the order of [`MSRS`].
    pub msrs: [u64; MSRS.len()],
}

impl Registers {
    /// The neutral form.
    pub fn state(&self) -> State {
        let r = &self.regs;
        let s = &self.sregs;
        let mut state = State::at_reset();
        state.gprs = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ];
        (state.rip, state.rflags) = (r.rip, r.rflags);
        state.segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs, s.ldt, s.tr].map(|s| segment(&s));
        // SVM and VMX both have the level there. See: AMD APM vol. 2, 15.5.1.
        state.cpl = s.ss.dpl;
        state.gdtr = Table { base: s.gdt.base, limit: s.gdt.limit };
        state.idtr = Table { base: s.idt.base, limit: s.idt.limit };
        (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
        state.efer = s.efer;
        let [d0, d1, d2, d3] = self.debug.db;
        state.debug = [d0, d1, d2, d3, self.debug.dr6, self.debug.dr7];
        for ((reg, _), value) in MSRS.iter().zip(self.msrs) {
            state.sysregs[*reg as usize] = value;
        }
        state.sysregs[SysReg::Xcr0 as usize] = self.xcr0();
        state.interrupt_shadow = self.events.interrupt.shadow != 0;
        state.nmi_blocked = self.events.nmi.masked != 0;
        let area = bytes(&self.xsave);
        (state.fx, state.ymm_high) = vectors(&area);
        state
    }

    /// Changes all that `state` has.
    pub fn set(&mut self, state: &State) {
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
            state.gprs;
        self.regs = kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip: state.rip,
            rflags: state.rflags,
        };
        let s = &mut self.sregs;
        let seg = |seg: Seg| from_segment(&state.segments[seg as usize]);
        (s.es, s.cs, s.ss, s.ds) = (seg(Seg::Es), seg(Seg::Cs), seg(Seg::Ss), seg(Seg::Ds));
        (s.fs, s.gs, s.ldt, s.tr) = (seg(Seg::Fs), seg(Seg::Gs), seg(Seg::Ldtr), seg(Seg::Tr));
        s.ss.dpl = state.cpl;
        s.gdt =
            kvm_dtable { base: state.gdtr.base, limit: state.gdtr.limit, ..kvm_dtable::default() };
        s.idt =
            kvm_dtable { base: state.idtr.base, limit: state.idtr.limit, ..kvm_dtable::default() };
        (s.cr0, s.cr2, s.cr3, s.cr4) = (state.cr0, state.cr2, state.cr3, state.cr4);
        s.efer = state.efer;
        let [d0, d1, d2, d3, dr6, dr7] = state.debug;
        (self.debug.db, self.debug.dr6, self.debug.dr7) = ([d0, d1, d2, d3], dr6, dr7);
        for ((reg, _), value) in MSRS.iter().zip(&mut self.msrs) {
            *value = state.sysregs[*reg as usize];
        }
        self.set_xcr0(state.sysregs[SysReg::Xcr0 as usize]);
        let shadow = KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI;
        self.events.interrupt.shadow = if state.interrupt_shadow { shadow as u8 } else { 0 };
        self.events.nmi.masked = state.nmi_blocked.into();
        let mut area = bytes(&self.xsave);
        set_vectors(&mut area, state);
        for (word, bytes) in self.xsave.region.iter_mut().zip(area.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
    }

    fn xcr0(&self) -> u64 {
        let count = (self.xcrs.nr_xcrs as usize).min(self.xcrs.xcrs.len());
        let first = self.xcrs.xcrs[..count].iter().find(|xcr| xcr.xcr == 0);
        first.map_or(xcr0::X87, |xcr| xcr.value)
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcrs.nr_xcrs = 1;
        (self.xcrs.xcrs[0].xcr, self.xcrs.xcrs[0].value) = (0, value);
    }
}

fn segment(from: &kvm_segment) -> Segment {
    let bit = |value: u8, bit: u16| if value & 1 != 0 { bit } else { 0 };
    let attr = u16::from(from.type_ & 15)
        | bit(from.s, Attr::S)
        | u16::from(from.dpl & 3) << 5
        | if from.unusable == 0 { bit(from.present, Attr::P) } else { 0 }
        | bit(from.avl, 1 << 8)
        | bit(from.l, Attr::L)
        | bit(from.db, Attr::DB)
        | bit(from.g, Attr::G);
    Segment { base: from.base, limit: from.limit, selector: from.selector, attr: Attr(attr) }
}

fn from_segment(from: &Segment) -> kvm_segment {
    let has = |bits| u8::from(from.attr.has(bits));
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.attr.kind() as u8,
        s: has(Attr::S),
        dpl: from.attr.dpl(),
        present: has(Attr::P),
        avl: has(1 << 8),
        l: has(Attr::L),
        db: has(Attr::DB),
        g: has(Attr::G),
        unusable: u8::from(!from.attr.has(Attr::P)),
        padding: 0,
    }
}

/// The beginning of the XSAVE area.
fn bytes(xsave: &kvm_xsave) -> [u8; xstate::MAX_SIZE] {
    let mut area = [0; xstate::MAX_SIZE];
    for (bytes, word) in area.as_chunks_mut().0.iter_mut().zip(xsave.region) {
        *bytes = word.to_le_bytes();
    }
    area
}

fn components(area: &[u8; xstate::MAX_SIZE]) -> u64 {
    let bytes = area[XSTATE_BV..].first_chunk().copied();
    u64::from_le_bytes(bytes.unwrap_or_default())
}

/// What is not in XSTATE_BV is as after a reset.
fn vectors(area: &[u8; xstate::MAX_SIZE]) -> (FxArea, YmmHigh) {
    let (mut fx, mut high) = (FxArea::at_reset(), YmmHigh::default());
    let components = components(area);
    if components & xcr0::X87 != 0 {
        fx.0[..24].copy_from_slice(&area[..24]);
        fx.0[32..160].copy_from_slice(&area[32..160]);
    }
    if components & (xcr0::SSE | xcr0::AVX) != 0 {
        fx.0[24..32].copy_from_slice(&area[24..32]);
    }
    if components & xcr0::SSE != 0 {
        fx.0[160..416].copy_from_slice(&area[160..416]);
    }
    if components & xcr0::AVX != 0 {
        let parts = area[xstate::AVX_OFFSET..].as_chunks().0;
        for (to, from) in high.0.iter_mut().zip(parts) {
            *to = u128::from_le_bytes(*from);
        }
    }
    (fx, high)
}

fn set_vectors(area: &mut [u8; xstate::MAX_SIZE], state: &State) {
    area[..416].copy_from_slice(&state.fx.0[..416]);
    // The upper halves are there as far as the guest may ever have them.
    let with_avx =
        state.ymm_high.0.iter().any(|high| *high != 0) || components(area) & xcr0::AVX != 0;
    let parts = area[xstate::AVX_OFFSET..].as_chunks_mut().0;
    for (to, from) in parts.iter_mut().zip(state.ymm_high.0) {
        *to = from.to_le_bytes();
    }
    let all = components(area) | xcr0::X87 | xcr0::SSE | if with_avx { xcr0::AVX } else { 0 };
    area[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&all.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd_state() -> State {
        let mut state = State::at_reset();
        for (n, gpr) in (1..).zip(&mut state.gprs) {
            *gpr = n * 0x0101_0101_0101_0101;
        }
        (state.rip, state.rflags, state.cpl) = (0x1234_5678_9abc, 0x246, 3);
        for (n, segment) in (0..).zip(&mut state.segments) {
            let attr = Attr(Attr::P | Attr::S | (3 << 5) | Attr::G | Attr::DB | 3);
            *segment = Segment { base: u64::from(n) << 32, limit: !0, selector: n << 3 | 3, attr };
        }
        state.segments[Seg::Ldtr as usize] = Segment { attr: Attr(2), ..Segment::default() };
        (state.gdtr, state.idtr) = (Table { base: 5, limit: 6 }, Table { base: 7, limit: 8 });
        (state.cr0, state.cr2, state.cr3, state.cr4, state.efer) = (9, 10, 11, 12, 13);
        state.debug = [14, 15, 16, 17, 18, 19];
        for (n, value) in (20..).zip(&mut state.sysregs) {
            *value = n;
        }
        (state.interrupt_shadow, state.nmi_blocked) = (true, true);
        (0..16).for_each(|n| state.fx.set_xmm(n, u128::from(n) << 100 | 5));
        state.fx.set_mxcsr(0x1fa0);
        state.ymm_high.0 = std::array::from_fn(|n| (n as u128) << 99 | 7);
        state
    }

    #[test]
    fn what_goes_in_comes_out() {
        for state in [State::at_reset(), odd_state()] {
            let mut registers = Registers::default();
            registers.set(&state);
            assert_eq!(registers.state(), state);
        }
    }

    #[test]
    fn components_that_are_not_there_are_as_after_a_reset() {
        let mut registers = Registers::default();
        registers.set(&odd_state());
        // None in XSTATE_BV.
        registers.xsave.region[XSTATE_BV / 4] = 0;
        let state = registers.state();
        assert_eq!((state.fx, state.ymm_high), (FxArea::at_reset(), YmmHigh::default()));
    }

    #[test]
    fn other_components_stay() {
        let mut registers = Registers::default();
        registers.xsave.region[XSTATE_BV / 4] = 1 << 5;
        registers.xsave.region[900] = 77;
        registers.set(&odd_state());
        assert_eq!(registers.xsave.region[XSTATE_BV / 4], 1 << 5 | 7);
        assert_eq!(registers.xsave.region[900], 77);
    }

    #[test]
    fn a_segment_that_is_not_there_is_unusable() {
        let absent = from_segment(&Segment { attr: Attr(Attr::S | 3), ..Segment::default() });
        assert_eq!((absent.present, absent.unusable), (0, 1));
        let odd = kvm_segment { present: 1, unusable: 1, ..kvm_segment::default() };
        assert!(!segment(&odd).attr.has(Attr::P));
    }
}
