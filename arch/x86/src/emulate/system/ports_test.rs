//! Tests of port instructions and of the others that the run loop answers.

use selftest::{check, check_eq};

use super::test_tables::{TSS, USER_CODE64, long, raises, to_user, write_all};
use crate::emulate::test_cpu::TestCpu;
use crate::emulate::{Feature, Stop};
use crate::engine::Intercept;
use crate::exception::Exception;
use crate::regs::{Regs, Seg, SysReg, cr4, gpr, rflags};

/// What `code` comes out with.
fn intercept(cpu: &mut TestCpu, code: &[u8]) -> Option<Intercept> {
    cpu.intercept = None;
    let stop = cpu.run(code);
    (stop == Err(Stop::Intercept) && cpu.rip() == TestCpu::CODE).then_some(cpu.intercept)?
}

selftest::cases! {
    fn ports_come_out() {
        let mut cpu = long();
        cpu.state.gprs[2] = 0xffff_03f8;
        for (code, expected) in [
            (&[0xe4, 0xfe][..], Intercept::In { port: 0xfe, size: 1, len: 2 }),
            (&[0x66, 0xe5, 0x70], Intercept::In { port: 0x70, size: 2, len: 3 }),
            (&[0xe5, 0x70], Intercept::In { port: 0x70, size: 4, len: 2 }),
            (&[0xec], Intercept::In { port: 0x3f8, size: 1, len: 1 }),
            (&[0xed], Intercept::In { port: 0x3f8, size: 4, len: 1 }),
            (&[0xe6, 0x80], Intercept::Out { port: 0x80, size: 1, len: 2 }),
            (&[0xe7, 0x80], Intercept::Out { port: 0x80, size: 4, len: 2 }),
            (&[0xee], Intercept::Out { port: 0x3f8, size: 1, len: 1 }),
            (&[0x66, 0xef], Intercept::Out { port: 0x3f8, size: 2, len: 2 }),
            (&[0x6c], Intercept::StringIo),
            (&[0xf3, 0x6e], Intercept::StringIo),
            (&[0xf3, 0x6d], Intercept::StringIo),
        ] {
            check_eq!(intercept(&mut cpu, code), Some(expected));
        }
    }

    fn the_bitmap_decides_beyond_iopl() {
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        cpu.state.gprs[2] = 0x3f8;
        let (inb, inl, insb) = ([0xec], [0xed], [0x6c]);
        // The map at 0x68, all ones but for ports 0x3f8 to 0x3fb.
        cpu.memory[TSS as usize + 0x66] = 0x68;
        let map = TSS as usize + 0x68;
        cpu.memory[map..map + 0x2000].fill(0xff);
        check_eq!(raises(&mut cpu, &inb), Some(Exception::gp(0)));
        check_eq!(raises(&mut cpu, &insb), Some(Exception::gp(0)));
        cpu.memory[map + 0x7f] = 0xf0;
        check!(intercept(&mut cpu, &inb).is_some());
        check!(intercept(&mut cpu, &inl).is_some());
        cpu.memory[map + 0x7f] = 0xf8;
        check!(intercept(&mut cpu, &inb).is_some());
        check_eq!(raises(&mut cpu, &inl), Some(Exception::gp(0)));
        // Across a byte of the map.
        cpu.state.gprs[2] = 0x3fe;
        cpu.memory[map + 0x7f] = 0;
        check_eq!(raises(&mut cpu, &inl), Some(Exception::gp(0)));
        cpu.memory[map + 0x80] = 0xfc;
        check!(intercept(&mut cpu, &inl).is_some());
        // Outside the limit.
        cpu.state.segments[Seg::Tr as usize].limit = 0x68 + 0x7f;
        check_eq!(raises(&mut cpu, &inl), Some(Exception::gp(0)));
        // IOPL 3 needs no map.
        cpu.set_rflags(rflags::FIXED | rflags::IOPL);
        check!(intercept(&mut cpu, &inl).is_some());
        // A map far outside memory is not read.
        cpu.set_rflags(rflags::FIXED);
        write_all(&mut cpu, TSS + 0x66, &[u64::MAX]);
        check_eq!(raises(&mut cpu, &inl), Some(Exception::gp(0)));
    }

    fn privileged_instructions_come_out_at_level_0() {
        let cases = [
            (&[0xf4][..], Intercept::Halt { len: 1 }),
            (&[0x0f, 0x32], Intercept::ReadMsr { len: 2 }),
            (&[0x0f, 0x30], Intercept::WriteMsr { len: 2 }),
            (&[0x0f, 0x20, 0xc0 | 3], Intercept::ReadCr8 { gpr: 3, len: 4 }),
            (&[0x0f, 0x22, 0xc0 | 3], Intercept::WriteCr8 { gpr: 3, len: 4 }),
        ];
        for (code, expected) in cases {
            let cr8 = [&[0x44], code].concat();
            let code = if code.len() == 3 { &cr8[..] } else { code };
            let mut cpu = long();
            check_eq!(intercept(&mut cpu, code), Some(expected));
            to_user(&mut cpu, USER_CODE64);
            check_eq!(raises(&mut cpu, code), Some(Exception::gp(0)));
        }
        let mut cpu = long();
        to_user(&mut cpu, USER_CODE64);
        check_eq!(intercept(&mut cpu, &[0x0f, 0xa2]), Some(Intercept::Cpuid { len: 2 }));
        let vmmcall = [0x0f, 0x01, 0xd9];
        check_eq!(intercept(&mut cpu, &vmmcall), Some(Intercept::Hypercall { len: 3 }));
        check_eq!(raises(&mut cpu, &[0x0f, 0x09]), Some(Exception::gp(0)), "WBINVD");
    }

    fn the_time() {
        let (rdtsc, rdtscp) = ([0x0f, 0x31], [0x0f, 0x01, 0xf9]);
        let mut cpu = long();
        cpu.tsc = 0x1_2345_6788;
        cpu.set_sysreg(SysReg::TscAux, 7);
        check_eq!(cpu.run(&rdtscp), Ok(()));
        check_eq!((cpu.gpr(gpr::RDX), cpu.gpr(gpr::RAX), cpu.gpr(gpr::RCX)), (1, 0x2345_6789, 7));
        to_user(&mut cpu, USER_CODE64);
        check_eq!(cpu.run(&rdtsc), Ok(()));
        cpu.state.cr4 |= cr4::TSD;
        check_eq!(raises(&mut cpu, &rdtsc), Some(Exception::gp(0)));
        check_eq!(raises(&mut cpu, &rdtscp), Some(Exception::gp(0)));
        cpu.features = cpu.features.with(Feature::Rdtscp, false);
        check_eq!(raises(&mut cpu, &rdtscp), Some(Exception::ud()));
        // rdpid %rax; rdpmc
        check_eq!(cpu.run(&[0xf3, 0x0f, 0xc7, 0xf8]), Ok(()));
        check_eq!(cpu.gpr(gpr::RAX), 7);
        check_eq!(raises(&mut cpu, &[0x0f, 0x33]), Some(Exception::gp(0)));
    }

    fn what_is_not_offered_does_not_exist() {
        let mut cpu = long();
        let monitor = [0x0f, 0x01, 0xc8];
        check_eq!(cpu.run(&monitor), Ok(()));
        for (feature, code) in [
            (Feature::Monitor, &monitor[..]),
            (Feature::Monitor, &[0x0f, 0x01, 0xc9]),
            (Feature::Serialize, &[0x0f, 0x01, 0xe8]),
            (Feature::Rdpid, &[0xf3, 0x0f, 0xc7, 0xf8]),
        ] {
            cpu.features = cpu.features.with(feature, false);
            check_eq!(raises(&mut cpu, code), Some(Exception::ud()));
        }
        check_eq!(raises(&mut cpu, &[0x0f, 0xaa]), Some(Exception::ud()), "RSM");
        check_eq!(raises(&mut cpu, &[0x0f, 0x01, 0xd0]), Some(Exception::ud()), "XGETBV");
    }
}
