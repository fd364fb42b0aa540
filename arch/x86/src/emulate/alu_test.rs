//! Tests of arithmetic and logic: results, flags, operand forms and faults.

use alloc::boxed::Box;

use selftest::{check, check_eq};

use super::Stop;
use super::test_cpu::TestCpu;
use crate::exception::{Exception, page_fault};
use crate::regs::Regs;
use crate::regs::gpr::{RAX, RBX, RCX, RSI};
use crate::regs::rflags::{self, AF, CF, OF, PF, SF, ZF};

/// RAX and the arithmetic flags after `code`, from RAX `a`, RBX `b` and `flags`.
fn after(code: &[u8], a: u64, b: u64, flags: u64) -> (u64, u64) {
    let mut cpu = TestCpu::long();
    cpu.set_gpr(RAX, a);
    cpu.set_gpr(RBX, b);
    cpu.set_rflags(rflags::FIXED | flags);
    if cpu.run(code).is_err() {
        return (u64::MAX, u64::MAX);
    }
    (cpu.gpr(RAX), cpu.status().bits())
}

/// A processor with RSI at 0x4000 and `value` there.
fn with_memory(value: u64) -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    cpu.set_gpr(RSI, 0x4000);
    cpu.memory[0x4000..0x4008].copy_from_slice(&value.to_le_bytes());
    cpu
}

fn word(cpu: &TestCpu) -> u64 {
    cpu.memory[0x4000..0x4008].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

selftest::cases! {
    fn sizes_leave_the_rest_of_the_register_as_they_should() {
        let (a, b) = (0x1111_2222_3333_44ff, 0x9999_8888_7777_0001);
        check_eq!(after(&[0x00, 0xd8], a, b, 0), (0x1111_2222_3333_4400, CF | ZF | AF | PF));
        check_eq!(after(&[0x66, 0x01, 0xd8], a, b, 0), (0x1111_2222_3333_4500, AF | PF));
        check_eq!(after(&[0x01, 0xd8], a, b, 0), (0xaaaa_4500, SF | OF | AF | PF));
        check_eq!(after(&[0x48, 0x01, 0xd8], a, b, 0), (0xaaaa_aaaa_aaaa_4500, SF | AF | PF));
        // ADD AH, BL and ADD AL, BH.
        check_eq!(after(&[0x00, 0xdc], a, b, 0), (0x1111_2222_3333_45ff, 0));
        check_eq!(after(&[0x00, 0xf8], a, 0x200, 0).0, 0x1111_2222_3333_4401);
    }

    fn carries_go_in_and_come_out() {
        // ADC and SBB RAX, RBX.
        check_eq!(after(&[0x48, 0x11, 0xd8], u64::MAX, 0, CF), (0, CF | ZF | AF | PF));
        check_eq!(after(&[0x48, 0x11, 0xd8], u64::MAX, u64::MAX, CF).0, u64::MAX);
        check_eq!(after(&[0x48, 0x19, 0xd8], 0, u64::MAX, CF), (0, CF | ZF | AF | PF));
        check_eq!(after(&[0x48, 0x19, 0xd8], 5, 4, CF), (0, ZF | PF));
        // ADCX uses CF only, ADOX OF only.
        check_eq!(
            after(&[0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3], u64::MAX, 0, CF | OF | SF),
            (0, CF | OF | SF)
        );
        check_eq!(
            after(&[0xf3, 0x48, 0x0f, 0x38, 0xf6, 0xc3], u64::MAX, 0, OF | SF),
            (0, OF | SF)
        );
        check_eq!(after(&[0xf3, 0x48, 0x0f, 0x38, 0xf6, 0xc3], 1, 2, OF | CF), (4, CF));
    }

    fn increments_keep_the_carry() {
        check_eq!(after(&[0xfe, 0xc0], 0x7f, 0, CF), (0x80, CF | OF | SF | AF));
        check_eq!(after(&[0x48, 0xff, 0xc8], 0, 0, 0), (u64::MAX, SF | AF | PF));
        check_eq!(after(&[0x48, 0xff, 0xc8], 1 << 63, 0, CF).1, CF | OF | AF | PF);
        check_eq!(after(&[0x48, 0xf7, 0xd8], 1, 0, 0), (u64::MAX, CF | SF | AF | PF));
        check_eq!(after(&[0x48, 0xf7, 0xd8], 0, 0, CF), (0, ZF | PF));
        check_eq!(after(&[0xf7, 0xd0], 0, 0, CF | SF), (0xffff_ffff, CF | SF));
    }

    fn logic_clears_carry_and_overflow() {
        check_eq!(after(&[0x48, 0x21, 0xd8], 0xf0, 0x0f, CF | OF), (0, ZF | PF));
        check_eq!(after(&[0x48, 0x09, 0xd8], 1 << 63, 1, CF), ((1 << 63) | 1, SF));
        check_eq!(after(&[0x31, 0xc0], u64::MAX, 0, CF), (0, ZF | PF));
        // CMP and TEST write flags only; the immediate is sign-extended.
        check_eq!(after(&[0x48, 0x83, 0xf8, 0xff], 0, 0, 0), (0, CF | AF));
        check_eq!(after(&[0xa8, 0x81], 0x80, 0, CF), (0x80, SF));
    }

    fn memory_is_changed_in_place() {
        let mut cpu = with_memory(5);
        cpu.set_gpr(RAX, 7);
        // ADD [RSI], RAX; LOCK SUB DWORD [RSI], 2; LOCK INC BYTE [RSI]; XOR RCX, [RSI].
        let code = [
            0x48, 0x01, 0x06, 0xf0, 0x83, 0x2e, 0x02, 0xf0, 0xfe, 0x06, 0x48, 0x33, 0x0e,
        ];
        check_eq!(cpu.run(&code), Ok(()));
        check_eq!(word(&cpu), 11);
        check_eq!(cpu.gpr(RCX), 11);
    }

    fn a_fault_changes_nothing() {
        let mut cpu = with_memory(5);
        cpu.read_only = 0x4000..0x5000;
        cpu.set_gpr(RAX, 7);
        cpu.set_rflags(rflags::FIXED | CF);
        check_eq!(cpu.run(&[0x48, 0x11, 0x06]), Err(Stop::Fault));
        let error = page_fault::WRITE | page_fault::PRESENT;
        check_eq!(cpu.exception, Some(Exception::pf(0x4000, error)));
        check_eq!(cpu.status().bits(), CF);
        check_eq!(cpu.rip(), TestCpu::CODE);
        // TEST only reads.
        check_eq!(cpu.run(&[0x48, 0x85, 0x06]), Ok(()));
    }

    fn lock_needs_memory() {
        for code in [&[0xf0, 0x01, 0xd8][..], &[0xf0, 0x3b, 0x06], &[0xf0, 0x85, 0x06]] {
            let mut cpu = with_memory(0);
            check_eq!(cpu.run(code), Err(Stop::Fault));
            check_eq!(cpu.exception, Some(Exception::ud()));
        }
    }

    fn extensions_can_be_off() {
        let mut cpu = TestCpu::long();
        cpu.features = crate::engine::Features::default();
        check!(cpu.run(&[0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3]).is_err());
        check_eq!(cpu.exception, Some(Exception::ud()));
    }
}
