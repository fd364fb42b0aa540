//! Tests of SYSCALL and its kin, and of the bases of FS and GS.

use selftest::{check, check_eq};

use super::test_tables::{
    CODE32, CODE64, DATA, USER_CODE32, USER_CODE64, USER_DATA, long, protected, raises, rsp,
    selector, to_user,
};
use crate::emulate::Feature;
use crate::emulate::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg, SysReg, cr4, efer, gpr, rflags};

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];
const SYSRETL: [u8; 2] = [0x0f, 0x07];
const SYSENTER: [u8; 2] = [0x0f, 0x34];
const SYSEXITQ: [u8; 3] = [0x48, 0x0f, 0x35];
const SWAPGS: [u8; 3] = [0x0f, 0x01, 0xf8];
const HIGH: u64 = 0xffff_ffff_8000_1000;

fn set_up(cpu: &mut TestCpu) {
    // SYSRET's base: +8 is the stack segment, +16 64-bit code.
    cpu.set_sysreg(SysReg::Star, u64::from(USER_CODE32) << 48 | u64::from(CODE64) << 32 | 0x5000);
    cpu.set_sysreg(SysReg::Lstar, HIGH);
    cpu.set_sysreg(SysReg::Cstar, HIGH + 0x100);
    cpu.set_sysreg(SysReg::Sfmask, rflags::IF | rflags::TF | rflags::AC);
}

selftest::cases! {
    fn syscall_and_back() {
        let mut cpu = long();
        set_up(&mut cpu);
        to_user(&mut cpu, USER_CODE64);
        let flags = rflags::FIXED | rflags::IF | rflags::AC | rflags::CF;
        cpu.set_rflags(flags | rflags::RF);
        check_eq!(cpu.run(&SYSCALL), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl()), (HIGH, 0));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (CODE64, DATA));
        check_eq!((cpu.gpr(gpr::RCX), cpu.gpr(gpr::R11)), (TestCpu::CODE + 2, flags));
        check_eq!((cpu.rflags(), rsp(&cpu)), (rflags::FIXED | rflags::CF, TestCpu::STACK));
        check_eq!(cpu.segment(Seg::Cs).attr, Attr(0xa9b));
        check_eq!(cpu.segment(Seg::Ss).attr, Attr(0xc93));

        cpu.set_gpr(gpr::RCX, 0x5000);
        cpu.set_gpr(gpr::R11, flags | rflags::RF | rflags::VM | 1 << 40);
        check_eq!(cpu.run(&SYSRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), cpu.rflags()), (0x5000, 3, flags));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (USER_CODE64, USER_DATA));
        check!(cpu.mode64());
        check_eq!(cpu.segment(Seg::Cs).attr, Attr(0xafb));
    }

    fn compatibility_mode_has_its_own_entry() {
        let mut cpu = long();
        set_up(&mut cpu);
        to_user(&mut cpu, USER_CODE32);
        check_eq!(cpu.run(&SYSCALL), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl()), (HIGH + 0x100, 0));
        check!(cpu.mode64());
        cpu.set_gpr(gpr::RCX, 0xffff_ffff_0000_5000);
        check_eq!(cpu.run(&SYSRETL), Ok(()));
        check_eq!((cpu.rip(), selector(&cpu, Seg::Cs)), (0x5000, USER_CODE32));
        check!(!cpu.mode64());
    }

    fn legacy_mode_takes_its_target_from_star() {
        let mut cpu = protected();
        set_up(&mut cpu);
        cpu.state.efer = efer::SCE;
        to_user(&mut cpu, USER_CODE32);
        cpu.set_rflags(rflags::FIXED | rflags::IF);
        check_eq!(cpu.run(&SYSCALL), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl(), cpu.rflags()), (0x5000, 0, rflags::FIXED));
        check_eq!(cpu.gpr(gpr::R11), 0);
        check_eq!(cpu.run(&SYSRETL), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl()), (TestCpu::CODE + 2, 3));
        check_eq!(cpu.rflags(), rflags::FIXED | rflags::IF);
    }

    fn syscall_checks() {
        let mut cpu = long();
        set_up(&mut cpu);
        cpu.state.efer &= !efer::SCE;
        check_eq!(raises(&mut cpu, &SYSCALL), Some(Exception::ud()));
        check_eq!(raises(&mut cpu, &SYSRETQ), Some(Exception::ud()));
        cpu.state.efer |= efer::SCE;
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &SYSRETQ), Some(Exception::gp(0)));
    }

    fn sysenter_and_back() {
        let mut cpu = long();
        cpu.set_sysreg(SysReg::SysenterEip, HIGH);
        cpu.set_sysreg(SysReg::SysenterEsp, HIGH + 8);
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &SYSENTER), Some(Exception::gp(0)), "no selector");
        cpu.set_sysreg(SysReg::SysenterCs, CODE64.into());
        cpu.set_rflags(rflags::FIXED | rflags::IF);
        check_eq!(cpu.run(&SYSENTER), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu), cpu.cpl()), (HIGH, HIGH + 8, 0));
        check_eq!(cpu.rflags(), rflags::FIXED);
        cpu.set_gpr(gpr::RDX, 0x5000);
        cpu.set_gpr(gpr::RCX, 0x8000_0000_0000);
        check_eq!(raises(&mut cpu, &SYSEXITQ), Some(Exception::gp(0)));
        cpu.set_gpr(gpr::RCX, 0x6000);
        check_eq!(cpu.run(&SYSEXITQ), Ok(()));
        check_eq!((cpu.rip(), rsp(&cpu), cpu.cpl()), (0x5000, 0x6000, 3));
        check_eq!((selector(&cpu, Seg::Cs), selector(&cpu, Seg::Ss)), (0x2b, 0x33));

        let mut cpu = protected();
        cpu.set_sysreg(SysReg::SysenterCs, CODE32.into());
        cpu.set_sysreg(SysReg::SysenterEip, HIGH);
        check_eq!(cpu.run(&SYSENTER), Ok(()));
        check_eq!((cpu.rip(), cpu.segment(Seg::Cs).attr), (HIGH & 0xffff_ffff, Attr(0xc9b)));
    }

    fn what_the_vendors_disagree_on() {
        let without = |cpu: &mut TestCpu, feature| {
            cpu.features = cpu.features.with(feature, false);
        };
        // SYSCALL outside 64-bit mode.
        let mut cpu = long();
        set_up(&mut cpu);
        without(&mut cpu, Feature::LegacySyscall);
        to_user(&mut cpu, USER_CODE32);
        check_eq!(raises(&mut cpu, &SYSCALL), Some(Exception::ud()));
        to_user(&mut cpu, USER_CODE64);
        check_eq!(cpu.run(&SYSCALL), Ok(()));
        cpu.set_gpr(gpr::RCX, 0x8000_0000_0000);
        check_eq!(raises(&mut cpu, &SYSRETQ), Some(Exception::gp(0)), "at level 0");
        let mut cpu = protected();
        set_up(&mut cpu);
        cpu.state.efer = efer::SCE;
        without(&mut cpu, Feature::LegacySyscall);
        check_eq!(raises(&mut cpu, &SYSCALL), Some(Exception::ud()));
        check_eq!(raises(&mut cpu, &SYSRETL), Some(Exception::ud()));
        // AMD's SYSRET faults behind itself.
        let mut cpu = long();
        set_up(&mut cpu);
        cpu.set_gpr(gpr::RCX, 0x8000_0000_0000);
        check_eq!(cpu.run(&SYSRETQ), Ok(()));
        check_eq!((cpu.rip(), cpu.cpl()), (0x8000_0000_0000, 3));
        // SYSENTER in long mode.
        let mut cpu = long();
        without(&mut cpu, Feature::LongSysenter);
        cpu.set_sysreg(SysReg::SysenterCs, CODE64.into());
        check_eq!(raises(&mut cpu, &SYSENTER), Some(Exception::ud()));
        check_eq!(raises(&mut cpu, &SYSEXITQ), Some(Exception::ud()));
        to_user(&mut cpu, USER_CODE32);
        check_eq!(raises(&mut cpu, &SYSENTER), Some(Exception::ud()));
        let mut cpu = protected();
        without(&mut cpu, Feature::LongSysenter);
        cpu.set_sysreg(SysReg::SysenterCs, CODE32.into());
        check_eq!(cpu.run(&SYSENTER), Ok(()));
    }

    fn swapgs_exchanges_bases() {
        let mut cpu = long();
        cpu.set_sysreg(SysReg::KernelGsBase, HIGH);
        check_eq!(cpu.run(&SWAPGS), Ok(()));
        check_eq!((cpu.segment(Seg::Gs).base, cpu.sysreg(SysReg::KernelGsBase)), (HIGH, 0));
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &SWAPGS), Some(Exception::gp(0)));
        check_eq!(raises(&mut protected(), &SWAPGS), Some(Exception::ud()));
    }

    fn bases_by_instruction() {
        let wrgsbase = [0xf3, 0x48, 0x0f, 0xae, 0xd8];
        let rdfsbase32 = [0xf3, 0x0f, 0xae, 0xc3];
        let mut cpu = long();
        check_eq!(raises(&mut cpu, &wrgsbase), Some(Exception::ud()), "CR4.FSGSBASE");
        cpu.state.cr4 |= cr4::FSGSBASE;
        cpu.set_gpr(gpr::RAX, HIGH);
        check_eq!(cpu.run(&wrgsbase), Ok(()));
        check_eq!(cpu.segment(Seg::Gs).base, HIGH);
        cpu.set_gpr(gpr::RAX, 1 << 63);
        check_eq!(raises(&mut cpu, &wrgsbase), Some(Exception::gp(0)));
        cpu.state.segments[Seg::Fs as usize].base = HIGH;
        cpu.set_gpr(gpr::RBX, u64::MAX);
        check_eq!(cpu.run(&rdfsbase32), Ok(()));
        check_eq!(cpu.gpr(gpr::RBX), HIGH & 0xffff_ffff);
        cpu.features = cpu.features.with(Feature::Fsgsbase, false);
        check_eq!(raises(&mut cpu, &rdfsbase32), Some(Exception::ud()));
    }
}
