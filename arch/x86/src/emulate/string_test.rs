//! Tests of string instructions: repetition, direction, batches, faults, overlap.

use alloc::boxed::Box;

use selftest::{check, check_eq};

use super::Stop;
use super::test_cpu::TestCpu;
use crate::regs::gpr::{RAX, RCX, RDI, RSI};
use crate::regs::{Regs, Seg, rflags};

/// A processor with the numbers of the bytes modulo 251 from 0x4000 on; `bulk` as asked.
fn cpu(bulk: bool, from: u64, to: u64, count: u64) -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    for (n, byte) in cpu.memory[0x4000..].iter_mut().enumerate() {
        *byte = (n % 251) as u8;
    }
    cpu.bulk = bulk.then_some(0);
    cpu.set_gpr(RSI, from);
    cpu.set_gpr(RDI, to);
    cpu.set_gpr(RCX, count);
    cpu
}

/// What a byte-by-byte (or element-wise) copy upwards makes of memory.
fn copied(cpu: &TestCpu, from: u64, to: u64, count: u64, size: usize) -> alloc::vec::Vec<u8> {
    let mut memory = cpu.memory.clone();
    for n in 0..count as usize {
        let (from, to) = (from as usize + n * size, to as usize + n * size);
        memory.copy_within(from..from + size, to);
    }
    memory
}

const REP_MOVSB: [u8; 2] = [0xf3, 0xa4];
const REP_MOVSQ: [u8; 3] = [0xf3, 0x48, 0xa5];
const REP_STOSD: [u8; 2] = [0xf3, 0xab];
const REPE_CMPSB: [u8; 2] = [0xf3, 0xa6];
const REPNE_SCASB: [u8; 2] = [0xf2, 0xae];

selftest::cases! {
    fn copies_in_bulk_are_copies_one_by_one() {
        // Apart, across pages, overlapping at distances below and above the element's size.
        for (from, to, count) in [
            (0x4003, 0x9001, 5000),
            (0x4ff8, 0x8ffc, 100),
            (0x5000, 0x5001, 700),
            (0x5000, 0x5009, 700),
            (0x5000, 0x5044, 500),
            (0x5044, 0x5000, 500),
            (0x5000, 0x5000, 64),
        ] {
            for (code, size) in [(&REP_MOVSB[..], 1), (&REP_MOVSQ, 8)] {
                let count = count / size as u64;
                for bulk in [false, true] {
                    let mut cpu = cpu(bulk, from, to, count);
                    let expected = copied(&cpu, from, to, count, size);
                    check_eq!(cpu.run(code), Ok(()));
                    check!(cpu.memory[0x4000..] == expected[0x4000..], "{from:x} {to:x} {size}");
                    check_eq!(cpu.gpr(RCX), 0);
                    check_eq!(cpu.gpr(RSI), from + count * size as u64);
                    check_eq!(cpu.gpr(RDI), to + count * size as u64);
                }
            }
        }
    }

    fn one_execution_is_bounded() {
        for bulk in [false, true] {
            let mut cpu = cpu(bulk, 0x4000, 0x8000, 0x2000);
            cpu.memory[0x1000..0x1002].copy_from_slice(&REP_MOVSB);
            check_eq!(cpu.step(), Ok(()));
            check_eq!(cpu.rip(), TestCpu::CODE);
            check_eq!(cpu.gpr(RCX), 0x1000);
            check_eq!(cpu.gpr(RDI), 0x9000);
            check_eq!(cpu.step(), Ok(()));
            check_eq!(cpu.rip(), TestCpu::CODE + 2);
        }
        // All in whole pages.
        let mut cpu = cpu(true, 0x4000, 0x8000, 0x2000);
        check_eq!(cpu.run(&REP_MOVSB), Ok(()));
        check_eq!(cpu.bulk, Some(2));
    }

    fn a_single_step_is_one_element() {
        for bulk in [false, true] {
            let mut cpu = cpu(bulk, 0x4000, 0x8000, 100);
            cpu.set_rflags(rflags::FIXED | rflags::TF);
            cpu.memory[0x1000..0x1002].copy_from_slice(&REP_MOVSB);
            check_eq!(cpu.step(), Ok(()));
            check_eq!(cpu.gpr(RCX), 99);
            check_eq!(cpu.rip(), TestCpu::CODE);
            cpu.set_gpr(RCX, 1);
            check_eq!(cpu.step(), Ok(()));
            check_eq!(cpu.rip(), TestCpu::CODE + 2);
        }
    }

    fn fills() {
        for bulk in [false, true] {
            let mut cpu = cpu(bulk, 0, 0x5002, 1500);
            cpu.set_gpr(RAX, 0xffff_ffff_1234_5678);
            check_eq!(cpu.run(&REP_STOSD), Ok(()));
            check!(cpu.memory[0x5002..0x5002 + 6000].chunks(4).all(|dword| dword == [0x78, 0x56, 0x34, 0x12]));
            check_eq!(cpu.memory[0x5001], (0x1001 % 251) as u8);
            check_eq!(cpu.memory[0x5002 + 6000], ((0x1002 + 6000) % 251) as u8);
        }
    }

    fn a_fault_stops_at_its_element() {
        for bulk in [false, true] {
            let mut cpu = cpu(bulk, 0x4000, 0x8800, 0x2000);
            cpu.read_only = 0x9000..0xa000;
            check_eq!(cpu.run(&REP_MOVSB), Err(Stop::Fault));
            check_eq!(cpu.gpr(RDI), 0x9000);
            check_eq!(cpu.gpr(RSI), 0x4800);
            check_eq!(cpu.gpr(RCX), 0x1800);
            check_eq!(cpu.rip(), TestCpu::CODE);
            check!(cpu.memory[0x8800..0x9000] == cpu.memory[0x4000..0x4800]);
        }
    }

    fn a_fault_leaves_the_flags_of_the_element_before() {
        let mut cpu = cpu(true, 0, TestCpu::MEMORY as u64 - 3, 10);
        cpu.set_gpr(RAX, 5);
        cpu.memory[TestCpu::MEMORY - 3..].copy_from_slice(&[0, 0, 6]);
        check_eq!(cpu.run(&REPNE_SCASB), Err(Stop::Fault));
        check_eq!(cpu.gpr(RCX), 7);
        check!(cpu.status().cf() && cpu.status().sf());
        // Those of before if it is the first that faults.
        cpu.set_rflags(rflags::FIXED | rflags::ZF);
        check_eq!(cpu.run(&REPNE_SCASB), Err(Stop::Fault));
        check_eq!(cpu.rflags(), rflags::FIXED | rflags::ZF);
    }

    fn downwards() {
        let mut cpu = cpu(true, 0x5010, 0x6010, 4);
        cpu.set_rflags(rflags::FIXED | rflags::DF);
        check_eq!(cpu.run(&REP_MOVSQ), Ok(()));
        check_eq!(cpu.gpr(RSI), 0x4ff0);
        check_eq!(cpu.memory[0x5ff8], cpu.memory[0x4ff8]);
        check_eq!(cpu.memory[0x6017], cpu.memory[0x5017]);
        // LODSW alone.
        check_eq!(cpu.run(&[0x66, 0xad]), Ok(()));
        check_eq!(cpu.gpr(RSI), 0x4fee);
    }

    fn comparisons_end_at_the_difference() {
        let mut cpu = cpu(true, 0x4000, 0x4000 + 251, 100);
        cpu.memory[0x4000 + 251 + 41] = 0xff;
        check_eq!(cpu.run(&REPE_CMPSB), Ok(()));
        check_eq!(cpu.gpr(RCX), 58);
        check_eq!(cpu.gpr(RSI), 0x402a);
        check!(!cpu.status().zf() && cpu.status().cf());
        // SCASB finds 10 from 0x4000 on.
        cpu.set_gpr(RDI, 0x4000);
        cpu.set_gpr(RCX, u64::MAX);
        cpu.set_gpr(RAX, 10);
        check_eq!(cpu.run(&REPNE_SCASB), Ok(()));
        check_eq!(cpu.gpr(RDI), 0x400b);
        check_eq!(cpu.gpr(RCX), u64::MAX - 11);
        check!(cpu.status().zf());
        // A count of 0 changes nothing.
        cpu.set_gpr(RCX, 0);
        cpu.set_gpr(RAX, 77);
        check_eq!(cpu.run(&REPNE_SCASB), Ok(()));
        check_eq!(cpu.gpr(RDI), 0x400b);
        check!(cpu.status().zf());
    }

    fn address_sizes_wrap_their_registers() {
        // 67 REP STOSB in 64-bit mode uses EDI and ECX.
        let mut cpu = cpu(true, 0, 0xffff_ffff_0000_5000, 0xffff_ffff_0000_0080);
        check_eq!(cpu.run(&[0x67, 0xf3, 0xaa]), Ok(()));
        check_eq!(cpu.gpr(RDI), 0x5080);
        check_eq!(cpu.gpr(RCX), 0);
        // In real mode DI wraps at 64 KiB, and only its low half changes.
        let mut cpu = TestCpu::real();
        cpu.bulk = Some(0);
        cpu.state.segments[Seg::Es as usize].base = 0;
        cpu.set_gpr(RDI, 0xabcd_ffc0);
        cpu.set_gpr(RCX, 0x50);
        cpu.set_gpr(RAX, 0x77);
        check_eq!(cpu.run(&REP_STOSB), Ok(()));
        check_eq!(cpu.gpr(RDI), 0xabcd_0010);
        check!(cpu.memory[..0x10].iter().chain(&cpu.memory[0xffc0..]).all(|byte| *byte == 0x77));
        check_eq!(cpu.memory[0x10], 0);
    }
}

const REP_STOSB: [u8; 2] = [0xf3, 0xaa];
