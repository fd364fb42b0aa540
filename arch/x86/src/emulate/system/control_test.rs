//! Tests of control registers: long mode and back, and what is refused.

use alloc::boxed::Box;
use selftest::{check, check_eq};

use super::control::check_efer;
use super::test_tables::{
    CODE32, CODE64, USER_CODE64, long, protected, raises, to_user, write_all,
};
use crate::emulate::Feature;
use crate::emulate::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::{Attr, Regs, Seg, cr0, cr4, efer, gpr};

/// `mov %rax, %crN` (%eax outside 64-bit mode).
const fn to_cr(n: u8) -> [u8; 3] {
    [0x0f, 0x22, 0xc0 | n << 3]
}

/// `mov %crN, %rax`.
const fn from_cr(n: u8) -> [u8; 3] {
    [0x0f, 0x20, 0xc0 | n << 3]
}

/// Writes `value` to CRn by a MOV: whether it faulted with #GP(0), leaving all as it was.
fn refused(cpu: &mut TestCpu, n: u8, value: u64) -> bool {
    cpu.set_gpr(gpr::RAX, value);
    raises(cpu, &to_cr(n)) == Some(Exception::gp(0))
}

fn accepted(cpu: &mut TestCpu, n: u8, value: u64) -> bool {
    cpu.set_gpr(gpr::RAX, value);
    cpu.run(&to_cr(n)) == Ok(())
}

/// 32-bit paging off, PAE and LME on: one step before long mode.
fn before_long_mode() -> Box<TestCpu> {
    let mut cpu = protected();
    cpu.state.cr4 = cr4::PAE;
    cpu.state.efer = efer::LME;
    cpu
}

selftest::cases! {
    fn into_long_mode_and_back() {
        let mut cpu = TestCpu::real();
        // Real mode: load GDT, set PE, jump to 32-bit code.
        let tables = protected();
        cpu.memory.copy_from_slice(&tables.memory);
        cpu.state.gdtr = tables.state.gdtr;
        check!(accepted(&mut cpu, 0, cr0::PE | cr0::ET));
        check!(cpu.protected());
        check_eq!(cpu.run(&[0x66, 0xea, 0x00, 0x50, 0, 0, CODE32 as u8, 0]), Ok(()));
        check!(cpu.segment(Seg::Cs).attr.has(Attr::DB));
        // PAE, LME (as the run loop sets it), PG.
        check!(accepted(&mut cpu, 4, cr4::PAE));
        check!(accepted(&mut cpu, 3, 0x1000));
        let Ok(value) = check_efer(cpu.efer(), efer::LME | efer::SCE, cpu.cr0()) else {
            check!(false);
            return Ok(());
        };
        cpu.set_efer(value);
        check!(!cpu.long_mode());
        check!(accepted(&mut cpu, 0, cr0::PE | cr0::PG));
        check_eq!(cpu.efer(), efer::LME | efer::SCE | efer::LMA);
        check!(cpu.long_mode() && !cpu.mode64());
        check_eq!(cpu.run(&[0xea, 0x00, 0x50, 0, 0, CODE64 as u8, 0]), Ok(()));
        check!(cpu.mode64());
        // Back: not from 64-bit code, but from compatibility mode.
        check!(refused(&mut cpu, 0, cr0::PE));
        write_all(&mut cpu, 0x6000, &[0x5000, CODE32.into()]);
        cpu.set_gpr(gpr::RBX, 0x6000);
        check_eq!(cpu.run(&[0x48, 0xff, 0x2b]), Ok(()));
        check!(!cpu.mode64());
        check!(accepted(&mut cpu, 0, cr0::PE));
        check_eq!(cpu.efer(), efer::LME | efer::SCE);
        // And to real mode.
        check!(accepted(&mut cpu, 0, 0));
        check!(!cpu.protected());
        check_eq!(cpu.cr0(), cr0::ET);
    }

    fn cr0_refuses() {
        for value in [cr0::PG, cr0::PE | cr0::NW] {
            check!(refused(&mut protected(), 0, value), "{value:x}");
        }
        check!(refused(&mut long(), 0, 1 << 32 | cr0::PE | cr0::PG));
        let on = cr0::PE | cr0::PG;
        let mut cpu = before_long_mode();
        cpu.state.cr4 = 0;
        check!(refused(&mut cpu, 0, on), "LME without PAE");
        let mut cpu = before_long_mode();
        cpu.state.segments[Seg::Cs as usize].attr = Attr(0xa9b);
        check!(refused(&mut cpu, 0, on), "L in CS");
        check!(accepted(&mut before_long_mode(), 0, on | cr0::NW | cr0::CD));
        let mut cpu = before_long_mode();
        check!(accepted(&mut cpu, 0, on));
        cpu.state.cr4 |= cr4::PCIDE;
        check!(refused(&mut cpu, 0, cr0::PE), "PCIDE without paging");
        // Bits without meaning are ignored, ET is fixed.
        let mut cpu = protected();
        check!(accepted(&mut cpu, 0, cr0::PE | 1 << 10));
        check_eq!(cpu.cr0(), cr0::PE | cr0::ET);
    }

    fn cr3_refuses() {
        let mut cpu = long();
        check!(accepted(&mut cpu, 3, 0x0000_00ff_ffff_f018));
        check!(refused(&mut cpu, 3, 1 << 40) && refused(&mut cpu, 3, 1 << 63));
        cpu.state.cr4 |= cr4::PCIDE;
        check!(accepted(&mut cpu, 3, 1 << 63 | 0x1007));
        check_eq!(cpu.cr3(), 0x1007);
        check!(refused(&mut cpu, 3, 1 << 62));
    }

    fn cr4_refuses() {
        let mut cpu = long();
        for bit in [cr4::VME, cr4::PVI, 1 << 13, 1 << 14, 1 << 15, 1 << 19, 1 << 22, 1 << 32] {
            check!(refused(&mut cpu, 4, cr4::PAE | bit), "{bit:x}");
        }
        check!(refused(&mut cpu, 4, 0), "PAE in long mode");
        check!(refused(&mut cpu, 4, cr4::PAE | cr4::LA57));
        check!(accepted(&mut cpu, 4, cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP | cr4::UMIP));
        cpu.state.cr3 = 0x1001;
        check!(refused(&mut cpu, 4, cr4::PAE | cr4::PCIDE), "PCID in CR3");
        cpu.state.cr3 = 0x1000;
        check!(accepted(&mut cpu, 4, cr4::PAE | cr4::PCIDE));
        check!(refused(&mut protected(), 4, cr4::PAE | cr4::PCIDE), "outside long mode");
        cpu.features = crate::engine::Features::default();
        for bit in [cr4::SMAP, cr4::FSGSBASE, cr4::OSXSAVE, cr4::SMEP, cr4::PCIDE] {
            check!(refused(&mut cpu, 4, cr4::PAE | bit), "not offered");
        }
        let mut cpu = protected();
        check!(accepted(&mut cpu, 4, cr4::PAE | cr4::LA57));
        cpu = protected();
        cpu.features = cpu.features.with(Feature::La57, false);
        check!(refused(&mut cpu, 4, cr4::PAE | cr4::LA57), "not offered");
    }

    fn bits_of_cr4_that_a_vmm_has_set_may_stay() {
        let mut cpu = before_long_mode();
        let bits = cr4::VME | cr4::PVI;
        cpu.state.cr4 = cr4::PAE | cr4::VME;
        check!(accepted(&mut cpu, 4, cr4::PAE | cr4::VME | cr4::PGE));
        check!(refused(&mut cpu, 4, cr4::PAE | bits));
        check!(accepted(&mut cpu, 4, cr4::PAE));
        check!(refused(&mut cpu, 4, cr4::PAE | cr4::VME));
    }

    fn extended_control_register() {
        let (get, set) = ([0x0f, 0x01, 0xd0], [0x0f, 0x01, 0xd1]);
        let mut cpu = long();
        check_eq!(raises(&mut cpu, &get), Some(Exception::ud()), "without OSXSAVE");
        cpu.state.cr4 |= cr4::OSXSAVE;
        let mut write = |register: u64, value: u64| {
            cpu.set_gpr(gpr::RCX, register);
            cpu.set_gpr(gpr::RAX, value & 0xffff_ffff);
            cpu.set_gpr(gpr::RDX, value >> 32);
            raises(&mut cpu, &set)
        };
        for value in [0, 2, 4, 5, 6, 8 | 7, 1 << 63 | 1] {
            check_eq!(write(0, value), Some(Exception::gp(0)));
        }
        check_eq!(write(1, 7), Some(Exception::gp(0)));
        check_eq!(write(0, 7), None);
        cpu.set_gpr(gpr::RCX, 0);
        check_eq!(raises(&mut cpu, &get), None);
        check_eq!((cpu.gpr(gpr::RDX), cpu.gpr(gpr::RAX)), (0, 7));
        // In use is nothing but XMM3.
        cpu.state.fx.set_xmm(3, 1);
        cpu.set_gpr(gpr::RCX, 1);
        check_eq!(raises(&mut cpu, &get), None);
        check_eq!(cpu.gpr(gpr::RAX), 2);
        cpu.set_gpr(gpr::RCX, 2);
        check_eq!(raises(&mut cpu, &get), Some(Exception::gp(0)));
        cpu.set_gpr(gpr::RCX, 0);
        to_user(&mut cpu, USER_CODE64);
        check_eq!(raises(&mut cpu, &get), None);
        check_eq!(raises(&mut cpu, &set), Some(Exception::gp(0)));
        let mut without = long();
        without.state.cr4 |= cr4::OSXSAVE;
        without.features = without.features.with(Feature::Avx, false);
        without.set_gpr(gpr::RAX, 7);
        check_eq!(raises(&mut without, &set), Some(Exception::gp(0)));
    }

    fn efer_rules() {
        let off = cr0::PE;
        let on = cr0::PE | cr0::PG;
        let long = efer::LME | efer::LMA;
        check_eq!(check_efer(0, efer::LME | efer::NXE, off), Ok(efer::LME | efer::NXE));
        check_eq!(check_efer(long, efer::LME | efer::SCE, on), Ok(long | efer::SCE));
        check_eq!(check_efer(0, efer::LMA, off), Ok(0));
        check_eq!(check_efer(long, 0, on), Err(Exception::gp(0)));
        check_eq!(check_efer(0, efer::LME, on), Err(Exception::gp(0)));
        check_eq!(check_efer(0, efer::SVME, off), Err(Exception::gp(0)));
        check_eq!(check_efer(0, 1 << 1, off), Err(Exception::gp(0)));
    }

    fn reads_and_levels() {
        let mut cpu = long();
        cpu.state.cr2 = 0xffff_8000_1234_5678;
        check_eq!(cpu.run(&from_cr(2)), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), cpu.cr2());
        to_user(&mut cpu, USER_CODE64);
        // invlpg (%rbx); clts; lmsw %ax
        for code in [from_cr(0), to_cr(4), [0x0f, 0x01, 0x3b], [0x0f, 0x01, 0xf0]] {
            check_eq!(raises(&mut cpu, &code), Some(Exception::gp(0)));
        }
        check_eq!(raises(&mut cpu, &[0x0f, 0x06]), Some(Exception::gp(0)));
        check_eq!(raises(&mut long(), &from_cr(1)), Some(Exception::ud()));
        check_eq!(cpu.run(&[0x0f, 0x01, 0xe0]), Ok(()), "SMSW");
        check_eq!(cpu.gpr(gpr::RAX), cpu.cr0());
    }

    fn lmsw_and_clts() {
        let mut cpu = protected();
        cpu.set_gpr(gpr::RAX, cr0::TS | cr0::MP);
        check_eq!(cpu.run(&[0x0f, 0x01, 0xf0]), Ok(()));
        check_eq!(cpu.cr0() & 0xf, cr0::PE | cr0::MP | cr0::TS, "PE stays");
        check_eq!(cpu.run(&[0x0f, 0x06]), Ok(()));
        check_eq!(cpu.cr0() & 0xf, cr0::PE | cr0::MP);
    }

    fn invpcid_checks() {
        // invpcid (%rbx), %rax
        let invpcid = [0x66, 0x0f, 0x38, 0x82, 0x03];
        let mut cpu = long();
        cpu.set_gpr(gpr::RBX, 0x6000);
        for (kind, pcid, linear, pcids, fine) in [
            (0, 0, 0x1234, false, true),
            (0, 1, 0x1234, false, false),
            (0, 1, 0x1234, true, true),
            (0, 1, 1 << 63, true, false),
            (1, 0x1000, 0, true, false),
            (1, 0xfff, 1 << 63, true, true),
            (2, 0, 0, false, true),
            (3, 1 << 63, 0, false, true),
            (4, 0, 0, true, false),
        ] {
            cpu.state.cr4 = cr4::PAE | if pcids { cr4::PCIDE } else { 0 };
            write_all(&mut cpu, 0x6000, &[pcid, linear]);
            cpu.set_gpr(gpr::RAX, kind);
            let raised = raises(&mut cpu, &invpcid);
            check_eq!(raised, (!fine).then_some(Exception::gp(0)), "{kind} {pcid:x} {linear:x}");
        }
    }
}
