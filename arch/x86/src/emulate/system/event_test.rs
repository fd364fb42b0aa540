//! Tests of event delivery.

use selftest::{check, check_eq};

use super::event::deliver;
use super::test_tables::{
    ABSENT_CODE, CODE32, CODE64, CONFORMING64, DATA, GDT, HANDLERS, IDT, IST1, OUTSIDE, STACK0,
    TASK, TSS, USER_CODE32, USER_CODE64, USER_DATA, gate, long, long_gate, protected, raises, read,
    read32, rsp, selector, to_user, write, write_all_32,
};
use crate::emulate::Stop;
use crate::emulate::test_cpu::TestCpu;
use crate::engine::{Event, Intercept};
use crate::exception::{self, Exception, NP, TS};
use crate::regs::{Attr, Regs, Seg, gpr, rflags};

const FLAGS: u64 = rflags::FIXED | rflags::IF | rflags::TF | rflags::NT | rflags::CF;

fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

fn interrupt(vector: u8) -> Event {
    Event::Interrupt { vector }
}

selftest::cases! {
    fn every_exception_arrives_with_its_error_code() {
        let with_error = [8, 10, 11, 12, 13, 14, 17];
        for vector in 0..20 {
            let error = with_error.contains(&vector).then_some(0x1230);
            let mut cpu = long();
            cpu.set_rflags(FLAGS);
            cpu.state.gprs[4] = 0x6fff;
            let exception = Exception { vector, error, payload: 0 };
            check_eq!(deliver(&mut *cpu, Event::Exception(exception)), Ok(()));
            check_eq!(cpu.rip(), handler(vector));
            // RSP was aligned to 16 before five pushes.
            let top = 0x6ff0;
            check_eq!(read(&cpu, top - 8), DATA.into());
            check_eq!(read(&cpu, top - 16), 0x6fff);
            let fault = !matches!(vector, 1 | 2 | 3 | 4 | 8 | 18);
            let pushed = if fault { FLAGS | rflags::RF } else { FLAGS };
            check_eq!(read(&cpu, top - 24), pushed, "vector {vector}");
            check_eq!(read(&cpu, top - 32), CODE64.into());
            check_eq!(read(&cpu, top - 40), TestCpu::CODE);
            if error.is_some() {
                check_eq!(read(&cpu, top - 48), 0x1230);
            }
            check_eq!(rsp(&cpu), top - if error.is_some() { 48 } else { 40 });
            check_eq!(cpu.rflags(), rflags::FIXED | rflags::CF);
        }
    }

    fn trap_gates_leave_interrupts_on() {
        let mut cpu = long();
        long_gate(&mut cpu, 3, CODE64, 0xef, 0);
        cpu.set_rflags(FLAGS);
        check_eq!(cpu.run(&[0xcc]), Ok(()));
        check_eq!(cpu.rip(), handler(3));
        check_eq!(cpu.rflags() & (rflags::IF | rflags::TF), rflags::IF);
        check_eq!(read(&cpu, rsp(&cpu)), TestCpu::CODE + 1, "INT3 returns behind itself");
    }

    fn from_user_the_stack_is_the_tss_s() {
        for code in [USER_CODE64, USER_CODE32] {
            let mut cpu = long();
            to_user(&mut cpu, code);
            cpu.state.interrupt_shadow = true;
            check_eq!(deliver(&mut *cpu, interrupt(0x20 - 1)), Ok(()));
            check_eq!((cpu.cpl(), rsp(&cpu)), (0, STACK0 - 40));
            check_eq!(read(&cpu, STACK0 - 8), USER_DATA.into());
            check_eq!(read(&cpu, STACK0 - 16), TestCpu::STACK);
            check_eq!(read(&cpu, STACK0 - 32), code.into());
            check_eq!(selector(&cpu, Seg::Cs), CODE64);
            check_eq!(selector(&cpu, Seg::Ss), 0);
            check!(!cpu.segment(Seg::Ss).attr.has(Attr::P));
            check!(cpu.mode64() && !cpu.interrupt_shadow());
        }
    }

    fn an_interrupt_stack_is_used_at_any_level() {
        let mut cpu = long();
        long_gate(&mut cpu, 2, CODE64, 0x8e, 1);
        check_eq!(deliver(&mut *cpu, Event::Nmi), Ok(()));
        check_eq!(rsp(&cpu), IST1 - 40);
        check_eq!(selector(&cpu, Seg::Ss), DATA);
        check!(cpu.nmi_blocked());
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        long_gate(&mut cpu, 14, CODE64, 0x8e, 1);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::pf(0x1234_5678, 4))), Ok(()));
        check_eq!((rsp(&cpu), selector(&cpu, Seg::Ss)), (IST1 - 48, 0));
        check_eq!((cpu.cr2(), read(&cpu, IST1 - 48)), (0x1234_5678, 4));
    }

    fn conforming_handlers_keep_the_level() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        long_gate(&mut cpu, 0x80, CONFORMING64, 0xee, 0);
        check_eq!(cpu.run(&[0xcd, 0x80]), Ok(()));
        check_eq!((cpu.cpl(), selector(&cpu, Seg::Cs)), (3, CONFORMING64 | 3));
        check_eq!(rsp(&cpu), TestCpu::STACK - 40);
        check_eq!(read(&cpu, rsp(&cpu)), TestCpu::CODE + 2);
    }

    fn bad_gates_fault_with_the_vector() {
        let int20 = [0xcd, 0x14];
        let error = 0x14 << 3 | 2;
        for (attr, expected) in [
            (0x0e, Exception::with_error(NP, error)),
            (0x8c, Exception::gp(error)),
            (0x85, Exception::gp(error)),
            (0x9e, Exception::gp(error)),
        ] {
            let mut cpu = long();
            long_gate(&mut cpu, 0x14, CODE64, attr, 0);
            check_eq!(raises(&mut cpu, &int20), Some(expected), "{attr:x}");
        }
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &int20), Some(Exception::gp(error)), "level 0 only");
        check_eq!(raises(&mut cpu, &[0xcd, 0x80]), None, "for level 3");
        let mut cpu = long();
        cpu.state.idtr.limit = 0x14 * 16 + 14;
        check_eq!(raises(&mut cpu, &int20), Some(Exception::gp(error)));
    }

    fn bad_handlers_fault_with_the_selector() {
        let int20 = [0xcd, 0x14];
        for (code, expected) in [
            (0, Exception::gp(0)),
            (OUTSIDE, Exception::gp(OUTSIDE.into())),
            (DATA, Exception::gp(DATA.into())),
            (CODE32, Exception::gp(CODE32.into())),
            (USER_CODE64, Exception::gp(u32::from(USER_CODE64) & !3)),
            (ABSENT_CODE, Exception::with_error(NP, ABSENT_CODE.into())),
            (0x0c, Exception::gp(0x0c)),
        ] {
            let mut cpu = long();
            long_gate(&mut cpu, 0x14, code, 0x8e, 0);
            check_eq!(raises(&mut cpu, &int20), Some(expected));
        }
        let mut cpu = long();
        write(&mut cpu, IDT + 0x14 * 16 + 8, 0x8000_0000);
        check_eq!(raises(&mut cpu, &int20), Some(Exception::gp(0)), "not canonical");
        let mut cpu = long();
        cpu.state.gprs[4] = 0x8000_0000_0000_0000;
        check_eq!(raises(&mut cpu, &int20), Some(Exception::ss(0)));
        let mut cpu = long();
        cpu.state.segments[Seg::Tr as usize].limit = 0x20;
        long_gate(&mut cpu, 0x14, CODE64, 0x8e, 1);
        check_eq!(raises(&mut cpu, &int20), Some(Exception::with_error(TS, TASK.into())));
    }

    fn events_from_outside_set_ext() {
        // The interrupt's gate is absent, so #NP is delivered in its place, with EXT.
        let mut cpu = long();
        long_gate(&mut cpu, 0x14, CODE64, 0x0e, 0);
        check_eq!(deliver(&mut *cpu, interrupt(0x14)), Ok(()));
        check_eq!(cpu.rip(), handler(NP));
        check_eq!(read(&cpu, rsp(&cpu)), 0x14 << 3 | 3);
        // External interrupt 14 is not a page fault: no double fault.
        let mut cpu = long();
        long_gate(&mut cpu, 14, CODE64, 0x0e, 0);
        check_eq!(deliver(&mut *cpu, interrupt(14)), Ok(()));
        check_eq!(cpu.rip(), handler(NP));
    }

    fn faults_during_delivery_become_a_double_fault_or_shutdown() {
        // #GP whose gate is absent.
        let mut cpu = long();
        long_gate(&mut cpu, 13, CODE64, 0x0e, 0);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Ok(()));
        check_eq!(cpu.rip(), handler(exception::DF));
        check_eq!(read(&cpu, rsp(&cpu)), 0);
        // And the double fault's too.
        let mut cpu = long();
        long_gate(&mut cpu, 13, CODE64, 0x0e, 0);
        long_gate(&mut cpu, 8, CODE64, 0x0e, 0);
        let rip = cpu.rip();
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Err(Stop::Intercept));
        check_eq!(cpu.intercept, Some(Intercept::Shutdown));
        check_eq!(cpu.rip(), rip);
        // A page fault on the stack of a page fault: CR2 tells the second address.
        let mut cpu = long();
        long_gate(&mut cpu, 8, CODE64, 0x8e, 1);
        cpu.read_only = 0x5000..0x6000;
        cpu.state.gprs[4] = 0x6000;
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::pf(0x77, 2))), Ok(()));
        check_eq!((cpu.rip(), cpu.cr2()), (handler(8), 0x5ff8));
        // A page fault while #GP is delivered is just delivered.
        let mut cpu = long();
        long_gate(&mut cpu, 14, CODE64, 0x8e, 1);
        cpu.read_only = 0x5000..0x6000;
        cpu.state.gprs[4] = 0x6000;
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Ok(()));
        check_eq!((cpu.rip(), cpu.cr2()), (handler(14), 0x5ff8));
    }

    fn an_empty_table_ends_in_shutdown() {
        let mut cpu = long();
        cpu.state.idtr.limit = 0;
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::plain(3))), Err(Stop::Intercept));
        check_eq!(cpu.intercept, Some(Intercept::Shutdown));
    }

    fn debug_exceptions_leave_dr6_and_clear_general_detect() {
        let mut cpu = long();
        cpu.set_dr(6, 0xffff_0ff3);
        cpu.set_dr(7, 0x2400);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::db(1 << 14 | 4))), Ok(()));
        check_eq!((cpu.dr(6), cpu.dr(7)), (0xffff_4ff4, 0x400));
    }

    fn protected_mode_same_level_and_inner() {
        let mut cpu = protected();
        cpu.set_rflags(FLAGS);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0x50))), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (handler(13), TestCpu::STACK - 16));
        check_eq!(read32(&cpu, TestCpu::STACK - 16), 0x50);
        check_eq!(read32(&cpu, TestCpu::STACK - 12), TestCpu::CODE as u32);
        check_eq!(read32(&cpu, TestCpu::STACK - 8), CODE32.into());
        check_eq!(u64::from(read32(&cpu, TestCpu::STACK - 4)), FLAGS | rflags::RF);

        let mut cpu = protected();
        to_user(&mut cpu, USER_CODE32);
        check_eq!(cpu.run(&[0xcd, 0x80]), Ok(()));
        check_eq!((cpu.cpl(), rsp(&cpu)), (0, STACK0 - 20));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (CODE32, DATA));
        check_eq!(read32(&cpu, STACK0 - 4), USER_DATA.into());
        check_eq!(read32(&cpu, STACK0 - 20), TestCpu::CODE as u32 + 2);
    }

    fn bad_inner_stacks_are_an_invalid_tss() {
        let int80 = [0xcd, 0x80];
        for (stack, expected) in [
            (0, Exception::with_error(TS, 0)),
            (OUTSIDE, Exception::with_error(TS, OUTSIDE.into())),
            (USER_DATA, Exception::with_error(TS, u32::from(USER_DATA) & !3)),
            (CODE32, Exception::with_error(TS, CODE32.into())),
            (0x50, Exception::ss(0x50)),
        ] {
            let mut cpu = protected();
            to_user(&mut cpu, USER_CODE32);
            write_all_32(&mut cpu, TSS + 8, &[stack.into()]);
            check_eq!(raises(&mut cpu, &int80), Some(expected));
        }
    }

    fn gates_of_16_bits() {
        let mut cpu = protected();
        gate(&mut cpu, 0x14, CODE32, 0x86);
        check_eq!(cpu.run(&[0xcd, 0x14]), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (handler(0x14), TestCpu::STACK - 6));
    }

    fn virtual_8086_mode_is_left_through_level_0() {
        let mut cpu = protected();
        cpu.set_rflags(rflags::FIXED | rflags::VM | rflags::IOPL);
        for (n, seg) in [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs].into_iter().enumerate() {
            cpu.set_segment(seg, super::segment::virtual_8086(n as u16 * 16));
        }
        cpu.set_segment(Seg::Cs, super::segment::virtual_8086(0));
        cpu.set_cpl(3);
        check_eq!(cpu.run(&[0xcd, 0x80]), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (handler(0x80), 0, STACK0 - 36));
        check_eq!(cpu.rflags() & rflags::VM, 0);
        check_eq!(read32(&cpu, STACK0 - 4), 0x50, "GS");
        check_eq!(read32(&cpu, STACK0 - 16), 0x00, "ES");
        check_eq!(read32(&cpu, STACK0 - 20), 0x20, "SS");
        check_eq!(selector(&cpu, Seg::Gs), 0);
        // Without IOPL 3 INT n is not allowed.
        let mut cpu = protected();
        cpu.set_segment(Seg::Cs, super::segment::virtual_8086(0));
        cpu.set_rflags(rflags::FIXED | rflags::VM);
        cpu.set_cpl(3);
        check_eq!(raises(&mut cpu, &[0xcd, 0x80]), Some(Exception::gp(0)));
    }

    fn real_mode_uses_the_vector_table() {
        let mut cpu = TestCpu::real();
        cpu.set_rflags(FLAGS);
        write(&mut cpu, 0x10 * 4, 0x0123_0456);
        check_eq!(cpu.run(&[0xcd, 0x10]), Ok(()));
        check_eq!((cpu.rip(), selector(&cpu, Seg::Cs)), (0x456, 0x123));
        check_eq!(cpu.segment(Seg::Cs).base, 0x1230);
        check_eq!(rsp(&cpu), TestCpu::STACK - 6);
        check_eq!(read(&cpu, rsp(&cpu)) & 0xffff_ffff_ffff, (FLAGS & 0xffff) << 32 | 0x1002);
        check_eq!(cpu.rflags() & (rflags::IF | rflags::TF), 0);
        // No error code.
        write(&mut cpu, 13 * 4, 0x0123_0456);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Ok(()));
        check_eq!(rsp(&cpu), TestCpu::STACK - 12);
    }

    fn into_looks_at_the_overflow_flag() {
        let mut cpu = protected();
        check_eq!(cpu.run(&[0xce]), Ok(()));
        check_eq!(cpu.rip(), TestCpu::CODE + 1);
        cpu.set_rflags(rflags::FIXED | rflags::OF);
        check_eq!(cpu.run(&[0xce]), Ok(()));
        check_eq!(cpu.rip(), handler(4));
    }

    fn tables_are_read_when_used() {
        // The accessed bit of the handler's segment is set in the table.
        let mut cpu = long();
        write(&mut cpu, GDT + 8, 0x00af_9a00_0000_ffff);
        check_eq!(deliver(&mut *cpu, interrupt(0x14)), Ok(()));
        check_eq!(read(&cpu, GDT + 8), 0x00af_9b00_0000_ffff);
        check_eq!(cpu.gpr(gpr::RSP), TestCpu::STACK - 40);
    }
}
