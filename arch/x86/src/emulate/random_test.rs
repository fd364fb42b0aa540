//! Tests of RDRAND and RDSEED.

use selftest::check_eq;

use super::Feature;
use super::test_cpu::TestCpu;
use crate::exception::Exception;
use crate::regs::Regs;
use crate::regs::gpr::RAX;
use crate::regs::rflags::{self, CF};

const RDRAND_AX: [u8; 4] = [0x66, 0x0f, 0xc7, 0xf0];
const RDRAND_EAX: [u8; 3] = [0x0f, 0xc7, 0xf0];
const RDSEED_RAX: [u8; 4] = [0x48, 0x0f, 0xc7, 0xf8];

selftest::cases! {
    fn a_number_has_the_operands_size() {
        let mut cpu = TestCpu::long();
        cpu.set_gpr(RAX, 0x1111_1111_1111_1111);
        cpu.set_rflags(rflags::FIXED | rflags::STATUS);
        check_eq!(cpu.run(&RDRAND_AX), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x1111_1111_1111_ffff);
        check_eq!(cpu.rflags(), rflags::FIXED | CF);
        check_eq!(cpu.run(&RDRAND_EAX), Ok(()));
        check_eq!(cpu.gpr(RAX), 0xffff_ffff);
        check_eq!(cpu.run(&RDSEED_RAX), Ok(()));
        check_eq!(cpu.gpr(RAX), 0x5eed_5eed_5eed_5eed);
    }

    fn without_a_number_the_register_and_all_flags_are_cleared() {
        let mut cpu = TestCpu::long();
        cpu.random = false;
        cpu.set_gpr(RAX, 7);
        cpu.set_rflags(rflags::FIXED | rflags::STATUS);
        check_eq!(cpu.run(&RDSEED_RAX), Ok(()));
        check_eq!((cpu.gpr(RAX), cpu.rflags()), (0, rflags::FIXED));
    }

    fn one_that_is_not_offered_does_not_exist() {
        let mut cpu = TestCpu::long();
        cpu.features = cpu.features.with(Feature::Rdseed, false);
        check_eq!(cpu.run(&RDRAND_EAX), Ok(()));
        check_eq!(cpu.run(&RDSEED_RAX), Err(super::Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ud()));
    }
}
