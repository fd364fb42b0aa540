//! Vector instructions in translated code: what lets them execute, and that the guest's registers are never
//! mixed up with the host's.

use std::hint::black_box;

use arch_x86::exception;
use arch_x86::regs::{Regs, SysReg, cr0, cr4, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::shape_test::taken_apart;
use super::vector::Vector;
use crate::SoftVcpu;
use crate::run_test::handler;
use crate::test_machine::{Machine, assemble, at, run_to_halt};
use crate::vector::Extension;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// MXCSR that masks nothing.
const UNMASKED: u32 = 0;

fn machine(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    Machine::new(&assemble(at::CODE, program))
}

fn with_avx(machine: &Machine) -> SoftVcpu {
    let mut vcpu = machine.vcpu();
    vcpu.set_cr4(vcpu.cr4() | cr4::OSXSAVE);
    vcpu.set_sysreg(SysReg::Xcr0, 7);
    vcpu
}

fn is_translated(bytes: &[u8]) -> bool {
    taken_apart(bytes, |i, encoding| Vector::of(i, encoding).is_some())
}

#[test]
fn only_what_the_host_does_alike_is_translated() {
    let translated: &[&[u8]] = &[
        &[0x0f, 0x28, 0xc1],                   // movaps xmm0, xmm1
        &[0x0f, 0x58, 0x06],                   // addps xmm0, [rsi]
        &[0x0f, 0xfc, 0xc1],                   // paddb mm0, mm1
        &[0x0f, 0xe7, 0x06],                   // movntq [rsi], mm0
        &[0x0f, 0x77],                         // emms
        &[0xf2, 0x48, 0x0f, 0x2c, 0xc1],       // cvttsd2si rax, xmm1
        &[0x66, 0x0f, 0x6e, 0xc0],             // movd xmm0, eax
        &[0x66, 0x0f, 0x2e, 0xc1],             // ucomisd xmm0, xmm1
        &[0x66, 0x0f, 0x38, 0x00, 0xc1],       // pshufb xmm0, xmm1
        &[0x66, 0x0f, 0x3a, 0x16, 0x06, 1],    // pextrd [rsi], xmm0, 1
        &[0x66, 0x0f, 0x3a, 0x63, 0xc1, 0],    // pcmpistri xmm0, xmm1, 0
        &[0xc5, 0xfc, 0x58, 0xc1],             // vaddps ymm0, ymm0, ymm1
        &[0xc5, 0xf8, 0x77],                   // vzeroupper
        &[0xc4, 0xe3, 0x79, 0x4a, 0xc1, 0x20], // vblendvps xmm0, xmm0, xmm1, xmm2
        &[0xc4, 0xe2, 0xf1, 0x98, 0x06],       // vfmadd132pd xmm0, xmm1, [rsi]
        &[0xc4, 0xe3, 0x7d, 0x39, 0x06, 1],    // vextracti128 [rsi], ymm0, 1
    ];
    let interpreted: &[&[u8]] = &[
        &[0x0f, 0x2d, 0xc9],                   // cvtps2pi mm1, xmm1
        &[0x66, 0x0f, 0x2c, 0x0e],             // cvttpd2pi mm1, [rsi]
        &[0xf3, 0x0f, 0xd6, 0xc1],             // movq2dq xmm0, mm1
        &[0xf2, 0x0f, 0xd6, 0xc1],             // movdq2q mm0, xmm1
        &[0x0f, 0xf7, 0xc1],                   // maskmovq mm0, mm1
        &[0x66, 0x0f, 0xf7, 0xc1],             // maskmovdqu xmm0, xmm1
        &[0x0f, 0xae, 0x16],                   // ldmxcsr [rsi]
        &[0xd8, 0xc1],                         // fadd st, st(1)
        &[0xc4, 0xe2, 0x79, 0x2c, 0x06],       // vmaskmovps xmm0, xmm0, [rsi]
        &[0xc4, 0xe2, 0x69, 0x92, 0x04, 0x0e], // vgatherdps xmm0, [rsi + xmm1], xmm2
        &[0xc4, 0xe2, 0x78, 0xf2, 0xc1],       // andn eax, eax, ecx
    ];
    for bytes in translated {
        let is_vex = matches!(bytes[0], 0xc4 | 0xc5);
        let expected = !is_vex || Extension::Avx.host_has() && Extension::Fma.host_has();
        assert_eq!(is_translated(bytes), expected, "{bytes:02x?}");
    }
    for bytes in interpreted {
        assert!(!is_translated(bytes), "{bytes:02x?}");
    }
}

/// Between vector instructions are such as the interpreter executes, some of them on the same registers.
#[test]
fn registers_survive_what_is_interpreted() {
    let machine = machine(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 1000)?;
        a.mov(rsi, at::DATA)?;
        a.mov(eax, 1)?;
        a.set_label(&mut top)?;
        a.movd(xmm9, eax)?;
        a.paddd(xmm15, xmm9)?;
        a.movdq2q(mm1, xmm9)?;
        a.paddd(xmm15, xmm9)?;
        a.fninit()?;
        a.movq2dq(xmm3, mm0)?;
        a.movdqu(xmmword_ptr(rsi + 1), xmm15)?;
        a.paddd(xmm14, xmmword_ptr(rsi + 16))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    machine.write(at::DATA + 16, &[0, 3]);
    let mut vcpu = machine.vcpu();
    vcpu.fxsave_mut().set_xmm(0, 0x1234);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.fxsave().xmm(15), 2000);
    assert_eq!(vcpu.fxsave().xmm(0), 0x1234);
    assert_eq!(machine.read_u64(at::DATA) >> 8, 2000);
    // Byte 0 is 0 by the store above.
    assert_eq!(vcpu.fxsave().xmm(14), 1000 * 0x300);
    assert!(vcpu.instructions().is_none_or(|count| count == 3 + 10_000));
}

#[test]
fn upper_halves_stay_or_are_cleared() {
    if !Extension::Avx.host_has() {
        return;
    }
    let machine = machine(|a| {
        a.movaps(xmm1, xmm8)?;
        a.vmovaps(xmm2, xmm8)?;
        a.vmovaps(ymm3, ymm8)?;
        a.fninit()?;
        a.addps(xmm4, xmm4)?;
        a.vaddps(ymm5, ymm5, ymm5)?;
        a.hlt()
    });
    let mut vcpu = with_avx(&machine);
    for n in 0..16 {
        vcpu.fxsave_mut().set_xmm(n, u128::from(n) << 40);
        vcpu.ymm_high_mut().0[usize::from(n)] = 0x100 + u128::from(n);
    }
    run_to_halt(&mut vcpu);
    let high = vcpu.ymm_high().0;
    let expected = |n: u128| match n {
        2 => 0,
        3 => 0x108,
        // Twice a denormal number.
        5 => 0x20a,
        n => 0x100 + n,
    };
    for n in 0..16 {
        assert_eq!(high[n as usize], expected(n), "ymm{n}");
    }
    assert_eq!([1, 2, 3].map(|n| vcpu.fxsave().xmm(n)), [8 << 40; 3]);
}

#[test]
fn a_switched_task_is_told_before_any_vector_instruction() {
    let machine = machine(|a| {
        a.mov(eax, 5)?;
        a.movd(xmm0, eax)?;
        a.inc(eax)?;
        a.movd(xmm1, eax)?;
        a.hlt()
    });
    handler(&machine, exception::NM, |a| {
        a.inc(ebx)?;
        a.mov(rdx, qword_ptr(rsp))?;
        a.clts()?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    vcpu.set_cr0(vcpu.cr0() | cr0::TS);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 1);
    assert_eq!(vcpu.gpr(gpr::RDX), at::CODE + 5);
    assert_eq!((vcpu.fxsave().xmm(0), vcpu.fxsave().xmm(1)), (5, 6));
    assert!(vcpu.instructions().is_none_or(|count| count == 4 + 4));
}

#[test]
fn avx_needs_the_operating_system() {
    if !Extension::Avx.host_has() {
        return;
    }
    let program = |a: &mut CodeAssembler| {
        a.inc(ecx)?;
        a.paddd(xmm1, xmm2)?;
        a.vpaddd(xmm1, xmm1, xmm2)?;
        a.hlt()
    };
    let machine = machine(program);
    handler(&machine, exception::UD, |a| {
        a.mov(rdx, qword_ptr(rsp))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    vcpu.fxsave_mut().set_xmm(2, 7);
    run_to_halt(&mut vcpu);
    assert_eq!((vcpu.gpr(gpr::RCX), vcpu.gpr(gpr::RDX)), (1, at::CODE + 6));
    assert_eq!(vcpu.fxsave().xmm(1), 7);
    let mut vcpu = with_avx(&machine);
    vcpu.fxsave_mut().set_xmm(2, 7);
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.fxsave().xmm(1), 14);
}

#[test]
fn a_misaligned_operand_is_the_guests_fault() {
    let programs: [Program; 3] = [
        |a| a.movaps(xmm0, xmmword_ptr(rsi)),
        |a| a.movdqa(xmmword_ptr(rsi), xmm0),
        |a| a.paddd(xmm0, xmmword_ptr(rsi)),
    ];
    for program in programs {
        let machine = machine(|a| {
            a.mov(rsi, at::DATA + 8)?;
            // Now it is in the TLB.
            a.mov(qword_ptr(rsi), rsi)?;
            program(a)?;
            a.hlt()
        });
        handler(&machine, exception::GP, |a| {
            a.inc(ebx)?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.gpr(gpr::RBX), 1);
    }
}

/// Both where MXCSR is loaded and where it was before.
#[test]
fn exceptions_that_are_not_masked_are_the_guests() {
    let machine = machine(|a| {
        a.mov(rsi, at::DATA)?;
        a.addps(xmm1, xmm2)?;
        a.ldmxcsr(dword_ptr(rsi))?;
        a.addps(xmm1, xmm2)?;
        a.divps(xmm0, xmm1)?;
        a.nop()?;
        a.divps(xmm0, xmm1)?;
        a.hlt()
    });
    machine.write(at::DATA, &UNMASKED.to_le_bytes());
    handler(&machine, exception::XM, |a| {
        a.inc(ebx)?;
        a.mov(rcx, rdx)?;
        a.mov(rdx, qword_ptr(rsp))?;
        // Behind DIVPS.
        a.add(qword_ptr(rsp), 3)?;
        a.iretq()
    });
    let mut vcpu = machine.vcpu();
    vcpu.fxsave_mut().set_xmm(0, u128::from(1.0_f32.to_bits()) * (1 << 96 | 1 << 64 | 1 << 32 | 1));
    run_to_halt(&mut vcpu);
    assert_eq!(vcpu.gpr(gpr::RBX), 2);
    assert_eq!(vcpu.gpr(gpr::RCX) + 4, vcpu.gpr(gpr::RDX));
    assert_eq!(vcpu.fxsave().mxcsr(), UNMASKED | 4);
}

#[test]
fn rounding_is_the_guests_in_the_guest_and_the_hosts_outside() {
    let machine = machine(|a| {
        a.divss(xmm0, xmm1)?;
        a.hlt()
    });
    let quotient = |mxcsr: u32| {
        let mut vcpu = machine.vcpu();
        vcpu.fxsave_mut().set_xmm(0, 1.0_f32.to_bits().into());
        vcpu.fxsave_mut().set_xmm(1, 3.0_f32.to_bits().into());
        vcpu.fxsave_mut().set_mxcsr(mxcsr);
        run_to_halt(&mut vcpu);
        assert_eq!(vcpu.fxsave().mxcsr(), mxcsr | 0x20);
        (vcpu.fxsave().xmm(0) as u32, (black_box(1.0_f32) / black_box(3.0)).to_bits())
    };
    assert_eq!(quotient(0x1f80), (0x3eaa_aaab, 0x3eaa_aaab));
    // To zero.
    assert_eq!(quotient(0x7f80), (0x3eaa_aaaa, 0x3eaa_aaab));
}
