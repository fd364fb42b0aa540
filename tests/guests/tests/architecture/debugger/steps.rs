//! Single step by a debugger. See: AMD APM vol. 2, 13.1.4.

use guests::layout::resume;
use guests::programs::{end, report};
use guests::x86::{Answer, Data, Exit, Length, Watch, gpr, rflags};
use guests::{Guest, at, code_asm::*, port, selector, states};

use super::{
    Debugger, INT3, Labels, NOTHING, PORT, STEPPED, breakpoint, handler, is_end, set, stepping,
};

guests::on_every_engine! {
    fn a_step_is_an_instruction(engine) {
        let (mut debugger, labels) = stepping(engine, |a| {
            let mut labels = Labels::<5>::new(a);
            a.mov(eax, 5)?;
            labels.here(a)?;
            a.call(labels.0[3])?;
            labels.here(a)?;
            a.nop()?;
            labels.here(a)?;
            report(a)?;
            end(a)?;
            labels.here(a)?;
            a.inc(eax)?;
            labels.here(a)?;
            a.ret()?;
            Ok(labels.0)
        });
        let [call, back, out, function, ret] = labels;
        assert_eq!(debugger.steps(), [call, function, ret, back, out]);
        assert_eq!(debugger.finish().values, [6]);
    }

    /// Registers are the guest's own, and can be set in between.
    fn a_step_does_not_show_in_the_registers(engine) {
        let (mut debugger, [two, three]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            a.nop()?;
            labels.here(a)?;
            a.nop()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let before = debugger.guest.state();
        assert_eq!(debugger.step(), two);
        let mut state = debugger.guest.state();
        assert_eq!((state.rflags, state.debug), (before.rflags, before.debug));
        state.rip = at::CODE;
        debugger.guest.set_state(&state);
        assert_eq!(debugger.steps(), [two, three]);
        assert!(debugger.finish().traps.is_empty());
    }

    fn a_step_goes_over_what_flags_are_loaded_by(engine) {
        let (mut debugger, labels) = stepping(engine, |a| {
            let mut labels = Labels::<8>::new(a);
            a.push(rflags::FIXED as i32)?;
            labels.here(a)?;
            a.popfq()?;
            labels.here(a)?;
            a.pushfq()?;
            labels.here(a)?;
            a.push(i32::from(selector::DATA))?;
            labels.here(a)?;
            a.push(at::STACK as i32)?;
            labels.here(a)?;
            a.push(rflags::FIXED as i32)?;
            labels.here(a)?;
            a.push(i32::from(selector::CODE))?;
            labels.here(a)?;
            a.push(at::USER_CODE as i32)?;
            labels.here(a)?;
            a.iretq()?;
            Ok(labels.0)
        });
        debugger.guest.code(at::USER_CODE, end);
        assert_eq!(debugger.steps(), labels);
        assert_eq!(debugger.step(), at::USER_CODE);
        assert!(debugger.finish().traps.is_empty());
    }

    /// As a kernel holds interrupts back for a while: the trap flag of a step is not left on its stack.
    fn a_step_does_not_show_in_what_the_guest_saves(engine) {
        let (mut debugger, [popped]) = stepping(engine, |a| {
            let mut labels = Labels::<1>::new(a);
            a.pushfq()?;
            a.cli()?;
            a.mov(eax, dword_ptr(rsp))?;
            report(a)?;
            a.popfq()?;
            labels.here(a)?;
            a.nop()?;
            end(a)?;
            Ok(labels.0)
        });
        while debugger.step() != popped {}
        let log = debugger.finish();
        assert_eq!((log.values, log.traps), (vec![rflags::FIXED as u32], vec![]));
    }

    fn a_step_goes_over_a_system_call_and_back(engine) {
        let (mut debugger, []) = stepping(engine, |_| Ok([]));
        let guest = &mut debugger.guest;
        guest.code(at::CODE, |a| a.sysretq());
        let [behind] = guest.labelled(at::USER_CODE, |a| {
            let mut labels = Labels::<1>::new(a);
            a.syscall()?;
            labels.here(a)?;
            a.mov(eax, r11d)?;
            report(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let mut state = states::user(guest.long_mode());
        state.sysregs[0] = u64::from(selector::CODE) << 32 | u64::from(selector::USER_CODE - 16) << 48;
        state.sysregs[1] = at::CODE;
        guest.set_state(&state);
        assert_eq!(debugger.steps(), [at::CODE, behind]);
    }

    fn a_step_waits_for_the_answer_of_a_port(engine) {
        let (mut debugger, [read, written, moved]) = stepping(engine, |a| {
            let mut labels = Labels::<3>::new(a);
            a.in_(al, port::FREE)?;
            labels.here(a)?;
            a.out(port::FREE, al)?;
            labels.here(a)?;
            a.mov(ebx, eax)?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let at_step = |address| Exit::Debug { cause: STEPPED, address };
        assert_eq!(debugger.go(), Exit::In { port: PORT, size: 1, count: 1 });
        assert_eq!(debugger.answer(Answer::Data(Data::new(&[7]))), at_step(read));
        assert_eq!(debugger.go(), Exit::Out { port: PORT, size: 1, data: Data::new(&[7]) });
        assert_eq!(debugger.go(), at_step(written));
        assert_eq!(debugger.step(), moved);
        assert_eq!(debugger.guest.state().gprs[usize::from(gpr::RBX)], 7);
    }

    fn a_step_goes_over_an_access_to_a_device(engine) {
        let (mut debugger, [read, written, changed]) = stepping(engine, |a| {
            let mut labels = Labels::<3>::new(a);
            a.mov(eax, dword_ptr(rbx))?;
            labels.here(a)?;
            a.mov(dword_ptr(rbx + 4), eax)?;
            labels.here(a)?;
            a.add(dword_ptr(rbx + 8), eax)?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let mut state = debugger.guest.state();
        set(&mut state, gpr::RBX, at::NOWHERE);
        debugger.guest.set_state(&state);
        let at_step = |address| Exit::Debug { cause: STEPPED, address };
        let data = Data::new(&[1, 0, 0, 0]);
        assert_eq!(debugger.go(), Exit::MmioRead { gpa: at::NOWHERE, size: 4 });
        assert_eq!(debugger.answer(Answer::Data(data)), at_step(read));
        assert_eq!(debugger.go(), Exit::MmioWrite { gpa: at::NOWHERE + 4, data });
        assert_eq!(debugger.go(), at_step(written));
        assert_eq!(debugger.go(), Exit::MmioRead { gpa: at::NOWHERE + 8, size: 4 });
        let exit = debugger.answer(Answer::Data(data));
        assert_eq!(exit, Exit::MmioWrite { gpa: at::NOWHERE + 8, data: Data::new(&[2, 0, 0, 0]) });
        assert_eq!(debugger.go(), at_step(changed));
        assert!(is_end(&debugger.go()));
    }

    fn a_step_goes_over_what_the_hypervisor_executes(engine) {
        let (mut debugger, labels) = stepping(engine, |a| {
            let mut labels = Labels::<6>::new(a);
            a.cpuid()?;
            labels.here(a)?;
            a.mov(ecx, 0x1b)?;
            labels.here(a)?;
            a.rdmsr()?;
            labels.here(a)?;
            a.in_(al, 0x61)?;
            labels.here(a)?;
            a.mov(rax, cr8)?;
            labels.here(a)?;
            a.mov(eax, dword_ptr(rbp))?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let mut state = debugger.guest.state();
        set(&mut state, gpr::RBP, at::IOAPIC);
        debugger.guest.set_state(&state);
        assert_eq!(debugger.steps(), labels);
        assert!(debugger.finish().traps.is_empty());
    }

    fn a_step_is_an_iteration_of_a_string(engine) {
        let (mut debugger, [string, after]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            labels.here(a)?;
            a.rep().stosb()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let mut state = debugger.guest.state();
        set(&mut state, gpr::RDI, at::DATA);
        set(&mut state, gpr::RCX, 3);
        debugger.guest.set_state(&state);
        assert_eq!(debugger.steps(), [string, string, after]);
    }

    fn a_step_is_an_iteration_of_a_string_to_a_device(engine) {
        let (mut debugger, [string, after]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            labels.here(a)?;
            a.rep().movsb()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        debugger.guest.memory.write(at::DATA, b"ab");
        let mut state = debugger.guest.state();
        set(&mut state, gpr::RSI, at::DATA);
        set(&mut state, gpr::RDI, at::NOWHERE);
        set(&mut state, gpr::RCX, 2);
        debugger.guest.set_state(&state);
        for (n, byte, next) in [(0, b'a', string), (1, b'b', after)] {
            let write = Exit::MmioWrite { gpa: at::NOWHERE + n, data: Data::new(&[byte]) };
            assert_eq!(debugger.go(), write);
            assert_eq!(debugger.step(), next);
        }
    }

    fn a_step_is_an_iteration_of_a_string_to_a_port(engine) {
        let (mut debugger, [string, after]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            labels.here(a)?;
            a.rep().outsb()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        debugger.guest.memory.write(at::DATA, b"ab");
        let mut state = debugger.guest.state();
        set(&mut state, gpr::RSI, at::DATA);
        set(&mut state, gpr::RDX, PORT.into());
        set(&mut state, gpr::RCX, 2);
        debugger.guest.set_state(&state);
        for (byte, next) in [(b'a', string), (b'b', after)] {
            let write = Exit::Out { port: PORT, size: 1, data: Data::new(&[byte]) };
            assert_eq!(debugger.go(), write);
            assert_eq!(debugger.step(), next);
        }
    }

    /// See: AMD APM vol. 2, 8.5.
    fn a_load_of_the_stack_segment_is_stepped_with_the_next_instruction(engine) {
        let (mut debugger, [first, _, third]) = stepping(engine, |a| {
            let mut labels = Labels::<3>::new(a);
            a.mov(eax, u32::from(selector::DATA))?;
            labels.here(a)?;
            a.mov(ss, eax)?;
            labels.here(a)?;
            a.mov(rsp, at::STACK)?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        assert_eq!(debugger.steps(), [first, third]);
    }

    /// What holds interrupts back does not hold a step back.
    fn a_step_ends_in_the_shadow_of_sti(engine) {
        let (mut debugger, [sti, nop]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            a.sti()?;
            labels.here(a)?;
            a.nop()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        assert_eq!(debugger.step(), sti);
        assert!(debugger.guest.state().interrupt_shadow);
        assert_eq!(debugger.step(), nop);
        assert!(!debugger.guest.state().interrupt_shadow);
    }

    fn a_halt_is_stepped_over_and_halts(engine) {
        let (mut debugger, [after]) = stepping(engine, |a| {
            let mut labels = Labels::<1>::new(a);
            a.hlt()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        assert_eq!(debugger.step(), after);
        assert_eq!(debugger.go(), Exit::Halted);
    }

    fn a_step_over_a_fault_ends_in_its_handler(engine) {
        let (mut debugger, []) = stepping(engine, |a| a.ud2().map(|()| []));
        assert_eq!(debugger.step(), handler(6));
        let log = debugger.finish();
        assert_eq!((log.traps[0].vector, log.traps[0].rip), (6, at::CODE));
        assert_eq!(u64::from(log.traps[0].flags) & rflags::TF, 0);
    }

    /// A fault that the hypervisor raises, and INT n.
    fn a_step_into_a_handler_leaves_no_trap_flag_behind(engine) {
        let (mut debugger, [wrmsr]) = stepping(engine, |a| {
            let mut labels = Labels::<1>::new(a);
            a.int(0x40)?;
            labels.here(a)?;
            a.wrmsr()?;
            Ok(labels.0)
        });
        debugger.guest.resume(resume::SAME);
        assert_eq!(debugger.step(), handler(0x40));
        while debugger.step() != wrmsr {}
        debugger.guest.resume(resume::END);
        assert_eq!(debugger.step(), handler(13));
        let log = debugger.finish();
        let seen: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
        assert_eq!(seen, [(0x40, wrmsr), (13, wrmsr)]);
        assert!(log.traps.iter().all(|trap| u64::from(trap.flags) & rflags::TF == 0));
    }

    fn the_guests_own_steps_are_its_own(engine) {
        // Whatever else a debugger wants.
        for wanted in [NOTHING, INT3, breakpoint(0, at::DATA, Watch::Write(Length::One))] {
            let mut guest = Guest::with_program(engine, |a| {
                a.nop()?;
                a.nop()?;
                end(a)
            });
            guest.resume(resume::SAME);
            let mut state = guest.long_mode();
            state.rflags |= rflags::TF;
            guest.set_state(&state);
            let mut debugger = Debugger::new(guest, &wanted);
            assert!(is_end(&debugger.go()));
            let traps = debugger.log.traps.iter();
            let seen: Vec<_> = traps.map(|trap| (trap.rip - at::CODE, trap.dr6 & 0xf00f)).collect();
            assert_eq!(seen, [(1, 1 << 14), (2, 1 << 14)], "{wanted:?}");
        }
    }

    /// The debugger is told of a step, and then the guest is.
    fn the_guests_own_steps_are_not_lost_in_a_debuggers(engine) {
        let (mut debugger, [two, three]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            a.nop()?;
            labels.here(a)?;
            a.nop()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        debugger.guest.resume(resume::SAME);
        let mut state = debugger.guest.state();
        state.rflags |= rflags::TF;
        debugger.guest.set_state(&state);
        assert_eq!(debugger.steps(), [two, handler(1)]);
        let log = debugger.finish();
        let seen: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
        assert_eq!(seen, [(1, two), (1, three)]);
        assert!(log.traps.iter().all(|trap| u64::from(trap.flags) & rflags::TF != 0));
    }
}
