//! Test bodies of single step and breakpoints for a debugger, on the scripted engine.

use selftest::{Outcome, cases, check, check_eq};
use virt::Host;
use virt::statistics::Statistics;

use super::run_test::{CODE, TestVcpu, engine, long_mode, machine, out};
use super::scripted::Fixture;
use super::{Answer, Data, Exit};
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception};
use crate::guest_debug::{Breakpoint, DebugCause, GuestDebug, Length, Watch};
use crate::regs::{DEBUG_REGISTERS, Regs, Seg, Segment, Table, gpr, rflags};
use crate::statistics::VcpuStatistic;

/// Where handlers lie, a byte apart.
const HANDLERS: u64 = 0x8000;
const TF: u64 = rflags::TF;
const BS: u64 = 1 << 14;

const STEPPED: DebugCause = DebugCause::Exception { stepped: true, breakpoints: 0 };

fn step() -> GuestDebug {
    GuestDebug { single_step: true, ..GuestDebug::default() }
}

/// Breakpoint 1 watches writes of a doubleword.
fn watching(address: u64) -> GuestDebug {
    let watch = Watch::Write(Length::Four);
    let hardware = [None, Some(Breakpoint { address, watch }), None, None];
    GuestDebug { hardware, ..GuestDebug::default() }
}

/// A machine with code at RIP, whose vectors lead to [`HANDLERS`].
fn with_code(code: &[u8]) -> Result<(Fixture, TestVcpu), selftest::Failure> {
    let (fixture, mut vcpu) = machine(1)?;
    check_eq!(fixture.host.write(CODE, code), Ok(()));
    let state = engine(&mut vcpu);
    state.set_idtr(Table { base: 0x6000, limit: 0xfff });
    state.set_gdtr(Table { base: 0x7000, limit: 0xf });
    state.set_gpr(gpr::RSP, 0x9000);
    state.set_segment(Seg::Cs, Segment { selector: 8, ..state.segment(Seg::Cs) });
    check_eq!(fixture.host.write(0x7008, &0x00af_9b00_0000_ffff_u64.to_le_bytes()), Ok(()));
    for vector in 0..32 {
        let gate = (HANDLERS + vector) | 8 << 16 | 0x8e << 40;
        check_eq!(fixture.host.write(0x6000 + vector * 16, &gate.to_le_bytes()), Ok(()));
    }
    Ok((fixture, vcpu))
}

/// A quadword of the guest's memory.
fn memory(fixture: &Fixture, address: u64) -> u64 {
    let mut bytes = [0; 8];
    let read = fixture.host.read(address, &mut bytes);
    read.map_or(0, |()| u64::from_le_bytes(bytes))
}

fn stepped_to(address: u64) -> Exit {
    Exit::Debug { cause: STEPPED, address }
}

/// Has the engine come out with an exception after an instruction of a byte, if TF was set.
fn nop(vcpu: &mut TestVcpu, bits: u64) {
    engine(vcpu).then(move |state, _| {
        if state.rflags & TF == 0 {
            return Intercept::Shutdown;
        }
        state.rip += 1;
        Intercept::Exception(Exception::db(bits))
    });
}

fn check_no_trap_flag(vcpu: &TestVcpu) -> Outcome {
    check_eq!(vcpu.engine().rflags() & TF, 0);
    Ok(())
}

cases! {
    fn a_step_is_what_the_engine_traps_after() {
        let (_fixture, mut vcpu) = with_code(&[0x90, 0x90])?;
        vcpu.set_debug(&step());
        nop(&mut vcpu, BS);
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 1));
        check_no_trap_flag(&vcpu)?;
        vcpu.set_debug(&GuestDebug::default());
        check_eq!(vcpu.engine().exception_intercepts, 0);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.engine().injected(), []);
    }

    fn events_and_exits_of_steps_are_counted_as_others() {
        let (_fixture, mut vcpu) = with_code(&[0x90])?;
        vcpu.set_debug(&step());
        vcpu.nmi();
        nop(&mut vcpu, BS);
        let handler = HANDLERS + u64::from(exception::NMI);
        check_eq!(vcpu.run(Answer::None), stepped_to(handler));
        check_eq!(vcpu.run(Answer::None), stepped_to(handler + 1));
        let statistics = vcpu.statistics();
        for what in [VcpuStatistic::NmiInjections, VcpuStatistic::Exits] {
            check_eq!(statistics.value(what as usize), 1, "{what:?}");
        }
    }

    fn a_step_ends_when_its_instruction_is_completed() {
        let (_fixture, mut vcpu) = with_code(&[0x90])?;
        vcpu.set_debug(&step());
        engine(&mut vcpu).then(|_, _| Intercept::Cpuid { len: 2 });
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 2));
        engine(&mut vcpu).then(|_, _| Intercept::In { port: 0x1000, size: 1, len: 1 });
        check_eq!(vcpu.run(Answer::None), Exit::In { port: 0x1000, size: 1, count: 1 });
        check_eq!(vcpu.run(Answer::Data(Data::new(&[1]))), stepped_to(CODE + 3));
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 5));
        engine(&mut vcpu).then(|_, _| Intercept::Halt { len: 1 });
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 6));
        check_eq!(vcpu.run(Answer::None), Exit::Halted);
        check_eq!(vcpu.engine().injected(), []);
    }

    fn a_fault_ends_a_step_in_its_handler_with_the_guests_flags() {
        let (fixture, mut vcpu) = with_code(&[0x90])?;
        vcpu.set_debug(&step());
        check_eq!(vcpu.engine().exception_intercepts, u32::MAX);
        engine(&mut vcpu).then(|_, _| Intercept::Exception(Exception::pf(0x1234, 2)));
        check_eq!(vcpu.run(Answer::None), stepped_to(HANDLERS + 14));
        check_eq!(vcpu.engine().cr2(), 0x1234);
        let frame = vcpu.engine().gpr(gpr::RSP);
        check_eq!((memory(&fixture, frame), memory(&fixture, frame + 8)), (2, CODE));
        check_eq!(memory(&fixture, frame + 24), rflags::FIXED | rflags::RF);
    }

    fn an_nmi_ends_a_step_in_its_handler() {
        let (fixture, mut vcpu) = with_code(&[0x90])?;
        vcpu.set_debug(&step());
        fixture.vm.arch().machine().post(0, super::inbox::request::NMI);
        check_eq!(vcpu.run(Answer::None), stepped_to(HANDLERS + 2));
        check!(vcpu.engine().nmi_blocked());
        check!(vcpu.engine().entries.is_empty());
    }

    fn instructions_on_the_trap_flag_do_not_reach_the_engine() {
        // pushf; popf; int 5
        let (fixture, mut vcpu) = with_code(&[0x9c, 0x9d, 0xcd, 5])?;
        vcpu.set_debug(&step());
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 1));
        check_eq!(memory(&fixture, 0x8ff8), rflags::FIXED);
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 2));
        check_eq!(vcpu.run(Answer::None), stepped_to(HANDLERS + 5));
        let frame = vcpu.engine().gpr(gpr::RSP);
        check_eq!((memory(&fixture, frame), memory(&fixture, frame + 16)), (CODE + 4, rflags::FIXED));
        check!(vcpu.engine().entries.is_empty());
    }

    fn iret_keeps_the_resume_flag_that_it_loads() {
        let (fixture, mut vcpu) = with_code(&[0x48, 0xcf])?;
        let flags = rflags::FIXED | rflags::RF;
        for (n, word) in (0..).zip([CODE + 0x100, 8, flags, 0x9000, 0]) {
            check_eq!(fixture.host.write(0x9000 + n * 8, &u64::to_le_bytes(word)), Ok(()));
        }
        vcpu.set_debug(&step());
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 0x100));
        check_eq!(vcpu.engine().rflags(), flags);
    }

    fn the_resume_flag_lasts_for_one_instruction_of_those() {
        let (_fixture, mut vcpu) = with_code(&[0x9c])?;
        engine(&mut vcpu).set_rflags(rflags::FIXED | rflags::RF);
        engine(&mut vcpu).set_interrupt_shadow(true);
        vcpu.set_debug(&step());
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 1));
        check_eq!(vcpu.engine().rflags(), rflags::FIXED);
        check!(!vcpu.engine().interrupt_shadow());
    }

    fn popf_of_the_trap_flag_is_the_guests_own() {
        let (fixture, mut vcpu) = with_code(&[0x9d, 0x90])?;
        check_eq!(fixture.host.write(0x9000, &(rflags::FIXED | TF).to_le_bytes()), Ok(()));
        vcpu.set_debug(&step());
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 1));
        check_eq!(vcpu.engine().rflags() & TF, TF);
        // The next instruction is stepped by both.
        nop(&mut vcpu, BS);
        check_eq!(vcpu.run(Answer::None), stepped_to(CODE + 2));
        check_eq!(vcpu.engine().rflags() & TF, TF);
        check_eq!(vcpu.run(Answer::None), stepped_to(HANDLERS + 1));
        check_eq!(vcpu.engine().dr(6) & BS, BS);
        let frame = vcpu.engine().gpr(gpr::RSP);
        check_eq!((memory(&fixture, frame), memory(&fixture, frame + 16)), (CODE + 2, rflags::FIXED | TF));
    }

    fn int3_comes_out_if_it_is_asked_for() {
        let (_fixture, mut vcpu) = with_code(&[0xcc])?;
        let wanted = GuestDebug { software_breakpoints: true, ..GuestDebug::default() };
        vcpu.set_debug(&wanted);
        check_eq!(vcpu.engine().exception_intercepts, 1 << exception::BP);
        let breakpoint = Exit::Debug { cause: DebugCause::SoftwareBreakpoint, address: CODE };
        for wanted in [wanted, GuestDebug { single_step: true, ..wanted }] {
            vcpu.set_debug(&wanted);
            engine(&mut vcpu).then(|_, _| Intercept::Exception(Exception::plain(exception::BP)));
            check_eq!(vcpu.run(Answer::None), breakpoint);
        }
        // It was the guest's own.
        vcpu.set_debug(&GuestDebug::default());
        check_eq!(vcpu.inject(Exception::plain(exception::BP)), Ok(()));
        check_eq!(vcpu.inject(Exception::ud()), Err(virt::Errno::EBUSY));
        check_eq!(vcpu.inject(Exception::plain(exception::NMI)), Err(virt::Errno::EINVAL));
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::plain(exception::BP))]);
        check_eq!(vcpu.engine().rip(), CODE + 3);
    }

    fn int3_is_stepped_into_if_it_is_the_guests() {
        let (fixture, mut vcpu) = with_code(&[0xcc])?;
        vcpu.set_debug(&step());
        check_eq!(vcpu.run(Answer::None), stepped_to(HANDLERS + 3));
        check_eq!(memory(&fixture, vcpu.engine().gpr(gpr::RSP)), CODE + 1);
    }

    fn breakpoints_are_in_the_registers_while_the_guest_runs() {
        let (_fixture, mut vcpu) = with_code(&[0x90])?;
        let own = [1, 2, 3, 4, 0xffff_0ff0, 0x402];
        vcpu.set_debug(&watching(0x5000));
        check_eq!(vcpu.engine().exception_intercepts, 1 << exception::DB);
        engine(&mut vcpu).then(|state, _| {
            // Write, four bytes, global; and general detect.
            if state.debug != [0, 0x5000, 0, 0, 0xffff_0ff0, 0x400 | 1 << 13 | 8 | 0xd << 20] {
                return Intercept::Shutdown;
            }
            state.rip += 7;
            Intercept::Exception(Exception::db(2))
        });
        for (n, value) in DEBUG_REGISTERS.iter().zip(own) {
            engine(&mut vcpu).set_dr(*n, value);
        }
        let cause = DebugCause::Exception { stepped: false, breakpoints: 2 };
        check_eq!(vcpu.run(Answer::None), Exit::Debug { cause, address: CODE + 7 });
        let after = DEBUG_REGISTERS.map(|n| vcpu.engine().dr(n));
        check_eq!(after, own);
    }

    fn mov_dr_is_of_the_guests_own_registers() {
        // mov dr1, rax; mov rbx, dr1
        let (_fixture, mut vcpu) = with_code(&[0x0f, 0x23, 0xc8, 0x0f, 0x21, 0xcb])?;
        vcpu.set_debug(&watching(0x5000));
        engine(&mut vcpu).set_gpr(gpr::RAX, 0x7777);
        for _ in 0..2 {
            engine(&mut vcpu).then(|_, _| Intercept::Exception(Exception::db(1 << 13)));
        }
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!((vcpu.engine().dr(1), vcpu.engine().gpr(gpr::RBX)), (0x7777, 0x7777));
        check_eq!(vcpu.engine().injected(), []);
    }

    fn a_debug_exception_that_nobody_asked_for_is_the_guests() {
        let (_fixture, mut vcpu) = with_code(&[0x90])?;
        vcpu.set_debug(&watching(0x5000));
        let flags = vcpu.engine().rflags();
        engine(&mut vcpu).set_rflags(flags | TF);
        nop(&mut vcpu, BS);
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        // It was delivered here, as the debugger has the registers.
        check_eq!(vcpu.engine().injected(), []);
        check_eq!((vcpu.engine().rip(), vcpu.engine().dr(6) & BS), (HANDLERS + 1 + 2, BS));
    }

    fn what_is_emulated_meets_data_breakpoints() {
        // mov [0x600000], eax: a device.
        let (fixture, mut vcpu) = with_code(&[0x89, 0x04, 0x25, 0, 0, 0x60, 0])?;
        let fault = Intercept::NestedFault { gpa: 0xd000_0000, write: true };
        let write = Exit::MmioWrite { gpa: 0xd000_0000, data: Data::new(&[0; 4]) };
        vcpu.set_debug(&watching(0x60_0000));
        engine(&mut vcpu).then(move |_, _| fault);
        check_eq!(vcpu.run(Answer::None), write);
        let cause = DebugCause::Exception { stepped: false, breakpoints: 2 };
        check_eq!(vcpu.run(Answer::None), Exit::Debug { cause, address: CODE + 7 });
        // The guest's own, when they are active.
        vcpu.set_debug(&GuestDebug::default());
        long_mode(&fixture, &mut vcpu)?;
        engine(&mut vcpu).then(move |state, _| {
            state.debug = [0x60_0000, 0, 0, 0, 0xffff_0ff0, 0x400 | 2 | 1 << 16];
            fault
        });
        engine(&mut vcpu).then(out);
        check_eq!(vcpu.run(Answer::None), write);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::db(1))]);
    }

    fn an_injected_page_fault_leaves_cr2_as_it_is() {
        let (_fixture, mut vcpu) = with_code(&[0x90])?;
        engine(&mut vcpu).set_cr2(0x1234);
        check_eq!(vcpu.inject(Exception::pf(0, 4)), Ok(()));
        engine(&mut vcpu).then(out);
        vcpu.run(Answer::None);
        check_eq!(vcpu.engine().injected(), [Event::Exception(Exception::pf(0x1234, 4))]);
    }
}
