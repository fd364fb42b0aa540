//! Tests of breakpoints and debug registers.

use selftest::{check, check_eq};

use super::debug::{self, Kind, dr6, matches};
use super::test_tables::{USER_CODE64, long, raises, to_user};
use crate::exception::Exception;
use crate::regs::{Regs, cr4, gpr, rflags};

/// DR7 with breakpoint `n` enabled locally.
fn breakpoint(n: u64, condition: u64, length: u64) -> u64 {
    1 << (2 * n) | condition << (16 + 4 * n) | length << (18 + 4 * n)
}

selftest::cases! {
    fn data_breakpoints_cover_their_length() {
        let at = [0x1000, 0x2003, 0x3000, u64::MAX];
        for (length, covered) in [(0, 1), (1, 2), (3, 4), (2, 8)] {
            let dr7 = breakpoint(0, 1, length);
            for (address, size) in [(0xfff, 1), (0xfff, 2), (0xffe, 1), (0x1000, 1), (0x1007, 1)] {
                let overlaps = address < 0x1000 + covered && address + size > 0x1000;
                let found = matches(&at, dr7, address, size, Kind::Write);
                check_eq!(found, overlaps.then_some(1), "{length} {address:x} {size}");
            }
        }
        // Aligned to its length; several at once; the end of the address space.
        let dr7 = breakpoint(1, 3, 3) | breakpoint(2, 1, 0) | breakpoint(3, 3, 0);
        check_eq!(matches(&at, dr7, 0x2000, 1, Kind::Read), Some(2));
        check_eq!(matches(&at, dr7, 0x2004, 4, Kind::Read), None);
        check_eq!(matches(&at, dr7, 0x2000, 0x1001, Kind::Write), Some(6));
        check_eq!(matches(&at, dr7, u64::MAX - 1, 2, Kind::Write), Some(8));
        check_eq!(matches(&at, dr7, 0, 8, Kind::Write), None);
    }

    fn conditions() {
        let at = [0x1000; 4];
        for (condition, kinds) in [
            (0, &[Kind::Execute][..]),
            (1, &[Kind::Write]),
            (2, &[Kind::Port]),
            (3, &[Kind::Write, Kind::Read]),
        ] {
            for kind in [Kind::Execute, Kind::Write, Kind::Read, Kind::Port] {
                let found = matches(&at, breakpoint(2, condition, 0), 0x1000, 1, kind);
                check_eq!(found, kinds.contains(&kind).then_some(4), "{condition} {kind:?}");
            }
        }
        check_eq!(matches(&at, 0x000f_0000, 0x1000, 1, Kind::Write), None, "not enabled");
        check!(debug::armed(2) && !debug::armed(0xffff_0400));
        check!(debug::armed_for_execution(1) && !debug::armed_for_execution(0x0001_0001));
    }

    fn instruction_breakpoints_and_rf() {
        let mut cpu = long();
        cpu.set_dr(3, 0x5000);
        cpu.set_dr(7, breakpoint(3, 0, 0));
        check_eq!(debug::instruction(&*cpu, 0x5000), Some(Exception::db(8)));
        check_eq!(debug::instruction(&*cpu, 0x5001), None);
        check_eq!(debug::data(&*cpu, 0x5000, 1, true), None);
        cpu.set_rflags(rflags::FIXED | rflags::RF);
        check_eq!(debug::instruction(&*cpu, 0x5000), None);
        check_eq!(debug::trap(0, false), None);
        check_eq!(debug::trap(3, true), Some(Exception::db(dr6::BS | 3)));
    }

    fn moves() {
        // mov %rax, %dr7; mov %dr6, %rbx; mov %rax, %dr4
        let (to_dr7, from_dr6, to_dr4) = ([0x0f, 0x23, 0xf8], [0x0f, 0x21, 0xf3], [0x0f, 0x23, 0xe0]);
        let mut cpu = long();
        cpu.set_gpr(gpr::RAX, 0xffff_dfff);
        check_eq!(cpu.run(&to_dr7), Ok(()));
        check_eq!(cpu.dr(7), 0xffff_07ff);
        check_eq!(cpu.run(&to_dr4), Ok(()));
        check_eq!(cpu.dr(6), 0xffff_cfff & (dr6::WRITABLE | dr6::FIXED));
        check_eq!(cpu.run(&from_dr6), Ok(()));
        check_eq!(cpu.gpr(gpr::RBX), cpu.dr(6));
        cpu.set_gpr(gpr::RAX, 1 << 32);
        check_eq!(raises(&mut cpu, &to_dr7), Some(Exception::gp(0)));
        cpu.state.cr4 |= cr4::DE;
        check_eq!(raises(&mut cpu, &to_dr4), Some(Exception::ud()));
        cpu.set_dr(7, 0x2400);
        check_eq!(raises(&mut cpu, &from_dr6), Some(Exception::db(dr6::BD)));
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &from_dr6), Some(Exception::gp(0)));
    }
}
