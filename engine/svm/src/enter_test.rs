//! Tests of the way into guest code and out.

use core::sync::atomic::{AtomicU32, Ordering};

use arch_x86::engine::{EngineVcpu, Entry, Event, Intercept};
use arch_x86::exception::{self, Exception};
use arch_x86::hardware::Trace;
use arch_x86::regs::{Regs, cr0, rflags};
use virt::Errno;

use crate::exits::code;
use crate::test_processor::{TestMachine, TestVcpu, enter, enter_with};

const VALID: u64 = 1 << 31;

/// What the guest is entered with for an event.
fn injecting(event: Event) -> Entry {
    Entry { inject: Some(event), ..Entry::default() }
}

/// Delivers `event` to a guest that then comes out by HLT, and gives what the processor was told.
fn injected(machine: &TestMachine, vcpu: &mut TestVcpu, event: Event) -> u64 {
    let seen = alloc::sync::Arc::new(spin::Mutex::new(0));
    let told = alloc::sync::Arc::clone(&seen);
    machine.then(move |vmcb, _| {
        *told.lock() = vmcb.event_injection;
        (vmcb.exit_code, vmcb.next_rip) = (code::HLT, vmcb.rip + 1);
    });
    assert_eq!(enter_with(vcpu, &injecting(event)), Intercept::Halt { len: 1 });
    assert_eq!(vcpu.take_undelivered(), None);
    assert_eq!(vcpu.vmcb.event_injection, 0, "it is not delivered twice");
    *seen.lock()
}

#[test]
fn a_request_keeps_the_guest_from_running_and_the_event_from_being_delivered() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let event = Event::Interrupt { vector: 0x30 };
    let intercept = vcpu.enter(&injecting(event), &AtomicU32::new(1));
    assert_eq!(intercept, Intercept::Interrupted);
    assert_eq!((vcpu.take_undelivered(), vcpu.take_undelivered()), (Some(event), None));
    assert!(machine.processor.state.lock().seen.is_empty());
    assert_eq!(machine.engine.shared.presence.processor(0), None, "it is not inside");
}

/// And what keeps it from being entered is not told.
#[test]
fn who_traces_is_told_what_is_injected_then_the_entry_and_then_the_exit() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let traced = || core::mem::take(&mut *machine.platform.asked.traced.lock());
    for event in
        [Event::Interrupt { vector: 0x30 }, Event::Nmi, Event::Exception(Exception::gp(0x18))]
    {
        vcpu.vmcb.rip = 0x1000;
        machine.then(|vmcb, _| {
            (vmcb.rip, vmcb.exit_code) = (0x2000, code::NESTED_PAGE_FAULT);
            (vmcb.exit_info1, vmcb.exit_info2) = (6, 0xd000_0000);
        });
        let intercept = enter_with(&mut vcpu, &injecting(event));
        assert_eq!(intercept, Intercept::NestedFault { gpa: 0xd000_0000, write: true });
        let exit = Trace::Exit {
            vcpu: 0,
            rip: 0x2000,
            reason: code::NESTED_PAGE_FAULT,
            info1: 6,
            info2: 0xd000_0000,
        };
        let entry = Trace::Entry { vcpu: 0, rip: 0x1000 };
        assert_eq!(traced(), [Trace::Injection { vcpu: 0, event }, entry, exit]);
    }
    let event = Event::Interrupt { vector: 0x30 };
    vcpu.enter(&injecting(event), &AtomicU32::new(1));
    assert_eq!(traced(), []);
}

#[test]
fn who_is_wanted_comes_out() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.platform.asked.wanted.store(1, Ordering::Relaxed);
    assert_eq!(enter(&mut vcpu), Intercept::Interrupted);
    machine.then_exit(code::SHUTDOWN);
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    // It does not wait besides: the kernel has done what it was wanted for.
    assert_eq!(machine.platform.asked.yields.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_the_hosts_brings_nobody_out() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    for code in [code::INTR, code::NMI, code::SMI, code::INIT, 0x52] {
        machine.then_exit(code);
    }
    machine.then_exit(code::SHUTDOWN);
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    let state = machine.processor.state.lock();
    assert_eq!((state.seen.len(), state.machine_checks), (6, 1));
    assert_eq!(machine.platform.asked.restored.load(Ordering::Relaxed), 6);
    drop(state);
    // But it looks whether it is asked for, each time.
    let request = alloc::sync::Arc::new(AtomicU32::new(0));
    let asks = alloc::sync::Arc::clone(&request);
    machine.then(move |vmcb, _| {
        asks.store(1, Ordering::SeqCst);
        vmcb.exit_code = code::INTR;
    });
    machine.then_exit(code::SHUTDOWN);
    assert_eq!(vcpu.enter(&Entry::default(), &request), Intercept::Interrupted);
}

#[test]
fn a_state_that_vmrun_does_not_take_is_told_with_the_processor() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.then_exit(u64::MAX);
    let refused = Intercept::EntryRefused { reason: 0xffff_ffff, processor: 0 };
    assert_eq!(enter(&mut vcpu), refused);
    machine.platform.asked.processor.store(9, Ordering::Relaxed);
    assert_eq!(enter(&mut vcpu), Intercept::Failed(Errno::EIO), "there is no such processor");
}

#[test]
fn registers_go_in_and_out() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_gpr(0, 1);
    vcpu.set_gpr(15, 15);
    machine.then(|vmcb, gprs| {
        assert_eq!((vmcb.rax, gprs[15]), (1, 15));
        (vmcb.rax, vmcb.rsp, gprs[3]) = (2, 3, 4);
        vmcb.exit_code = code::SHUTDOWN;
    });
    enter(&mut vcpu);
    assert_eq!([0, 4, 3, 15].map(|n| vcpu.gpr(n)), [2, 3, 4, 15]);
    let (vmcb, host) = machine.processor.state.lock().at[0];
    assert_eq!(vmcb, vcpu.vmcb.physical());
    assert_ne!(host, machine.processor.state.lock().save_area);
}

#[test]
fn events_leave_in_registers_what_goes_with_them() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(cr0::PE);
    vcpu.set_interrupt_shadow(true);
    let fault = Event::Exception(Exception::pf(0xdead_b000, 6));
    assert_eq!(injected(&machine, &mut vcpu, fault), 6 << 32 | VALID | 1 << 11 | 3 << 8 | 14);
    assert_eq!(vcpu.cr2(), 0xdead_b000);
    assert_ne!(vcpu.vmcb.rflags & rflags::RF, 0, "the handler returns to the instruction");
    assert!(!vcpu.interrupt_shadow());
    vcpu.set_rflags(rflags::FIXED);
    vcpu.set_dr(7, 0x2400);
    vcpu.set_dr(6, 0xffff_0ff1);
    let trap = Event::Exception(Exception::db(1 << 14));
    assert_eq!(injected(&machine, &mut vcpu, trap), VALID | 3 << 8 | 1);
    assert_eq!((vcpu.dr(6), vcpu.dr(7)), (0xffff_4ff0, 0x400));
    assert_eq!(vcpu.rflags(), rflags::FIXED, "a trap is behind its instruction");
    let interrupt = Event::Interrupt { vector: 0x41 };
    assert_eq!(injected(&machine, &mut vcpu, interrupt), VALID | 0x41);
}

#[test]
fn an_nmi_blocks_others_until_iret_which_the_run_loop_executes() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    assert_eq!(injected(&machine, &mut vcpu, Event::Nmi), VALID | 2 << 8 | 2);
    assert!(vcpu.nmi_blocked());
    machine.then(|vmcb, _| {
        assert_ne!(vmcb.intercepts[0] & 1 << 20, 0, "IRET comes out");
        vmcb.exit_code = code::IRET;
    });
    let entry = Entry { nmi_window: true, ..Entry::default() };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::Emulate);
    assert!(vcpu.nmi_blocked(), "it has not been executed");
    vcpu.set_nmi_blocked(false);
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.intercepts[0] & 1 << 20, 0);
        vmcb.exit_code = code::SHUTDOWN;
    });
    enter(&mut vcpu);
}

#[test]
fn what_was_not_delivered_is_given_back_or_delivered_at_once() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    // The stack is where the host has not been asked for a page yet.
    machine.then(|vmcb, _| {
        vmcb.exit_int_info = vmcb.event_injection;
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, 0x5000);
    });
    assert_eq!(enter_with(&mut vcpu, &injecting(Event::Nmi)), Intercept::Interrupted);
    assert_eq!(vcpu.take_undelivered(), Some(Event::Nmi));
    assert!(!vcpu.nmi_blocked(), "there was none");
    // The guest's own is given back, too.
    machine.then(|vmcb, _| {
        vmcb.exit_int_info = VALID | 3 << 8 | 13 | 1 << 11 | 8 << 32;
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, 0x6000);
    });
    assert_eq!(enter(&mut vcpu), Intercept::Interrupted);
    assert_eq!(vcpu.take_undelivered(), Some(Event::Exception(Exception::gp(8))));
    // A host's interrupt came in between.
    let event = Event::Interrupt { vector: 0x55 };
    machine.then(|vmcb, _| {
        vmcb.exit_int_info = vmcb.event_injection;
        vmcb.exit_code = code::INTR;
    });
    assert_eq!(injected(&machine, &mut vcpu, event), VALID | 0x55);
}

#[test]
fn an_event_cannot_be_delivered_by_way_of_a_device() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let gpa = 0xd000_0000;
    let event = Event::Interrupt { vector: 0x30 };
    machine.then(move |vmcb, _| {
        vmcb.exit_int_info = vmcb.event_injection;
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, gpa);
    });
    assert_eq!(enter_with(&mut vcpu, &injecting(event)), Intercept::BadMemory { gpa });
    assert_eq!(vcpu.take_undelivered(), Some(event));
    // An instruction's access is the run loop's, INT n's, too: it is executed again.
    for info in [0, VALID | 4 << 8 | 0x80] {
        machine.then(move |vmcb, _| {
            vmcb.exit_int_info = info;
            (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, gpa);
        });
        assert_eq!(enter(&mut vcpu), Intercept::NestedFault { gpa, write: true });
    }
}

#[test]
fn the_guest_comes_out_when_it_is_open_for_an_interrupt() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.then(|vmcb, _| {
        assert_ne!(vmcb.virtual_interrupt & 1 << 8, 0);
        assert_ne!(vmcb.intercepts[0] & 1 << 4, 0);
        vmcb.exit_code = code::VINTR;
    });
    let entry = Entry { interrupt_window: true, ..Entry::default() };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::InterruptWindow);
    machine.then(|vmcb, _| {
        assert_eq!((vmcb.virtual_interrupt & 1 << 8, vmcb.intercepts[0] & 1 << 4), (0, 0));
        vmcb.exit_code = code::SHUTDOWN;
    });
    enter(&mut vcpu);
}

#[test]
fn an_nmi_comes_behind_what_is_delivered_first() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let entry = Entry { nmi_window: true, ..Entry::default() };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::NmiWindow, "nothing is in its way");
    assert!(machine.processor.state.lock().seen.is_empty());
    // An exception is: it is delivered, and an interrupt of the host's brings the guest out at once.
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 3 << 8 | 6);
        vmcb.exit_code = code::INTR;
    });
    let entry = Entry { nmi_window: true, ..injecting(Event::Exception(Exception::ud())) };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::NmiWindow);
    assert_eq!(*machine.platform.asked.interrupted.lock(), [0]);
    // The shadow is over when the host interrupts.
    vcpu.set_interrupt_shadow(true);
    machine.then(|vmcb, _| {
        vmcb.interrupt_shadow = 0;
        vmcb.exit_code = code::INTR;
    });
    let entry = Entry { nmi_window: true, ..Entry::default() };
    assert_eq!(enter_with(&mut vcpu, &entry), Intercept::NmiWindow);
}

#[test]
fn exceptions_that_the_engine_keeps_go_to_the_guest() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(cr0::PE);
    machine.then(|vmcb, _| vmcb.exit_code = 0x40 + u64::from(exception::AC));
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 1 << 11 | 3 << 8 | 17);
        // Its delivery raises it again: the processor would go on for ever.
        vmcb.exit_int_info = vmcb.event_injection;
        vmcb.exit_code = 0x40 + u64::from(exception::AC);
    });
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 1 << 11 | 3 << 8 | 17);
        vmcb.exit_code = code::VMRUN;
    });
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 3 << 8 | 6, "#UD");
        vmcb.exit_code = code::SHUTDOWN;
    });
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    assert_eq!(machine.processor.state.lock().seen.len(), 4);
}

#[test]
fn an_exception_during_the_delivery_of_another_makes_a_double_fault() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(cr0::PE);
    vcpu.set_exception_intercepts(u32::MAX);
    let during = |vector: u64, first: u64| {
        machine.then(move |vmcb, _| {
            vmcb.exit_int_info = VALID | 3 << 8 | first;
            vmcb.exit_code = 0x40 + vector;
        });
    };
    during(14, 14);
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 1 << 11 | 3 << 8 | 8);
        vmcb.exit_code = code::SHUTDOWN;
    });
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown);
    during(13, 8);
    assert_eq!(enter(&mut vcpu), Intercept::Shutdown, "a triple fault");
    assert_eq!(vcpu.take_undelivered(), None);
    // Without another one it is the run loop's.
    machine.then(|vmcb, _| (vmcb.exit_code, vmcb.exit_info1) = (0x4d, 0x10));
    assert_eq!(enter(&mut vcpu), Intercept::Exception(Exception::gp(0x10)));
}

#[test]
fn a_debug_exception_that_is_wanted_leaves_the_registers_as_they_were() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    vcpu.set_dr(6, 0xffff_0ff8);
    vcpu.set_dr(7, 0x2402);
    let raise = |vmcb: &mut crate::vmcb::Vmcb| {
        assert_eq!(vmcb.dr6, 0xffff_0ff0, "so that what is added can be told");
        vmcb.dr6 |= 1 << 14 | 1;
        vmcb.dr7 &= !(1 << 13);
        vmcb.exit_code = 0x41;
    };
    machine.then(move |vmcb, _| raise(vmcb));
    vcpu.set_exception_intercepts(1 << exception::DB);
    let payload = 1 << 14 | 1;
    assert_eq!(enter(&mut vcpu), Intercept::Exception(Exception::db(payload)));
    assert_eq!((vcpu.dr(6), vcpu.dr(7)), (0xffff_0ff8, 0x2402));
    assert_eq!(machine.processor.state.lock().dr[6], 0xffff_0ff0, "the host's");
    // One that is not is delivered, with what it leaves.
    vcpu.set_exception_intercepts(0);
    machine.then(move |vmcb, _| raise(vmcb));
    machine.then(|vmcb, _| {
        assert_eq!(vmcb.event_injection, VALID | 3 << 8 | 1);
        vmcb.exit_code = code::SHUTDOWN;
    });
    enter(&mut vcpu);
    assert_eq!((vcpu.dr(6), vcpu.dr(7)), (0xffff_4ff1, 0x402));
}

#[test]
fn an_event_whose_delivery_hits_a_breakpoint_is_delivered_and_then_the_breakpoint() {
    for (event, wanted) in
        [(Event::Interrupt { vector: 0x30 }, 0), (Event::Nmi, 0), (Event::Nmi, 1 << exception::DB)]
    {
        let machine = TestMachine::new();
        let mut vcpu = machine.vcpu();
        vcpu.set_dr(7, 0x402);
        vcpu.set_exception_intercepts(wanted);
        let info = match event {
            Event::Nmi => VALID | 2 << 8 | 2,
            _ => VALID | 0x30,
        };
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.event_injection, vmcb.dr7), (info, 0x402));
            vmcb.exit_int_info = info;
            vmcb.dr6 |= 1;
            vmcb.exit_code = 0x41;
        });
        // A page on the way is not there.
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.event_injection, vmcb.dr7), (info, 0x400), "not hit again");
            vmcb.exit_int_info = info;
            (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (0x400, 6, 0x5000);
        });
        assert_eq!(enter_with(&mut vcpu, &injecting(event)), Intercept::Interrupted);
        assert_eq!((vcpu.take_undelivered(), vcpu.dr(7)), (Some(event), 0x402));
        machine.then(move |vmcb, _| {
            assert_eq!((vmcb.event_injection, vmcb.dr7), (info, 0x400));
            vmcb.exit_code = code::INTR;
        });
        if wanted == 0 {
            machine.then(|vmcb, _| {
                assert_eq!((vmcb.event_injection, vmcb.dr7), (VALID | 3 << 8 | 1, 0x402));
                vmcb.exit_code = code::WBINVD;
            });
            assert_eq!(enter_with(&mut vcpu, &injecting(event)), Intercept::Emulate);
            assert_eq!((vcpu.dr(6), vcpu.dr(7)), (0xffff_0ff1, 0x402));
        } else {
            let debug = Intercept::Exception(Exception::db(1));
            assert_eq!(enter_with(&mut vcpu, &injecting(event)), debug);
        }
        assert_eq!(*machine.platform.asked.interrupted.lock(), [0, 0], "it came out at once");
        assert_eq!(vcpu.take_undelivered(), None);
        assert_eq!(vcpu.nmi_blocked(), event == Event::Nmi);
    }
}

#[test]
fn a_pause_lets_others_run() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    machine.then_exit(code::PAUSE);
    assert_eq!(enter(&mut vcpu), Intercept::Interrupted);
    vcpu.prepare().expect("memory");
    assert_eq!(machine.platform.asked.yields.load(Ordering::Relaxed), 1);
}

#[test]
fn the_time_stamp_counter_is_the_hosts_and_an_offset() {
    let machine = TestMachine::new();
    let mut vcpu = machine.vcpu();
    let host = virt::Host::tsc(&machine.platform);
    vcpu.set_tsc_offset(5_u64.wrapping_sub(host));
    assert_eq!((vcpu.tsc(), vcpu.vmcb.tsc_offset), (5, 5_u64.wrapping_sub(host)));
}
