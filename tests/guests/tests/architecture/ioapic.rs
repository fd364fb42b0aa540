//! The I/O APIC, reached by guest code, its inputs driven by the host. See: Intel 82093AA, 3.

use guests::programs::{end, report, report_number};
use guests::x86::{Answer, Exit};
use guests::{Guest, Hypervisor, IcedError, Log, Vm, at, code_asm::*, port};

use crate::apic::{enable_x2apic, handler, register, reporting_handler, window, write};

/// A redirection entry's bits.
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;
/// A vector.
const VECTOR: u32 = 0x61;

/// Selects a register and writes it. Changes RBX.
fn write_register(a: &mut CodeAssembler, index: u32, value: u32) -> Result<(), IcedError> {
    a.mov(ebx, at::IOAPIC as u32)?;
    a.mov(dword_ptr(rbx), index as i32)?;
    a.mov(dword_ptr(rbx + 0x10), value as i32)
}

/// Reports a register. Changes RBX.
fn report_register(a: &mut CodeAssembler, index: u32) -> Result<(), IcedError> {
    a.mov(ebx, at::IOAPIC as u32)?;
    a.mov(dword_ptr(rbx), index as i32)?;
    a.mov(eax, dword_ptr(rbx + 0x10))?;
    report(a)
}

/// Sends an input to the first processor. Changes RBX.
pub fn redirect(a: &mut CodeAssembler, input: u32, entry: u32) -> Result<(), IcedError> {
    write_register(a, 0x11 + input * 2, 0)?;
    write_register(a, 0x10 + input * 2, entry)
}

/// Hands over to the host, which changes a line.
fn ask(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(port::FREE, al)
}

/// Runs; whenever the guest asks, the next of `levels` is put on line `gsi`.
fn run_with_line<H: Hypervisor>(guest: &mut Guest<H>, gsi: u32, levels: &[bool]) -> Vec<u32> {
    let mut log = Log::default();
    let mut levels = levels.iter();
    loop {
        match guest.run_to_exit(Answer::None, &mut log) {
            Exit::Out { port: number, .. } if u32::from(number) == port::FREE => {
                let level = levels.next().expect("no more changes");
                guest.vm.set_irq(gsi, *level);
            }
            Exit::Out { .. } => break,
            exit => panic!("{exit:?}; {log:?}"),
        }
    }
    assert_eq!((levels.next(), log.faults()), (None, vec![]), "{log:x?}");
    log.values
}

guests::on_every_irqchip! {
    fn it_has_24_masked_inputs_at_reset(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            report_register(a, 1)?;
            for input in 0..24 {
                report_register(a, 0x10 + input * 2)?;
            }
            end(a)
        });
        let values = guest.run().values;
        assert_eq!(values[0] >> 16 & 0xff, 23);
        assert!(values[1..].iter().all(|entry| entry & MASKED != 0), "{values:x?}");
    }

    fn an_edge_interrupts_once(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            redirect(a, 5, VECTOR)?;
            // Up, still up, down, up.
            for _ in 0..4 {
                ask(a)?;
                window(a)?;
                report_number(a, 0)?;
            }
            end(a)
        });
        reporting_handler(&guest, VECTOR as u8);
        let values = run_with_line(&mut guest, 5, &[true, true, false, true]);
        assert_eq!(values, [VECTOR, 0, 0, 0, VECTOR, 0]);
    }

    /// As long as the line is up the interrupt comes again after each EOI; in between it is told
    /// by the remote IRR bit.
    fn a_level_interrupts_until_the_line_is_down(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            a.mov(dword_ptr(at::DATA), 3)?;
            redirect(a, 9, VECTOR | LEVEL)?;
            ask(a)?;
            a.sti()?;
            let mut wait = a.create_label();
            a.set_label(&mut wait)?;
            a.cmp(dword_ptr(at::DATA), 0)?;
            a.jne(wait)?;
            a.cli()?;
            report_register(a, 0x10 + 18)?;
            end(a)
        });
        handler(&guest, VECTOR as u8, |a| {
            let mut more = a.create_label();
            report_register(a, 0x10 + 18)?;
            a.dec(dword_ptr(at::DATA))?;
            a.jnz(more)?;
            ask(a)?;
            a.set_label(&mut more)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        let busy = VECTOR | LEVEL | REMOTE_IRR;
        let values = run_with_line(&mut guest, 9, &[true, false]);
        assert_eq!(values, [busy, busy, busy, VECTOR | LEVEL]);
    }

    fn a_masked_level_interrupts_when_it_is_unmasked(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            redirect(a, 9, VECTOR | LEVEL | MASKED)?;
            ask(a)?;
            window(a)?;
            report_number(a, 1)?;
            redirect(a, 9, VECTOR | LEVEL)?;
            window(a)?;
            report_number(a, 2)?;
            end(a)
        });
        handler(&guest, VECTOR as u8, |a| {
            report_number(a, VECTOR)?;
            ask(a)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        assert_eq!(run_with_line(&mut guest, 9, &[true, false]), [1, VECTOR, 2]);
    }

    fn a_logical_destination_is_matched(engine) {
        // In x2APIC mode the logical ID of the first processor is 1.
        for (destination, comes) in [(1, true), (2, false)] {
            let mut guest = Guest::with_program(engine, |a| {
                enable_x2apic(a)?;
                write_register(a, 0x11 + 10, destination << 24)?;
                write_register(a, 0x10 + 10, VECTOR | 1 << 11)?;
                ask(a)?;
                window(a)?;
                end(a)
            });
            reporting_handler(&guest, VECTOR as u8);
            let values = run_with_line(&mut guest, 5, &[true]);
            assert_eq!(values == [VECTOR], comes, "{values:x?}");
        }
    }

    fn an_nmi_can_be_sent(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            redirect(a, 5, crate::apic::NMI)?;
            ask(a)?;
            a.nop()?;
            end(a)
        });
        handler(&guest, 2, |a| report_number(a, 2));
        assert_eq!(run_with_line(&mut guest, 5, &[true]), [2]);
    }
}
