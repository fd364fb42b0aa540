//! Tests of the stack, near branches, and what only 16-bit and 32-bit code has.

use alloc::boxed::Box;

use selftest::{check, check_eq};

use super::Stop;
use super::test_cpu::TestCpu;
use crate::exception::{BR, Exception};
use crate::regs::gpr::{RAX, RBP, RBX, RCX, RSI, RSP};
use crate::regs::rflags::{self, AF, CF, ZF};
use crate::regs::{Attr, Regs, Seg};

fn read<const N: usize>(cpu: &TestCpu, at: u64) -> u64 {
    let at = at as usize;
    cpu.memory[at..at + N].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Executes one instruction at [`TestCpu::CODE`], and gives RIP.
fn step(cpu: &mut TestCpu, code: &[u8]) -> Result<u64, Stop> {
    let start = TestCpu::CODE as usize;
    cpu.memory[start..start + code.len()].copy_from_slice(code);
    cpu.set_rip(TestCpu::CODE);
    cpu.step()?;
    Ok(cpu.rip())
}

/// A processor in real mode with SP 0x100 in a stack segment at 0x4000.
fn real() -> Box<TestCpu> {
    let mut cpu = TestCpu::real();
    cpu.state.segments[Seg::Ss as usize].base = 0x4000;
    cpu.set_gpr(RSP, 0xffff_0100);
    cpu
}

selftest::cases! {
    fn pushes_and_pops() {
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RAX, 0x1234_5678_9abc_def0);
        // PUSH RAX; PUSH AX; PUSH -1; PUSH RSP; POP RBX.
        check_eq!(cpu.run(&[0x50, 0x66, 0x50, 0x6a, 0xff, 0x54, 0x5b]), Ok(()));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK - 18);
        check_eq!(cpu.gpr(RBX), TestCpu::STACK - 18);
        check_eq!(read::<8>(&cpu, TestCpu::STACK - 18), u64::MAX);
        check_eq!(read::<2>(&cpu, TestCpu::STACK - 10), 0xdef0);
        // POP RSP: the value wins.
        check_eq!(cpu.run(&[0x50, 0x5c]), Ok(()));
        check_eq!(cpu.gpr(RSP), 0x1234_5678_9abc_def0);
    }

    fn pop_to_memory_addresses_with_the_new_pointer() {
        let mut cpu = TestCpu::long();
        // PUSH 7; POP [RSP+8].
        check_eq!(cpu.run(&[0x6a, 7, 0x8f, 0x44, 0x24, 0x08]), Ok(()));
        check_eq!(read::<8>(&cpu, TestCpu::STACK + 8), 7);
        // A fault of the write leaves the pointer.
        cpu.read_only = 0..0x7000;
        check_eq!(cpu.run(&[0x8f, 0x04, 0x25, 0, 0x60, 0, 0]), Err(Stop::Fault));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK);
    }

    fn frames() {
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RBP, 0x7000);
        // ENTER 0x20, 0.
        check_eq!(cpu.run(&[0xc8, 0x20, 0, 0]), Ok(()));
        check_eq!(cpu.gpr(RBP), TestCpu::STACK - 8);
        check_eq!(cpu.gpr(RSP), TestCpu::STACK - 0x28);
        check_eq!(read::<8>(&cpu, TestCpu::STACK - 8), 0x7000);
        check_eq!(cpu.run(&[0xc9]), Ok(()));
        check_eq!((cpu.gpr(RBP), cpu.gpr(RSP)), (0x7000, TestCpu::STACK));
        // ENTER 0, 2 copies one outer frame pointer and adds its own.
        check_eq!(cpu.run(&[0xc8, 0, 0, 2]), Ok(()));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK - 24);
        check_eq!(read::<8>(&cpu, TestCpu::STACK - 16), read::<8>(&cpu, 0x6ff8));
        check_eq!(read::<8>(&cpu, TestCpu::STACK - 24), TestCpu::STACK - 8);
    }

    fn calls_and_returns() {
        let mut cpu = TestCpu::long();
        check_eq!(step(&mut cpu, &[0xe8, 0x10, 0, 0, 0]), Ok(TestCpu::CODE + 0x15));
        check_eq!(read::<8>(&cpu, TestCpu::STACK - 8), TestCpu::CODE + 5);
        check_eq!(step(&mut cpu, &[0xc3]), Ok(TestCpu::CODE + 5));
        cpu.set_gpr(RAX, 0x5000);
        check_eq!(step(&mut cpu, &[0xff, 0xd0]), Ok(0x5000));
        check_eq!(step(&mut cpu, &[0xc2, 0x10, 0]), Ok(TestCpu::CODE + 2));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK + 0x10);
        check_eq!(step(&mut cpu, &[0xff, 0xe0]), Ok(0x5000));
    }

    fn targets_must_be_canonical() {
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RAX, 1 << 63);
        for code in [&[0xff, 0xd0][..], &[0xff, 0xe0]] {
            check_eq!(step(&mut cpu, code), Err(Stop::Fault));
            check_eq!(cpu.exception, Some(Exception::gp(0)));
        }
        check_eq!(cpu.gpr(RSP), TestCpu::STACK);
        check_eq!(cpu.run(&[0x50]), Ok(()));
        check_eq!(step(&mut cpu, &[0xc3]), Err(Stop::Fault));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK - 8);
    }

    fn conditional_branches() {
        let mut cpu = TestCpu::long();
        cpu.set_rflags(rflags::FIXED | ZF);
        check_eq!(step(&mut cpu, &[0x74, 0xf0]), Ok(TestCpu::CODE + 2 - 0x10));
        check_eq!(step(&mut cpu, &[0x75, 0xf0]), Ok(TestCpu::CODE + 2));
        check_eq!(step(&mut cpu, &[0x0f, 0x84, 0, 1, 0, 0]), Ok(TestCpu::CODE + 0x106));
        // LOOP, LOOPNE, LOOP with ECX, JRCXZ, JECXZ.
        cpu.set_gpr(RCX, 0x1_0000_0002);
        check_eq!(step(&mut cpu, &[0xe2, 0x10]), Ok(TestCpu::CODE + 0x12));
        check_eq!(step(&mut cpu, &[0xe0, 0x10]), Ok(TestCpu::CODE + 2));
        check_eq!(cpu.gpr(RCX), 0x1_0000_0000);
        check_eq!(step(&mut cpu, &[0xe3, 0x10]), Ok(TestCpu::CODE + 2));
        check_eq!(step(&mut cpu, &[0x67, 0xe3, 0x10]), Ok(TestCpu::CODE + 0x13));
        check_eq!(step(&mut cpu, &[0x67, 0xe2, 0x10]), Ok(TestCpu::CODE + 0x13));
        check_eq!(cpu.gpr(RCX), 0xffff_ffff);
    }

    fn real_mode_wraps_and_limits() {
        let mut cpu = real();
        cpu.set_gpr(RAX, 0xdead_beef);
        // PUSH AX uses SP and SS's base.
        check_eq!(cpu.run(&[0x50]), Ok(()));
        check_eq!(cpu.gpr(RSP), 0xffff_00fe);
        check_eq!(read::<2>(&cpu, 0x40fe), 0xbeef);
        // A near jump wraps at 64 KiB.
        check_eq!(step(&mut cpu, &[0xe9, 0x00, 0xf0]), Ok(0x0003));
        // A word at 0xffff is beyond the limit; through SS that is #SS.
        cpu.set_gpr(RSI, 0xffff);
        check_eq!(step(&mut cpu, &[0x8b, 0x04]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::gp(0)));
        cpu.set_gpr(RBP, 0xffff);
        check_eq!(step(&mut cpu, &[0x8b, 0x46, 0x00]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ss(0)));
        // MOV AL, [BX+SI] wraps.
        cpu.set_gpr(RBX, 0x2001);
        cpu.memory[0x2000] = 0x42;
        check_eq!(cpu.run(&[0x8a, 0x00]), Ok(()));
        check_eq!(cpu.gpr(RAX) as u8, 0x42);
    }

    fn protected_mode_checks_rights() {
        let mut cpu = TestCpu::protected();
        cpu.set_gpr(RSI, 0x4000);
        // A read-only data segment, an execute-only code segment, a null selector.
        for (attr, reads) in [(0xc91, true), (0xc99, false), (0xc9b, true), (0, false)] {
            cpu.state.segments[Seg::Ds as usize].attr = Attr(attr);
            check_eq!(cpu.run(&[0x8b, 0x06]).is_ok(), reads);
            check_eq!(cpu.run(&[0x89, 0x06]), Err(Stop::Fault));
            check_eq!(cpu.exception, Some(Exception::gp(0)));
        }
        // Expand-down: only what is above the limit is there.
        let segment = &mut cpu.state.segments[Seg::Ds as usize];
        (segment.attr, segment.limit) = (Attr(0xc97), 0x3fff);
        check!(cpu.run(&[0x8b, 0x06]).is_ok());
        check!(cpu.run(&[0x8b, 0x46, 0xff]).is_err());
        // A call beyond CS's limit pushes nothing.
        cpu.state.segments[Seg::Cs as usize].limit = 0x1fff;
        cpu.set_gpr(RAX, 0x2000);
        check_eq!(step(&mut cpu, &[0xff, 0xd0]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::gp(0)));
        check_eq!(cpu.gpr(RSP), TestCpu::STACK);
    }

    fn all_registers_at_once() {
        let mut cpu = TestCpu::protected();
        for n in 0..8 {
            cpu.set_gpr(n, 0x100 + u64::from(n));
        }
        cpu.set_gpr(RSP, TestCpu::STACK);
        check_eq!(cpu.run(&[0x60]), Ok(()));
        check_eq!(read::<4>(&cpu, TestCpu::STACK - 4), 0x100);
        check_eq!(read::<4>(&cpu, TestCpu::STACK - 20), TestCpu::STACK);
        check_eq!(read::<4>(&cpu, TestCpu::STACK - 32), 0x107);
        for n in [0, 1, 2, 3, 5, 6, 7] {
            cpu.set_gpr(n, 0);
        }
        check_eq!(cpu.run(&[0x61]), Ok(()));
        for n in [0, 1, 2, 3, 5, 6, 7] {
            check_eq!(cpu.gpr(n), 0x100 + u64::from(n));
        }
        check_eq!(cpu.gpr(RSP), TestCpu::STACK);
    }

    fn decimal_arithmetic() {
        let adjusted = |code: &[u8], ax: u64, flags: u64| {
            let mut cpu = TestCpu::protected();
            cpu.set_gpr(RAX, ax);
            cpu.set_rflags(rflags::FIXED | flags);
            let done = cpu.run(code);
            (done, cpu.gpr(RAX), cpu.status().bits() & (CF | AF))
        };
        check_eq!(adjusted(&[0x37], 0x010b, 0), (Ok(()), 0x0201, CF | AF));
        check_eq!(adjusted(&[0x3f], 0x0205, AF), (Ok(()), 0x000f, CF | AF));
        check_eq!(adjusted(&[0x27], 0x9a, 0), (Ok(()), 0x00, CF | AF));
        check_eq!(adjusted(&[0x2f], 0x05, AF), (Ok(()), 0xff, CF | AF));
        check_eq!(adjusted(&[0xd4, 10], 73, 0).1, 0x0703);
        check_eq!(adjusted(&[0xd5, 10], 0x0703, 0).1, 73);
        check_eq!(adjusted(&[0xd4, 0], 73, 0).0, Err(Stop::Fault));
    }

    fn bounds() {
        let mut cpu = TestCpu::protected();
        cpu.set_gpr(RSI, 0x4000);
        cpu.memory[0x4000..0x4008].copy_from_slice(&[0xfe, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
        cpu.set_gpr(RAX, 0xffff_fffe);
        check_eq!(cpu.run(&[0x62, 0x06]), Ok(()));
        cpu.set_gpr(RAX, 6);
        check_eq!(cpu.run(&[0x62, 0x06]), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::plain(BR)));
    }
}
