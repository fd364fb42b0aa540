//! Tests of shifts and rotations, multiplication and division.

use selftest::{check, check_eq};

use super::Stop;
use super::test_cpu::TestCpu;
use crate::exception::{DE, Exception};
use crate::regs::Regs;
use crate::regs::gpr::{RAX, RBX, RCX, RDX};
use crate::regs::rflags::{self, AF, CF, OF, PF, SF, ZF};

/// Flags that a shift defines.
const DEFINED: u64 = rflags::STATUS & !AF;

/// RAX and the flags but AF after `code`, from RAX `a`, RBX `b`, CL `count` and `flags`.
fn after(code: &[u8], a: u64, b: u64, count: u64, flags: u64) -> (u64, u64) {
    let mut cpu = TestCpu::long();
    cpu.set_gpr(RAX, a);
    cpu.set_gpr(RBX, b);
    cpu.set_gpr(RCX, count);
    cpu.set_rflags(rflags::FIXED | flags);
    if cpu.run(code).is_err() {
        return (u64::MAX, u64::MAX);
    }
    (cpu.gpr(RAX), cpu.status().bits() & DEFINED)
}

/// RAX and RDX after `code` from RAX, RDX and RBX, or the exception.
fn divided(code: &[u8], rax: u64, rdx: u64, rbx: u64) -> Result<(u64, u64), Option<Exception>> {
    let mut cpu = TestCpu::long();
    cpu.set_gpr(RAX, rax);
    cpu.set_gpr(RDX, rdx);
    cpu.set_gpr(RBX, rbx);
    match cpu.run(code) {
        Ok(()) => Ok((cpu.gpr(RAX), cpu.gpr(RDX))),
        Err(Stop::Fault) => Err(cpu.exception),
        Err(Stop::Intercept) => Err(None),
    }
}

selftest::cases! {
    fn shifts_by_cl() {
        let (shl, shr, sar) = ([0xd3, 0xe0], [0xd3, 0xe8], [0xd3, 0xf8]);
        check_eq!(after(&shl, 0x8000_0001, 0, 1, 0), (2, CF | OF));
        check_eq!(after(&shr, 0x8000_0001, 0, 1, 0), (0x4000_0000, CF | OF | PF));
        check_eq!(after(&sar, 0x8000_0001, 0, 1, 0), (0xc000_0000, CF | SF | PF));
        // The count is taken modulo 32, or 64.
        check_eq!(after(&shl, 1, 0, 33, 0).0, 2);
        check_eq!(after(&[0x48, 0xd3, 0xe0], 1, 0, 63, 0).0, 1 << 63);
        check_eq!(after(&[0x48, 0xd3, 0xf8], 1 << 63, 0, 63, 0), (u64::MAX, SF | PF));
        // A count of 0 keeps flags, but clears the upper half.
        check_eq!(after(&shl, u64::MAX, 0, 32, CF | ZF), (0xffff_ffff, CF | ZF));
        // Bytes are shifted out altogether.
        check_eq!(after(&[0xd2, 0xe0], 0xff, 0, 8, 0).0, 0);
        check_eq!(after(&[0xd2, 0xf8], 0x80, 0, 31, 0), (0xff, CF | SF | PF));
    }

    fn rotations_leave_the_other_flags() {
        check_eq!(after(&[0xd0, 0xc0], 0x81, 0, 0, SF | ZF), (0x03, SF | ZF | CF | OF));
        check_eq!(after(&[0xd0, 0xc8], 0x01, 0, 0, PF), (0x80, PF | CF | OF));
        check_eq!(after(&[0xd2, 0xc0], 0x81, 0, 8, 0), (0x81, CF));
        check_eq!(after(&[0xd0, 0xd0], 0x80, 0, 0, 0), (0x00, CF | OF));
        check_eq!(after(&[0xd0, 0xd8], 0x01, 0, 0, CF), (0x80, CF | OF));
        // Nine rotations through carry are none.
        check_eq!(after(&[0xd2, 0xd0], 0x5a, 0, 9, CF).0, 0x5a);
        check_eq!(after(&[0x48, 0xd3, 0xd8], 0, 0, 63, CF).0, 2);
        check_eq!(after(&[0x48, 0xd3, 0xd0], 1 << 63, 0, 63, 0).0, 1 << 61);
    }

    fn double_shifts() {
        check_eq!(after(&[0x48, 0x0f, 0xa4, 0xd8, 8], 0x11 << 56, 0xab << 56, 0, 0).0, 0xab);
        check_eq!(after(&[0x0f, 0xac, 0xd8, 8], 0x12, 0xab, 0, 0).0, 0xab00_0000);
        check_eq!(after(&[0x0f, 0xa5, 0xd8], u64::MAX, 0, 32, CF), (0xffff_ffff, CF));
        check_eq!(after(&[0x48, 0x0f, 0xad, 0xd8], 3, 1, 1, 0).0, (1 << 63) | 1);
    }

    fn flagless_shifts() {
        // SHLX, SARX, SHRX RAX, RBX, RCX; RORX RAX, RBX, 4.
        let all = CF | ZF | SF | OF | PF;
        check_eq!(after(&[0xc4, 0xe2, 0xf1, 0xf7, 0xc3], 0, 3, 65, all), (6, all));
        check_eq!(after(&[0xc4, 0xe2, 0xf2, 0xf7, 0xc3], 0, 1 << 63, 63, 0), (u64::MAX, 0));
        check_eq!(after(&[0xc4, 0xe2, 0xf3, 0xf7, 0xc3], 0, 1 << 63, 63, 0), (1, 0));
        check_eq!(after(&[0xc4, 0xe3, 0xfb, 0xf0, 0xc3, 4], 0, 0x12, 0, 0), ((2 << 60) | 1, 0));
    }

    fn products() {
        // MUL RBX, IMUL BL, IMUL RAX, RBX, IMUL EAX, EBX, -3.
        check_eq!(divided(&[0x48, 0xf7, 0xe3], u64::MAX, 0, 3), Ok((u64::MAX - 2, 2)));
        check_eq!(divided(&[0xf6, 0xeb], 0xff, 7, 0x80), Ok((0x80, 7)));
        let code = [0x48, 0x0f, 0xaf, 0xc3];
        check_eq!(after(&code, 3, u64::MAX, 0, 0).0, -3i64 as u64);
        check_eq!(after(&code, 1 << 62, 2, 0, 0).1 & (CF | OF), CF | OF);
        check_eq!(after(&[0x6b, 0xc3, 0xfd], 0, 5, 0, CF | OF), (-15i32 as u32 as u64, 0));
        // MULX RAX, RDX, RBX: RDX is read before it is written.
        check_eq!(
            divided(&[0xc4, 0xe2, 0xeb, 0xf6, 0xc3], 0, u64::MAX, 16),
            Ok((15, u64::MAX << 4))
        );
    }

    fn quotients() {
        check_eq!(divided(&[0x48, 0xf7, 0xf3], 7, 0, 2), Ok((3, 1)));
        check_eq!(divided(&[0x48, 0xf7, 0xf3], 0, 1, 2), Ok((1 << 63, 0)));
        check_eq!(divided(&[0x48, 0xf7, 0xfb], -7i64 as u64, u64::MAX, 2), Ok((-3i64 as u64, u64::MAX)));
        check_eq!(divided(&[0xf7, 0xfb], -7i32 as u32 as u64, 0xffff_ffff, 2), Ok((0xffff_fffd, 0xffff_ffff)));
        check_eq!(divided(&[0xf6, 0xf3], 0x0107, 9, 0x10), Ok((0x0710, 9)));
        check_eq!(divided(&[0x48, 0xf7, 0xfb], 0, 1, 1 << 32), Ok((1 << 32, 0)));
    }

    fn quotients_that_do_not_fit_fault() {
        let error = Err(Some(Exception::plain(DE)));
        check_eq!(divided(&[0x48, 0xf7, 0xf3], 7, 0, 0), error);
        check_eq!(divided(&[0x48, 0xf7, 0xf3], 7, 2, 2), error);
        check_eq!(divided(&[0x48, 0xf7, 0xfb], 1 << 63, u64::MAX, u64::MAX), error);
        check_eq!(divided(&[0x48, 0xf7, 0xfb], 0, 1 << 63, u64::MAX), error);
        check_eq!(divided(&[0xf7, 0xfb], 1 << 31, 0xffff_ffff, u64::MAX), error);
        check_eq!(divided(&[0xf6, 0xfb], 0x0080, 0, 1), error);
        check!(divided(&[0xf6, 0xfb], 0xff80, 0, 1).is_ok());
    }
}
