//! Breakpoints of a debugger's, in memory and in the debug registers. See: AMD APM vol. 2, 13.1.

use guests::layout::resume;
use guests::programs::{end, report};
use guests::x86::{
    Breakpoint, DebugCause, Exception, Exit, GuestDebug, Length, Watch, gpr, rflags,
};
use guests::{Guest, at, code_asm::*};

use super::{Debugger, INT3, Labels, NOTHING, STEP, breakpoint, is_end, met, stepping};

guests::on_every_engine! {
    fn a_software_breakpoint_comes_out_where_it_is(engine) {
        let mut guest = Guest::new(engine);
        let [place] = guest.labelled(at::CODE, |a| {
            let mut labels = Labels::<1>::new(a);
            a.mov(eax, 1)?;
            labels.here(a)?;
            a.inc(eax)?;
            report(a)?;
            end(a)?;
            Ok(labels.0)
        });
        // Several times, so that a translation is met as well.
        for _ in 0..3 {
            let saved: [u8; 1] = guest.memory.read(place);
            guest.memory.write(place, &[0xcc]);
            let state = guest.long_mode();
            guest.set_state(&state);
            let mut debugger = Debugger::new(guest, &INT3);
            let exit = Exit::Debug { cause: DebugCause::SoftwareBreakpoint, address: place };
            // It is still there.
            assert_eq!([debugger.go(), debugger.go()], [exit, exit]);
            assert_eq!(debugger.guest.state().rip, place);
            debugger.guest.memory.write(place, &saved);
            assert!(is_end(&debugger.go()));
            assert_eq!(debugger.log.values, [2]);
            guest = debugger.guest;
        }
    }

    fn a_step_ends_at_a_software_breakpoint_once(engine) {
        let (mut debugger, [place]) = stepping(engine, |a| {
            let mut labels = Labels::<1>::new(a);
            a.nop()?;
            labels.here(a)?;
            a.int3()?;
            Ok(labels.0)
        });
        debugger.want(&GuestDebug { software_breakpoints: true, ..STEP });
        assert_eq!(debugger.step(), place);
        let exit = Exit::Debug { cause: DebugCause::SoftwareBreakpoint, address: place };
        assert_eq!(debugger.go(), exit);
    }

    fn the_guests_own_int3_is_its_own(engine) {
        // A step, and others' breakpoints, do not change that.
        for wanted in [NOTHING, breakpoint(0, at::DATA, Watch::Write(Length::One))] {
            let guest = Guest::with_program(engine, |a| a.int3());
            let mut debugger = Debugger::new(guest, &wanted);
            assert!(is_end(&debugger.go()));
            let trap = debugger.log.traps[0];
            assert_eq!((trap.vector, trap.rip), (3, at::CODE + 1));
        }
    }

    fn a_software_breakpoint_that_is_the_guests_is_given_back(engine) {
        let guest = Guest::with_program(engine, |a| a.int3());
        let mut debugger = Debugger::new(guest, &INT3);
        let exit = Exit::Debug { cause: DebugCause::SoftwareBreakpoint, address: at::CODE };
        assert_eq!(debugger.go(), exit);
        debugger.inject(Exception::plain(3));
        assert!(is_end(&debugger.go()));
        let trap = debugger.log.traps[0];
        assert_eq!((trap.vector, trap.rip), (3, at::CODE + 1));
    }

    fn an_execute_breakpoint_comes_out_before_the_instruction(engine) {
        let guest = Guest::new(engine);
        let [place] = guest.labelled(at::CODE, |a| {
            let mut labels = Labels::<1>::new(a);
            a.mov(ecx, 3)?;
            labels.here(a)?;
            a.dec(ecx)?;
            a.jnz(labels.0[0])?;
            a.mov(eax, 9)?;
            report(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let wanted = breakpoint(2, place, Watch::Execute);
        let mut debugger = Debugger::new(guest, &wanted);
        for left in [3, 2, 1] {
            assert_eq!(debugger.go(), met(2, place));
            let mut state = debugger.guest.state();
            assert_eq!(state.gprs[usize::from(gpr::RCX)], left);
            assert_eq!((state.debug[..4].iter().sum::<u64>(), state.debug[5]), (0, 0x400));
            // As a debugger goes on; or with RF.
            if left == 3 {
                debugger.want(&STEP);
                debugger.step();
                debugger.want(&wanted);
            } else {
                state.rflags |= rflags::RF;
                debugger.guest.set_state(&state);
            }
        }
        assert!(is_end(&debugger.go()));
        assert_eq!((debugger.log.values, debugger.log.traps), (vec![9], vec![]));
    }

    fn data_breakpoints_come_out_after_the_instruction(engine) {
        let guest = Guest::new(engine);
        let word = at::DATA + 4;
        let [read, written, beside] = guest.labelled(at::CODE, |a| {
            let mut labels = Labels::<3>::new(a);
            a.mov(eax, dword_ptr(word))?;
            labels.here(a)?;
            a.mov(word_ptr(word + 2), ax)?;
            labels.here(a)?;
            a.mov(dword_ptr(word + 4), eax)?;
            a.mov(dword_ptr(word - 4), eax)?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let writes = breakpoint(0, word, Watch::Write(Length::Four));
        let mut debugger = Debugger::new(guest, &writes);
        let start = debugger.guest.state();
        assert_eq!(debugger.go(), met(0, written));
        assert!(is_end(&debugger.go()));
        debugger.guest.set_state(&start);
        let mut both = breakpoint(1, word, Watch::ReadWrite(Length::Four));
        both.hardware[3] = Some(Breakpoint { address: word - 4, watch: Watch::Write(Length::One) });
        debugger.want(&both);
        let exits = std::array::from_fn(|_| debugger.go());
        assert_eq!(exits, [met(1, read), met(1, written), met(3, beside)]);
        assert!(is_end(&debugger.go()));
    }

    fn a_step_meets_breakpoints(engine) {
        let (mut debugger, [written, pushed]) = stepping(engine, |a| {
            let mut labels = Labels::<2>::new(a);
            a.mov(byte_ptr(at::DATA), 1)?;
            labels.here(a)?;
            a.pushfq()?;
            labels.here(a)?;
            end(a)?;
            Ok(labels.0)
        });
        let mut wanted = breakpoint(1, at::DATA, Watch::Write(Length::One));
        let stack = Breakpoint { address: at::STACK - 8, watch: Watch::Write(Length::Eight) };
        (wanted.single_step, wanted.hardware[2]) = (true, Some(stack));
        debugger.want(&wanted);
        for (breakpoints, address) in [(2, written), (4, pushed)] {
            let cause = DebugCause::Exception { stepped: true, breakpoints };
            assert_eq!(debugger.go(), Exit::Debug { cause, address });
        }
    }

    /// The guest's breakpoints are not active then, but its registers are there.
    fn breakpoints_of_a_debuggers_do_not_show_in_the_guests_registers(engine) {
        let guest = Guest::with_program(engine, |a| {
            a.mov(rax, dr0)?;
            report(a)?;
            a.mov(rax, dr7)?;
            report(a)?;
            a.mov(eax, at::DATA as u32 + 8)?;
            a.mov(dr1, rax)?;
            a.mov(byte_ptr(at::DATA), 1)?;
            a.mov(rax, dr1)?;
            report(a)?;
            end(a)
        });
        let mut debugger = Debugger::new(guest, &breakpoint(1, at::CODE, Watch::Write(Length::One)));
        let mut state = debugger.guest.state();
        state.debug[0] = at::DATA;
        state.debug[5] = 0x400 | 2 | 1 << 16;
        debugger.guest.set_state(&state);
        assert!(is_end(&debugger.go()));
        let read = [at::DATA as u32, 0x1_0402, at::DATA as u32 + 8];
        assert_eq!((debugger.log.values.as_slice(), debugger.log.traps.as_slice()), (&read[..], &[][..]));
        let after = debugger.guest.state().debug;
        assert_eq!(after, [at::DATA, at::DATA + 8, 0, 0, 0xffff_0ff0, 0x1_0402]);
    }

    fn the_guests_breakpoints_are_active_when_the_debuggers_are_gone(engine) {
        let guest = Guest::with_program(engine, |a| {
            a.mov(byte_ptr(at::DATA), 1)?;
            end(a)
        });
        guest.resume(resume::SAME);
        let mut debugger = Debugger::new(guest, &breakpoint(1, at::CODE, Watch::Write(Length::One)));
        let mut state = debugger.guest.state();
        state.debug[0] = at::DATA;
        state.debug[5] = 0x400 | 2 | 1 << 16;
        debugger.guest.set_state(&state);
        assert!(is_end(&debugger.go()));
        assert!(debugger.log.traps.is_empty());
        debugger.guest.set_state(&state);
        let log = debugger.finish();
        assert_eq!(log.traps.iter().map(|trap| trap.dr6 & 0xf).collect::<Vec<_>>(), [1]);
    }
}
