//! Tests of IRET.

use alloc::boxed::Box;
use selftest::{check, check_eq};

use super::event::deliver;
use super::test_tables::{
    ABSENT_CODE, ABSENT_DATA, CODE32, CODE64, DATA, OUTSIDE, USER_CODE32, USER_CODE64, USER_DATA,
    USER_DATA16, long, protected, raises, rsp, selector, to_user, write_all, write_all_32,
};
use crate::emulate::test_cpu::TestCpu;
use crate::engine::Event;
use crate::exception::{Exception, NP};
use crate::regs::{Attr, Regs, Seg, Segment, rflags};

const IRETQ: [u8; 2] = [0x48, 0xcf];
const USER_FLAGS: u64 = rflags::FIXED | rflags::IF | rflags::ZF | rflags::ID;

fn with_frame(frame: [u64; 5]) -> Box<TestCpu> {
    let mut cpu = long();
    write_all(&mut cpu, TestCpu::STACK, &frame);
    cpu
}

fn user_frame() -> [u64; 5] {
    [0x5000, USER_CODE64.into(), USER_FLAGS, 0x6000, USER_DATA.into()]
}

selftest::cases! {
    fn to_64_bit_user_and_back() {
        let mut cpu = with_frame(user_frame());
        cpu.set_nmi_blocked(true);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x5000, 3, 0x6000));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (USER_CODE64, USER_DATA));
        check_eq!(cpu.rflags(), USER_FLAGS);
        check!(cpu.mode64() && !cpu.nmi_blocked());
        // Data segments of level 0 became null.
        check_eq!(selector(&cpu, Seg::Ds), 0);
        check!(!cpu.segment(Seg::Es).attr.has(Attr::P));
        check_eq!(deliver(&mut *cpu, Event::Interrupt { vector: 0x80 }), Ok(()));
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x5000, 3, 0x6000));
        check_eq!(cpu.rflags(), USER_FLAGS);
    }

    fn null_selectors_lose_their_level_on_the_way_to_an_outer_one() {
        let mut cpu = with_frame(user_frame());
        let null = |base| Segment { selector: 3, base, limit: 0, attr: Attr(0) };
        cpu.set_segment(Seg::Ds, null(0));
        cpu.set_segment(Seg::Fs, null(0x1234_5678));
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!(selector(&cpu, Seg::Ds), 0);
        check_eq!((selector(&cpu, Seg::Fs), cpu.segment(Seg::Fs).base), (0, 0x1234_5678));
    }

    fn to_compatibility_mode() {
        let mut frame = user_frame();
        frame[1] = USER_CODE32.into();
        let mut cpu = with_frame(frame);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check!(cpu.long_mode() && !cpu.mode64());
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x5000, 3, 0x6000));
        // A stack of 16 bits takes only the low word of the pointer.
        frame[3] = 0x1234_6000;
        frame[4] = USER_DATA16.into();
        let mut cpu = with_frame(frame);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!(rsp(&cpu), 0x6000);
        frame[0] = 0x1_0000_0000;
        check_eq!(raises(&mut with_frame(frame), &IRETQ), Some(Exception::gp(0)), "limit");
    }

    fn within_the_kernel_the_stack_is_popped_too() {
        let flags = rflags::FIXED | rflags::RF | rflags::TF | rflags::NT | rflags::IOPL;
        let mut cpu = with_frame([0x5000, CODE64.into(), flags, 0x6008, DATA.into()]);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu), cpu.rflags()), (0x5000, 0, 0x6008, flags));
        check_eq!(selector(&cpu, Seg::Ds), DATA);
        // A null SS is what deliveries leave.
        let mut cpu = with_frame([0x5000, CODE64.into(), 2, 0x6008, 0]);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!(selector(&cpu, Seg::Ss), 0);
    }

    fn bad_frames_fault_and_change_nothing() {
        let gp = |selector: u16| Exception::gp(u32::from(selector) & !3);
        for (at, value, expected) in [
            (1, 0, Exception::gp(0)),
            (1, DATA, gp(DATA)),
            (1, OUTSIDE, gp(OUTSIDE)),
            (1, CODE64 | 3, gp(CODE64)),
            (1, ABSENT_CODE, Exception::with_error(NP, ABSENT_CODE.into())),
            (4, 3, Exception::gp(0)),
            (4, DATA, gp(DATA)),
            (4, DATA | 3, gp(DATA)),
            (4, USER_CODE64, gp(USER_CODE64)),
        ] {
            let mut frame = user_frame();
            frame[at] = value.into();
            check_eq!(raises(&mut with_frame(frame), &IRETQ), Some(expected), "{at} {value:x}");
        }
        let mut frame = user_frame();
        frame[0] = 0x8000_0000_0000;
        check_eq!(raises(&mut with_frame(frame), &IRETQ), Some(Exception::gp(0)), "not canonical");
        let frame = [0x5000, CODE64.into(), 2, 0x6000, ABSENT_DATA.into()];
        let expected = Some(Exception::ss(ABSENT_DATA.into()));
        check_eq!(raises(&mut with_frame(frame), &IRETQ), expected);
    }

    fn a_user_returns_neither_inwards_nor_with_privileged_flags() {
        let mut cpu = with_frame([0x5000, CODE64.into(), 2, 0x6000, DATA.into()]);
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &IRETQ), Some(Exception::gp(CODE64.into())));
        let mut frame = user_frame();
        frame[2] = rflags::FIXED | rflags::IOPL | rflags::CF;
        let mut cpu = with_frame(frame);
        to_user(&mut cpu, USER_CODE64);
        cpu.set_rflags(rflags::FIXED | rflags::IF);
        check_eq!(cpu.run(&IRETQ), Ok(()));
        check_eq!(cpu.rflags(), rflags::FIXED | rflags::IF | rflags::CF);
    }

    fn a_nested_task_is_not_returned_from_in_long_mode() {
        let mut cpu = with_frame(user_frame());
        cpu.set_rflags(rflags::FIXED | rflags::NT);
        check_eq!(raises(&mut cpu, &IRETQ), Some(Exception::gp(0)));
    }

    fn protected_mode_same_level_and_outer() {
        let mut cpu = protected();
        write_all_32(&mut cpu, TestCpu::STACK, &[0x5000, CODE32.into(), 0x203]);
        check_eq!(cpu.run(&[0xcf]), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu), cpu.rflags()), (0x5000, TestCpu::STACK + 12, 0x203));

        let mut cpu = protected();
        let frame = [0x5000, USER_CODE32.into(), 0x202, 0x6000, USER_DATA.into()];
        write_all_32(&mut cpu, TestCpu::STACK, &frame);
        check_eq!(cpu.run(&[0xcf]), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x5000, 3, 0x6000));
        check_eq!(selector(&cpu, Seg::Ds), 0);
    }

    fn to_virtual_8086_mode_and_back_again() {
        let mut cpu = protected();
        let flags = (rflags::VM | rflags::IOPL | rflags::IF | rflags::FIXED) as u32;
        let frame = [0x0010, 0x0100, flags, 0x7ff0, 0x20, 0x30, 0x40, 0x50, 0x60];
        write_all_32(&mut cpu, TestCpu::STACK, &frame);
        check_eq!(cpu.run(&[0xcf]), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x10, 3, 0x7ff0));
        check!(!cpu.protected());
        check_eq!((cpu.segment(Seg::Cs).base, cpu.segment(Seg::Gs).base), (0x1000, 0x600));
        check_eq!((selector(&cpu, Seg::Ss), selector(&cpu, Seg::Es)), (0x20, 0x30));
    }

    fn real_mode() {
        let mut cpu = TestCpu::real();
        let at = TestCpu::STACK as usize;
        cpu.memory[at..at + 6].copy_from_slice(&[0x34, 0x12, 0x00, 0x20, 0x03, 0x72]);
        check_eq!(cpu.run(&[0xcf]), Ok(()));
        check_eq!((cpu.rip(), cpu.segment(Seg::Cs).base), (0x1234, 0x2_0000));
        check_eq!(cpu.rflags(), 0x7203 & !0x8 | rflags::FIXED);
        check_eq!(rsp(&cpu), TestCpu::STACK + 6);
    }
}
