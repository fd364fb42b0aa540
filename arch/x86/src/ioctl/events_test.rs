//! Test bodies of `events`.

use abi::cap;
use abi::events::{
    Events, Exception as AbiException, Interrupt, MP_STATE_HALTED, MP_STATE_INIT_RECEIVED,
    MP_STATE_RUNNABLE, MP_STATE_SIPI_RECEIVED, MP_STATE_UNINITIALIZED, MpState, Nmi, Smi,
    TripleFault, VALID_NMI_PENDING, VALID_PAYLOAD, VALID_SHADOW, VALID_SIPI_VECTOR, VALID_SMM,
    VALID_TRIPLE_FAULT,
};
use abi::ioctl::{GET_MP_STATE, GET_VCPU_EVENTS, INTERRUPT, NMI, SET_MP_STATE, SET_VCPU_EVENTS};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use selftest::{Failure, cases, check, check_eq};
use virt::Errno;

use super::caller::Caller;
use crate::emulate::debug::dr6;
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception};
use crate::regs::{Regs, Seg, rflags};
use crate::vcpu::inbox::request;
use crate::vcpu::run_test::{CODE, TestVcpu, engine, host_error, out};
use crate::vcpu::{Activity, Answer, Exit};

/// What another vCPU is injected that gets this one's events.
fn injected_elsewhere(
    caller: &Caller,
    vcpu: &mut TestVcpu,
) -> Result<alloc::vec::Vec<Event>, Failure> {
    let events: Events = caller.get(vcpu, GET_VCPU_EVENTS)?;
    let mut other = caller.vcpu()?;
    let (flags, cr2) = (vcpu.engine().rflags(), vcpu.engine().cr2());
    engine(&mut other).set_rflags(flags);
    engine(&mut other).set_cr2(cr2);
    engine(&mut other).set_dr(6, vcpu.engine().dr(6));
    host_error(caller.set(&mut other, SET_VCPU_EVENTS, &events))?;
    // The same is told of it.
    let again: Events = caller.get(&mut other, GET_VCPU_EVENTS)?;
    check_eq!(again, events);
    for _ in 0..2 {
        engine(&mut other).then(out);
        other.run(Answer::None);
    }
    Ok(other.engine().injected())
}

/// Has an exception raised that is not delivered yet.
fn raise(caller: &Caller, vcpu: &mut TestVcpu, exception: Exception) {
    let machine = Arc::clone(caller.fixture.vm.arch().machine());
    engine(vcpu).then(move |_, _| {
        machine.post(0, request::EXIT);
        Intercept::Exception(exception)
    });
    vcpu.run(Answer::None);
}

/// Has the engine give an event back; gives RIP as the engine has seen it.
fn give_back(caller: &Caller, vcpu: &mut TestVcpu) -> u64 {
    let machine = Arc::clone(caller.fixture.vm.arch().machine());
    let seen = Arc::new(AtomicU64::new(0));
    let to = Arc::clone(&seen);
    engine(vcpu).gives_back = true;
    engine(vcpu).then(move |state, _| {
        to.store(state.rip, Ordering::Relaxed);
        machine.post(0, request::EXIT);
        Intercept::Interrupted
    });
    vcpu.run(Answer::None);
    engine(vcpu).gives_back = false;
    seen.load(Ordering::Relaxed)
}

fn set(caller: &Caller, vcpu: &mut TestVcpu, events: &Events) -> Result<u32, Errno> {
    caller.set(vcpu, SET_VCPU_EVENTS, events)
}

cases! {
    fn nothing_is_on_its_way_at_first() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let events: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        let flags = VALID_NMI_PENDING | VALID_SHADOW | VALID_SMM;
        check_eq!(events, Events { flags, ..Events::default() });
        check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, []);
    }

    fn an_exception_survives() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(vcpu.inject(Exception::gp(0x18)), Ok(()));
        let events: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        let expected = AbiException { injected: 1, nr: 13, has_error_code: 1, pending: 0, error_code: 0x18 };
        check_eq!(events.exception, expected);
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(Exception::gp(0x18))]);
        let ud = AbiException { injected: 1, nr: 6, ..AbiException::default() };
        check_eq!(set(&caller, &mut vcpu, &Events { exception: ud, ..Events::default() }), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(Exception::ud())]);
    }

    fn what_goes_with_a_raised_exception_is_in_the_registers_then() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        engine(&mut vcpu).set_cr2(1);
        raise(&caller, &mut vcpu, Exception::pf(0x1234_5000, 6));
        check_eq!(vcpu.engine().cr2(), 1);
        let expected = [Event::Exception(Exception::pf(0x1234_5000, 6))];
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, expected);
        check_eq!(vcpu.engine().cr2(), 0x1234_5000);
        // Whoever sets others has set these registers before.
        engine(&mut vcpu).set_cr2(2);
        check_eq!(set(&caller, &mut vcpu, &Events::default()), Ok(0));
        check_eq!(vcpu.engine().cr2(), 2);
        raise(&caller, &mut vcpu, Exception::db(dr6::BS));
        let expected = [Event::Exception(Exception::db(dr6::BS))];
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, expected);
        check_eq!(vcpu.engine().dr(6), dr6::FIXED | dr6::BS);
    }

    fn a_breakpoint_is_at_its_instruction_until_it_is_delivered() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let bp = Exception::plain(exception::BP);
        check_eq!(vcpu.inject(bp), Ok(()));
        check_eq!(vcpu.engine().rip(), CODE);
        let seen = give_back(&caller, &mut vcpu);
        check_eq!((seen, vcpu.engine().rip()), (CODE + 1, CODE));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(bp)]);
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().rip(), CODE + 1 + 2);
    }

    fn an_nmi_survives() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(Caller::call_with(&mut vcpu, NMI, 0), Ok(0));
        let events: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(events.nmi, Nmi { injected: 0, pending: 1, masked: 0, pad: 0 });
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Nmi]);
        // As long as they are blocked it waits.
        engine(&mut vcpu).set_nmi_blocked(true);
        let events: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(events.nmi, Nmi { injected: 0, pending: 1, masked: 1, pad: 0 });
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, []);
        // One that is being delivered.
        let injected = Events { nmi: Nmi { injected: 1, ..Nmi::default() }, ..Events::default() };
        check_eq!(set(&caller, &mut vcpu, &injected), Ok(0));
        check!(!vcpu.engine().nmi_blocked());
        // The one that waited still does: it was not said to count.
        check_eq!(vcpu.pending().nmi, true);
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Nmi, Event::Nmi]);
        let none = Events { flags: VALID_NMI_PENDING, ..Events::default() };
        check_eq!(set(&caller, &mut vcpu, &none), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, []);
    }

    fn an_interrupt_survives() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
        let interrupt = Interrupt { injected: 1, nr: 0x61, soft: 0, shadow: 0 };
        let events = Events { interrupt, flags: VALID_SHADOW, ..Events::default() };
        check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Interrupt { vector: 0x61 }]);
        // Also when the engine has given it back.
        give_back(&caller, &mut vcpu);
        check_eq!(vcpu.pending().event, Some(Event::Interrupt { vector: 0x61 }));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Interrupt { vector: 0x61 }]);
        // INT n is executed again.
        let soft = Events { interrupt: Interrupt { soft: 1, ..interrupt }, ..events };
        check_eq!(set(&caller, &mut vcpu, &soft), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, []);
    }

    fn several_are_delivered_one_after_the_other() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
        let events = Events {
            exception: AbiException { injected: 1, nr: 6, ..AbiException::default() },
            interrupt: Interrupt { injected: 1, nr: 0x61, ..Interrupt::default() },
            flags: VALID_NMI_PENDING,
            ..Events::default()
        };
        check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
        let expected = [Event::Exception(Exception::ud()), Event::Interrupt { vector: 0x61 }];
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, expected);
    }

    fn the_shadow_counts_if_it_is_said_to() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let shadow = |shadow, flags| Events {
            interrupt: Interrupt { shadow, ..Interrupt::default() },
            flags,
            ..Events::default()
        };
        for (events, on) in [
            (shadow(1, 0), false), (shadow(1, VALID_SHADOW), true), (shadow(0, 0), true),
            (shadow(0, VALID_SHADOW), false), (shadow(2, VALID_SHADOW), true),
        ] {
            check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
            check_eq!(vcpu.engine().interrupt_shadow(), on);
        }
        let got: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(got.interrupt.shadow, 3);
    }

    fn what_cannot_be_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(Caller::call_with(&mut vcpu, NMI, 0), Ok(0));
        for flags in [VALID_PAYLOAD, VALID_TRIPLE_FAULT, 1 << 6, 1 << 31] {
            let events = Events { flags, ..Events::default() };
            caller.refused(&mut vcpu, SET_VCPU_EVENTS, &events, Errno::EINVAL)?;
        }
        for nr in [2, 32, 255] {
            let exception = AbiException { injected: 1, nr, ..AbiException::default() };
            let events = Events { exception, ..Events::default() };
            caller.refused(&mut vcpu, SET_VCPU_EVENTS, &events, Errno::EINVAL)?;
            // Not injected, it does not count.
            let exception = AbiException { injected: 0, pending: 1, ..exception };
            check_eq!(set(&caller, &mut vcpu, &Events { exception, ..Events::default() }), Ok(0));
            check_eq!(vcpu.pending().event, None);
        }
        for smi in [
            Smi { smm: 1, ..Smi::default() }, Smi { pending: 1, ..Smi::default() },
            Smi { smm_inside_nmi: 1, ..Smi::default() },
        ] {
            let events = Events { smi, flags: VALID_SMM, ..Events::default() };
            caller.refused(&mut vcpu, SET_VCPU_EVENTS, &events, Errno::EINVAL)?;
            check_eq!(set(&caller, &mut vcpu, &Events { smi, ..Events::default() }), Ok(0));
        }
    }

    fn an_init_that_waits_comes() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let smi = Smi { latched_init: 1, ..Smi::default() };
        let events = Events { smi, flags: VALID_SMM, ..Events::default() };
        check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
        check_eq!(vcpu.activity(), Activity::Running);
        check_eq!(vcpu.engine().rip(), 0xfff0);
    }

    fn whether_it_runs_goes_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let state = |mp_state| MpState { mp_state };
        for (mp_state, activity, told) in [
            (MP_STATE_HALTED, Activity::Halted, MP_STATE_HALTED),
            (MP_STATE_INIT_RECEIVED, Activity::WaitForStartup, MP_STATE_INIT_RECEIVED),
            (MP_STATE_UNINITIALIZED, Activity::WaitForStartup, MP_STATE_INIT_RECEIVED),
            (MP_STATE_RUNNABLE, Activity::Running, MP_STATE_RUNNABLE),
        ] {
            check_eq!(caller.set(&mut vcpu, SET_MP_STATE, &state(mp_state)), Ok(0));
            check_eq!(vcpu.activity(), activity);
            check_eq!(caller.get::<MpState>(&mut vcpu, GET_MP_STATE)?, state(told));
        }
        for mp_state in [5, 9, !0] {
            caller.refused(&mut vcpu, SET_MP_STATE, &state(mp_state), Errno::EINVAL)?;
            check_eq!(vcpu.activity(), Activity::Running);
        }
    }

    fn who_looks_does_not_take_the_request_to_come_out() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        caller.fixture.vm.arch().machine().post(0, request::EXIT);
        caller.get::<MpState>(&mut vcpu, GET_MP_STATE)?;
        caller.get::<Events>(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(vcpu.run(Answer::None), Exit::Interrupted);
    }

    fn a_start_up_that_waits_comes() {
        let caller = Caller::new()?;
        let mut vcpu = host_error(caller.fixture.vcpu(1))?;
        check_eq!(caller.get::<MpState>(&mut vcpu, GET_MP_STATE)?.mp_state, MP_STATE_INIT_RECEIVED);
        let events = Events { sipi_vector: 0x9a, flags: VALID_SIPI_VECTOR, ..Events::default() };
        check_eq!(set(&caller, &mut vcpu, &events), Ok(0));
        let received = MpState { mp_state: MP_STATE_SIPI_RECEIVED };
        check_eq!(caller.set(&mut vcpu, SET_MP_STATE, &received), Ok(0));
        check_eq!(caller.get::<MpState>(&mut vcpu, GET_MP_STATE)?.mp_state, MP_STATE_RUNNABLE);
        check_eq!((vcpu.engine().segment(Seg::Cs).base, vcpu.engine().rip()), (0x9_a000, 0));
    }

    fn a_halted_one_wakes_up_for_an_interrupt() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::IF);
        let halted = MpState { mp_state: MP_STATE_HALTED };
        check_eq!(caller.set(&mut vcpu, SET_MP_STATE, &halted), Ok(0));
        vcpu.set_pending_interrupt(0x61);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), [Event::Interrupt { vector: 0x61 }]);
    }

    fn the_8259s_vectors_are_their_own() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        caller.refused(&mut vcpu, INTERRUPT, &32_u32, Errno::ENXIO)?;
        caller.refused(&mut vcpu, INTERRUPT, &256_u32, Errno::EINVAL)?;
    }

    fn what_goes_with_a_pending_exception_can_be_set() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.enable(cap::EXCEPTION_PAYLOAD, 1), Ok(0));
        let flags = VALID_NMI_PENDING | VALID_SHADOW | VALID_SMM | VALID_PAYLOAD;
        let got: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(got, Events { flags, ..Events::default() });
        let pf = AbiException { injected: 0, nr: 14, has_error_code: 1, pending: 1, error_code: 2 };
        let pending = |payload| Events {
            exception: pf, exception_has_payload: u8::from(payload != 0), exception_payload: payload, flags: VALID_PAYLOAD,
            ..Events::default()
        };
        engine(&mut vcpu).set_cr2(0x1000);
        check_eq!(set(&caller, &mut vcpu, &pending(0x5000)), Ok(0));
        check_eq!(vcpu.engine().cr2(), 0x1000);
        // Who looks finds it injected, and what goes with it where it goes.
        let got: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!(got.exception, AbiException { injected: 1, pending: 0, ..pf });
        check_eq!((got.exception_has_payload, vcpu.engine().cr2()), (0, 0x5000));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(Exception::pf(0x5000, 2))]);
        // Without one it is in the register already.
        engine(&mut vcpu).set_cr2(0x7000);
        check_eq!(set(&caller, &mut vcpu, &pending(0)), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(Exception::pf(0x7000, 2))]);
        let db = Events { exception: AbiException { nr: 1, pending: 1, ..AbiException::default() }, ..pending(dr6::BS | 1 << 40) };
        check_eq!(set(&caller, &mut vcpu, &db), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, [Event::Exception(Exception::db(dr6::BS))]);
        // Pending alone does not count unless it is said to, and an NMI is none.
        check_eq!(set(&caller, &mut vcpu, &Events { flags: 0, ..pending(1) }), Ok(0));
        check_eq!(injected_elsewhere(&caller, &mut vcpu)?, []);
        let nmi = Events { exception: AbiException { nr: 2, ..pf }, ..pending(1) };
        caller.refused(&mut vcpu, SET_VCPU_EVENTS, &nmi, Errno::EINVAL)?;
        check_eq!(caller.enable(cap::EXCEPTION_PAYLOAD, 0), Ok(0));
        caller.refused(&mut vcpu, SET_VCPU_EVENTS, &pending(1), Errno::EINVAL)?;
    }

    fn a_triple_fault_that_is_set_ends_the_next_run() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(caller.enable(cap::X86_TRIPLE_FAULT_EVENT, 1), Ok(0));
        let got: Events = caller.get(&mut vcpu, GET_VCPU_EVENTS)?;
        check_eq!((got.flags & VALID_TRIPLE_FAULT, got.triple_fault.pending), (VALID_TRIPLE_FAULT, 0));
        let waits = |pending| Events { triple_fault: TripleFault { pending }, flags: VALID_TRIPLE_FAULT, ..Events::default() };
        for (set_to, told) in [(waits(1), 1), (Events::default(), 1), (waits(0), 0), (waits(9), 1)] {
            check_eq!(set(&caller, &mut vcpu, &set_to), Ok(0));
            check_eq!(caller.get::<Events>(&mut vcpu, GET_VCPU_EVENTS)?.triple_fault.pending, told);
        }
        engine(&mut vcpu).then(out);
        check_eq!(vcpu.finish(Answer::None), None);
        check_eq!(vcpu.run(Answer::None), Exit::Shutdown);
        check_eq!(vcpu.engine().entries.len(), 0);
        check_eq!(caller.get::<Events>(&mut vcpu, GET_VCPU_EVENTS)?.triple_fault.pending, 0);
        check_eq!(caller.enable(cap::X86_TRIPLE_FAULT_EVENT, 0), Ok(0));
        caller.refused(&mut vcpu, SET_VCPU_EVENTS, &waits(0), Errno::EINVAL)?;
        check_eq!(caller.get::<Events>(&mut vcpu, GET_VCPU_EVENTS)?.flags & VALID_TRIPLE_FAULT, 0);
    }
}
