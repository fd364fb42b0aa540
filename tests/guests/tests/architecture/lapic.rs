//! The local APIC, in xAPIC and x2APIC mode. See: Intel SDM vol. 3, 11.

use guests::programs::{end, report, report_number};
use guests::x86::Answer;
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*};

use crate::apic::{
    DEADLINE, DIVIDE_BY_1, MASKED, PERIODIC, enable_x2apic, handler, interrupt_self, read,
    read_msr, read_page, register, reporting_handler, send, wait_for, window, write, write_msr,
    write_page,
};

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const VECTOR: u8 = 0x70;

/// Counts the interrupt at [`at::DATA`].
fn counting_handler<H: Hypervisor>(guest: &Guest<H>, vector: u8) {
    handler(guest, vector, |a| {
        a.inc(dword_ptr(at::DATA))?;
        write(a, register::END_OF_INTERRUPT, 0)
    });
}

/// The exceptions of a program.
fn faults<H: Hypervisor>(
    engine: &H,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<(u32, u32)> {
    let mut guest = Guest::with_program(engine, |a| {
        program(a)?;
        end(a)
    });
    guest.run().faults()
}

/// Spins for some hundred microseconds.
fn spin(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.rdtsc()?;
    a.mov(esi, eax)?;
    a.set_label(&mut wait)?;
    a.rdtsc()?;
    a.sub(eax, esi)?;
    a.cmp(eax, 1_000_000)?;
    a.jb(wait)
}

guests::on_every_irqchip! {
    fn at_reset_it_is_an_xapic_that_is_switched_off(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            read_msr(a, APIC_BASE)?;
            report(a)?;
            for at in [register::ID, register::SPURIOUS, register::TIMER, register::LINT0] {
                read_page(a, at)?;
                report(a)?;
            }
            read_page(a, register::VERSION)?;
            a.and(eax, 0xf0)?;
            report(a)?;
            end(a)
        });
        let base = at::LAPIC as u32 | 1 << 11 | 1 << 8;
        // LINT0 may be let through for the 8259s: the PC's firmware does so.
        let values = guest.run().values;
        assert_eq!(values[..4], [base, 0, 0xff, MASKED]);
        assert_eq!(values[5], 0x10);
    }

    fn an_xapic_interrupts_itself(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            write_page(a, register::SPURIOUS, 0x1ff)?;
            // A command to itself, by shorthand, then by its ID.
            write_page(a, register::COMMAND, 1 << 18 | u32::from(VECTOR))?;
            write_page(a, register::COMMAND + 0x10, 0)?;
            write_page(a, register::COMMAND, 0x40)?;
            read_page(a, register::REQUEST + 0x30)?;
            report(a)?;
            window(a)?;
            end(a)
        });
        for vector in [VECTOR, 0x40] {
            handler(&guest, vector, |a| {
                report_number(a, vector.into())?;
                read_page(a, register::IN_SERVICE + u32::from(vector) / 32 * 0x10)?;
                report(a)?;
                read_page(a, register::PROCESSOR_PRIORITY)?;
                report(a)?;
                write_page(a, register::END_OF_INTERRUPT, 0)
            });
        }
        let values = guest.run().values;
        assert_eq!(values, [1 << 16, 0x70, 1 << 16, 0x70, 0x40, 1, 0x40]);
    }

    fn without_an_end_a_class_stays_blocked(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            for _ in 0..2 {
                interrupt_self(a, VECTOR)?;
                window(a)?;
            }
            report_number(a, 0)?;
            write(a, register::END_OF_INTERRUPT, 0)?;
            window(a)?;
            end(a)
        });
        handler(&guest, VECTOR, |a| report_number(a, VECTOR.into()));
        assert_eq!(guest.run().values, [u32::from(VECTOR), 0, u32::from(VECTOR)]);
    }

    fn an_interrupt_that_waits_is_not_counted_twice(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            for _ in 0..3 {
                interrupt_self(a, VECTOR)?;
            }
            window(a)?;
            end(a)
        });
        reporting_handler(&guest, VECTOR);
        assert_eq!(guest.run().values, [u32::from(VECTOR)]);
    }

    fn the_timer_fires_once(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            write(a, register::DIVIDE, DIVIDE_BY_1)?;
            write(a, register::TIMER, VECTOR.into())?;
            write(a, register::INITIAL_COUNT, 10_000)?;
            wait_for(a, at::DATA, 1, true)?;
            spin(a)?;
            a.cli()?;
            read(a, register::CURRENT_COUNT)?;
            report(a)?;
            a.mov(eax, dword_ptr(at::DATA))?;
            report(a)?;
            end(a)
        });
        counting_handler(&guest, VECTOR);
        assert_eq!(guest.run().values, [0, 1]);
    }

    fn the_timer_fires_periodically(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            write(a, register::DIVIDE, DIVIDE_BY_1)?;
            write(a, register::TIMER, u32::from(VECTOR) | PERIODIC)?;
            write(a, register::INITIAL_COUNT, 200_000)?;
            wait_for(a, at::DATA, 4, true)?;
            // A count of 0 stops it.
            a.cli()?;
            write(a, register::INITIAL_COUNT, 0)?;
            read(a, register::CURRENT_COUNT)?;
            report(a)?;
            end(a)
        });
        counting_handler(&guest, VECTOR);
        assert_eq!(guest.run().values, [0]);
    }

    fn a_masked_timer_counts_but_does_not_interrupt(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            write(a, register::DIVIDE, DIVIDE_BY_1)?;
            write(a, register::TIMER, u32::from(VECTOR) | MASKED)?;
            write(a, register::INITIAL_COUNT, 1000)?;
            let mut wait = a.create_label();
            a.set_label(&mut wait)?;
            read(a, register::CURRENT_COUNT)?;
            a.test(eax, eax)?;
            a.jnz(wait)?;
            window(a)?;
            write(a, register::TIMER, VECTOR.into())?;
            window(a)?;
            end(a)
        });
        reporting_handler(&guest, VECTOR);
        let values = guest.run().values;
        assert!(values.is_empty(), "{values:x?}");
    }

    fn the_tsc_deadline_is_kept_and_then_cleared(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            write(a, register::TIMER, u32::from(VECTOR) | DEADLINE)?;
            a.rdtsc()?;
            a.add(eax, 1_000_000)?;
            a.adc(edx, 0)?;
            a.mov(esi, eax)?;
            a.mov(edi, edx)?;
            a.mov(ecx, TSC_DEADLINE)?;
            a.wrmsr()?;
            wait_for(a, at::DATA, 1, true)?;
            a.cli()?;
            // The time has come, and the deadline is gone.
            a.rdtsc()?;
            a.sub(eax, esi)?;
            a.sbb(edx, edi)?;
            a.mov(eax, edx)?;
            a.shr(eax, 31)?;
            report(a)?;
            read_msr(a, TSC_DEADLINE)?;
            a.or(eax, edx)?;
            report(a)?;
            // One in the past fires at once.
            write_msr(a, TSC_DEADLINE, 1)?;
            wait_for(a, at::DATA, 2, true)?;
            end(a)
        });
        counting_handler(&guest, VECTOR);
        assert_eq!(guest.run().values, [0, 0]);
    }

    fn a_spurious_vector_is_needed_to_switch_it_on(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            write(a, register::TIMER, VECTOR.into())?;
            // Off: every local interrupt is masked, and stays so.
            write(a, register::SPURIOUS, 0xff)?;
            read(a, register::TIMER)?;
            report(a)?;
            write(a, register::TIMER, VECTOR.into())?;
            read(a, register::TIMER)?;
            report(a)?;
            write(a, register::SPURIOUS, 0x1ff)?;
            read(a, register::TIMER)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run().values, [u32::from(VECTOR) | MASKED; 3]);
    }

    fn an_illegal_vector_is_an_error(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            send(a, 0, 5)?;
            // The register shows what happened up to the write.
            write(a, register::ERROR_STATUS, 0)?;
            read(a, register::ERROR_STATUS)?;
            report(a)?;
            write(a, register::ERROR_STATUS, 0)?;
            read(a, register::ERROR_STATUS)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run().values, [1 << 5, 0]);
    }

    fn registers_of_x2apic_mode_are_msrs(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            read_msr(a, APIC_BASE)?;
            a.and(eax, 0xc00)?;
            report(a)?;
            for at in [register::ID, register::LOGICAL_DESTINATION] {
                read(a, at)?;
                report(a)?;
            }
            end(a)
        });
        assert_eq!(guest.run().values, [0xc00, 0, 1]);
    }

    fn what_is_no_register_of_x2apic_mode_is_general_protection(engine) {
        let gp = [(13, 0)];
        assert_eq!(faults(engine, |a| read(a, register::ID)), gp, "not in that mode");
        let x2apic = |program: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
            faults(engine, |a| {
                enable_x2apic(a)?;
                program(a)
            })
        };
        assert_eq!(x2apic(|a| write(a, register::ID, 1)), gp, "read only");
        assert_eq!(x2apic(|a| read(a, register::END_OF_INTERRUPT)), gp, "write only");
        assert_eq!(x2apic(|a| write(a, register::END_OF_INTERRUPT, 1)), gp, "reserved");
        assert_eq!(x2apic(|a| write(a, register::TASK_PRIORITY, 0x100)), gp, "reserved");
        assert_eq!(x2apic(|a| read(a, 0x0e0)), gp, "DFR");
        assert_eq!(x2apic(|a| read(a, 0x310)), gp, "ICR's upper half");
        assert_eq!(x2apic(|a| write_msr(a, APIC_BASE, at::LAPIC | 1 << 11)), gp, "back to xAPIC");
        assert_eq!(x2apic(|a| write_msr(a, APIC_BASE, at::LAPIC | 1 << 10)), gp, "x2APIC without EN");
        assert_eq!(x2apic(|a| write_msr(a, APIC_BASE, at::LAPIC)), [], "off");
    }

    fn a_disabled_apic_is_gone_from_cpuid_and_its_page(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            for on in [false, true] {
                write_msr(a, APIC_BASE, at::LAPIC | u64::from(on) << 11)?;
                a.mov(eax, 1)?;
                a.cpuid()?;
                a.shr(edx, 9)?;
                a.and(edx, 1)?;
                a.mov(eax, edx)?;
                report(a)?;
            }
            write_msr(a, APIC_BASE, at::LAPIC)?;
            read_page(a, register::VERSION)?;
            end(a)
        });
        let mut log = Log::default();
        // Nothing is there: the VMM is asked.
        let exit = guest.run_to_exit(Answer::None, &mut log);
        let gpa = at::LAPIC + u64::from(register::VERSION);
        assert_eq!(exit, guests::x86::Exit::MmioRead { gpa, size: 4 });
        assert_eq!(log.values, [0, 1]);
    }

    fn its_page_can_be_moved(engine) {
        let place = at::NOWHERE;
        let mut guest = Guest::with_program(engine, |a| {
            write_msr(a, APIC_BASE, place | 1 << 11 | 1 << 8)?;
            a.mov(ebx, place as u32 + register::SPURIOUS)?;
            a.mov(eax, dword_ptr(rbx))?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run().values, [0xff]);
    }
}
