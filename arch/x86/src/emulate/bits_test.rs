//! Tests of bit instructions.

use selftest::{check, check_eq};

use super::test_cpu::TestCpu;
use crate::engine::Features;
use crate::exception::Exception;
use crate::regs::Regs;
use crate::regs::gpr::{RAX, RBX, RSI};
use crate::regs::rflags::{self, CF, ZF};

/// RAX, CF and ZF after `code` from RAX and RBX.
fn after(code: &[u8], a: u64, b: u64) -> (u64, u64) {
    let mut cpu = TestCpu::long();
    cpu.set_gpr(RAX, a);
    cpu.set_gpr(RBX, b);
    if cpu.run(code).is_err() {
        return (u64::MAX, u64::MAX);
    }
    (cpu.gpr(RAX), cpu.status().bits() & (CF | ZF))
}

selftest::cases! {
    fn bit_numbers_wrap_in_registers() {
        check_eq!(after(&[0x48, 0x0f, 0xa3, 0xd8], 1 << 40, 104).1, CF);
        check_eq!(after(&[0x0f, 0xab, 0xd8], 0, 33), (2, 0));
        check_eq!(after(&[0x0f, 0xb3, 0xd8], 2, 33), (0, CF));
        check_eq!(after(&[0x48, 0x0f, 0xba, 0xf8, 63], 0, 0), (1 << 63, 0));
    }

    fn bit_numbers_reach_far_in_memory() {
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RSI, 0x4000);
        cpu.set_gpr(RAX, -9i64 as u64);
        // LOCK BTS [RSI], RAX: bit 55 of the quadword below.
        check_eq!(cpu.run(&[0xf0, 0x48, 0x0f, 0xab, 0x06]), Ok(()));
        check_eq!(cpu.memory[0x3ffe], 0x80);
        // BT DWORD [RSI], EAX.
        check_eq!(cpu.run(&[0x0f, 0xa3, 0x06]), Ok(()));
        check!(cpu.status().cf());
        cpu.set_gpr(RAX, 0x1_0003);
        // BTC WORD [RSI], AX has a 16-bit number.
        check_eq!(cpu.run(&[0x66, 0x0f, 0xbb, 0x06]), Ok(()));
        check_eq!(cpu.memory[0x4000], 8);
        // BTR BYTE 4 of [RSI] by immediate.
        check_eq!(cpu.run(&[0x48, 0x0f, 0xba, 0x36, 67]), Ok(()));
        check_eq!(cpu.memory[0x4000], 0);
    }

    fn scans() {
        check_eq!(after(&[0x48, 0x0f, 0xbc, 0xc3], 5, 0x100), (8, 0));
        check_eq!(after(&[0x48, 0x0f, 0xbd, 0xc3], 5, 0x100), (8, 0));
        // A source of zero leaves even the upper half alone.
        check_eq!(after(&[0x0f, 0xbc, 0xc3], u64::MAX, 1 << 32), (u64::MAX, ZF));
        check_eq!(after(&[0xf3, 0x48, 0x0f, 0xbc, 0xc3], 5, 0), (64, CF));
        check_eq!(after(&[0xf3, 0x0f, 0xbd, 0xc3], 5, 1 << 31), (0, ZF));
        check_eq!(after(&[0xf3, 0x0f, 0xbd, 0xc3], 5, 1 << 32), (32, CF));
        check_eq!(after(&[0xf3, 0x48, 0x0f, 0xb8, 0xc3], 5, u64::MAX), (64, 0));
        check_eq!(after(&[0xf3, 0x48, 0x0f, 0xb8, 0xc3], 5, 0), (0, ZF));
    }

    fn counts_are_scans_where_they_are_not_offered() {
        let mut cpu = TestCpu::long();
        cpu.features = Features::default();
        cpu.set_gpr(RBX, 0x100);
        check_eq!(cpu.run(&[0xf3, 0x48, 0x0f, 0xbd, 0xc3]), Ok(()));
        check_eq!(cpu.gpr(RAX), 8);
        check!(cpu.run(&[0xf3, 0x48, 0x0f, 0xb8, 0xc3]).is_err());
        check_eq!(cpu.exception, Some(Exception::ud()));
    }

    fn fields() {
        // ANDN RAX, RAX, RBX; BEXTR RAX, RBX, RAX; BZHI RAX, RBX, RAX; BLSI, BLSR, BLSMSK RAX, RBX.
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf2, 0xc3], 0xf0, 0xff), (0x0f, 0));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf7, 0xc3], 0x0804, 0xabcd), (0xbc, 0));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf7, 0xc3], 0xff40, 0xabcd), (0, ZF));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf5, 0xc3], 8, 0xabcd), (0xcd, 0));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf5, 0xc3], 64, 0xabcd), (0xabcd, CF));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf3, 0xdb], 0, 0x18), (8, CF));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf3, 0xcb], 0, 0x18), (0x10, 0));
        check_eq!(after(&[0xc4, 0xe2, 0xf8, 0xf3, 0xd3], 0, 0x18), (0x0f, 0));
        // PDEP, PEXT RAX, RAX, RBX.
        check_eq!(after(&[0xc4, 0xe2, 0xfb, 0xf5, 0xc3], 0b101, 0xf0f0).0, 0x50);
        check_eq!(after(&[0xc4, 0xe2, 0xfa, 0xf5, 0xc3], 0xabcd, 0xf0f0).0, 0xac);
    }

    fn checksums() {
        // CRC32 of "123456789", a quadword and a byte, is the polynomial's well-known check value.
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RAX, 0xffff_ffff);
        cpu.set_gpr(RBX, u64::from_le_bytes(*b"12345678"));
        check_eq!(cpu.run(&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc3]), Ok(()));
        cpu.set_gpr(RBX, u64::from(b'9'));
        check_eq!(cpu.run(&[0xf2, 0x0f, 0x38, 0xf0, 0xc3]), Ok(()));
        check_eq!(!(cpu.gpr(RAX) as u32), 0xe306_9283);
        check_eq!(cpu.rflags(), rflags::FIXED);
    }
}
