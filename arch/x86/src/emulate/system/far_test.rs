//! Tests of far JMP, CALL and RET.

use selftest::{check, check_eq};

use super::test_tables::{
    ABSENT_CODE, CODE32, CODE64, CONFORMING64, DATA, GATE32, GDT, LONG_GATE, OUTSIDE, STACK0, TASK,
    USER_CODE32, USER_CODE64, USER_DATA, long, protected, raises, read, read32, rsp, selector,
    to_user, write, write_all, write_all_32,
};
use crate::emulate::test_cpu::TestCpu;
use crate::exception::{Exception, NP};
use crate::regs::{Regs, Seg};

/// `ljmp *(%rbx)`, `lcall *(%rbx)`, with 64-bit offsets.
const JUMP: [u8; 3] = [0x48, 0xff, 0x2b];
const CALL: [u8; 3] = [0x48, 0xff, 0x1b];
const LRETQ: [u8; 2] = [0x48, 0xcb];
const POINTER: u64 = 0x6800;

fn point(cpu: &mut TestCpu, selector: u16, offset: u64) {
    write_all(cpu, POINTER, &[offset, selector.into()]);
    cpu.state.gprs[3] = POINTER;
}

/// `ljmp $selector, $offset` of 32-bit code.
fn jump32(selector: u16, offset: u32) -> [u8; 7] {
    let (o, s) = (offset.to_le_bytes(), selector.to_le_bytes());
    [0xea, o[0], o[1], o[2], o[3], s[0], s[1]]
}

selftest::cases! {
    fn jumps_and_calls_of_64_bit_mode() {
        let mut cpu = long();
        point(&mut cpu, CODE64, 0x5000);
        check_eq!(cpu.run(&JUMP), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (0x5000, TestCpu::STACK));
        check_eq!(cpu.run(&CALL), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (0x5000, TestCpu::STACK - 16));
        check_eq!(read(&cpu, rsp(&cpu)), TestCpu::CODE + 3);
        check_eq!(read(&cpu, rsp(&cpu) + 8), CODE64.into());
        write(&mut cpu, TestCpu::STACK - 16, TestCpu::CODE + 0x100);
        check_eq!(cpu.run(&LRETQ), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (TestCpu::CODE + 0x100, TestCpu::STACK));
    }

    fn bad_targets_fault() {
        for (target, expected) in [
            (0, Exception::gp(0)),
            (OUTSIDE, Exception::gp(OUTSIDE.into())),
            (DATA, Exception::gp(DATA.into())),
            (USER_CODE64, Exception::gp(u32::from(USER_CODE64) & !3)),
            (CODE64 | 3, Exception::gp(CODE64.into())),
            (ABSENT_CODE, Exception::with_error(NP, ABSENT_CODE.into())),
            (TASK, Exception::gp(TASK.into())),
            (0x0c, Exception::gp(0x0c)),
        ] {
            let mut cpu = long();
            point(&mut cpu, target, 0x5000);
            check_eq!(raises(&mut cpu, &JUMP), Some(expected));
            check_eq!(raises(&mut cpu, &CALL), Some(expected));
        }
        let mut cpu = long();
        point(&mut cpu, CODE64, 0x8000_0000_0000);
        check_eq!(raises(&mut cpu, &CALL), Some(Exception::gp(0)));
        // L and D together.
        write(&mut cpu, GDT + u64::from(CODE32), 0x00ef_9b00_0000_ffff);
        point(&mut cpu, CODE32, 0x5000);
        check_eq!(raises(&mut cpu, &JUMP), Some(Exception::gp(CODE32.into())));
    }

    fn conforming_code_keeps_the_level() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        point(&mut cpu, CONFORMING64, 0x5000);
        check_eq!(cpu.run(&JUMP), Ok(()));
        check_eq!((cpu.cpl(), selector(&cpu, Seg::Cs)), (3, CONFORMING64 | 3));
    }

    fn returns_to_an_outer_level_and_to_compatibility_mode() {
        let mut cpu = long();
        let frame = [0x5000, USER_CODE32.into(), 1, 2, 0x6000, USER_DATA.into()];
        write_all(&mut cpu, TestCpu::STACK, &frame);
        // lretq $16
        check_eq!(cpu.run(&[0x48, 0xca, 0x10, 0x00]), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x5000, 3, 0x6010));
        check!(!cpu.mode64());
        check_eq!((selector(&cpu, Seg::Ss), selector(&cpu, Seg::Ds)), (USER_DATA, 0));
    }

    fn call_gates_of_long_mode_switch_stacks() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        point(&mut cpu, LONG_GATE | 3, 0xdead);
        check_eq!(cpu.run(&CALL), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x1800, 0, STACK0 - 32));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (CODE64, 0));
        check_eq!(read(&cpu, STACK0 - 8), USER_DATA.into());
        check_eq!(read(&cpu, STACK0 - 32), TestCpu::CODE + 3);
        // And back.
        check_eq!(cpu.run(&LRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (TestCpu::CODE + 3, 3, TestCpu::STACK));
        // A jump may not go inwards, and a gate has a level of its own.
        point(&mut cpu, LONG_GATE | 3, 0);
        check_eq!(raises(&mut cpu, &JUMP), Some(Exception::gp(CODE64.into())));
        write(&mut cpu, GDT + u64::from(LONG_GATE), 0x0000_8c00_0008_1800);
        check_eq!(raises(&mut cpu, &CALL), Some(Exception::gp(LONG_GATE.into())));
    }

    fn call_gates_of_protected_mode_copy_parameters() {
        let mut cpu = protected();
        to_user(&mut cpu, USER_CODE32);
        write_all_32(&mut cpu, TestCpu::STACK, &[0x1111, 0x2222]);
        // lcall $GATE32, $0
        let call = [0x9a, 0, 0, 0, 0, GATE32 as u8 | 3, 0];
        check_eq!(cpu.run(&call), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), rsp(&cpu)), (0x1800, 0, STACK0 - 24));
        let pushed: [u32; 6] = core::array::from_fn(|n| read32(&cpu, STACK0 - 24 + 4 * n as u64));
        let code = u32::from(USER_CODE32);
        let expected =
            [TestCpu::CODE as u32 + 7, code, 0x1111, 0x2222, TestCpu::STACK as u32, USER_DATA.into()];
        check_eq!(pushed, expected);
        // lret $8 drops the parameters on both stacks.
        check_eq!(cpu.run(&[0xca, 8, 0]), Ok(()));
        check_eq!((cpu.cpl(), rsp(&cpu)), (3, TestCpu::STACK + 8));
    }

    fn limits_bind_outside_64_bit_mode() {
        let mut cpu = protected();
        write(&mut cpu, GDT + u64::from(CODE32), 0x0040_9b00_0000_4fff);
        check_eq!(raises(&mut cpu, &jump32(CODE32, 0x5000)), Some(Exception::gp(0)));
        check_eq!(cpu.run(&jump32(CODE32, 0x4fff)), Ok(()));
        check_eq!((cpu.rip(), cpu.segment(Seg::Cs).limit), (0x4fff, 0x4fff));
    }

    fn real_mode() {
        let mut cpu = TestCpu::real();
        // lcall $0x123, $0x456
        check_eq!(cpu.run(&[0x9a, 0x56, 0x04, 0x23, 0x01]), Ok(()));
        check_eq!((cpu.rip(), cpu.segment(Seg::Cs).base), (0x456, 0x1230));
        check_eq!(read32(&cpu, TestCpu::STACK - 4), 0x0000_1005);
        // lret
        cpu.set_segment(Seg::Cs, super::segment::real_mode(&*cpu, Seg::Cs, 0));
        check_eq!(cpu.run(&[0xcb]), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu)), (0x1005, TestCpu::STACK));
    }
}
