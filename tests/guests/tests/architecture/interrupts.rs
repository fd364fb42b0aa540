//! When interrupts and NMIs are taken: shadows, priorities, HLT, and what IRET ends.
//! See: AMD APM vol. 2, 8.5; Intel SDM vol. 3, 6.7.1, 6.8.3.

use guests::layout::resume;
use guests::programs::{end, report, report_number};
use guests::x86::{Answer, Exit, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, port, selector};

use crate::apic::{
    enable_x2apic, handler, interrupt_self, register, reporting_handler, send, window, write,
};

/// A vector.
const VECTOR: u8 = 0x50;

/// Interrupts itself while interrupts are off, then runs `program`, which gives the label where the
/// interrupt should be taken; gives where it is and where it was.
fn taken_at<H: Hypervisor>(
    engine: &H,
    program: impl FnOnce(&mut CodeAssembler) -> Result<CodeLabel, IcedError>,
) -> (u64, Vec<u32>) {
    let mut guest = Guest::new(engine);
    let [label] = guest.labelled(at::CODE, |a| {
        enable_x2apic(a)?;
        interrupt_self(a, VECTOR)?;
        a.mov(edi, u32::from(selector::DATA))?;
        let label = program(a)?;
        end(a)?;
        Ok([label])
    });
    handler(&guest, VECTOR, |a| {
        a.mov(eax, dword_ptr(rsp + 32))?;
        report(a)?;
        write(a, register::END_OF_INTERRUPT, 0)
    });
    (label, guest.run().values)
}

/// An NMI handler: reports 1, runs `body`, reports 2.
fn nmi_handler<H: Hypervisor>(
    guest: &Guest<H>,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    handler(guest, 2, |a| {
        let mut skip = a.create_label();
        report_number(a, 1)?;
        a.dec(dword_ptr(at::DATA))?;
        a.jle(skip)?;
        send(a, 0, crate::apic::NMI)?;
        a.set_label(&mut skip)?;
        body(a)?;
        report_number(a, 2)
    });
}

guests::on_every_irqchip! {
    fn sti_holds_interrupts_back_for_one_instruction(engine) {
        let (label, values) = taken_at(engine, |a| {
            let mut label = a.create_label();
            a.sti()?;
            a.inc(esi)?;
            a.set_label(&mut label)?;
            a.inc(esi)?;
            Ok(label)
        });
        assert_eq!(values, [label as u32]);
    }

    fn sti_and_cli_let_nothing_in(engine) {
        let (_, values) = taken_at(engine, |a| {
            let mut label = a.create_label();
            for _ in 0..3 {
                a.sti()?;
                a.cli()?;
            }
            a.set_label(&mut label)?;
            a.nop()?;
            Ok(label)
        });
        assert!(values.is_empty(), "{values:x?}");
    }

    fn a_load_of_ss_holds_interrupts_back_for_one_instruction(engine) {
        let (label, values) = taken_at(engine, |a| {
            let mut label = a.create_label();
            // Itself in the shadow of STI, so that the interrupt waits already.
            a.sti()?;
            a.mov(ss, edi)?;
            a.inc(esi)?;
            a.set_label(&mut label)?;
            a.inc(esi)?;
            Ok(label)
        });
        assert_eq!(values, [label as u32]);
    }

    fn popf_lets_interrupts_in_at_once(engine) {
        let (label, values) = taken_at(engine, |a| {
            let mut label = a.create_label();
            a.push((rflags::FIXED | rflags::IF) as i32)?;
            a.popfq()?;
            a.set_label(&mut label)?;
            a.inc(esi)?;
            Ok(label)
        });
        assert_eq!(values, [label as u32]);
    }

    fn an_interrupt_wakes_hlt_after_sti(engine) {
        let (label, values) = taken_at(engine, |a| {
            let mut label = a.create_label();
            a.sti()?;
            a.hlt()?;
            a.set_label(&mut label)?;
            a.cli()?;
            Ok(label)
        });
        assert_eq!(values, [label as u32]);
    }

    fn halting_with_interrupts_off_is_told(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            interrupt_self(a, VECTOR)?;
            a.hlt()
        });
        assert_eq!(guest.run_to_exit(Answer::None, &mut Log::default()), Exit::Halted);
    }

    fn an_nmi_comes_with_interrupts_off(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            send(a, 0, crate::apic::NMI)?;
            a.nop()?;
            report_number(a, 3)?;
            end(a)
        });
        nmi_handler(&guest, |_| Ok(()));
        assert_eq!(guest.run().values, [1, 2, 3]);
        assert!(!guest.state().nmi_blocked);
    }

    fn a_second_nmi_waits_for_the_end_of_the_first(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            a.mov(dword_ptr(at::DATA), 2)?;
            send(a, 0, crate::apic::NMI)?;
            a.nop()?;
            report_number(a, 3)?;
            end(a)
        });
        nmi_handler(&guest, |a| {
            for _ in 0..8 {
                a.nop()?;
            }
            Ok(())
        });
        assert_eq!(guest.run().values, [1, 2, 1, 2, 3]);
    }

    /// Any IRET ends the blocking, also that of an exception inside the handler.
    fn an_exception_in_its_handler_lets_the_next_nmi_in(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            a.mov(dword_ptr(at::DATA), 2)?;
            send(a, 0, crate::apic::NMI)?;
            a.nop()?;
            end(a)
        });
        guest.resume(resume::SAME);
        nmi_handler(&guest, |a| {
            a.int3()?;
            a.nop()
        });
        let log = guest.run();
        assert_eq!(log.values, [1, 1, 2, 2]);
        assert_eq!(log.traps.len(), 2);
    }

    /// Inside an NMI's handler neither gets in; its IRET lets both in at once.
    fn an_nmi_comes_before_an_interrupt(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            a.mov(dword_ptr(at::DATA), 2)?;
            send(a, 0, crate::apic::NMI)?;
            a.nop()?;
            end(a)
        });
        nmi_handler(&guest, |a| {
            interrupt_self(a, VECTOR)?;
            // Sets IF in the frame.
            a.bts(dword_ptr(rsp + 32 + 16), 9)
        });
        reporting_handler(&guest, VECTOR);
        assert_eq!(guest.run().values, [1, 2, 1, 2, u32::from(VECTOR)]);
    }

    fn the_highest_priority_comes_first(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            for vector in [0x40, 0x90, 0x60] {
                interrupt_self(a, vector)?;
            }
            window(a)?;
            end(a)
        });
        for vector in [0x40, 0x60, 0x90] {
            reporting_handler(&guest, vector);
        }
        // With interrupts off in the handlers, the next is taken when one returns.
        assert_eq!(guest.run().values, [0x90, 0x60, 0x40]);
    }

    /// An interrupt in service holds back those of its own priority class and lower ones, even when
    /// its handler lets interrupts in.
    fn a_higher_class_nests_and_a_lower_one_waits(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            interrupt_self(a, 0x60)?;
            window(a)?;
            end(a)
        });
        handler(&guest, 0x60, |a| {
            for vector in [0x40, 0x6f, 0x90] {
                interrupt_self(a, vector)?;
            }
            window(a)?;
            report_number(a, 0x60)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        for vector in [0x40, 0x6f, 0x90] {
            reporting_handler(&guest, vector);
        }
        assert_eq!(guest.run().values, [0x90, 0x60, 0x6f, 0x40]);
    }

    fn cr8_holds_classes_back(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            a.mov(esi, 5)?;
            a.mov(cr8, rsi)?;
            interrupt_self(a, 0x51)?;
            interrupt_self(a, 0x61)?;
            window(a)?;
            crate::apic::read(a, register::TASK_PRIORITY)?;
            report(a)?;
            write(a, register::TASK_PRIORITY, 0x20)?;
            a.mov(rax, cr8)?;
            report(a)?;
            window(a)?;
            end(a)
        });
        reporting_handler(&guest, 0x51);
        reporting_handler(&guest, 0x61);
        assert_eq!(guest.run().values, [0x61, 0x50, 2, 0x51]);
    }

    fn cr8_takes_four_bits(engine) {
        let mut guest = Guest::with_program(engine, |a| a.mov(cr8, rsi));
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RSI)] = 0x10;
        assert_eq!(guest.run_from(&state).faults(), [(13, 0)]);
    }

    fn an_interrupt_stack_is_switched_to_without_a_change_of_level(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            send(a, 0, crate::apic::NMI)?;
            a.nop()
        });
        guest.reporting_gate(2, 3, 0);
        let log = guest.run();
        assert_eq!(log.faults(), [(2, 0)]);
        let stack = guest.state().gprs[usize::from(gpr::RSP)];
        assert_eq!(stack.next_multiple_of(0x1000), at::IST + 2 * 0x1000);
    }

    fn an_interrupt_of_user_mode_runs_on_the_kernels_stack(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            interrupt_self(a, VECTOR)?;
            a.push(i32::from(selector::USER_DATA))?;
            a.push(at::USER_STACK as i32)?;
            a.push((rflags::FIXED | rflags::IOPL | rflags::IF) as i32)?;
            a.push(i32::from(selector::USER_CODE))?;
            a.push(at::USER_CODE as i32)?;
            a.iretq()
        });
        guest.code(at::USER_CODE, |a| {
            a.nop()?;
            end(a)
        });
        handler(&guest, VECTOR, |a| {
            for offset in [32, 40, 56] {
                a.mov(eax, dword_ptr(rsp + offset))?;
                report(a)?;
            }
            a.lea(rax, qword_ptr(rsp + 32))?;
            report(a)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        let frame = (at::STACK0 - 40) as u32;
        let code = u32::from(selector::USER_CODE);
        assert_eq!(guest.run().values, [at::USER_CODE as u32, code, at::USER_STACK as u32, frame]);
    }

    /// A string that is repeated for long is interrupted in between, and goes on.
    fn a_repeated_string_can_be_interrupted(engine) {
        let mut guest = Guest::new(engine);
        let [string] = guest.labelled(at::CODE, |a| {
            let mut string = a.create_label();
            enable_x2apic(a)?;
            write(a, register::DIVIDE, crate::apic::DIVIDE_BY_1)?;
            write(a, register::TIMER, VECTOR.into())?;
            a.mov(edi, at::FREE as u32)?;
            a.xor(r12d, r12d)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            write(a, register::INITIAL_COUNT, 20_000)?;
            a.mov(edi, at::FREE as u32)?;
            a.mov(ecx, 8 << 20)?;
            a.sti()?;
            a.set_label(&mut string)?;
            a.rep().stosb()?;
            a.cli()?;
            // Until one came while the string was stored.
            a.test(r12d, r12d)?;
            a.jz(again)?;
            a.mov(eax, edi)?;
            report(a)?;
            end(a)?;
            Ok([string])
        });
        handler(&guest, VECTOR, |a| {
            let mut other = a.create_label();
            a.mov(rax, string)?;
            a.cmp(qword_ptr(rsp + 32), rax)?;
            a.jne(other)?;
            // RCX as it was.
            a.cmp(dword_ptr(rsp + 8), 8 << 20)?;
            a.setne(r12b)?;
            a.set_label(&mut other)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        assert_eq!(guest.run().values, [(at::FREE + (8 << 20)) as u32]);
    }

    fn a_devices_line_wakes_hlt(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            // The I/O APIC's input 5, as VECTOR.
            crate::ioapic::redirect(a, 5, VECTOR.into())?;
            a.out(port::FREE, al)?;
            a.sti()?;
            a.hlt()?;
            a.cli()?;
            end(a)
        });
        reporting_handler(&guest, VECTOR);
        let mut log = Log::default();
        assert!(matches!(guest.run_to_exit(Answer::None, &mut log), Exit::Out { .. }));
        let vm = std::sync::Arc::clone(&guest.vm);
        let device = std::thread::spawn(move || guests::Vm::set_irq(&*vm, 5, true));
        assert_eq!(guest.run().values, [u32::from(VECTOR)]);
        device.join().expect("no panic");
    }
}
