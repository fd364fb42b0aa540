//! x87 instructions in translated code: which there are, and that the guest's registers are never mixed up with the
//! host's.

use std::arch::asm;

use arch_x86::regs::{Regs, gpr};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use super::sabotage;
use super::shape_test::taken_apart;
use super::x87::X87;
use crate::test_machine::{at, machine, run_to_halt};
use crate::test_ways::{jit, traced, uncounted};

fn is_translated(bytes: &[u8]) -> bool {
    taken_apart(bytes, |i, encoding| X87::of(i, encoding).is_some())
}

#[test]
fn only_what_shows_no_address_and_unmasks_nothing_is_translated() {
    let translated: &[&[u8]] = &[
        &[0xd8, 0xc1],             // fadd st, st(1)
        &[0xd9, 0x06],             // fld dword [rsi]
        &[0xdb, 0x3e],             // fstp tword [rsi]
        &[0xdf, 0x36],             // fbstp tword [rsi]
        &[0xdb, 0xf1],             // fcomi st, st(1)
        &[0xda, 0xc1],             // fcmovb st, st(1)
        &[0xd9, 0xfe],             // fsin
        &[0xdf, 0xe0],             // fnstsw ax
        &[0xdd, 0x3e],             // fnstsw [rsi]
        &[0xd9, 0x3e],             // fnstcw [rsi]
        &[0xd9, 0x2e],             // fldcw [rsi]
        &[0xdb, 0xe2],             // fnclex
        &[0xd9, 0xd0],             // fnop
        &[0x9b],                   // wait
        &[0x66, 0x41, 0xdd, 0x07], // fld qword [r15], with a prefix that says nothing
    ];
    let interpreted: &[&[u8]] = &[
        &[0xd9, 0x36],       // fnstenv [rsi]
        &[0xd9, 0x26],       // fldenv [rsi]
        &[0xdd, 0x36],       // fnsave [rsi]
        &[0xdd, 0x26],       // frstor [rsi]
        &[0xdb, 0xe3],       // fninit
        &[0x0f, 0xae, 0x06], // fxsave [rsi]
        &[0x0f, 0xae, 0x0e], // fxrstor [rsi]
        &[0x0f, 0x58, 0xc1], // addps xmm0, xmm1
        &[0x0f, 0xfc, 0xc1], // paddb mm0, mm1
        &[0x01, 0xc1],       // add ecx, eax
    ];
    let host_has = is_x86_feature_detected!("xsave");
    for bytes in translated {
        assert_eq!(is_translated(bytes), host_has, "{bytes:02x?}");
    }
    for bytes in interpreted {
        assert!(!is_translated(bytes), "{bytes:02x?}");
    }
}

/// FSUB translated in place of FADD does as FSUB: nobody interprets it.
#[test]
fn it_is_the_translation_that_is_executed() {
    if !is_x86_feature_detected!("xsave") {
        return;
    }
    for options in [jit(), uncounted(), traced()] {
        sabotage::replace(&[0xd8, 0xc1], &[0xd8, 0xe1]);
        let machine = machine(options, |a| {
            let mut top = a.create_label();
            a.mov(ecx, 10)?;
            a.fld1()?;
            a.fldz()?;
            a.set_label(&mut top)?;
            a.fadd_2(st0, st1)?;
            a.dec(ecx)?;
            a.jnz(top)?;
            a.fistp(qword_ptr(rsi))?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(gpr::RSI, at::DATA);
        // The first time some of it may be interpreted.
        for _ in 0..3 {
            vcpu.fxsave_mut().0[..8].copy_from_slice(&[0x7f, 3, 0, 0, 0, 0, 0, 0]);
            vcpu.set_rip(at::CODE);
            run_to_halt(&mut vcpu);
        }
        assert_eq!(machine.read_u64(at::DATA) as i64, -10);
    }
}

/// The thread's own control, status and tag words.
fn words() -> [u16; 3] {
    let mut environment = [0_u32; 7];
    // SAFETY: FNSTENV writes 28 bytes, and masks exceptions, which FLDENV takes back.
    unsafe {
        asm!("fnstenv [{at}]", "fldenv [{at}]", at = in(reg) environment.as_mut_ptr());
    }
    [environment[0] as u16, environment[1] as u16, environment[2] as u16]
}

/// Whether translated code comes back to Rust at its end or before an instruction, or does not start at all.
#[test]
fn the_host_finds_its_own_registers() {
    type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;
    let own = words();
    assert_eq!(own, [0x37f, 0, 0xffff], "a process starts so");
    let programs: [Program; 4] = [
        // At a HLT.
        |a| a.fldpi(),
        // A fault.
        |a| {
            a.fldpi()?;
            a.ud2()
        },
        // An operand that is not in the TLB.
        |a| {
            a.fldpi()?;
            a.fst(qword_ptr(at::LARGE))
        },
        // Refused: CVTPS2PI with exceptions unmasked.
        |a| {
            a.fldpi()?;
            a.ldmxcsr(dword_ptr(rsi))?;
            a.addps(xmm0, xmm0)
        },
    ];
    for program in programs {
        let machine = machine(jit(), |a| {
            program(a)?;
            a.hlt()
        });
        machine.handle(6, &[0xf4]);
        let mut vcpu = machine.vcpu();
        vcpu.set_gpr(gpr::RSI, at::DATA);
        // To zero, 24 bits.
        vcpu.fxsave_mut().0[..2].copy_from_slice(&0xc7f_u16.to_le_bytes());
        for pushed in 1..=9 {
            vcpu.set_rip(at::CODE);
            run_to_halt(&mut vcpu);
            assert_eq!(words(), own);
            let tags = vcpu.fxsave().0[4];
            assert_eq!(tags.count_ones(), pushed.min(8));
        }
    }
}
