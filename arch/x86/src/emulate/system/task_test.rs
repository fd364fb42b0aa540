//! Tests of hardware task switches.

use alloc::boxed::Box;

use selftest::{check, check_eq};

use super::debug::dr6;
use super::event::deliver;
use super::test_tables::{
    ABSENT_CODE, ABSENT_DATA, CODE32, DATA, GDT, HANDLERS, LOCAL_TABLE, READ_ONLY, STACK0, TASK,
    TSS, USER_CODE32, USER_DATA, gate, protected, raises, read, read32, rsp, selector, to_user,
    write, write_all_32,
};
use crate::emulate::test_cpu::TestCpu;
use crate::engine::Event;
use crate::exception::{self, Exception, NP, TS};
use crate::regs::{Attr, Regs, Seg, cr0, gpr, rflags};

/// Two more tasks, a task gate for the first, and what lies behind the table.
const WIDE: u16 = 0xa0;
const NARROW: u16 = 0xa8;
const GATE: u16 = 0xb0;
const OUTSIDE: u16 = 0xb8;
const WIDE_TSS: u64 = 0x3400;
const NARROW_TSS: u64 = 0x3600;
/// Where the new tasks start, and their stacks.
const ENTRY: u64 = 0x5100;
const NEW_STACK: u64 = 0x6100;
const FLAGS: u64 = rflags::FIXED | rflags::CF;

/// Fields of a TSS of 32 bits.
const LINK: u64 = 0;
const EIP: u64 = 0x20;
const EFLAGS: u64 = 0x24;
const EAX: u64 = 0x28;
const ESP: u64 = 0x38;
const ES: u64 = 0x48;
const CS: u64 = 0x4c;
const SS: u64 = 0x50;
const DS: u64 = 0x54;
const LDT: u64 = 0x60;
const TRAP: u64 = 0x64;

fn with_tasks() -> Box<TestCpu> {
    let mut cpu = protected();
    cpu.state.gdtr.limit = OUTSIDE - 1;
    write(&mut cpu, GDT + u64::from(TASK), 0x0000_8b00_3000_0fff);
    write(&mut cpu, GDT + u64::from(WIDE), 0x0000_8900_3400_0067);
    write(&mut cpu, GDT + u64::from(NARROW), 0x0000_8100_3600_002b);
    write(&mut cpu, GDT + u64::from(GATE), 0x0000_8500_00a0_0000);
    // EIP, EFLAGS, eight registers, six segments.
    let (code, data) = (u32::from(CODE32), u32::from(DATA));
    let registers = [0x10, 0x11, 0x12, 0x13, NEW_STACK as u32, 0x15, 0x16, 0x17];
    write_all_32(&mut cpu, WIDE_TSS + EIP, &[ENTRY as u32, FLAGS as u32]);
    write_all_32(&mut cpu, WIDE_TSS + EAX, &registers);
    write_all_32(&mut cpu, WIDE_TSS + ES, &[data, code, data, data, 0, 0]);
    // Two words in each.
    let words = |low: u64, high: u32| low as u32 | high << 16;
    let narrow = [
        words(ENTRY, FLAGS as u32),
        words(0x20, 0x21),
        words(0x22, 0x23),
        words(NEW_STACK, 0x25),
        words(0x26, 0x27),
        words(DATA.into(), code),
        words(DATA.into(), data),
    ];
    write_all_32(&mut cpu, NARROW_TSS + 0x0e, &narrow);
    cpu
}

/// `ljmp $selector, $0`, `lcall $selector, $0`.
fn jump(selector: u16) -> [u8; 7] {
    [0xea, 0, 0, 0, 0, selector as u8, (selector >> 8) as u8]
}

fn call(selector: u16) -> [u8; 7] {
    [0x9a, 0, 0, 0, 0, selector as u8, (selector >> 8) as u8]
}

const IRET: [u8; 1] = [0xcf];

/// The type byte of a descriptor.
fn rights(cpu: &TestCpu, selector: u16) -> u8 {
    (read(cpu, GDT + u64::from(selector & !7)) >> 40) as u8
}

fn handler(vector: u8) -> u64 {
    HANDLERS + 16 * u64::from(vector)
}

selftest::cases! {
    fn a_jump_saves_the_old_task_and_loads_the_new() {
        let mut cpu = with_tasks();
        for n in 0..8 {
            cpu.set_gpr(n, 0x100 + u64::from(n));
        }
        cpu.set_rflags(FLAGS | rflags::NT | rflags::DF);
        cpu.set_dr(7, 0x5ff);
        write(&mut cpu, TSS + ES, u64::MAX);
        check_eq!(cpu.run(&jump(WIDE)), Ok(()));

        check_eq!((cpu.rip(), cpu.rflags(), cpu.cpl()), (ENTRY, FLAGS, 0));
        let registers: [u64; 8] = core::array::from_fn(|n| cpu.gpr(n as u8));
        check_eq!(registers, [0x10, 0x11, 0x12, 0x13, NEW_STACK, 0x15, 0x16, 0x17]);
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (CODE32, DATA));
        check_eq!((selector(&cpu, Seg::Es), selector(&cpu, Seg::Fs)), (DATA, 0));
        check_eq!(cpu.segment(Seg::Ss).limit, u32::MAX);
        check!(!cpu.segment(Seg::Gs).attr.has(Attr::P));
        let task = cpu.segment(Seg::Tr);
        check_eq!((task.selector, task.base, task.attr), (WIDE, WIDE_TSS, Attr(0x8b)));
        check!(cpu.cr0() & cr0::TS != 0);
        check_eq!(cpu.dr(7), 0x4aa);

        check_eq!(u64::from(read32(&cpu, TSS + EIP)), TestCpu::CODE + 7);
        check_eq!(u64::from(read32(&cpu, TSS + EFLAGS)), FLAGS | rflags::NT | rflags::DF);
        check_eq!(read32(&cpu, TSS + EAX + 28), 0x107);
        check_eq!(read32(&cpu, TSS + CS) as u16, CODE32);
        check_eq!(read32(&cpu, TSS + ES), 0xffff_0000 | u32::from(DATA), "only the selector");
        check_eq!((rights(&cpu, TASK), rights(&cpu, WIDE)), (0x89, 0x8b));
        check_eq!(read32(&cpu, WIDE_TSS + LINK), 0, "no link");
    }

    fn a_call_nests_and_iret_goes_back() {
        let mut cpu = with_tasks();
        cpu.set_gpr(gpr::RBX, 0x1234_5678);
        cpu.set_rflags(FLAGS | rflags::AC);
        // Through a task gate.
        check_eq!(cpu.run(&call(GATE)), Ok(()));
        check_eq!((cpu.rip(), cpu.rflags()), (ENTRY, FLAGS | rflags::NT));
        check_eq!(read32(&cpu, WIDE_TSS + LINK) as u16, TASK);
        check_eq!((rights(&cpu, TASK), rights(&cpu, WIDE)), (0x8b, 0x8b));
        check_eq!(rsp(&cpu), NEW_STACK, "nothing is pushed");
        check_eq!(cpu.run(&IRET), Ok(()));
        check_eq!((cpu.rip(), cpu.rflags()), (TestCpu::CODE + 7, FLAGS | rflags::AC));
        check_eq!((cpu.gpr(gpr::RBX), selector(&cpu, Seg::Tr)), (0x1234_5678, TASK));
        check_eq!((rights(&cpu, TASK), rights(&cpu, WIDE)), (0x8b, 0x89));
        check_eq!(u64::from(read32(&cpu, WIDE_TSS + EFLAGS)), FLAGS, "NT is not saved");
        check_eq!(u64::from(read32(&cpu, WIDE_TSS + EIP)), TestCpu::CODE + 1);
    }

    fn tasks_of_16_bits_and_back() {
        let mut cpu = with_tasks();
        cpu.set_gpr(gpr::RBX, 0x1234_5678);
        cpu.set_rflags(FLAGS | rflags::AC);
        cpu.set_segment(Seg::Fs, cpu.segment(Seg::Ds));
        check_eq!(cpu.run(&call(NARROW)), Ok(()));
        check_eq!((cpu.rip(), cpu.rflags()), (ENTRY, FLAGS | rflags::NT));
        check_eq!((cpu.gpr(gpr::RBX), rsp(&cpu), cpu.gpr(gpr::RDI)), (0x23, NEW_STACK, 0x27));
        check_eq!((selector(&cpu, Seg::Fs), selector(&cpu, Seg::Ds)), (0, DATA));
        check_eq!(cpu.segment(Seg::Tr).attr, Attr(0x83));
        check_eq!(read32(&cpu, NARROW_TSS) as u16, TASK);
        cpu.set_gpr(gpr::RAX, 0xaaaa_bbbb);
        check_eq!(cpu.run(&IRET), Ok(()));
        check_eq!((cpu.gpr(gpr::RBX), cpu.rflags()), (0x1234_5678, FLAGS | rflags::AC));
        check_eq!(selector(&cpu, Seg::Fs), DATA);
        check_eq!(read32(&cpu, NARROW_TSS + 0x12), 0x21_bbbb);
        check_eq!((rights(&cpu, NARROW), rights(&cpu, TASK)), (0x81, 0x8b));
    }

    fn what_is_wrong_with_the_tss_is_the_old_tasks_fault() {
        let not_present = |sel: u16| Exception::with_error(NP, sel.into());
        let invalid = |sel: u16| Exception::with_error(TS, sel.into());
        // The descriptor that is changed, to what, where the transfer goes, and what it raises.
        for (changed, descriptor, to, expected) in [
            (WIDE, 0x0000_8b00_3400_0067, WIDE, Exception::gp(WIDE.into())),
            (WIDE, 0x0000_8b00_3400_0067, GATE, Exception::gp(WIDE.into())),
            (WIDE, 0x0000_0900_3400_0067, WIDE, not_present(WIDE)),
            (WIDE, 0x0000_0900_3400_0067, GATE, not_present(WIDE)),
            (WIDE, 0x0000_8900_3400_0066, WIDE, invalid(WIDE)),
            (WIDE, 0x0000_8900_3400_0066, GATE, invalid(WIDE)),
            (NARROW, 0x0000_8100_3600_002a, NARROW, invalid(NARROW)),
            (GATE, 0x0000_0500_00a0_0000, GATE, not_present(GATE)),
            (GATE, 0x0000_8500_00b8_0000, GATE, Exception::gp(OUTSIDE.into())),
            (GATE, 0x0000_8500_00a4_0000, GATE, Exception::gp(0xa4)),
            (GATE, 0x0000_8500_0000_0000, GATE, Exception::gp(0)),
            (GATE, 0x0000_8500_0010_0000, GATE, Exception::gp(DATA.into())),
            (TASK, 0x0000_8b00_3000_0fff, TASK, Exception::gp(TASK.into())),
        ] {
            let mut cpu = with_tasks();
            write(&mut cpu, GDT + u64::from(changed), descriptor);
            check_eq!(raises(&mut cpu, &jump(to)), Some(expected));
            check_eq!(raises(&mut cpu, &call(to)), Some(expected));
        }
        // The gate's level counts, the task's behind it does not.
        let mut cpu = with_tasks();
        to_user(&mut cpu, USER_CODE32);
        check_eq!(raises(&mut cpu, &jump(WIDE)), Some(Exception::gp(WIDE.into())));
        check_eq!(raises(&mut cpu, &jump(GATE)), Some(Exception::gp(GATE.into())));
        write(&mut cpu, GDT + u64::from(GATE), 0x0000_e500_00a0_0000);
        check_eq!(cpu.run(&jump(GATE)), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl()), (ENTRY, 0));
        // A TSS that the old task can't be saved in.
        let mut cpu = with_tasks();
        cpu.state.segments[Seg::Tr as usize].limit = 0x66;
        check_eq!(raises(&mut cpu, &jump(WIDE)), Some(invalid(TASK)));
    }

    fn pages_are_there_before_anything_changes() {
        for (page, at) in [(TSS, TSS + EIP), (GDT, GDT + u64::from(WIDE) + 5)] {
            let mut cpu = with_tasks();
            cpu.read_only = page..page + 0x100;
            cpu.memory[TestCpu::CODE as usize..][..7].copy_from_slice(&jump(WIDE));
            let before = cpu.memory.clone();
            check_eq!(raises(&mut cpu, &jump(WIDE)), Some(Exception::pf(at, 3)));
            check!(cpu.memory == before);
        }
        // The back link's.
        let mut cpu = with_tasks();
        cpu.read_only = WIDE_TSS..WIDE_TSS + 0x100;
        check_eq!(raises(&mut cpu, &call(WIDE)), Some(Exception::pf(WIDE_TSS, 3)));
        check_eq!(cpu.run(&jump(WIDE)), Ok(()), "a jump does not write there");
    }

    fn returns_to_what_is_no_busy_task() {
        for (link, expected) in [
            (0, Exception::with_error(TS, 0)),
            (WIDE, Exception::with_error(TS, WIDE.into())),
            (DATA, Exception::with_error(TS, DATA.into())),
            (OUTSIDE, Exception::with_error(TS, OUTSIDE.into())),
            (0x34, Exception::with_error(TS, 0x34)),
        ] {
            let mut cpu = with_tasks();
            write(&mut cpu, TSS + LINK, link.into());
            cpu.set_rflags(FLAGS | rflags::NT);
            check_eq!(raises(&mut cpu, &IRET), Some(expected));
        }
        let mut cpu = with_tasks();
        write(&mut cpu, GDT + u64::from(WIDE), 0x0000_0b00_3400_0067);
        write(&mut cpu, TSS + LINK, WIDE.into());
        cpu.set_rflags(FLAGS | rflags::NT);
        check_eq!(raises(&mut cpu, &IRET), Some(Exception::with_error(NP, WIDE.into())));
    }

    fn what_is_wrong_with_the_segments_is_the_new_tasks_fault() {
        let (ts, np) = (exception::TS, exception::NP);
        for (field, value, vector, error) in [
            (DS, OUTSIDE, ts, OUTSIDE),
            (DS, TASK, ts, TASK),
            (ES, ABSENT_DATA, np, ABSENT_DATA),
            (ES, DATA | 3, ts, DATA),
        ] {
            let mut cpu = with_tasks();
            write_all_32(&mut cpu, WIDE_TSS + field, &[value.into()]);
            check_eq!(cpu.run(&jump(WIDE)), Ok(()));
            check_eq!(selector(&cpu, Seg::Tr), WIDE);
            // The handler of the new task's level, on its stack, which is loaded before.
            check_eq!((cpu.rip(), rsp(&cpu)), (handler(vector), NEW_STACK - 16));
            check_eq!(read32(&cpu, rsp(&cpu)), error.into());
            check_eq!(u64::from(read32(&cpu, rsp(&cpu) + 4)), ENTRY);
            check_eq!(u64::from(read32(&cpu, rsp(&cpu) + 12)), FLAGS | rflags::RF);
            check_eq!(u64::from(read32(&cpu, TSS + EIP)), TestCpu::CODE + 7, "saved");
        }
    }

    /// Without a code or stack segment a handler has to be a task itself.
    fn tasks_take_the_faults_of_tasks() {
        let ss = exception::SS;
        for (field, value, vector, error) in [
            (CS, 0, TS, 0),
            (CS, DATA, TS, DATA),
            (CS, CODE32 | 3, TS, CODE32),
            (CS, ABSENT_CODE, NP, ABSENT_CODE),
            (SS, 0, TS, 0),
            (SS, READ_ONLY, TS, READ_ONLY),
            (SS, USER_DATA, TS, USER_DATA & !3),
            (SS, ABSENT_DATA, ss, ABSENT_DATA),
            (LDT, DATA, TS, DATA),
            (LDT, OUTSIDE, TS, OUTSIDE),
            (LDT, LOCAL_TABLE | 4, TS, LOCAL_TABLE | 4),
        ] {
            let mut cpu = with_tasks();
            write_all_32(&mut cpu, WIDE_TSS + field, &[value.into()]);
            gate(&mut cpu, vector, NARROW, 0x85);
            check_eq!(cpu.run(&jump(WIDE)), Ok(()));
            check_eq!((cpu.rip(), selector(&cpu, Seg::Tr)), (ENTRY, NARROW));
            check_eq!(read32(&cpu, NARROW_TSS) as u16, WIDE, "nested in the task that faults");
            // Pushed at the size of the TSS.
            check_eq!(rsp(&cpu), NEW_STACK - 2);
            check_eq!(read32(&cpu, rsp(&cpu)) as u16, error);
            check_eq!(u64::from(read32(&cpu, WIDE_TSS + EIP)), ENTRY);
            check_eq!(u64::from(read32(&cpu, WIDE_TSS + EFLAGS)), FLAGS | rflags::RF);
            if field == CS {
                check_eq!(read32(&cpu, WIDE_TSS + CS), value.into());
            }
        }
    }

    fn the_entry_is_within_the_code_segments_limit() {
        let mut cpu = with_tasks();
        write(&mut cpu, GDT + u64::from(CODE32), 0x0040_9b00_0000_ffff);
        write_all_32(&mut cpu, WIDE_TSS + EIP, &[0x1_0000]);
        check_eq!(cpu.run(&jump(WIDE)), Ok(()));
        check_eq!((cpu.rip(), read32(&cpu, rsp(&cpu))), (handler(exception::GP), 0));
        check_eq!(read32(&cpu, rsp(&cpu) + 4), 0x1_0000);
    }

    fn exceptions_and_interrupts_through_task_gates() {
        let mut cpu = with_tasks();
        cpu.set_rflags(FLAGS | rflags::IF);
        gate(&mut cpu, 13, WIDE, 0x85);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0x50))), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (ENTRY, NEW_STACK - 4));
        check_eq!(read32(&cpu, rsp(&cpu)), 0x50);
        check_eq!((read32(&cpu, WIDE_TSS + LINK) as u16, cpu.rflags()), (TASK, FLAGS | rflags::NT));
        check_eq!(u64::from(read32(&cpu, TSS + EFLAGS)), FLAGS | rflags::IF | rflags::RF);
        check_eq!(u64::from(read32(&cpu, TSS + EIP)), TestCpu::CODE, "the instruction to restart");

        let mut cpu = with_tasks();
        gate(&mut cpu, 0x40, WIDE, 0x85);
        check_eq!(deliver(&mut *cpu, Event::Interrupt { vector: 0x40 }), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (ENTRY, NEW_STACK));

        // INT n: the gate's level counts.
        let mut cpu = with_tasks();
        to_user(&mut cpu, USER_CODE32);
        for seg in [Seg::Fs, Seg::Gs] {
            cpu.set_segment(seg, super::segment::null(0));
        }
        gate(&mut cpu, 0x40, WIDE, 0x85);
        check_eq!(raises(&mut cpu, &[0xcd, 0x40]), Some(Exception::gp(0x40 << 3 | 2)));
        gate(&mut cpu, 0x40, WIDE, 0xe5);
        check_eq!(cpu.run(&[0xcd, 0x40]), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (ENTRY, 0, NEW_STACK));
        check_eq!(u64::from(read32(&cpu, TSS + EIP)), TestCpu::CODE + 2);
        check_eq!(read32(&cpu, TSS + CS) as u16, USER_CODE32);
        check_eq!(cpu.run(&IRET), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), selector(&cpu, Seg::Ss)), (TestCpu::CODE + 2, 3, USER_DATA));
    }

    fn faults_of_an_events_task_say_ext_and_make_a_double_fault() {
        let mut cpu = with_tasks();
        gate(&mut cpu, 0x40, WIDE, 0x85);
        write_all_32(&mut cpu, WIDE_TSS + DS, &[OUTSIDE.into()]);
        check_eq!(deliver(&mut *cpu, Event::Interrupt { vector: 0x40 }), Ok(()));
        check_eq!((cpu.rip(), read32(&cpu, rsp(&cpu))), (handler(TS), u32::from(OUTSIDE) | 1));
        let mut cpu = with_tasks();
        gate(&mut cpu, 13, WIDE, 0x85);
        write_all_32(&mut cpu, WIDE_TSS + DS, &[OUTSIDE.into()]);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Ok(()));
        check_eq!((cpu.rip(), selector(&cpu, Seg::Tr)), (handler(exception::DF), WIDE));
        // The old task's, before the switch.
        let mut cpu = with_tasks();
        gate(&mut cpu, 0x40, OUTSIDE, 0x85);
        check_eq!(deliver(&mut *cpu, Event::Interrupt { vector: 0x40 }), Ok(()));
        check_eq!((cpu.rip(), selector(&cpu, Seg::Tr)), (handler(exception::GP), TASK));
        check_eq!(read32(&cpu, rsp(&cpu)), u32::from(OUTSIDE) | 1);
        // INT n says no EXT, and what its task raises is no double fault.
        let mut cpu = with_tasks();
        gate(&mut cpu, 13, WIDE, 0x85);
        write_all_32(&mut cpu, WIDE_TSS + DS, &[OUTSIDE.into()]);
        check_eq!(cpu.run(&[0xcd, 13]), Ok(()));
        check_eq!((cpu.rip(), read32(&cpu, rsp(&cpu))), (handler(TS), OUTSIDE.into()));
    }

    fn an_error_code_that_does_not_fit_is_a_stack_fault() {
        let mut cpu = with_tasks();
        gate(&mut cpu, 13, WIDE, 0x85);
        gate(&mut cpu, 8, NARROW, 0x85);
        // An expand-up stack with a small limit.
        write(&mut cpu, GDT + u64::from(READ_ONLY), 0x0040_9300_0000_00ff);
        write_all_32(&mut cpu, WIDE_TSS + SS, &[READ_ONLY.into()]);
        check_eq!(deliver(&mut *cpu, Event::Exception(Exception::gp(0))), Ok(()));
        // #SS while #GP is delivered.
        check_eq!((cpu.rip(), selector(&cpu, Seg::Tr)), (ENTRY, NARROW));
        check_eq!(rsp(&cpu), NEW_STACK - 2);
    }

    fn virtual_8086_tasks() {
        let mut cpu = with_tasks();
        let flags = FLAGS | rflags::VM | rflags::IF | rflags::IOPL;
        write_all_32(&mut cpu, WIDE_TSS + EIP, &[0x10, flags as u32]);
        write_all_32(&mut cpu, WIDE_TSS + ESP, &[0x100]);
        write_all_32(&mut cpu, WIDE_TSS + ES, &[0x400, 0x100, 0x500, 0x600, 0x700, 0x801]);
        check_eq!(cpu.run(&call(WIDE)), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), cpu.rflags()), (0x10, 3, flags | rflags::NT));
        check_eq!(cpu.segment(Seg::Cs), super::segment::virtual_8086(0x100));
        check_eq!((cpu.segment(Seg::Gs).base, cpu.segment(Seg::Gs).limit), (0x8010, 0xffff));
        // IRET there is virtual-8086 mode's own; an interrupt's task returns to it.
        gate(&mut cpu, 0x40, NARROW, 0xe5);
        check_eq!(deliver(&mut *cpu, Event::Interrupt { vector: 0x40 }), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), cpu.rflags()), (ENTRY, 0, FLAGS | rflags::NT));
        check_eq!(cpu.run(&IRET), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), cpu.rflags()), (0x10, 3, flags | rflags::NT));
        check_eq!(selector(&cpu, Seg::Gs), 0x801);
    }

    fn to_an_outer_level_with_segments_of_a_local_table() {
        let mut cpu = with_tasks();
        // LOCAL_TABLE's base is 0x2800.
        write(&mut cpu, 0x2808, 0x00cf_fb00_0000_ffff);
        write_all_32(&mut cpu, WIDE_TSS + ES, &[0x0f, 0x0f, USER_DATA.into(), USER_DATA.into()]);
        write_all_32(&mut cpu, WIDE_TSS + LDT, &[LOCAL_TABLE.into()]);
        check_eq!(cpu.run(&jump(WIDE)), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), selector(&cpu, Seg::Cs)), (ENTRY, 3, 0x0f));
        check_eq!((cpu.segment(Seg::Ldtr).base, selector(&cpu, Seg::Ldtr)), (0x2800, LOCAL_TABLE));
        check_eq!(selector(&cpu, Seg::Es), 0x0f);
        // Events come in on the new task's inner stack.
        write_all_32(&mut cpu, WIDE_TSS + 4, &[STACK0 as u32 - 0x100, DATA.into()]);
        check_eq!(cpu.run(&[0xcd, 0x80]), Ok(()));
        check_eq!((cpu.cpl(), rsp(&cpu)), (0, STACK0 - 0x100 - 20));
    }

    fn the_debug_trap_flag_traps_before_the_first_instruction() {
        let mut cpu = with_tasks();
        write_all_32(&mut cpu, WIDE_TSS + TRAP, &[1]);
        check_eq!(cpu.run(&jump(WIDE)), Ok(()));
        check_eq!((cpu.rip(), cpu.trap), (ENTRY, dr6::BT));
        check_eq!(cpu.run(&jump(NARROW)), Ok(()));
        check_eq!(cpu.trap, dr6::BT, "no more than once");
    }

    fn cr3_is_loaded_with_paging_only() {
        for (paging, expected) in [(0, 0x9000), (cr0::PG, 0xa018)] {
            let mut cpu = with_tasks();
            cpu.set_cr3(0x9000);
            cpu.state.cr0 |= paging;
            write_all_32(&mut cpu, WIDE_TSS + 0x1c, &[0xa018]);
            check_eq!(cpu.run(&jump(WIDE)), Ok(()));
            check_eq!(cpu.cr3(), expected);
            check_eq!(cpu.run(&jump(NARROW)), Ok(()));
            check_eq!(cpu.cr3(), expected, "a TSS of 16 bits has none");
        }
    }
}
