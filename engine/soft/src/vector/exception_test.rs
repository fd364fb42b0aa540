//! What x87, MMX and SSE instructions raise, and that they then change nothing.

use arch_x86::emulate::test_cpu::TestCpu;
use arch_x86::emulate::{Mode, Stop};
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{FxArea, cr0, cr4, gpr, rflags};
use iced_x86::{Decoder, DecoderOptions};

use super::image::{self, fsw};

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1]; // addps xmm0, xmm1
const DIVPS: &[u8] = &[0x0f, 0x5e, 0xc1]; // divps xmm0, xmm1
const PADDB_XMM: &[u8] = &[0x66, 0x0f, 0xfc, 0xc1]; // paddb xmm0, xmm1
const PADDB_MM: &[u8] = &[0x0f, 0xfc, 0xc1]; // paddb mm0, mm1
const MOVAPS: &[u8] = &[0x0f, 0x28, 0x06]; // movaps xmm0, [rsi]
const MOVUPS: &[u8] = &[0x0f, 0x10, 0x06]; // movups xmm0, [rsi]
const MOVAPS_STORE: &[u8] = &[0x0f, 0x29, 0x06]; // movaps [rsi], xmm0
const MOVUPS_STORE: &[u8] = &[0x0f, 0x11, 0x06]; // movups [rsi], xmm0
const PADDB_MEMORY: &[u8] = &[0x66, 0x0f, 0xfc, 0x06]; // paddb xmm0, [rsi]
const PCMPISTRI_MEMORY: &[u8] = &[0x66, 0x0f, 0x3a, 0x63, 0x06, 0]; // pcmpistri xmm0, [rsi], 0
const CVTPS2PI: &[u8] = &[0x0f, 0x2d, 0xc9]; // cvtps2pi mm1, xmm1
const FLD1: &[u8] = &[0xd9, 0xe8];
const FADD: &[u8] = &[0xd8, 0xc1]; // fadd st, st(1)
const FSTP_M32: &[u8] = &[0xd9, 0x1e]; // fstp dword [rsi]
const FNINIT: &[u8] = &[0xdb, 0xe3];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
const FNSTCW: &[u8] = &[0xd9, 0x3e]; // fnstcw [rsi]
const FNSTENV: &[u8] = &[0xd9, 0x36]; // fnstenv [rsi]
const FLDCW: &[u8] = &[0xd9, 0x2e]; // fldcw [rsi]
const FNOP: &[u8] = &[0xd9, 0xd0];
const FWAIT: &[u8] = &[0x9b];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06]; // fxsave [rsi]
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e]; // fxrstor [rsi]
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16]; // ldmxcsr [rsi]

/// A processor that lets everything execute, RSI at 0x4000.
pub fn cpu() -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    cpu.state.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.state.gprs[usize::from(gpr::RSI)] = 0x4000;
    cpu
}

/// Executes one instruction.
pub fn execute(cpu: &mut TestCpu, bytes: &[u8]) -> Result<(), Stop> {
    let mode = Mode::of(cpu);
    let bits = mode as u32 * 8;
    let i = Decoder::with_ip(bits, bytes, 0x1000, DecoderOptions::NONE).decode();
    let op = super::lower::<TestCpu>(&i, mode).expect("a vector instruction");
    (op.exec)(cpu, &op.insn)
}

/// What `bytes` raise, if anything; then nothing else has changed but MXCSR.
fn raised(cpu: &mut TestCpu, bytes: &[u8]) -> Option<Exception> {
    let (before, memory, gprs) = (cpu.state.fx, cpu.memory.clone(), cpu.state.gprs);
    cpu.exception = None;
    if execute(cpu, bytes).is_ok() {
        assert_eq!(cpu.exception, None);
        return None;
    }
    let mut after = cpu.state.fx;
    after.set_mxcsr(before.mxcsr());
    assert!(after == before, "registers changed");
    assert!(memory == cpu.memory && gprs == cpu.state.gprs);
    cpu.exception
}

fn vector(cpu: &mut TestCpu, bytes: &[u8]) -> Option<u8> {
    raised(cpu, bytes).map(|exception| exception.vector)
}

fn with_cr0(bits: u64) -> Box<TestCpu> {
    let mut cpu = cpu();
    cpu.state.cr0 |= bits;
    cpu
}

#[test]
fn task_switched_makes_the_device_unavailable() {
    for bytes in [ADDPS, PADDB_XMM, PADDB_MM, MOVAPS, FLD1, FNINIT, FNSTCW, FXSAVE, LDMXCSR] {
        assert_eq!(vector(&mut with_cr0(cr0::TS), bytes), Some(exception::NM), "{bytes:x?}");
    }
    assert_eq!(vector(&mut with_cr0(cr0::TS), FWAIT), None);
    assert_eq!(vector(&mut with_cr0(cr0::TS | cr0::MP), FWAIT), Some(exception::NM));
    assert_eq!(vector(&mut with_cr0(cr0::MP), FWAIT), None);
}

#[test]
fn emulation_undefines_media_instructions_and_traps_x87() {
    for bytes in [ADDPS, PADDB_XMM, PADDB_MM, MOVUPS, LDMXCSR, CVTPS2PI] {
        let mut cpu = with_cr0(cr0::EM | cr0::TS);
        assert_eq!(vector(&mut cpu, bytes), Some(exception::UD), "{bytes:x?}");
    }
    for bytes in [FLD1, FNINIT, FNSTSW_AX, FXSAVE, FXRSTOR] {
        assert_eq!(vector(&mut with_cr0(cr0::EM), bytes), Some(exception::NM), "{bytes:x?}");
    }
    assert_eq!(vector(&mut with_cr0(cr0::EM), FWAIT), None);
}

#[test]
fn sse_needs_the_operating_system() {
    for bytes in [ADDPS, PADDB_XMM, MOVUPS, MOVUPS_STORE, LDMXCSR, CVTPS2PI] {
        let mut cpu = cpu();
        cpu.state.cr4 &= !cr4::OSFXSR;
        assert_eq!(vector(&mut cpu, bytes), Some(exception::UD), "{bytes:x?}");
    }
    for bytes in [PADDB_MM, FXSAVE, FLD1] {
        let mut cpu = cpu();
        cpu.state.cr4 &= !cr4::OSFXSR;
        assert_eq!(vector(&mut cpu, bytes), None, "{bytes:x?}");
    }
}

#[test]
fn sixteen_bytes_are_aligned_or_fault() {
    for bytes in [MOVAPS, MOVAPS_STORE, PADDB_MEMORY, FXSAVE, FXRSTOR] {
        let mut cpu = cpu();
        cpu.state.gprs[usize::from(gpr::RSI)] = 0x4008;
        assert_eq!(raised(&mut cpu, bytes), Some(Exception::gp(0)), "{bytes:x?}");
    }
    for bytes in [MOVUPS, MOVUPS_STORE, PCMPISTRI_MEMORY, LDMXCSR] {
        let mut cpu = cpu();
        cpu.state.gprs[usize::from(gpr::RSI)] = 0x4ffb;
        assert_eq!(raised(&mut cpu, bytes), None, "{bytes:x?}");
    }
}

#[test]
fn page_faults_leave_everything_as_it_was() {
    let end = TestCpu::MEMORY as u64;
    for bytes in [MOVUPS, MOVUPS_STORE, PCMPISTRI_MEMORY] {
        let mut cpu = cpu();
        cpu.state.gprs[usize::from(gpr::RSI)] = end - 8;
        let fault = raised(&mut cpu, bytes).expect("a fault");
        assert_eq!((fault.vector, fault.payload), (exception::PF, end), "{bytes:x?}");
    }
    let mut cpu = cpu();
    execute(&mut cpu, FLD1).expect("no fault");
    cpu.state.gprs[usize::from(gpr::RSI)] = end;
    // The value is still on the stack.
    assert_eq!(vector(&mut cpu, FSTP_M32), Some(exception::PF));
    for bytes in [FNSTENV, FXSAVE, FXRSTOR, FLDCW] {
        assert_eq!(vector(&mut cpu, bytes), Some(exception::PF), "{bytes:x?}");
    }
    // What is reserved at the end of the area has to be there as well.
    cpu.state.gprs[usize::from(gpr::RSI)] = end - 416;
    for bytes in [FXSAVE, FXRSTOR] {
        assert_eq!(vector(&mut cpu, bytes), Some(exception::PF), "{bytes:x?}");
    }
}

/// XMM0 and XMM1 with `a` and `b` in element 0, and ones elsewhere.
fn operands(cpu: &mut TestCpu, a: f32, b: f32) {
    for (n, value) in [(0, a), (1, b)] {
        let ones = 0x3f80_0000_3f80_0000_3f80_0000_u128 << 32;
        cpu.state.fx.set_xmm(n, ones | u128::from(value.to_bits()));
    }
}

const INVALID: u32 = 1;
const DENORMAL: u32 = 1 << 1;
const ZERO_DIVIDE: u32 = 1 << 2;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;
const ALL_MASKED: u32 = 0x1f80;

#[test]
fn masked_sse_exceptions_set_flags() {
    let mut cpu = cpu();
    operands(&mut cpu, 1.0, 0.0);
    assert_eq!(vector(&mut cpu, DIVPS), None);
    assert_eq!(cpu.state.fx.mxcsr(), ALL_MASKED | ZERO_DIVIDE);
    assert_eq!(cpu.state.fx.xmm(0) as u32, f32::INFINITY.to_bits());
    // They stay.
    operands(&mut cpu, 1.0, 3.0);
    assert_eq!(vector(&mut cpu, DIVPS), None);
    assert_eq!(cpu.state.fx.mxcsr(), ALL_MASKED | ZERO_DIVIDE | PRECISION);
}

#[test]
fn unmasked_sse_exceptions_fault_with_their_flags() {
    let mut cpu = cpu();
    operands(&mut cpu, 1.0, 0.0);
    cpu.state.fx.set_mxcsr(ALL_MASKED & !(ZERO_DIVIDE << 7));
    assert_eq!(vector(&mut cpu, DIVPS), Some(exception::XM));
    assert_eq!(cpu.state.fx.mxcsr(), ALL_MASKED & !(ZERO_DIVIDE << 7) | ZERO_DIVIDE);
    // Not handled by the operating system: no such instruction.
    cpu.state.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(vector(&mut cpu, DIVPS), Some(exception::UD));
    // A flag from before is no exception.
    operands(&mut cpu, 1.0, 2.0);
    assert_eq!(vector(&mut cpu, DIVPS), None);
    // With one found before the operation, those of the operation are not.
    cpu.state.cr4 |= cr4::OSXMMEXCPT;
    cpu.state.fx.set_mxcsr(ALL_MASKED & !(DENORMAL << 7));
    operands(&mut cpu, f32::from_bits(3), 3.0);
    assert_eq!(vector(&mut cpu, DIVPS), Some(exception::XM));
    assert_eq!(cpu.state.fx.mxcsr() & 0x3f, DENORMAL);
}

#[test]
fn unmasked_underflow_needs_no_inexact_result() {
    let mut cpu = cpu();
    operands(&mut cpu, f32::MIN_POSITIVE, 2.0);
    assert_eq!(vector(&mut cpu, DIVPS), None);
    assert_eq!(cpu.state.fx.mxcsr(), ALL_MASKED, "tiny, but exact");
    operands(&mut cpu, f32::MIN_POSITIVE, 2.0);
    cpu.state.fx.set_mxcsr(ALL_MASKED & !(UNDERFLOW << 7));
    assert_eq!(vector(&mut cpu, DIVPS), Some(exception::XM));
    assert_ne!(cpu.state.fx.mxcsr() & UNDERFLOW, 0);
}

#[test]
fn numbers_of_ten_bytes_and_environments_are_aligned_where_that_is_checked() {
    const FLD_M80: &[u8] = &[0xdb, 0x2e];
    const FBSTP: &[u8] = &[0xdf, 0x36];
    const FLDENV: &[u8] = &[0xd9, 0x26];
    const FNSTENV_SHORT: &[u8] = &[0x66, 0xd9, 0x36];
    for (bytes, alignment) in [
        (FLD_M80, 8),
        (FBSTP, 8),
        (FNSTENV, 4),
        (FLDENV, 4),
        (FNSTENV_SHORT, 2),
        (MOVUPS, 1),
        (PCMPISTRI_MEMORY, 1),
    ] {
        for offset in 0..8 {
            let mut cpu = cpu();
            execute(&mut cpu, FLD1).expect("no fault");
            cpu.state.cpl = 3;
            cpu.state.cr0 |= cr0::AM;
            cpu.state.rflags |= rflags::AC;
            cpu.state.gprs[usize::from(gpr::RSI)] = 0x4000 + offset;
            cpu.exception = None;
            let misaligned = offset % alignment != 0;
            let raised = execute(&mut cpu, bytes).is_err();
            assert_eq!(raised, misaligned, "{bytes:x?} at {offset}");
            if raised {
                assert_eq!(cpu.exception, Some(Exception::with_error(exception::AC, 0)));
            }
        }
    }
}

#[test]
fn a_conversion_that_faults_does_not_enter_mmx() {
    let mut cpu = cpu();
    execute(&mut cpu, FLD1).expect("no fault");
    cpu.state.fx.set_xmm(1, f32::NAN.to_bits().into());
    cpu.state.fx.set_mxcsr(ALL_MASKED & !(INVALID << 7));
    assert_eq!(vector(&mut cpu, CVTPS2PI), Some(exception::XM));
    assert_eq!(image::top(&cpu.state.fx), 7);
}

/// A processor with an x87 exception pending: the stack underflows.
fn pending() -> Box<TestCpu> {
    let mut cpu = cpu();
    let fx = &mut cpu.state.fx;
    image::set_control_and_status(fx, 0x37e, 0);
    assert_eq!(vector(&mut cpu, FADD), None);
    let expected = 1 | fsw::SF | fsw::ES | fsw::B;
    assert_eq!(image::fsw(&cpu.state.fx) & expected, expected);
    cpu
}

#[test]
fn pending_x87_exceptions_are_raised_by_what_waits() {
    for bytes in [FLD1, FADD, FWAIT, FNOP, FLDCW, FSTP_M32, PADDB_MM, CVTPS2PI] {
        assert_eq!(vector(&mut pending(), bytes), Some(exception::MF), "{bytes:x?}");
    }
    for bytes in [FNINIT, FNCLEX, FNSTSW_AX, FNSTCW, FNSTENV, FXSAVE, FXRSTOR, ADDPS, MOVUPS] {
        assert_eq!(vector(&mut pending(), bytes), None, "{bytes:x?}");
    }
    for bytes in [FNINIT, FNCLEX, FNSTENV] {
        let mut cpu = pending();
        execute(&mut cpu, bytes).expect("does not wait");
        assert_eq!(vector(&mut cpu, FLD1), None, "{bytes:x?}");
    }
}

#[test]
fn an_unmasked_exception_prevents_an_x87_store() {
    let mut cpu = cpu();
    cpu.memory[0x4000..0x4004].copy_from_slice(&[1, 2, 3, 4]);
    // The empty stack: invalid.
    image::set_control_and_status(&mut cpu.state.fx, 0x37e, 0);
    execute(&mut cpu, FSTP_M32).expect("raised by the next");
    assert_eq!(cpu.memory[0x4000..0x4004], [1, 2, 3, 4]);
    assert_eq!(vector(&mut cpu, FWAIT), Some(exception::MF));
    // Precision alone does not prevent it.
    let mut cpu = self::cpu();
    image::set_control_and_status(&mut cpu.state.fx, 0x35f, 0);
    image::set_tags(&mut cpu.state.fx, 1);
    image::set_st(&mut cpu.state.fx, 0, 0xaaaa_aaaa_aaaa_aaaa, 0x3fff);
    execute(&mut cpu, FSTP_M32).expect("raised by the next");
    assert_ne!(cpu.memory[0x4000..0x4004], [0; 4]);
    assert_eq!(vector(&mut cpu, FWAIT), Some(exception::MF));
}

#[test]
fn reserved_bits_of_mxcsr_are_refused() {
    for (bytes, at) in [(LDMXCSR, 0x4000), (FXRSTOR, 0x4018)] {
        let mut cpu = cpu();
        cpu.memory[at + 2] = 1;
        assert_eq!(raised(&mut cpu, bytes), Some(Exception::gp(0)), "{bytes:x?}");
        cpu.memory[at..at + 4].copy_from_slice(&[0xff, 0xff, 0, 0]);
        assert_eq!(raised(&mut cpu, bytes), None, "{bytes:x?}");
        assert_eq!(cpu.state.fx.mxcsr(), 0xffff);
    }
}

/// Whatever the register file holds, as a VMM may set it, the host does not fault.
#[test]
fn any_register_file_is_survived() {
    for bytes in [ADDPS, DIVPS, FLD1, FADD, PADDB_MM, CVTPS2PI, FXSAVE] {
        let mut cpu = cpu();
        cpu.state.fx = FxArea([0xff; 512]);
        let _ = execute(&mut cpu, bytes);
        image::set_control_and_status(&mut cpu.state.fx, 0x37f, 0xffff);
        let _ = execute(&mut cpu, bytes);
    }
    assert_eq!(2.0_f64.sqrt().to_bits(), 0x3ff6_a09e_667f_3bcd);
}
