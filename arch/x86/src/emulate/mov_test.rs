//! Tests of moves, conditions, exchanges and addresses.

use selftest::{check, check_eq};

use super::Stop;
use super::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::gpr::{R13, RAX, RBP, RBX, RCX, RDX, RSI, RSP};
use crate::regs::rflags::{self, CF, OF, SF, ZF};
use crate::regs::{Regs, Seg};

/// A processor with 0x88 and 0x77…11 at 0x4000, RSI there.
fn cpu() -> alloc::boxed::Box<TestCpu> {
    let mut cpu = TestCpu::long();
    cpu.memory[0x4000..0x4008].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    cpu.set_gpr(RSI, 0x4000);
    cpu.set_gpr(RAX, 0xaaaa_bbbb_cccc_dddd);
    cpu
}

/// RAX after `code`.
fn rax(code: &[u8]) -> Result<u64, Stop> {
    let mut cpu = cpu();
    cpu.run(code)?;
    Ok(cpu.gpr(RAX))
}

selftest::cases! {
    fn loads_and_extensions() {
        check_eq!(rax(&[0x8a, 0x06]), Ok(0xaaaa_bbbb_cccc_dd88));
        check_eq!(rax(&[0x8a, 0x26]), Ok(0xaaaa_bbbb_cccc_88dd));
        check_eq!(rax(&[0x66, 0x8b, 0x06]), Ok(0xaaaa_bbbb_cccc_7788));
        check_eq!(rax(&[0x8b, 0x06]), Ok(0x5566_7788));
        check_eq!(rax(&[0x48, 0x8b, 0x06]), Ok(0x1122_3344_5566_7788));
        check_eq!(rax(&[0x0f, 0xb6, 0x06]), Ok(0x88));
        check_eq!(rax(&[0x48, 0x0f, 0xbe, 0x06]), Ok(0xffff_ffff_ffff_ff88));
        check_eq!(rax(&[0x66, 0x0f, 0xbe, 0x06]), Ok(0xaaaa_bbbb_cccc_ff88));
        check_eq!(rax(&[0x48, 0x63, 0x46, 0x04]), Ok(0x1122_3344));
        check_eq!(rax(&[0x48, 0x0f, 0x38, 0xf0, 0x06]), Ok(0x8877_6655_4433_2211));
        check_eq!(rax(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 0xff]), Ok(0xff07_0605_0403_0201));
        check_eq!(rax(&[0x48, 0xc7, 0xc0, 0xfe, 0xff, 0xff, 0xff]), Ok(u64::MAX - 1));
        check_eq!(rax(&[0x48, 0xa1, 0x00, 0x40, 0, 0, 0, 0, 0, 0]), Ok(0x1122_3344_5566_7788));
        check_eq!(rax(&[0x48, 0x0f, 0xc8]), Ok(0xdddd_cccc_bbbb_aaaa));
        check_eq!(rax(&[0x48, 0x98]), Ok(0xffff_ffff_cccc_dddd));
        check_eq!(rax(&[0x98]), Ok(0xffff_dddd));
        check_eq!(rax(&[0x66, 0x98]), Ok(0xaaaa_bbbb_cccc_ffdd));
    }

    fn stores_write_their_size() {
        let mut cpu = cpu();
        // MOV [RSI], AX; MOV BYTE [RSI+4], 0x12; MOVNTI [RSI+8], EAX.
        check_eq!(cpu.run(&[0x66, 0x89, 0x06, 0xc6, 0x46, 4, 0x12, 0x0f, 0xc3, 0x46, 8]), Ok(()));
        check_eq!(cpu.memory[0x4000..0x400c], [0xdd, 0xdd, 0x66, 0x55, 0x12, 0x33, 0x22, 0x11, 0xdd, 0xdd, 0xcc, 0xcc]);
    }

    fn addresses() {
        let mut cpu = cpu();
        cpu.set_gpr(RBX, 0x10);
        cpu.set_gpr(R13, 0x1_0000_0000);
        // LEA RAX, [RSI+RBX*8-1]; LEA ECX, [RSI+R13+2]; LEA RDX, [ESI+R13D*2] (67).
        let code = [
            0x48, 0x8d, 0x44, 0xde, 0xff, 0x42, 0x8d, 0x4c, 0x2e, 0x02, 0x67, 0x4a, 0x8d, 0x14,
            0x6e,
        ];
        check_eq!(cpu.run(&code), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x407f);
        check_eq!(cpu.gpr(RCX), 0x4002);
        check_eq!(cpu.gpr(RDX), 0x4000);
        // LEA RAX, [RIP+0x100].
        check_eq!(cpu.run(&[0x48, 0x8d, 0x05, 0, 1, 0, 0]), Ok(()));
        check_eq!(cpu.gpr(RAX), TestCpu::CODE + 7 + 0x100);
        // MOV RAX, FS:[RBX] adds the base, DS's is ignored.
        cpu.state.segments[Seg::Fs as usize].base = 0x3ff0;
        cpu.state.segments[Seg::Ds as usize].base = 0x5555;
        check_eq!(cpu.run(&[0x64, 0x48, 0x8b, 0x03]), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x1122_3344_5566_7788);
    }

    fn bad_addresses_fault_by_segment() {
        let mut cpu = cpu();
        for (register, code, exception) in [
            (RSI, &[0x8b, 0x06][..], Exception::gp(0)),
            (RBP, &[0x8b, 0x45, 0x00], Exception::ss(0)),
            (RSP, &[0xff, 0x04, 0x24], Exception::ss(0)),
            (RSP, &[0x50], Exception::ss(0)),
            (RSP, &[0x58], Exception::ss(0)),
        ] {
            cpu.set_gpr(register, 0x8000_0000_0000_0000);
            check_eq!(cpu.run(code), Err(Stop::Fault));
            check_eq!(cpu.exception, Some(exception));
        }
        // A page fault through SS stays one.
        cpu.set_gpr(RBP, 0x20_0000);
        check_eq!(cpu.run(&[0x8b, 0x45, 0x00]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::pf(0x20_0000, 0)));
    }

    fn conditions() {
        // SETcc AL for each condition, and the flags that make it hold.
        let holds: [(u8, u64, u64); 8] = [
            (0, OF, ZF),
            (2, CF, OF),
            (4, ZF, CF),
            (6, ZF, SF),
            (8, SF, CF),
            (10, rflags::PF, ZF),
            (12, SF, SF | OF),
            (14, OF, 0),
        ];
        for (condition, yes, no) in holds {
            for (flags, value) in [(yes, 1), (no, 0)] {
                let mut cpu = cpu();
                cpu.set_rflags(rflags::FIXED | flags);
                check_eq!(cpu.run(&[0x0f, 0x90 + condition, 0xc0, 0x0f, 0x91 + condition, 0xc4]), Ok(()));
                check_eq!(cpu.gpr(RAX) & 0xffff, value | (1 - value) << 8, "condition {condition}");
            }
        }
        // CMOVE EAX, EBX clears the upper half without moving; and it reads memory anyway.
        check_eq!(rax(&[0x0f, 0x44, 0xc3]), Ok(0xcccc_dddd));
        check!(rax(&[0x48, 0x0f, 0x44, 0x04, 0x25, 0, 0, 0x20, 0]).is_err());
    }

    fn flag_instructions() {
        let mut cpu = cpu();
        cpu.set_gpr(RAX, 0xd500);
        cpu.set_rflags(rflags::FIXED | OF);
        // SAHF; CMC; LAHF; STD.
        check_eq!(cpu.run(&[0x9e, 0xf5, 0x9f, 0xfd]), Ok(()));
        check_eq!(cpu.gpr(RAX), 0xd600);
        check_eq!(cpu.rflags() & (OF | CF | rflags::DF), OF | rflags::DF);
        check_eq!(cpu.run(&[0xf9, 0xfc]), Ok(()));
        check_eq!(cpu.rflags() & (OF | CF | rflags::DF), OF | CF);
    }

    fn exchanges() {
        let mut cpu = cpu();
        cpu.set_gpr(RBX, 1);
        // XCHG [RSI], RBX; LOCK XADD [RSI], RBX; XADD EAX, EAX.
        check_eq!(cpu.run(&[0x48, 0x87, 0x1e, 0xf0, 0x48, 0x0f, 0xc1, 0x1e, 0x0f, 0xc1, 0xc0]), Ok(()));
        check_eq!(cpu.gpr(RBX), 1);
        check_eq!(cpu.memory[0x4000..0x4008], 0x1122_3344_5566_7789u64.to_le_bytes());
        check_eq!(cpu.gpr(RAX), 0x9999_bbba);
    }

    fn compare_and_exchange() {
        let mut cpu = cpu();
        cpu.set_gpr(RCX, 9);
        // LOCK CMPXCHG [RSI], RCX fails, then succeeds.
        let code = [0xf0, 0x48, 0x0f, 0xb1, 0x0e];
        check_eq!(cpu.run(&code), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x1122_3344_5566_7788);
        check!(!cpu.status().zf());
        check_eq!(cpu.run(&code), Ok(()));
        check!(cpu.status().zf());
        check_eq!(cpu.memory[0x4000], 9);
        // CMPXCHG8B [RSI] compares EDX:EAX with 9.
        cpu.set_gpr(RAX, 9);
        cpu.set_gpr(RBX, 0x1234);
        check_eq!(cpu.run(&[0x0f, 0xc7, 0x0e]), Ok(()));
        check_eq!(cpu.memory[0x4000..0x4008], 0x0000_0009_0000_1234u64.to_le_bytes());
        // CMPXCHG16B [RSI].
        check_eq!(cpu.run(&[0xf0, 0x48, 0x0f, 0xc7, 0x0e]), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x9_0000_1234);
        check_eq!(cpu.run(&[0xf0, 0x48, 0x0f, 0xc7, 0x4e, 0x08]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::gp(0)));
    }

    fn selectors_are_read() {
        let mut cpu = cpu();
        cpu.state.segments[Seg::Gs as usize].selector = 0x2b;
        // MOV EAX, GS; MOV [RSI], GS.
        check_eq!(cpu.run(&[0x8c, 0xe8, 0x8c, 0x2e]), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x2b);
        check_eq!(cpu.memory[0x4000..0x4003], [0x2b, 0, 0x66]);
    }

    fn translation() {
        let mut cpu = cpu();
        cpu.set_gpr(RBX, 0x4000 - 0xda);
        check_eq!(cpu.run(&[0xd7]), Ok(()));
        check_eq!(cpu.gpr(RAX), 0xaaaa_bbbb_cccc_dd55);
    }
}
