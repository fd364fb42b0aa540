//! Tests of loads of segment registers, and of LAR, LSL, VERR, VERW, ARPL.

use selftest::{check, check_eq};

use super::test_tables::{
    ABSENT_DATA, CODE32, CODE64, CONFORMING64, DATA, GDT, LOCAL_TABLE, OUTSIDE, READ_ONLY, TASK,
    USER_CODE64, USER_DATA, long, protected, raises, read, rsp, selector, to_user, write,
};
use crate::emulate::test_cpu::TestCpu;
use crate::exception::{Exception, NP};
use crate::regs::{Attr, Regs, Seg, Segment, gpr, rflags};

/// `mov %eax, %ds` and `mov %eax, %ss`.
const TO_DS: [u8; 2] = [0x8e, 0xd8];
const TO_SS: [u8; 2] = [0x8e, 0xd0];

fn gp(selector: u16) -> Exception {
    Exception::gp(u32::from(selector) & !3)
}

selftest::cases! {
    fn data_segments() {
        for (cpl, selector, expected) in [
            (0, DATA, None),
            (0, DATA | 1, Some(gp(DATA))),
            (0, USER_DATA, None),
            (3, USER_DATA, None),
            (3, DATA, Some(gp(DATA))),
            (3, CONFORMING64, None),
            (0, READ_ONLY, None),
            (0, CODE64, None),
            (0, 0, None),
            (3, 3, None),
            (0, TASK, Some(gp(TASK))),
            (0, OUTSIDE, Some(gp(OUTSIDE))),
            (0, 0x0c, Some(gp(0x0c))),
            (0, ABSENT_DATA, Some(Exception::with_error(NP, ABSENT_DATA.into()))),
        ] {
            let mut cpu = long();
            if cpl == 3 {
                to_user(&mut cpu, USER_CODE64);
            }
            cpu.state.gprs[0] = u64::from(selector) | 0xabcd_0000;
            match expected {
                Some(exception) => check_eq!(raises(&mut cpu, &TO_DS), Some(exception)),
                None => {
                    check_eq!(cpu.run(&TO_DS), Ok(()), "{selector:x}");
                    let ds = cpu.segment(Seg::Ds);
                    check_eq!((ds.selector, ds.attr.has(Attr::P)), (selector, selector > 3));
                }
            }
        }
    }

    fn stack_segments() {
        for (cpl, selector, expected) in [
            (0, DATA, None),
            (0, 0, None),
            (0, 1, Some(gp(0))),
            (3, 3, Some(gp(0))),
            (0, USER_DATA, Some(gp(USER_DATA))),
            (3, USER_DATA, None),
            (3, USER_DATA & !3, Some(gp(USER_DATA))),
            (0, READ_ONLY, Some(gp(READ_ONLY))),
            (0, CODE64, Some(gp(CODE64))),
            (0, ABSENT_DATA, Some(Exception::ss(ABSENT_DATA.into()))),
        ] {
            let mut cpu = long();
            if cpl == 3 {
                to_user(&mut cpu, USER_CODE64);
            }
            cpu.state.gprs[0] = selector.into();
            match expected {
                Some(exception) => check_eq!(raises(&mut cpu, &TO_SS), Some(exception)),
                None => check_eq!(cpu.run(&TO_SS), Ok(()), "{selector:x}"),
            }
        }
        // Outside 64-bit mode a null SS is never allowed.
        check_eq!(raises(&mut protected(), &TO_SS), Some(gp(0)));
    }

    fn the_hidden_part_comes_from_the_descriptor() {
        let mut cpu = protected();
        write(&mut cpu, GDT + u64::from(DATA), 0x1240_9234_5678_1fff);
        cpu.state.gprs[0] = DATA.into();
        check_eq!(cpu.run(&TO_DS), Ok(()));
        let ds = cpu.segment(Seg::Ds);
        check_eq!((ds.base, ds.limit, ds.attr), (0x1234_5678, 0x1fff, Attr(0x493)));
        check_eq!(read(&cpu, GDT + u64::from(DATA)), 0x1240_9334_5678_1fff, "accessed");
        // The accessed bit of a read-only table faults, before anything changes.
        write(&mut cpu, GDT + u64::from(DATA), 0x00c0_9200_0000_ffff);
        cpu.read_only = GDT..GDT + 0x100;
        check_eq!(raises(&mut cpu, &TO_DS).map(|e| e.vector), Some(14));
        write(&mut cpu, GDT + u64::from(DATA), 0x00c0_9300_0000_ffff);
        check_eq!(cpu.run(&TO_DS), Ok(()));
        check_eq!(cpu.segment(Seg::Ds).limit, 0x0fff_ffff);
    }

    fn the_local_table() {
        let mut cpu = long();
        cpu.state.gprs[0] = 0x0c;
        check_eq!(raises(&mut cpu, &TO_DS), Some(gp(0x0c)));
        // lldt %cx
        cpu.state.gprs[1] = LOCAL_TABLE.into();
        check_eq!(cpu.run(&[0x0f, 0x00, 0xd1]), Ok(()));
        write(&mut cpu, 0x2808, 0x00cf_9300_0000_ffff);
        check_eq!(cpu.run(&TO_DS), Ok(()));
        check_eq!(selector(&cpu, Seg::Ds), 0x0c);
    }

    fn real_mode_keeps_limits() {
        let mut cpu = TestCpu::real();
        cpu.state.segments[Seg::Ds as usize].limit = u32::MAX;
        cpu.state.gprs[0] = 0x1234;
        check_eq!(cpu.run(&TO_DS), Ok(()));
        let ds = cpu.segment(Seg::Ds);
        check_eq!((ds.selector, ds.base, ds.limit), (0x1234, 0x1_2340, u32::MAX));
    }

    fn moves_from_and_stack() {
        let mut cpu = long();
        cpu.state.gprs[0] = u64::MAX;
        // mov %ds, %ax; mov %ds, %eax; mov %ds, (%rbx)
        check_eq!(cpu.run(&[0x66, 0x8c, 0xd8]), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), 0xffff_ffff_ffff_0010);
        check_eq!(cpu.run(&[0x8c, 0xd8]), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), DATA.into());
        cpu.state.gprs[3] = 0x6000;
        write(&mut cpu, 0x6000, u64::MAX);
        check_eq!(cpu.run(&[0x8c, 0x1b]), Ok(()));
        check_eq!(read(&cpu, 0x6000), 0xffff_ffff_ffff_0010);
        // push %fs; pop %gs
        cpu.state.segments[Seg::Fs as usize].selector = USER_DATA;
        check_eq!(cpu.run(&[0x0f, 0xa0, 0x0f, 0xa9]), Ok(()));
        check_eq!((selector(&cpu, Seg::Gs), rsp(&cpu)), (USER_DATA, TestCpu::STACK));
        // A load of CS does not exist.
        check_eq!(raises(&mut cpu, &[0x8e, 0xc8]), Some(Exception::ud()));
        // lss (%ebx), %esp
        let mut cpu = protected();
        write(&mut cpu, 0x6000, u64::from(DATA) << 32 | 0x7654);
        cpu.state.gprs[3] = 0x6000;
        check_eq!(cpu.run(&[0x0f, 0xb2, 0x23]), Ok(()));
        check_eq!((rsp(&cpu), selector(&cpu, Seg::Ss)), (0x7654, DATA));
    }

    fn the_selector_of_a_far_pointer_wraps_at_4_gib() {
        // LFS EAX, GS:[EBX]: four bytes of offset before 4 GiB, and the selector at GS's base.
        let mut cpu = long();
        let base = 0x5000_u64.wrapping_sub(0xffff_fffc);
        let gs = cpu.segment(Seg::Gs);
        cpu.set_segment(Seg::Gs, Segment { base, ..gs });
        cpu.state.gprs[3] = 0xffff_fffc;
        let code = [0x65, 0x67, 0x0f, 0xb4, 0x03];
        check_eq!(raises(&mut cpu, &code), Some(Exception::pf(base, 0)));
        cpu.state.gprs[3] -= 2;
        check_eq!(cpu.run(&code), Ok(()), "both before it");
    }

    fn questions_about_selectors() {
        let ask = |cpl: u8, code: &[u8], selector: u16| {
            let mut cpu = long();
            if cpl == 3 {
                to_user(&mut cpu, USER_CODE64);
            }
            cpu.state.gprs[1] = selector.into();
            cpu.state.gprs[0] = 0x5555;
            let done = cpu.run(code).is_ok();
            (done, cpu.rflags() & rflags::ZF != 0, cpu.gpr(gpr::RAX))
        };
        // lar %ecx, %eax; lsl %ecx, %eax
        let (lar, lsl) = ([0x0f, 0x02, 0xc1], [0x0f, 0x03, 0xc1]);
        check_eq!(ask(0, &lar, DATA), (true, true, 0x00cf_9300));
        check_eq!(ask(0, &lsl, DATA), (true, true, 0xffff_ffff));
        check_eq!(ask(0, &lar, TASK), (true, true, 0x8900));
        check_eq!(ask(0, &lsl, TASK), (true, true, 0xfff));
        check_eq!(ask(3, &lar, DATA), (true, false, 0x5555));
        check_eq!(ask(3, &lar, CONFORMING64).1, true);
        check_eq!(ask(0, &lsl, OUTSIDE), (true, false, 0x5555));
        check_eq!(ask(0, &lar, 0), (true, false, 0x5555));
        // verr %cx; verw %cx
        let (verr, verw) = ([0x0f, 0x00, 0xe1], [0x0f, 0x00, 0xe9]);
        check!(ask(0, &verr, READ_ONLY).1 && !ask(0, &verw, READ_ONLY).1);
        check!(ask(0, &verr, CODE32).1 && ask(0, &verw, DATA).1 && !ask(3, &verw, DATA).1);
        check!(!ask(0, &verr, TASK).1);
        check_eq!(raises(&mut TestCpu::real(), &verr), Some(Exception::ud()));
        // arpl %cx, %ax
        let mut cpu = protected();
        (cpu.state.gprs[0], cpu.state.gprs[1]) = (0x20, 0x3);
        check_eq!(cpu.run(&[0x63, 0xc8]), Ok(()));
        check_eq!((cpu.gpr(gpr::RAX), cpu.rflags() & rflags::ZF), (0x23, rflags::ZF));
    }
}
