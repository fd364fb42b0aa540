//! Tests of near branches in 64-bit mode with an operand-size prefix, of AMD's processors and Intel's.
//!
//! Those of near branches without are in [`super::stack_test`].

use alloc::boxed::Box;

use selftest::check_eq;

use super::test_cpu::TestCpu;
use super::{Feature, Stop};
use crate::exception::Exception;
use crate::regs::Regs;
use crate::regs::gpr::{RAX, RCX, RSP};
use crate::regs::rflags::{self, ZF};

/// Where code of these tests lies: not where 16 bits reach.
const CODE: u64 = 0x1_2340;
const STACK: u64 = TestCpu::STACK;
/// No address.
const NOT_CANONICAL: u64 = 1 << 63;

fn vendor(amd: bool) -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    cpu.features = cpu.features.with(Feature::AmdEncodings, amd);
    cpu.memory.resize(0x2_0000, 0);
    cpu
}

/// The word, doubleword or quadword at `at`.
fn read<const N: usize>(cpu: &TestCpu, at: u64) -> u64 {
    let at = at as usize;
    cpu.memory[at..at + N].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Executes one instruction at [`CODE`], and gives RIP.
fn step(cpu: &mut TestCpu, code: &[u8]) -> Result<u64, Stop> {
    let start = CODE as usize;
    cpu.memory[start..start + 16].fill(0);
    cpu.memory[start..start + code.len()].copy_from_slice(code);
    cpu.set_rip(CODE);
    cpu.step()?;
    Ok(cpu.rip())
}

selftest::cases! {
    fn relative_jumps_have_16_bits_on_amds() {
        // JMP rel8; JMP rel16, or rel32; JZ rel8; JZ rel16, or rel32; JRCXZ; JECXZ.
        for (code, amd, intel) in [
            (&[0x66, 0xeb, 0x10][..], 0x2353, 0x1_2353),
            (&[0x66, 0xeb, 0x80], 0x22c3, 0x1_22c3),
            (&[0x66, 0xe9, 0x00, 0x10, 0x00, 0x00], 0x3344, 0x1_3346),
            (&[0x66, 0xe9, 0x00, 0xf0, 0xff, 0xff], 0x1344, 0x1_1346),
            (&[0x66, 0x74, 0x10], 0x2353, 0x1_2353),
            (&[0x66, 0x0f, 0x84, 0xbc, 0xdc, 0x00, 0x00], 0x0001, 0x2_0003),
            (&[0x66, 0xe3, 0x10], 0x2353, 0x1_2353),
            (&[0x66, 0x67, 0xe3, 0x10], 0x2354, 0x1_2354),
            // REX.W overrides the prefix.
            (&[0x66, 0x48, 0xeb, 0x10], 0x1_2354, 0x1_2354),
        ] {
            for (is_amd, expected) in [(true, amd), (false, intel)] {
                let mut cpu = vendor(is_amd);
                cpu.set_rflags(rflags::FIXED | ZF);
                check_eq!(step(&mut cpu, code), Ok(expected), "{code:x?}, AMD: {is_amd}");
                check_eq!(cpu.gpr(RSP), STACK);
            }
        }
    }

    fn a_branch_not_taken_leaves_rip_alone() {
        // JNZ rel8; JNZ rel16, which is rel32 on Intel's; JRCXZ.
        for (code, amd, intel) in [
            (&[0x66, 0x75, 0x10][..], CODE + 3, CODE + 3),
            (&[0x66, 0x0f, 0x85, 0, 1, 0, 0], CODE + 5, CODE + 7),
            (&[0x66, 0xe3, 0x10], CODE + 3, CODE + 3),
        ] {
            for (is_amd, expected) in [(true, amd), (false, intel)] {
                let mut cpu = vendor(is_amd);
                cpu.set_rflags(rflags::FIXED | ZF);
                cpu.set_gpr(RCX, 1);
                check_eq!(step(&mut cpu, code), Ok(expected), "{code:x?}, AMD: {is_amd}");
            }
        }
    }

    fn loops_count_by_the_address_size() {
        for (is_amd, target) in [(true, 0x2353), (false, 0x1_2353)] {
            let mut cpu = vendor(is_amd);
            cpu.set_gpr(RCX, 0x1_0000_0000);
            check_eq!(step(&mut cpu, &[0x66, 0xe2, 0x10]), Ok(target));
            check_eq!(cpu.gpr(RCX), 0xffff_ffff);
            // ECX.
            cpu.set_gpr(RCX, 0x1_0000_0001);
            check_eq!(step(&mut cpu, &[0x66, 0x67, 0xe2, 0x10]), Ok(CODE + 4));
            check_eq!(cpu.gpr(RCX), 0);
        }
    }

    fn calls_push_a_word_on_amds() {
        let mut cpu = vendor(true);
        check_eq!(step(&mut cpu, &[0x66, 0xe8, 0x10, 0x20]), Ok(0x4354));
        check_eq!((cpu.gpr(RSP), read::<2>(&cpu, STACK - 2)), (STACK - 2, 0x2344));
        // CALL AX: bits above the word do not count; CALL [RSP].
        cpu.set_gpr(RAX, NOT_CANONICAL | 0x5000);
        check_eq!(step(&mut cpu, &[0x66, 0xff, 0xd0]), Ok(0x5000));
        check_eq!((cpu.gpr(RSP), read::<2>(&cpu, STACK - 4)), (STACK - 4, 0x2343));
        check_eq!(step(&mut cpu, &[0x66, 0xff, 0x14, 0x24]), Ok(0x2343));
        check_eq!((cpu.gpr(RSP), read::<2>(&cpu, STACK - 6)), (STACK - 6, 0x2344));

        let mut cpu = vendor(false);
        check_eq!(step(&mut cpu, &[0x66, 0xe8, 0x10, 0x20, 0, 0]), Ok(CODE + 0x2016));
        check_eq!((cpu.gpr(RSP), read::<8>(&cpu, STACK - 8)), (STACK - 8, CODE + 6));
        cpu.set_gpr(RAX, 0x5_0000);
        check_eq!(step(&mut cpu, &[0x66, 0xff, 0xd0]), Ok(0x5_0000));
        check_eq!((cpu.gpr(RSP), read::<8>(&cpu, STACK - 16)), (STACK - 16, CODE + 3));
        check_eq!(step(&mut cpu, &[0x66, 0xff, 0x14, 0x24]), Ok(CODE + 3));
        check_eq!(cpu.gpr(RSP), STACK - 24);
    }

    fn returns_pop_a_word_on_amds() {
        for (is_amd, target, size) in [(true, 0x5678, 2), (false, 0x5_5678, 8)] {
            let mut cpu = vendor(is_amd);
            cpu.memory[STACK as usize..STACK as usize + 8]
                .copy_from_slice(&0x5_5678_u64.to_le_bytes());
            check_eq!(step(&mut cpu, &[0x66, 0xc3]), Ok(target));
            check_eq!(cpu.gpr(RSP), STACK + size);
            cpu.set_gpr(RSP, STACK);
            check_eq!(step(&mut cpu, &[0x66, 0xc2, 0x10, 0]), Ok(target));
            check_eq!(cpu.gpr(RSP), STACK + size + 0x10);
        }
    }

    fn what_16_bits_hold_is_canonical() {
        for is_amd in [true, false] {
            let mut cpu = vendor(is_amd);
            cpu.set_gpr(RAX, NOT_CANONICAL | 0x1234);
            cpu.memory[STACK as usize..STACK as usize + 8]
                .copy_from_slice(&(NOT_CANONICAL | 0x1234).to_le_bytes());
            // JMP AX, or RAX; JMP [RSP]; RET; RET 8; CALL AX, or RAX.
            for code in [
                &[0x66, 0xff, 0xe0][..],
                &[0x66, 0xff, 0x24, 0x24],
                &[0x66, 0xc3],
                &[0x66, 0xc2, 8, 0],
                &[0x66, 0xff, 0xd0],
            ] {
                cpu.set_gpr(RSP, STACK);
                let done = step(&mut cpu, code);
                if is_amd {
                    check_eq!(done, Ok(0x1234), "{code:x?}");
                } else {
                    check_eq!(done, Err(Stop::Fault), "{code:x?}");
                    check_eq!(cpu.exception, Some(Exception::gp(0)));
                    check_eq!((cpu.rip(), cpu.gpr(RSP)), (CODE, STACK));
                }
            }
        }
    }

    fn a_push_that_faults_changes_nothing() {
        let mut cpu = vendor(true);
        cpu.read_only = 0..STACK;
        check_eq!(step(&mut cpu, &[0x66, 0xe8, 0, 0]), Err(Stop::Fault));
        // Present, a write.
        check_eq!(cpu.exception, Some(Exception::pf(STACK - 2, 3)));
        check_eq!((cpu.rip(), cpu.gpr(RSP)), (CODE, STACK));
        cpu.set_gpr(RSP, NOT_CANONICAL);
        check_eq!(step(&mut cpu, &[0x66, 0xe8, 0, 0]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ss(0)));
        check_eq!(step(&mut cpu, &[0x66, 0xc3]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ss(0)));
        check_eq!(cpu.gpr(RSP), NOT_CANONICAL);
    }

    fn other_modes_are_the_same_on_both() {
        for is_amd in [true, false] {
            let mut cpu = TestCpu::protected();
            cpu.features = cpu.features.with(Feature::AmdEncodings, is_amd);
            cpu.memory.resize(0x2_0000, 0);
            check_eq!(step(&mut cpu, &[0x66, 0xe8, 0x10, 0x20]), Ok(0x4354));
            check_eq!((cpu.gpr(RSP), read::<2>(&cpu, STACK - 2)), (STACK - 2, 0x2344));
            check_eq!(step(&mut cpu, &[0xe8, 0x10, 0x20, 0, 0]), Ok(CODE + 0x2015));
            check_eq!(cpu.gpr(RSP), STACK - 6);
        }
    }
}
