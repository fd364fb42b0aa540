//! The 8259 pair and the 8254, reached by guest code. See: Intel 8259A, Intel 8254.

use guests::programs::{end, report, report_number};
use guests::x86::{Answer, Exit};
use guests::{Guest, Hypervisor, IcedError, Log, Vm, at, code_asm::*, port};

use crate::apic::{EXTINT, enable_x2apic, handler, register, window, write};
use crate::waking;

/// OUT of a byte. Changes AL.
fn out(a: &mut CodeAssembler, number: u32, value: u32) -> Result<(), IcedError> {
    a.mov(al, value)?;
    a.out(number, al)
}

/// Reports what IN gives.
fn report_in(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.in_(al, number)?;
    a.movzx(eax, al)?;
    report(a)
}

/// Sets both 8259s up, with vectors from 0x20 and 0x28, and lets LINT0 in. `mask`: the inputs that are
/// masked.
fn set_up(a: &mut CodeAssembler, mask: u16) -> Result<(), IcedError> {
    enable_x2apic(a)?;
    write(a, register::LINT0, EXTINT)?;
    for (base, vector, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
        out(a, base, 0x11)?;
        out(a, base + 1, vector)?;
        out(a, base + 1, cascade)?;
        out(a, base + 1, 1)?;
    }
    out(a, 0x21, u32::from(mask) & 0xff)?;
    out(a, 0xa1, u32::from(mask) >> 8)
}

/// Handlers for all inputs that report their vector and end the interrupt in the chips.
fn reporting_handlers<H: Hypervisor>(guest: &Guest<H>) {
    for vector in 0x20..0x30 {
        handler(guest, vector, |a| {
            report_number(a, vector.into())?;
            if vector >= 0x28 {
                out(a, 0xa0, 0x20)?;
            }
            out(a, 0x20, 0x20)
        });
    }
}

/// Runs; when the guest asks, the lines in `lines` go up.
fn run_with_lines<H: Hypervisor>(guest: &mut Guest<H>, lines: &[u32]) -> Vec<u32> {
    let mut log = Log::default();
    loop {
        match guest.run_to_exit(Answer::None, &mut log) {
            Exit::Out { port: number, .. } if u32::from(number) == port::FREE => {
                lines.iter().for_each(|line| guest.vm.set_irq(*line, true));
            }
            Exit::Out { .. } => return log.values,
            exit => panic!("{exit:?}; {log:?}"),
        }
    }
}

/// Programs a counter of the 8254: its number, mode and count.
fn count(a: &mut CodeAssembler, counter: u32, mode: u32, value: u32) -> Result<(), IcedError> {
    out(a, 0x43, counter << 6 | 3 << 4 | mode << 1)?;
    out(a, 0x40 + counter, value & 0xff)?;
    out(a, 0x40 + counter, value >> 8)
}

/// Waits until bit 5 of port 0x61, the output of counter 2, is on.
fn wait_for_output(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.set_label(&mut wait)?;
    a.in_(al, 0x61)?;
    a.test(al, 0x20)?;
    a.jz(wait)
}

guests::on_every_irqchip! {
    fn the_lowest_input_comes_first_and_the_second_chip_is_behind_input_2(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 0)?;
            a.out(port::FREE, al)?;
            window(a)?;
            end(a)
        });
        reporting_handlers(&guest);
        let values = run_with_lines(&mut guest, &[5, 3, 10, 12, 4]);
        assert_eq!(values, [0x2a, 0x2c, 0x23, 0x24, 0x25]);
    }

    fn a_masked_input_waits(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 1 << 5 | 1 << 10)?;
            a.out(port::FREE, al)?;
            window(a)?;
            report_number(a, 0)?;
            report_in(a, 0x21)?;
            out(a, 0x21, 0)?;
            window(a)?;
            report_number(a, 0)?;
            out(a, 0xa1, 0)?;
            window(a)?;
            end(a)
        });
        reporting_handlers(&guest);
        assert_eq!(run_with_lines(&mut guest, &[5, 10]), [0, 0x20, 0x25, 0, 0x2a]);
    }

    fn an_interrupt_in_service_holds_lower_ones_back_until_its_end(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 0)?;
            a.out(port::FREE, al)?;
            window(a)?;
            end(a)
        });
        reporting_handlers(&guest);
        // Reports what is in service and what is requested, lets interrupts in, then ends its own.
        handler(&guest, 0x23, |a| {
            out(a, 0x20, 0x0b)?;
            report_in(a, 0x20)?;
            out(a, 0x20, 0x0a)?;
            report_in(a, 0x20)?;
            window(a)?;
            report_number(a, 0x23)?;
            out(a, 0x20, 0x20)
        });
        assert_eq!(run_with_lines(&mut guest, &[3, 5]), [1 << 3, 1 << 5, 0x23, 0x25]);
    }

    fn a_masked_lint0_keeps_the_8259s_out(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 0)?;
            write(a, register::LINT0, EXTINT | crate::apic::MASKED)?;
            a.out(port::FREE, al)?;
            window(a)?;
            report_number(a, 0)?;
            write(a, register::LINT0, EXTINT)?;
            window(a)?;
            end(a)
        });
        reporting_handlers(&guest);
        assert_eq!(run_with_lines(&mut guest, &[5]), [0, 0x25]);
    }

    fn a_device_behind_the_8259s_wakes_hlt(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 0)?;
            waking::halt_each_round(a)
        });
        handler(&guest, 0x25, |a| {
            waking::count(a)?;
            out(a, 0x20, 0x20)
        });
        let vm = std::sync::Arc::clone(&guest.vm);
        let values = waking::run(&mut guest, move || {
            vm.set_irq(5, true);
            vm.set_irq(5, false);
        });
        assert_eq!(values, [waking::ROUNDS]);
    }

    fn a_poll_gives_the_request(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            set_up(a, 0)?;
            a.out(port::FREE, al)?;
            for _ in 0..2 {
                out(a, 0x20, 0x0c)?;
                report_in(a, 0x20)?;
                out(a, 0x20, 0x20)?;
            }
            end(a)
        });
        let values = run_with_lines(&mut guest, &[5]);
        assert_eq!((values[0], values[1] & 0x80), (0x85, 0));
    }

    /// Mode 0 raises its output once, when the count is over: seen through port 0x61.
    fn counter_2_ends_its_count_in_mode_0(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            out(a, 0x61, 1)?;
            count(a, 2, 0, 2000)?;
            wait_for_output(a)?;
            end(a)
        });
        guest.run();
    }

    /// The gate is bit 0 of port 0x61: while it is low the count stands still.
    fn the_gate_of_counter_2_stops_it(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            out(a, 0x61, 0)?;
            count(a, 2, 0, 2000)?;
            a.rdtsc()?;
            a.mov(esi, eax)?;
            let mut wait = a.create_label();
            a.set_label(&mut wait)?;
            // Longer than the count would take.
            a.rdtsc()?;
            a.sub(eax, esi)?;
            a.cmp(eax, 20_000_000)?;
            a.jb(wait)?;
            report_in(a, 0x61)?;
            out(a, 0x61, 1)?;
            wait_for_output(a)?;
            end(a)
        });
        assert_eq!(guest.run().values[0] & 0x20, 0);
    }

    fn a_latched_count_falls(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            count(a, 0, 2, 0)?;
            for _ in 0..2 {
                out(a, 0x43, 0)?;
                a.in_(al, 0x40)?;
                a.mov(bl, al)?;
                a.in_(al, 0x40)?;
                a.mov(bh, al)?;
                a.movzx(eax, bx)?;
                report(a)?;
                // Some microseconds.
                a.rdtsc()?;
                a.mov(esi, eax)?;
                let mut wait = a.create_label();
                a.set_label(&mut wait)?;
                a.rdtsc()?;
                a.sub(eax, esi)?;
                a.cmp(eax, 100_000)?;
                a.jb(wait)?;
            }
            // Read-back: the status of counter 0.
            out(a, 0x43, 0xe2)?;
            report_in(a, 0x40)?;
            end(a)
        });
        // Its period is 55 ms: it may have wrapped around on a busy machine.
        let values = guest.run().values;
        assert_ne!(values[0], values[1]);
        assert_eq!(values[2] & 0x3f, 3 << 4 | 2 << 1);
    }

    fn mode_2_interrupts_again_and_again(engine) {
        for through_ioapic in [false, true] {
            let mut guest = Guest::with_program(engine, |a| {
                set_up(a, 0xfffe)?;
                if through_ioapic {
                    out(a, 0x21, 0xff)?;
                    // The 8254 is wired to input 2 of the I/O APIC.
                    crate::ioapic::redirect(a, 2, 0x20)?;
                }
                count(a, 0, 2, 3000)?;
                crate::apic::wait_for(a, at::DATA, 3, true)?;
                end(a)
            });
            handler(&guest, 0x20, |a| {
                a.inc(dword_ptr(at::DATA))?;
                if through_ioapic {
                    write(a, register::END_OF_INTERRUPT, 0)
                } else {
                    out(a, 0x20, 0x20)
                }
            });
            guest.run();
        }
    }
}
