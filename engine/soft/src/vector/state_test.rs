//! MMX aliasing, FXSAVE and FXRSTOR, environments, and forms outside of 64-bit mode.

use arch_x86::emulate::test_cpu::TestCpu;
use arch_x86::regs::{cr4, efer, gpr};

use super::exception_test::{cpu, execute};
use super::image;
use super::{Extension, offered};

const FLD1: &[u8] = &[0xd9, 0xe8];
const EMMS: &[u8] = &[0x0f, 0x77];
const MOVQ_LOAD: &[u8] = &[0x0f, 0x6f, 0x1e]; // movq mm3, [rsi]
const MOVQ_STORE: &[u8] = &[0x0f, 0x7f, 0x1e]; // movq [rsi], mm3
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06]; // fxsave [rsi]
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x06];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0e];
const FNSTENV: &[u8] = &[0xd9, 0x36];
const FLDENV: &[u8] = &[0xd9, 0x26];
const FNSAVE: &[u8] = &[0xdd, 0x36];
const FRSTOR: &[u8] = &[0xdd, 0x26];

fn run(cpu: &mut TestCpu, bytes: &[u8]) {
    execute(cpu, bytes).unwrap_or_else(|_| panic!("{bytes:x?}: {:?}", cpu.exception));
}

#[test]
fn mmx_registers_are_the_significands() {
    let mut cpu = cpu();
    cpu.memory[0x4000..0x4008].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
    // ST(0) is physical register 6 now.
    run(&mut cpu, FLD1);
    run(&mut cpu, FLD1);
    run(&mut cpu, MOVQ_LOAD);
    let fx = &cpu.state.fx;
    assert_eq!((image::top(fx), image::tags(fx)), (0, 0xff));
    assert_eq!(image::st(fx, 3), (0x0123_4567_89ab_cdef, 0xffff));
    assert_eq!(image::st(fx, 6), (1 << 63, 0x3fff), "what was ST(0)");
    cpu.memory[0x4000..0x4008].fill(0);
    run(&mut cpu, MOVQ_STORE);
    assert_eq!(cpu.memory[0x4000..0x4008], 0x0123_4567_89ab_cdef_u64.to_le_bytes());
    run(&mut cpu, EMMS);
    assert_eq!(image::tags(&cpu.state.fx), 0);
    run(&mut cpu, FLD1);
    assert_eq!(image::tags(&cpu.state.fx), 0x80);
}

/// A processor with all fields of the register file filled.
fn filled() -> Box<TestCpu> {
    let mut cpu = cpu();
    let fx = &mut cpu.state.fx;
    image::set_control_and_status(fx, 0x37f, 0x3a41);
    image::set_tags(fx, 0xa5);
    image::set_fop(fx, 0x123);
    image::set_fip(fx, 0x1122_3344_5566_7788);
    image::set_fdp(fx, 0x99aa_bbcc_ddee_ff00);
    fx.set_mxcsr(0x1fa1);
    for i in 0..8 {
        image::set_st(fx, i, 0x8000_0000_0000_0000 | u64::from(i), 0x3fff + u16::from(i));
    }
    for n in 0..16 {
        fx.set_xmm(n, u128::from(n) << 64 | 0xfeed);
    }
    cpu
}

#[test]
fn fxsave_and_fxrstor_are_inverse() {
    for (save, restore, wide) in [(FXSAVE, FXRSTOR, false), (FXSAVE64, FXRSTOR64, true)] {
        let mut cpu = filled();
        cpu.memory[0x4000..0x4200].fill(0x77);
        let before = cpu.state.fx;
        run(&mut cpu, save);
        assert_eq!(cpu.memory[0x41a0..0x4200], [0x77; 96], "not accessed");
        assert_eq!(cpu.memory[0x401c..0x4020], [0xff, 0xff, 0, 0], "MXCSR_MASK");
        cpu.state.fx = arch_x86::regs::FxArea::at_reset();
        run(&mut cpu, restore);
        let mut expected = before;
        if !wide {
            image::set_fip(&mut expected, image::fip(&before) & 0xffff_ffff);
            image::set_fdp(&mut expected, image::fdp(&before) & 0xffff_ffff);
        }
        assert!(cpu.state.fx == expected);
    }
}

#[test]
fn fxsave_has_eight_registers_outside_of_64_bit_mode_and_none_when_fast() {
    let mut cpu = filled();
    cpu.state.efer |= efer::FFXSR;
    cpu.memory[0x4000..0x4200].fill(0x77);
    run(&mut cpu, FXSAVE64);
    assert_eq!(cpu.memory[0x40a0..0x4200], [0x77; 0x160]);
    cpu.state.cpl = 3;
    run(&mut cpu, FXSAVE64);
    assert_eq!(cpu.memory[0x40a0..0x40a2], [0xed, 0xfe]);

    let mut cpu = TestCpu::protected();
    cpu.state.cr4 |= cr4::OSFXSR;
    cpu.state.fx = filled().state.fx;
    cpu.state.gprs[usize::from(gpr::RSI)] = 0x4000;
    cpu.memory[0x4000..0x4200].fill(0x77);
    run(&mut cpu, FXSAVE);
    assert_eq!(cpu.memory[0x4110..0x4112], [0xed, 0xfe], "XMM7");
    assert_eq!(cpu.memory[0x4120..0x4200], [0x77; 0xe0]);
    cpu.memory[0x4110] = 0;
    run(&mut cpu, FXRSTOR);
    assert_eq!(cpu.state.fx.xmm(7) as u16, 0xfe00);
    assert_eq!(cpu.state.fx.xmm(8) as u16, 0xfeed);
}

#[test]
fn environments_have_the_full_tag_word() {
    let mut cpu = cpu();
    let fx = &mut cpu.state.fx;
    image::set_control_and_status(fx, 0x37f, 3 << 11);
    image::set_tags(fx, 0b0001_1111);
    // Physical registers 3, 4, 0 (5 places on), 1 and 2.
    image::set_st(fx, 0, 0, 0x8000);
    image::set_st(fx, 1, 1 << 63, 0x3fff);
    image::set_st(fx, 5, 1 << 63, 0x7fff);
    image::set_st(fx, 6, 1, 0);
    image::set_st(fx, 7, 1, 0x3fff);
    let registers = fx.0;
    run(&mut cpu, FNSTENV);
    assert_eq!(cpu.memory[0x4008..0x400c], [0b0110_1010, 0b1111_1100, 0xff, 0xff]);
    // TOP is loaded: the registers move under it.
    cpu.memory[0x4004..0x4006].copy_from_slice(&(4u16 << 11).to_le_bytes());
    run(&mut cpu, FLDENV);
    let fx = &cpu.state.fx;
    assert_eq!((image::top(fx), image::tags(fx)), (4, 0b0001_1111));
    assert_eq!(fx.0[32..48], registers[48..64]);
    assert_eq!(fx.0[144..160], registers[32..48]);
}

#[test]
fn fnsave_and_frstor_are_inverse() {
    for prefix in [&[][..], &[0x66]] {
        let mut cpu = filled();
        image::set_fip(&mut cpu.state.fx, 0x1234);
        image::set_fdp(&mut cpu.state.fx, 0x5678);
        if !prefix.is_empty() {
            image::set_fop(&mut cpu.state.fx, 0);
        }
        let before = cpu.state.fx;
        run(&mut cpu, &[prefix, FNSAVE].concat());
        let fx = &cpu.state.fx;
        assert_eq!((image::fcw(fx), image::fsw(fx), image::tags(fx)), (0x37f, 0, 0));
        run(&mut cpu, &[prefix, FRSTOR].concat());
        assert!(cpu.state.fx == before);
    }
}

/// Real mode's environment has the opcode, and addresses in two parts.
#[test]
fn environments_of_real_mode_keep_their_fields() {
    for prefix in [&[][..], &[0x66]] {
        let mut cpu = TestCpu::real();
        cpu.state.gprs[usize::from(gpr::RSI)] = 0x4000;
        image::set_fop(&mut cpu.state.fx, 0x123);
        image::set_fip(&mut cpu.state.fx, 0x4_5678);
        image::set_fdp(&mut cpu.state.fx, 0x9_abcd);
        let before = cpu.state.fx;
        // FNSTENV [si], FLDENV [si].
        run(&mut cpu, &[prefix, &[0xd9, 0x34]].concat());
        cpu.state.fx = arch_x86::regs::FxArea::at_reset();
        run(&mut cpu, &[prefix, &[0xd9, 0x24]].concat());
        assert!(cpu.state.fx == before);
    }
}

#[test]
fn the_extensions_of_this_host_are_offered() {
    assert_eq!(offered().next(), Some(Extension::Base));
    assert_eq!(offered().any(|e| e == Extension::Sse42), is_x86_feature_detected!("sse4.2"));
}
