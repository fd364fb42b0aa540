//! Tests of the registers.

use arch_x86::engine::EngineVcpu;
use arch_x86::regs::{
    Attr, Regs, Seg, Segment, State, SysReg, Table, cr0, cr4, efer, gpr, rflags, xcr0,
};

use crate::test_processor::TestMachine;
use crate::vmcb::clean;

/// A state in which no two registers are the same.
fn state() -> State {
    let mut state = State::at_reset();
    let mut next = 0x1111_0000_0000_u64;
    let mut value = || {
        next += 0x0101_0101;
        next
    };
    state.gprs.iter_mut().for_each(|gpr| *gpr = value());
    (state.rip, state.cr2, state.cr3) = (value(), value(), value() & !0xfff);
    state.rflags = rflags::FIXED | rflags::IF | rflags::CF | rflags::AC | rflags::ID;
    for (n, segment) in (1..).zip(&mut state.segments) {
        let attr = Attr(0x93 + (n & 1) * Attr::DB + (n & 2) / 2 * Attr::G);
        *segment = Segment { base: value(), limit: 0xffff + u32::from(n), selector: 8 * n, attr };
    }
    state.cpl = 3;
    state.gdtr = Table { base: value(), limit: 0x7f };
    state.idtr = Table { base: value(), limit: 0xfff };
    state.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::CD | cr0::NW;
    state.cr4 = cr4::PAE | cr4::OSXSAVE | cr4::VME;
    state.efer = efer::LME | efer::LMA | efer::SCE;
    state.debug = [value(), value(), value(), value(), 0xffff_4ff1, 0x403];
    state.sysregs.iter_mut().for_each(|reg| *reg = value());
    state.sysregs[SysReg::Xcr0 as usize] = xcr0::X87 | xcr0::SSE;
    (state.interrupt_shadow, state.nmi_blocked) = (true, true);
    state.fx.set_xmm(3, 0x1234);
    state.ymm_high.0[7] = 0x5678;
    state
}

#[test]
fn the_whole_state_is_read_as_it_was_written() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    assert_eq!(State::read(&vcpu), State::at_reset());
    let state = state();
    state.write(&mut vcpu);
    assert_eq!(State::read(&vcpu), state);
    State::at_reset().write(&mut vcpu);
    assert_eq!(State::read(&vcpu), State::at_reset());
}

#[test]
fn registers_are_where_the_processor_looks_for_them() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let state = state();
    state.write(&mut vcpu);
    let vmcb = &*vcpu.vmcb;
    assert_eq!((vmcb.rax, vmcb.rsp), (state.gprs[0], state.gprs[usize::from(gpr::RSP)]));
    assert_eq!(vcpu.gprs[usize::from(gpr::RBX)], state.gprs[usize::from(gpr::RBX)]);
    for (place, seg) in
        [(&vmcb.cs, Seg::Cs), (&vmcb.ss, Seg::Ss), (&vmcb.tr, Seg::Tr), (&vmcb.gs, Seg::Gs)]
    {
        let expected = state.segments[seg as usize];
        assert_eq!((place.base, place.limit), (expected.base, expected.limit));
        assert_eq!((place.selector, place.attr), (expected.selector, expected.attr.0));
    }
    assert_eq!((vmcb.gdtr.limit, vmcb.idtr.base), (0x7f, state.idtr.base));
    assert_eq!(vmcb.lstar, state.sysregs[SysReg::Lstar as usize]);
    assert_eq!(vmcb.kernel_gs_base, state.sysregs[SysReg::KernelGsBase as usize]);
    assert_eq!((vmcb.cpl, vmcb.interrupt_shadow, vmcb.dr7), (3, 1, 0x403));
}

#[test]
fn what_the_processor_has_otherwise_is_hidden() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(cr0::PE | cr0::CD | cr0::NW | cr0::ET);
    assert_eq!(vcpu.vmcb.cr0, cr0::PE | cr0::ET);
    assert_eq!(vcpu.vmcb.intercept_cr & (1 | 1 << 16), 1 | 1 << 16, "the guest would see");
    vcpu.set_cr0(cr0::PE | cr0::ET);
    assert_eq!(vcpu.vmcb.intercept_cr & (1 | 1 << 16), 0);
    vcpu.set_cr4(cr4::PAE | cr4::PVI);
    assert_eq!((vcpu.vmcb.cr4, vcpu.cr4()), (cr4::PAE | cr4::MCE, cr4::PAE | cr4::PVI));
    assert_ne!(vcpu.vmcb.intercept_cr & 1 << 4, 0);
    vcpu.set_cr4(cr4::PAE | cr4::MCE);
    assert_eq!(vcpu.vmcb.intercept_cr & 1 << 4, 0);
    vcpu.set_efer(efer::LME);
    assert_eq!((vcpu.vmcb.efer, vcpu.efer()), (efer::LME | efer::SVME, efer::LME));
}

#[test]
fn what_the_guest_changes_itself_is_seen() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(cr0::PE | cr0::ET | cr0::CD);
    vcpu.vmcb.cr0 |= cr0::TS;
    vcpu.vmcb.cr3 = 0x5000;
    assert_eq!(vcpu.cr0(), cr0::PE | cr0::ET | cr0::CD | cr0::TS);
    assert_eq!(vcpu.cr3(), 0x5000);
}

#[test]
fn a_setter_drops_translations_where_it_decides_them() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr4(cr4::PAE | cr4::PCIDE);
    let mut flushes = |set: &dyn Fn(&mut crate::test_processor::TestVcpu)| {
        vcpu.flush = false;
        set(&mut vcpu);
        vcpu.flush
    };
    assert!(flushes(&|vcpu| vcpu.set_cr3(0x1000)));
    assert!(!flushes(&|vcpu| vcpu.set_cr3(1 << 63 | 0x2001)), "the PCID's are kept");
    assert!(flushes(&|vcpu| vcpu.set_cr4(cr4::PAE)));
    assert!(flushes(&|vcpu| vcpu.set_cr3(1 << 63 | 0x2001)), "there are none");
    assert!(!flushes(&|vcpu| vcpu.set_cr4(cr4::PAE)));
    assert!(flushes(&|vcpu| vcpu.set_efer(efer::NXE)));
    assert!(flushes(&|vcpu| vcpu.set_cr0(vcpu.cr0() ^ cr0::WP)));
    assert!(!flushes(&|vcpu| vcpu.set_cr0(vcpu.cr0() ^ cr0::TS)));
    assert!(flushes(&|vcpu| vcpu.flush_tlb()));
}

#[test]
fn a_setter_has_the_processor_read_what_changed() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let mut dirties = |set: &dyn Fn(&mut crate::test_processor::TestVcpu)| {
        vcpu.vmcb.clean = clean::ALL;
        set(&mut vcpu);
        clean::ALL & !vcpu.vmcb.clean
    };
    let table = Table { base: 0x1000, limit: 9 };
    assert_eq!(dirties(&|vcpu| vcpu.set_gdtr(table)), clean::TABLES);
    assert_eq!(dirties(&|vcpu| vcpu.set_idtr(table)), clean::TABLES);
    assert_eq!(dirties(&|vcpu| vcpu.set_segment(Seg::Ds, Segment::default())), clean::SEGMENTS);
    assert_eq!(dirties(&|vcpu| vcpu.set_cpl(2)), clean::SEGMENTS);
    assert_eq!(dirties(&|vcpu| vcpu.set_cr2(8)), clean::CR2);
    assert_eq!(dirties(&|vcpu| vcpu.set_cr3(0x1000)), clean::CONTROL);
    assert_eq!(dirties(&|vcpu| vcpu.set_efer(efer::NXE)), clean::CONTROL);
    assert_eq!(dirties(&|vcpu| vcpu.set_cr0(cr0::PE)), clean::CONTROL | clean::INTERCEPTS);
    assert_eq!(dirties(&|vcpu| vcpu.set_dr(7, 0x402)), clean::DEBUG);
    assert_eq!(dirties(&|vcpu| vcpu.set_tsc_offset(5)), clean::INTERCEPTS);
    assert_eq!(dirties(&|vcpu| vcpu.set_nmi_blocked(true)), clean::INTERCEPTS);
    // What it always reads.
    assert_eq!(dirties(&|vcpu| vcpu.set_rip(5)), 0);
    assert_eq!(dirties(&|vcpu| vcpu.set_gpr(gpr::RSP, 5)), 0);
    assert_eq!(dirties(&|vcpu| vcpu.set_sysreg(SysReg::Lstar, 5)), 0);
}
