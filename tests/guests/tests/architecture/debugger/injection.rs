//! Exceptions and NMIs that the host injects. See: Linux, Documentation/virt/kvm/api.rst, 4.32, 4.64.

use guests::programs::{end, report, report_number};
use guests::x86::{Exception, Exit, rflags};
use guests::{Guest, Log, Vcpu, at, code_asm::*, port, selector};

use super::{Debugger, NOTHING, PORT, is_end};

guests::on_every_engine! {
    fn an_injected_exception_is_delivered(engine) {
        let guest = Guest::with_program(engine, end);
        let mut debugger = Debugger::new(guest, &NOTHING);
        let mut state = debugger.guest.state();
        state.cr2 = 0x1234_5678;
        let exceptions = [
            Exception::ud(),
            Exception::gp(0x28),
            Exception::with_error(14, 6),
            Exception::plain(0),
        ];
        for exception in exceptions {
            debugger.guest.set_state(&state);
            debugger.inject(exception);
            assert!(is_end(&debugger.go()));
            let trap = debugger.log.traps.pop().expect("a trap");
            let error = exception.error.unwrap_or(0);
            assert_eq!((trap.vector, trap.error), (exception.vector.into(), error));
            assert_eq!((trap.rip, trap.cs), (at::CODE, selector::CODE.into()));
            assert_eq!((trap.cr2, u64::from(trap.flags) & rflags::TF), (0x1234_5678, 0));
        }
        assert_eq!(debugger.log, Log::default());
    }

    fn an_injected_breakpoint_is_that_of_int3(engine) {
        let guest = Guest::with_program(engine, |a| a.int3());
        let mut debugger = Debugger::new(guest, &NOTHING);
        debugger.inject(Exception::plain(3));
        let log = debugger.finish();
        assert_eq!((log.traps[0].vector, log.traps[0].rip), (3, at::CODE + 1));
    }

    fn what_is_no_exception_is_not_injected(engine) {
        let guest = Guest::with_program(engine, end);
        let mut debugger = Debugger::new(guest, &NOTHING);
        for vector in [2, 32] {
            assert!(debugger.guest.vcpus[0].inject(Exception::plain(vector)).is_err());
        }
        debugger.inject(Exception::ud());
        // One is on its way.
        assert!(debugger.guest.vcpus[0].inject(Exception::gp(0)).is_err());
        assert_eq!(debugger.finish().faults(), [(6, 0)]);
    }

    fn an_nmi_is_delivered_and_ends_a_halt(engine) {
        let guest = Guest::with_program(engine, |a| {
            a.hlt()?;
            end(a)
        });
        guest.handler(2, |a| {
            report_number(a, 1)?;
            a.iretq()
        });
        let mut debugger = Debugger::new(guest, &NOTHING);
        // Before anything is executed.
        debugger.nmi();
        assert_eq!(debugger.go(), Exit::Halted);
        assert_eq!(debugger.log.values, [1]);
        debugger.nmi();
        assert_eq!(debugger.finish().values, [1, 1]);
    }

    fn an_nmi_waits_while_another_is_handled(engine) {
        let guest = Guest::with_program(engine, |a| {
            a.xor(ebx, ebx)?;
            a.out(port::FREE, al)?;
            report_number(a, 9)?;
            end(a)
        });
        // Reports how deep it is.
        guest.handler(2, |a| {
            a.mov(eax, ebx)?;
            report(a)?;
            a.mov(ebx, 1)?;
            a.out(port::FREE, al)?;
            a.xor(ebx, ebx)?;
            a.iretq()
        });
        let mut debugger = Debugger::new(guest, &NOTHING);
        let out = |exit: &Exit| matches!(exit, Exit::Out { port: PORT, .. });
        assert!(out(&debugger.go()));
        debugger.nmi();
        assert!(out(&debugger.go()));
        assert!(debugger.guest.state().nmi_blocked);
        // Two, of which one is kept.
        debugger.nmi();
        debugger.nmi();
        assert!(out(&debugger.go()));
        assert_eq!(debugger.finish().values, [0, 0, 9]);
    }
}
