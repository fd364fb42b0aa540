//! Tests of the descriptor-table registers.

use selftest::{check, check_eq};

use super::test_tables::{
    CODE64, GDT, LOCAL_TABLE, OUTSIDE, TASK, USER_CODE64, long, protected, raises, read, to_user,
    write, write_all,
};
use crate::emulate::test_cpu::TestCpu;
use crate::exception::{Exception, NP};
use crate::regs::{Attr, Regs, Seg, Segment, Table, cr4, gpr};

/// On (%rbx).
const LGDT: [u8; 3] = [0x0f, 0x01, 0x13];
const LIDT: [u8; 3] = [0x0f, 0x01, 0x1b];
const SGDT: [u8; 3] = [0x0f, 0x01, 0x03];
const SIDT: [u8; 3] = [0x0f, 0x01, 0x0b];
/// On %ax.
const LTR: [u8; 3] = [0x0f, 0x00, 0xd8];
const LLDT: [u8; 3] = [0x0f, 0x00, 0xd0];
const SLDT: [u8; 3] = [0x0f, 0x00, 0xc0];
const STR: [u8; 3] = [0x0f, 0x00, 0xc8];

selftest::cases! {
    fn loads_and_stores() {
        let base = 0xffff_8765_4321_0000;
        let mut cpu = long();
        cpu.state.gprs[3] = 0x6000;
        write_all(&mut cpu, 0x6000, &[base << 16 | 0x7f, base >> 48]);
        check_eq!(cpu.run(&LGDT), Ok(()));
        check_eq!(cpu.run(&LIDT), Ok(()));
        check_eq!((cpu.gdtr(), cpu.idtr()), (Table { base, limit: 0x7f }, cpu.gdtr()));
        cpu.state.gprs[3] = 0x6100;
        check_eq!(cpu.run(&SGDT), Ok(()));
        check_eq!((read(&cpu, 0x6100), read(&cpu, 0x6108)), (base << 16 | 0x7f, base >> 48));
        write(&mut cpu, 0x6002, 0x8000_0000_0000);
        cpu.state.gprs[3] = 0x6000;
        check_eq!(raises(&mut cpu, &LIDT), Some(Exception::gp(0)));
        // With 16-bit operands the base has 24 bits.
        let mut cpu = protected();
        cpu.state.gprs[3] = 0x6000;
        write(&mut cpu, 0x6000, 0x8765_4321_ffff);
        check_eq!(cpu.run(&LGDT), Ok(()));
        check_eq!(cpu.gdtr(), Table { base: 0x8765_4321, limit: 0xffff });
        check_eq!(cpu.run(&[0x66, 0x0f, 0x01, 0x13]), Ok(()));
        check_eq!(cpu.gdtr().base, 0x65_4321);
    }

    fn operands_on_the_stack_raise_its_fault() {
        // LGDT, SIDT, INVPCID, LFS and far JMP with an operand at RBP, which is no address.
        for code in [
            &[0x0f, 0x01, 0x55, 0x00][..],
            &[0x0f, 0x01, 0x4d, 0x00],
            &[0x66, 0x0f, 0x38, 0x82, 0x45, 0x00],
            &[0x0f, 0xb4, 0x45, 0x00],
            &[0xff, 0x6d, 0x00],
        ] {
            let mut cpu = long();
            cpu.state.gprs[5] = 1 << 47;
            check_eq!(raises(&mut cpu, code), Some(Exception::ss(0)), "{code:x?}");
        }
    }

    fn task_register() {
        let mut cpu = long();
        cpu.state.segments[Seg::Tr as usize] = Segment::default();
        write(&mut cpu, GDT + u64::from(TASK) + 8, 0xffff_8000);
        cpu.state.gprs[0] = TASK.into();
        check_eq!(cpu.run(&LTR), Ok(()));
        let tr = cpu.segment(Seg::Tr);
        check_eq!((tr.base, tr.limit, tr.attr), (0xffff_8000_0000_3000, 0xfff, Attr(0x8b)));
        check_eq!(read(&cpu, GDT + u64::from(TASK)), 0x0000_8b00_3000_0fff, "busy");
        check_eq!(raises(&mut cpu, &LTR), Some(Exception::gp(TASK.into())), "because it is busy");
        check_eq!(cpu.run(&STR), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), TASK.into());
        for (selector, expected) in [
            (0, Exception::gp(0)),
            (CODE64, Exception::gp(CODE64.into())),
            (OUTSIDE, Exception::gp(OUTSIDE.into())),
            (TASK | 4, Exception::gp((TASK | 4).into())),
            (LOCAL_TABLE, Exception::gp(LOCAL_TABLE.into())),
        ] {
            cpu.state.gprs[0] = selector.into();
            check_eq!(raises(&mut cpu, &LTR), Some(expected));
        }
        cpu.state.gprs[0] = TASK.into();
        write(&mut cpu, GDT + u64::from(TASK), 0x0000_0900_3000_0fff);
        check_eq!(raises(&mut cpu, &LTR), Some(Exception::with_error(NP, TASK.into())));
    }

    fn local_table_register() {
        let mut cpu = long();
        cpu.state.gprs[0] = LOCAL_TABLE.into();
        check_eq!(cpu.run(&LLDT), Ok(()));
        let ldtr = cpu.segment(Seg::Ldtr);
        check_eq!((ldtr.base, ldtr.limit, ldtr.selector), (0x2800, 0xff, LOCAL_TABLE));
        check_eq!(cpu.run(&SLDT), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), LOCAL_TABLE.into());
        cpu.state.gprs[0] = 0;
        check_eq!(cpu.run(&LLDT), Ok(()));
        check!(!cpu.segment(Seg::Ldtr).attr.has(Attr::P));
        cpu.state.gprs[0] = TASK.into();
        check_eq!(raises(&mut cpu, &LLDT), Some(Exception::gp(TASK.into())));
    }

    fn levels_and_modes() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        cpu.state.gprs[3] = 0x6000;
        for code in [&LGDT[..], &LIDT, &LTR, &LLDT] {
            check_eq!(raises(&mut cpu, code), Some(Exception::gp(0)));
        }
        for code in [&SGDT[..], &SIDT, &STR, &SLDT] {
            check_eq!(cpu.run(code), Ok(()));
        }
        cpu.state.cr4 |= cr4::UMIP;
        for code in [&SGDT[..], &SIDT, &STR, &SLDT, &[0x0f, 0x01, 0xe0]] {
            check_eq!(raises(&mut cpu, code), Some(Exception::gp(0)));
        }
        let mut cpu = TestCpu::real();
        for code in [&LTR[..], &LLDT, &STR, &SLDT] {
            check_eq!(raises(&mut cpu, code), Some(Exception::ud()));
        }
    }
}
