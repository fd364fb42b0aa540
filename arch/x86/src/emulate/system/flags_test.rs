//! Tests of CLI, STI, PUSHF, POPF, CLAC, STAC.

use selftest::{check, check_eq};

use super::test_tables::{USER_CODE64, long, raises, read, rsp, to_user, write};
use crate::emulate::Feature;
use crate::emulate::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::{Regs, Seg, rflags};

const CLI: [u8; 1] = [0xfa];
const STI: [u8; 1] = [0xfb];
const PUSHF: [u8; 1] = [0x9c];
const POPF: [u8; 1] = [0x9d];
const POPFW: [u8; 2] = [0x66, 0x9d];

/// Flags after POPF of `value` at `cpl` with I/O level `iopl`, all other flags being clear.
fn popped(cpl: u8, iopl: u64, value: u64, code: &[u8]) -> Option<u64> {
    let mut cpu = long();
    if cpl == 3 {
        to_user(&mut cpu, USER_CODE64);
    }
    cpu.set_rflags(rflags::FIXED | iopl << 12);
    write(&mut cpu, TestCpu::STACK, value);
    cpu.run(code).ok()?;
    Some(cpu.rflags())
}

selftest::cases! {
    fn sti_shadows_one_instruction() {
        let mut cpu = long();
        check_eq!(cpu.run(&STI), Ok(()));
        check_eq!(cpu.rflags() & rflags::IF, rflags::IF);
        check!(cpu.interrupt_shadow());
        // But not if interrupts were on already.
        cpu.set_interrupt_shadow(false);
        check_eq!(cpu.run(&STI), Ok(()));
        check!(!cpu.interrupt_shadow());
        check_eq!(cpu.run(&CLI), Ok(()));
        check_eq!(cpu.rflags() & rflags::IF, 0);
    }

    fn a_load_of_ss_shadows_one_instruction() {
        // mov %eax, %ss; and not mov %eax, %ds
        let mut cpu = long();
        cpu.state.gprs[0] = 0x10;
        check_eq!(cpu.run(&[0x8e, 0xd8]), Ok(()));
        check!(!cpu.interrupt_shadow());
        check_eq!(cpu.run(&[0x8e, 0xd0]), Ok(()));
        check!(cpu.interrupt_shadow());
        check_eq!(cpu.segment(Seg::Ss).selector, 0x10);
    }

    fn interrupts_are_switched_within_iopl() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        for iopl in 0..3 {
            cpu.set_rflags(rflags::FIXED | iopl << 12);
            check_eq!(raises(&mut cpu, &CLI), Some(Exception::gp(0)));
            check_eq!(raises(&mut cpu, &STI), Some(Exception::gp(0)));
        }
        cpu.set_rflags(rflags::FIXED | 3 << 12);
        check_eq!(cpu.run(&STI), Ok(()));
    }

    fn popf_changes_what_the_level_may() {
        let all = u64::MAX;
        let free = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
        let kernel = rflags::FIXED | free | rflags::IOPL | rflags::IF;
        check_eq!(popped(0, 0, all, &POPF), Some(kernel));
        check_eq!(popped(0, 0, all, &POPFW), Some(kernel & 0xffff));
        check_eq!(popped(3, 0, all, &POPF), Some(rflags::FIXED | free));
        check_eq!(popped(3, 3, all, &POPF), Some(rflags::FIXED | free | rflags::IOPL | rflags::IF));
        check_eq!(popped(3, 3, 0, &POPF), Some(rflags::FIXED | rflags::IOPL));
        check_eq!(popped(0, 3, 0, &POPF), Some(rflags::FIXED));
    }

    fn pushf_hides_rf() {
        let mut cpu = long();
        cpu.set_rflags(rflags::FIXED | rflags::RF | rflags::CF | rflags::ID);
        check_eq!(cpu.run(&PUSHF), Ok(()));
        check_eq!(read(&cpu, rsp(&cpu)), rflags::FIXED | rflags::CF | rflags::ID);
        check_eq!(rsp(&cpu), TestCpu::STACK - 8);
    }

    fn virtual_8086_mode_needs_iopl_3() {
        let mut cpu = TestCpu::real();
        cpu.state.cr0 |= 1;
        for n in 0..6 {
            cpu.state.segments[n] = super::segment::virtual_8086(0);
        }
        cpu.state.cpl = 3;
        cpu.set_rflags(rflags::FIXED | rflags::VM);
        for code in [&CLI[..], &STI, &PUSHF, &POPF] {
            check_eq!(raises(&mut cpu, code), Some(Exception::gp(0)));
        }
        cpu.set_rflags(rflags::FIXED | rflags::VM | rflags::IOPL);
        for code in [&STI[..], &PUSHF, &CLI, &POPF] {
            check_eq!(cpu.run(code), Ok(()));
        }
        check_eq!(cpu.rflags(), rflags::FIXED | rflags::VM | rflags::IOPL | rflags::IF);
    }

    fn clac_and_stac() {
        let (clac, stac) = ([0x0f, 0x01, 0xca], [0x0f, 0x01, 0xcb]);
        let mut cpu = long();
        check_eq!(cpu.run(&stac), Ok(()));
        check_eq!(cpu.rflags() & rflags::AC, rflags::AC);
        check_eq!(cpu.run(&clac), Ok(()));
        check_eq!(cpu.rflags() & rflags::AC, 0);
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &stac), Some(Exception::ud()));
        let mut cpu = long();
        cpu.features = cpu.features.with(Feature::Smap, false);
        check_eq!(raises(&mut cpu, &stac), Some(Exception::ud()));
    }
}
