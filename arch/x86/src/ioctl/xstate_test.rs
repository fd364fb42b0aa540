//! Test bodies of `xstate`.

use abi::encoding::Encoded;
use abi::fpu::{Fpu, Xcr, Xcrs};
use abi::ioctl::{GET_FPU, GET_XCRS, GET_XSAVE, GET_XSAVE2, SET_FPU, SET_XCRS, SET_XSAVE};
use alloc::vec::Vec;
use selftest::{Failure, cases, check, check_eq};
use virt::Errno;

use super::caller::{Caller, snapshot};
use crate::cpuid::Table;
use crate::regs::{FxArea, Regs, SysReg, YmmHigh};
use crate::vcpu::run_test::{TestVcpu, engine, host_error};
use crate::xstate::{AVX_OFFSET, MAX_SIZE};

const SIZE: usize = 4096;
const MXCSR: u64 = 24;
const XSTATE_BV: u64 = 512;
const XCOMP_BV: u64 = 520;

/// Vector registers with something in each.
fn fill(vcpu: &mut TestVcpu) {
    let regs = engine(vcpu);
    for (n, byte) in regs.fxsave_mut().0[32..416].iter_mut().enumerate() {
        *byte = (n * 5 + 1) as u8;
    }
    regs.fxsave_mut().0[..24].copy_from_slice(&core::array::from_fn::<u8, 24, _>(|n| n as u8 + 1));
    regs.fxsave_mut().0[5] = 0;
    regs.fxsave_mut().set_mxcsr(0x1fa0);
    regs.ymm_high_mut().0 = core::array::from_fn(|n| (n as u128) << 99 | 7);
}

fn area(caller: &Caller, vcpu: &mut TestVcpu, number: u32) -> Result<Vec<u8>, Failure> {
    caller.fill(0, &alloc::vec![0xaa; SIZE]);
    host_error(caller.call(vcpu, number))?;
    Ok(caller.bytes(0, SIZE))
}

/// Makes the vCPU offer AVX.
fn with_avx(vcpu: &mut TestVcpu) -> Result<(), Failure> {
    let mut table = Table::default();
    host_error(table.set(1, None, [0, 0, 1 << 26 | 1 << 28, 0]))?;
    host_error(table.set(0xd, Some(0), [7, 0, 0, 0]))?;
    vcpu.set_cpuid(table);
    Ok(())
}

cases! {
    fn an_area_goes_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        fill(&mut vcpu);
        let bytes = area(&caller, &mut vcpu, GET_XSAVE)?;
        check_eq!(bytes[..416], vcpu.engine().fxsave().0[..416]);
        check_eq!(u64::decode(&bytes[512..]), 7);
        check_eq!(u128::from_le_bytes(core::array::from_fn(|n| bytes[AVX_OFFSET + 16 + n])), 1 << 99 | 7);
        check!(bytes[520..576].iter().chain(&bytes[MAX_SIZE..]).all(|byte| *byte == 0));
        let mut other = caller.vcpu()?;
        caller.fill(0, &bytes);
        check_eq!(caller.call(&mut other, SET_XSAVE), Ok(0));
        check!(other.engine().fxsave().0[..] == vcpu.engine().fxsave().0[..]);
        check_eq!(other.engine().ymm_high(), vcpu.engine().ymm_high());
        check!(area(&caller, &mut other, GET_XSAVE2)? == bytes);
    }

    fn upper_halves_are_named_if_they_are_offered_or_used() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        check_eq!(area(&caller, &mut vcpu, GET_XSAVE)?[512], 3);
        engine(&mut vcpu).ymm_high_mut().0[3] = 1;
        check_eq!(area(&caller, &mut vcpu, GET_XSAVE)?[512], 7);
        engine(&mut vcpu).ymm_high_mut().0[3] = 0;
        with_avx(&mut vcpu)?;
        check_eq!(area(&caller, &mut vcpu, GET_XSAVE)?[512], 7);
    }

    fn components_that_are_not_named_are_as_after_a_reset() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        fill(&mut vcpu);
        let bytes = area(&caller, &mut vcpu, GET_XSAVE)?;
        let reset = FxArea::at_reset();
        for components in 0..8_u64 {
            fill(&mut vcpu);
            caller.fill(0, &bytes);
            caller.put(XSTATE_BV, &components);
            check_eq!(caller.call(&mut vcpu, SET_XSAVE), Ok(0));
            let (fx, high) = (vcpu.engine().fxsave(), vcpu.engine().ymm_high());
            let part = |bit: u64, range: core::ops::Range<usize>| {
                let from = if components & bit != 0 { &bytes[range.clone()] } else { &reset.0[range.clone()] };
                fx.0[range] == *from
            };
            check!(part(1, 0..24) && part(7, 24..28) && part(1, 32..160) && part(2, 160..416));
            check_eq!(*high == YmmHigh::default(), components & 4 == 0);
        }
    }

    fn an_area_that_cannot_be_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        fill(&mut vcpu);
        let bytes = area(&caller, &mut vcpu, GET_XSAVE)?;
        // Other components, a compacted form, what is reserved, MXCSR's reserved bits.
        let wrong = [
            (XSTATE_BV, 8_u64), (XSTATE_BV, 1 << 63 | 7), (XCOMP_BV, 1 << 63), (XCOMP_BV + 8, 1),
            (568, 1 << 56), (MXCSR, 1 << 16),
        ];
        for (offset, value) in wrong {
            let before = snapshot(&mut vcpu);
            caller.fill(0, &bytes);
            caller.put(offset, &value);
            check_eq!(caller.call(&mut vcpu, SET_XSAVE), Err(Errno::EINVAL));
            check!(snapshot(&mut vcpu) == before);
        }
        // Of no component MXCSR is none either.
        caller.fill(0, &bytes);
        caller.put(MXCSR, &!0_u32);
        caller.put(XSTATE_BV, &0_u64);
        check_eq!(caller.call(&mut vcpu, SET_XSAVE), Ok(0));
        check_eq!(vcpu.engine().fxsave().mxcsr(), 0x1f80);
    }

    fn x87_and_sse_go_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        fill(&mut vcpu);
        let fpu: Fpu = caller.get(&mut vcpu, GET_FPU)?;
        check_eq!((fpu.fcw, fpu.fsw, fpu.ftwx, fpu.last_opcode), (0x201, 0x403, 5, 0x807));
        check_eq!((fpu.last_ip, fpu.last_dp), (0x100f_0e0d_0c0b_0a09, 0x1817_1615_1413_1211));
        check_eq!((fpu.fpr[0][0], fpu.fpr[1][0], fpu.xmm[0][0], fpu.mxcsr), (1, 81, 129, 0x1fa0));
        let mut other = caller.vcpu()?;
        check_eq!(caller.set(&mut other, SET_FPU, &fpu), Ok(0));
        let got: Fpu = caller.get(&mut other, GET_FPU)?;
        // MXCSR is not KVM_SET_FPU's.
        check_eq!(got, Fpu { mxcsr: 0x1f80, ..fpu });
        check_eq!(other.engine().fxsave().xmm(15), vcpu.engine().fxsave().xmm(15));
    }

    fn xcr0_goes_there_and_back() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        with_avx(&mut vcpu)?;
        let mut xcrs: Xcrs = caller.get(&mut vcpu, GET_XCRS)?;
        check_eq!((xcrs.nr_xcrs, xcrs.flags, xcrs.xcrs[0].xcr, xcrs.xcrs[0].value), (1, 0, 0, 1));
        xcrs.xcrs[0].value = 7;
        check_eq!(caller.set(&mut vcpu, SET_XCRS, &xcrs), Ok(0));
        check_eq!(vcpu.engine().sysreg(SysReg::Xcr0), 7);
        check_eq!(caller.get::<Xcrs>(&mut vcpu, GET_XCRS)?, xcrs);
        // Another register is not looked at, nor one beyond the count.
        xcrs.xcrs[0] = Xcr { xcr: 1, reserved: 0, value: 99 };
        xcrs.xcrs[1] = Xcr { xcr: 0, reserved: 0, value: 3 };
        check_eq!(caller.set(&mut vcpu, SET_XCRS, &xcrs), Ok(0));
        check_eq!(vcpu.engine().sysreg(SysReg::Xcr0), 7);
        xcrs.nr_xcrs = 2;
        check_eq!(caller.set(&mut vcpu, SET_XCRS, &xcrs), Ok(0));
        check_eq!(vcpu.engine().sysreg(SysReg::Xcr0), 3);
    }

    fn an_xcr0_that_cannot_be_is_refused() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let mut xcrs: Xcrs = caller.get(&mut vcpu, GET_XCRS)?;
        // AVX is not offered.
        for value in [0, 2, 5, 7, 9, 1 << 63 | 1] {
            xcrs.xcrs[0].value = value;
            caller.refused(&mut vcpu, SET_XCRS, &xcrs, Errno::EINVAL)?;
        }
        // Nor is anything else without the leaf that tells it.
        vcpu.set_cpuid(Table::default());
        xcrs.xcrs[0].value = 3;
        caller.refused(&mut vcpu, SET_XCRS, &xcrs, Errno::EINVAL)?;
        with_avx(&mut vcpu)?;
        xcrs.xcrs[0].value = 1 << 63 | 7;
        caller.refused(&mut vcpu, SET_XCRS, &xcrs, Errno::EINVAL)?;
        xcrs.xcrs[0].value = 3;
        for (nr_xcrs, flags) in [(17, 0), (!0, 0), (1, 1)] {
            let wrong = Xcrs { nr_xcrs, flags, ..xcrs };
            caller.refused(&mut vcpu, SET_XCRS, &wrong, Errno::EINVAL)?;
        }
    }
}
