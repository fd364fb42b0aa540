//! Tests of the switch into guest code: what the processor has then, and what it has again behind it.

use core::sync::atomic::Ordering;

use arch_x86::engine::{EngineVcpu, Entry, Event, Intercept};
use arch_x86::regs::{Regs, SysReg, cr4};

use crate::exits::code;
use crate::test_processor::{HOST, TestMachine, TestVcpu, enter, enter_with, svm};

/// VMRUN did not take the VMCB.
const INVALID: u64 = u64::MAX;

#[test]
fn the_hosts_registers_come_back() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_sysreg(SysReg::Xcr0, 3);
    vcpu.set_sysreg(SysReg::TscAux, 0x77);
    vcpu.set_dr(0, 0x1234);
    machine.processor.state.lock().dr[0] = 0x9999;
    machine.then_exit(code::SHUTDOWN);
    enter(&mut vcpu);
    // Without OSXSAVE, and without breakpoints, there is nothing to change but TSC_AUX.
    let [xcr0, xss, _] = HOST;
    assert_eq!(machine.processor.state.lock().seen[0], [xcr0, xss, 0x77, 0x9999, 0x400, 0]);
    vcpu.set_cr4(cr4::PAE | cr4::OSXSAVE);
    vcpu.set_dr(7, 0x402);
    machine.processor.state.lock().dr[7] = 0x403;
    machine.then_exit(code::SHUTDOWN);
    enter(&mut vcpu);
    let state = machine.processor.state.lock();
    assert_eq!(state.seen[1], [3, 0, 0x77, 0x1234, 0x402, 0]);
    assert_eq!([state.xcr0, state.xss, state.tsc_aux], HOST);
    assert_eq!((state.dr[0], state.dr[7]), (0x9999, 0x403));
}

#[test]
fn no_component_is_switched_on_that_the_host_has_off() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_sysreg(SysReg::Xcr0, 7);
    vcpu.set_cr4(cr4::PAE | cr4::OSXSAVE);
    machine.processor.state.lock().xcr0 = 3;
    machine.then_exit(code::SHUTDOWN);
    enter(&mut vcpu);
    let state = machine.processor.state.lock();
    assert_eq!((state.seen[0][0], state.xcr0), (3, 3));
    drop(state);
    assert_eq!(vcpu.sysreg(SysReg::Xcr0), 7, "it is the guest's");
}

#[test]
fn a_guests_speculation_control_is_beside_the_hosts() {
    // IBPB, IBRS, SSBD, and no STIBP nor PSFD.
    let machine = TestMachine::changed(|state| {
        state.speculation = [1 << 12 | 1 << 14 | 1 << 24, 0];
        state.speculation_control = 1 << 1;
    });
    let mut vcpu = machine.vcpu();
    let mut run = |value| {
        vcpu.set_speculation_control(value);
        machine.then_exit(code::SHUTDOWN);
        enter(&mut vcpu);
        let state = machine.processor.state.lock();
        assert_eq!(state.speculation_control, 1 << 1, "the host's is there again");
        state.seen.last().map(|seen| seen[5])
    };
    assert_eq!(run(0), Some(1 << 1));
    assert_eq!(run(1), Some(1 << 1 | 1));
    // A processor does not take what it does not have.
    assert_eq!(run(1 << 7 | 1 << 2), Some(1 << 1 | 1 << 2));
    assert_eq!(run(0), Some(1 << 1));
}

#[test]
fn without_speculation_control_nothing_is_written() {
    let machine = TestMachine::changed(|state| state.speculation_control = 0x55);
    let mut vcpu = machine.vcpu();
    vcpu.set_speculation_control(0x87);
    machine.then_exit(code::SHUTDOWN);
    enter(&mut vcpu);
    assert_eq!(machine.processor.state.lock().seen[0][5], 0x55);
}

#[test]
fn a_guests_own_barrier_is_one_on_every_processor() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let run = |vcpu: &mut TestVcpu| {
        machine.then_exit(code::SHUTDOWN);
        enter(vcpu);
        machine.processor.state.lock().barriers
    };
    assert_eq!((run(&mut vcpu), run(&mut vcpu)), (1, 1));
    vcpu.forget_branches();
    assert_eq!((run(&mut vcpu), run(&mut vcpu)), (2, 2));
}

#[test]
fn another_vcpu_learns_nothing_from_predictions() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let mut other = machine.vcpu();
    let barriers = |vcpu: &mut TestVcpu| {
        machine.then_exit(code::SHUTDOWN);
        enter(vcpu);
        machine.processor.state.lock().barriers
    };
    assert_eq!(barriers(&mut vcpu), 1);
    assert_eq!(barriers(&mut vcpu), 1, "it is the same");
    assert_eq!(barriers(&mut other), 2);
    assert_eq!(barriers(&mut vcpu), 3);
}

#[test]
fn clean_bits_hold_for_the_processor_that_ran_it_last() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let expect = |clean: u32, asid: u32, control: u32| {
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.clean, vmcb.asid, vmcb.tlb_control), (clean, asid, control));
            vmcb.exit_code = code::WBINVD;
        });
    };
    const ALL: u32 = 0x1fff;
    let pat = vcpu.vmcb.g_pat;
    expect(0, 1, 1);
    enter(&mut vcpu);
    expect(ALL, 1, 0);
    enter(&mut vcpu);
    // What a guest that is shut down leaves is undefined.
    machine.then(|vmcb, _| (vmcb.exit_code, vmcb.g_pat) = (code::SHUTDOWN, 0));
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    assert_eq!(vcpu.vmcb.g_pat, pat);
    expect(0, 1, 0);
    enter(&mut vcpu);
    vcpu.set_cr2(7);
    expect(ALL & !(1 << 9), 1, 0);
    enter(&mut vcpu);
    vcpu.flush_tlb();
    expect(ALL, 1, 3);
    enter(&mut vcpu);
    expect(ALL, 1, 0);
    enter(&mut vcpu);
    machine.platform.asked.processor.store(1, Ordering::Relaxed);
    expect(0, 1, 1);
    enter(&mut vcpu);
    machine.platform.asked.processor.store(0, Ordering::Relaxed);
    expect(0, 2, 0);
    enter(&mut vcpu);
}

#[test]
fn a_failed_vmrun_has_flushed_nothing_and_keeps_nothing() {
    let machine = TestMachine::new();
    let (mut vcpu, mut other) = (machine.vcpu(), machine.vcpu());
    let go = |vcpu: &mut TestVcpu, exit_code: u64, asid: u32, control: u32| {
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.asid, vmcb.tlb_control), (asid, control));
            if exit_code == INVALID {
                assert_eq!(vmcb.event_injection & 0xff, 0x30);
                vmcb.exit_int_info = 1 << 31 | 0x99;
            }
            vmcb.exit_code = exit_code;
        });
        let event = Event::Interrupt { vector: 0x30 };
        let inject = (exit_code == INVALID).then_some(event);
        let intercept = enter_with(vcpu, &Entry { inject, ..Entry::default() });
        if exit_code == INVALID {
            assert!(matches!(intercept, Intercept::EntryRefused { reason: 0xffff_ffff, .. }));
            assert_eq!(vcpu.take_undelivered(), Some(event), "not what EXITINTINFO has");
            assert_eq!(vcpu.vmcb.clean, 0);
        }
    };
    // It was to begin a generation: the next one does, and again.
    go(&mut vcpu, INVALID, 1, 1);
    go(&mut other, INVALID, 1, 1);
    go(&mut vcpu, code::WBINVD, 1, 1);
    go(&mut other, code::WBINVD, 2, 0);
    // It was to flush one ASID: that is not used any more.
    vcpu.flush_tlb();
    go(&mut vcpu, INVALID, 1, 3);
    go(&mut vcpu, code::WBINVD, 3, 0);
    go(&mut vcpu, 0xffff_ffff, 3, 0);
    go(&mut vcpu, code::WBINVD, 4, 0);
    go(&mut other, code::WBINVD, 2, 0);
}

#[test]
fn an_old_processor_needs_none_of_that() {
    let machine = TestMachine::on(svm::NESTED_PAGING);
    let mut vcpu = machine.vcpu();
    for (asid, control) in [(1, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (1, 1)] {
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.clean, vmcb.asid, vmcb.tlb_control), (0, asid, control));
            assert_eq!((vmcb.pause_filter_count, vmcb.intercepts[0] & 1 << 23), (0, 0));
            vmcb.exit_code = code::CPUID;
        });
        assert_eq!(enter(&mut vcpu), Intercept::Emulate);
        vcpu.flush_tlb();
    }
}
