//! AVX: when it is there, what becomes of upper halves, access by elements; XSAVE and its kin.

use arch_x86::emulate::test_cpu::TestCpu;
use arch_x86::exception::{self, Exception};
use arch_x86::regs::{Regs, SysReg, cr0, cr4, gpr, xcr0};

use super::exception_test::{cpu, execute};
use super::{Extension, image};

const VADDPS_YMM: &[u8] = &[0xc5, 0xec, 0x58, 0xcb]; // vaddps ymm1, ymm2, ymm3
const VADDPS_XMM: &[u8] = &[0xc5, 0xe8, 0x58, 0xcb];
const VMOVDQU_LOAD: &[u8] = &[0xc5, 0xfe, 0x6f, 0x0e]; // vmovdqu ymm1, [rsi]
const VMOVDQA_LOAD: &[u8] = &[0xc5, 0xfd, 0x6f, 0x0e]; // vmovdqa ymm1, [rsi]
const VMOVDQU_STORE: &[u8] = &[0xc5, 0xfe, 0x7f, 0x0e]; // vmovdqu [rsi], ymm1
const VEXTRACTF128: &[u8] = &[0xc4, 0xe3, 0x7d, 0x19, 0xc9, 0x01]; // vextractf128 xmm1, ymm1, 1
const VPEXTRB: &[u8] = &[0xc4, 0xe3, 0x79, 0x14, 0xc8, 0x02]; // vpextrb eax, xmm1, 2
const VBLENDVPS: &[u8] = &[0xc4, 0xe3, 0x6d, 0x4a, 0xcb, 0x40]; // vblendvps ymm1, ymm2, ymm3, ymm4
const VPTEST: &[u8] = &[0xc4, 0xe2, 0x7d, 0x17, 0xca]; // vptest ymm1, ymm2
const VZEROUPPER: &[u8] = &[0xc5, 0xf8, 0x77];
const VPMASKMOVD_LOAD: &[u8] = &[0xc4, 0xe2, 0x6d, 0x8c, 0x0e]; // vpmaskmovd ymm1, ymm2, [rsi]
const VPMASKMOVD_STORE: &[u8] = &[0xc4, 0xe2, 0x6d, 0x8e, 0x0e]; // vpmaskmovd [rsi], ymm2, ymm1
const VPGATHERDD: &[u8] = &[0xc4, 0xe2, 0x65, 0x90, 0x0c, 0x96]; // vpgatherdd ymm1, [rsi+ymm2*4], ymm3
const VPGATHERQD: &[u8] = &[0xc4, 0xe2, 0x61, 0x91, 0x0c, 0x16]; // vpgatherqd xmm1, [rsi+xmm2], xmm3
const VCVTPS2PH: &[u8] = &[0xc4, 0xe3, 0x79, 0x1d, 0x0e, 0x00]; // vcvtps2ph [rsi], xmm1, 0
const XSAVE: &[u8] = &[0x48, 0x0f, 0xae, 0x26]; // xsave64 [rsi]
const XSAVEC: &[u8] = &[0x48, 0x0f, 0xc7, 0x26]; // xsavec64 [rsi]
const XSAVEOPT: &[u8] = &[0x48, 0x0f, 0xae, 0x36]; // xsaveopt64 [rsi]
const XRSTOR: &[u8] = &[0x48, 0x0f, 0xae, 0x2e]; // xrstor64 [rsi]

const ALL: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;

/// A processor with AVX on; RSI points to memory aligned to 64.
fn avx() -> Box<TestCpu> {
    let mut cpu = cpu();
    cpu.state.cr4 |= cr4::OSXSAVE;
    cpu.set_sysreg(SysReg::Xcr0, ALL);
    cpu
}

fn run(cpu: &mut TestCpu, bytes: &[u8]) {
    execute(cpu, bytes).unwrap_or_else(|_| panic!("{bytes:x?}: {:?}", cpu.exception));
}

fn raises(cpu: &mut TestCpu, bytes: &[u8]) -> Option<Exception> {
    execute(cpu, bytes).err().and(cpu.exception)
}

fn set(cpu: &mut TestCpu, n: u8, dwords: [u32; 8]) {
    let half =
        |at: usize| (0..4).fold(0_u128, |all, n| all | u128::from(dwords[at + n]) << (32 * n));
    cpu.state.fx.set_xmm(n, half(0));
    cpu.state.ymm_high.0[usize::from(n)] = half(4);
}

fn get(cpu: &TestCpu, n: u8) -> [u32; 8] {
    let halves = [cpu.state.fx.xmm(n), cpu.state.ymm_high.0[usize::from(n)]];
    std::array::from_fn(|at| (halves[at / 4] >> (32 * (at % 4))) as u32)
}

/// Words of the guest's memory where RSI points to, from `offset` on.
fn words(cpu: &TestCpu, offset: usize, count: usize) -> Vec<u32> {
    let at = 0x4000 + offset;
    cpu.memory[at..at + 4 * count]
        .chunks(4)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect()
}

#[test]
fn it_exists_when_it_is_on() {
    if !Extension::Avx.host_has() {
        return;
    }
    let mut cpu = avx();
    run(&mut cpu, VADDPS_YMM);
    cpu.state.cr0 |= cr0::EM;
    run(&mut cpu, VADDPS_YMM);
    cpu.state.cr0 |= cr0::TS;
    assert_eq!(raises(&mut cpu, VADDPS_YMM), Some(Exception::plain(7)));
    cpu.set_sysreg(SysReg::Xcr0, xcr0::X87 | xcr0::SSE);
    assert_eq!(raises(&mut cpu, VADDPS_YMM), Some(Exception::ud()));
    let mut cpu = avx();
    cpu.state.cr4 &= !cr4::OSXSAVE;
    assert_eq!(raises(&mut cpu, VADDPS_YMM), Some(Exception::ud()));
    assert_eq!(raises(&mut cpu, XSAVE), Some(Exception::ud()));
}

#[test]
fn forms_of_128_bits_clear_the_upper_half() {
    if !Extension::Avx.host_has() {
        return;
    }
    let one = 1_f32.to_bits();
    let two = 2_f32.to_bits();
    let mut cpu = avx();
    set(&mut cpu, 2, [one; 8]);
    set(&mut cpu, 3, [one; 8]);
    run(&mut cpu, VADDPS_YMM);
    assert_eq!(get(&cpu, 1), [two; 8]);
    run(&mut cpu, VADDPS_XMM);
    assert_eq!(get(&cpu, 1), [two, two, two, two, 0, 0, 0, 0]);
    set(&mut cpu, 1, [1, 2, 3, 4, 5, 6, 7, 8]);
    run(&mut cpu, VEXTRACTF128);
    assert_eq!(get(&cpu, 1), [5, 6, 7, 8, 0, 0, 0, 0]);
    run(&mut cpu, VZEROUPPER);
    assert_eq!(get(&cpu, 2), [one, one, one, one, 0, 0, 0, 0]);
}

#[test]
fn operands_are_where_the_encoding_says() {
    if !Extension::Avx.host_has() {
        return;
    }
    let mut cpu = avx();
    set(&mut cpu, 1, [0x0403_0201, 0, 0, 0, 0, 0, 0, 0]);
    cpu.set_gpr(gpr::RAX, u64::MAX);
    run(&mut cpu, VPEXTRB);
    assert_eq!(cpu.gpr(gpr::RAX), 3);
    set(&mut cpu, 2, [2; 8]);
    set(&mut cpu, 3, [3; 8]);
    set(&mut cpu, 4, [1 << 31, 0, 0, 1 << 31, 0, 1 << 31, 0, 0]);
    run(&mut cpu, VBLENDVPS);
    assert_eq!(get(&cpu, 1), [3, 2, 2, 3, 2, 3, 2, 2]);
    set(&mut cpu, 1, [0, 0, 0, 0, 0, 0, 0, 4]);
    run(&mut cpu, VPTEST);
    assert!(cpu.status().zf() && !cpu.status().cf());
}

#[test]
fn only_aligned_moves_need_alignment() {
    if !Extension::Avx.host_has() {
        return;
    }
    let mut cpu = avx();
    let start = cpu.gpr(gpr::RSI);
    set(&mut cpu, 1, [1, 2, 3, 4, 5, 6, 7, 8]);
    cpu.set_gpr(gpr::RSI, start + 4);
    run(&mut cpu, VMOVDQU_STORE);
    assert_eq!(words(&cpu, 4, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(raises(&mut cpu, VMOVDQA_LOAD), Some(Exception::gp(0)));
    cpu.set_gpr(gpr::RSI, start + 16);
    assert_eq!(raises(&mut cpu, VMOVDQA_LOAD), Some(Exception::gp(0)));
    run(&mut cpu, VMOVDQU_LOAD);
    assert_eq!(get(&cpu, 1)[..5], [4, 5, 6, 7, 8]);
}

#[test]
fn a_mask_keeps_the_rest_from_being_accessed() {
    if !Extension::Avx2.host_has() {
        return;
    }
    let mut cpu = avx();
    // The last two elements are outside of memory.
    let end = TestCpu::MEMORY - 24;
    cpu.set_gpr(gpr::RSI, end as u64);
    cpu.memory[end..].fill(0x11);
    let sign = 1 << 31;
    set(&mut cpu, 2, [sign, 0, sign, 0, 0, sign, 0, 0]);
    run(&mut cpu, VPMASKMOVD_LOAD);
    let ones = 0x1111_1111;
    assert_eq!(get(&cpu, 1), [ones, 0, ones, 0, 0, ones, 0, 0]);
    set(&mut cpu, 1, [2; 8]);
    run(&mut cpu, VPMASKMOVD_STORE);
    assert_eq!(cpu.memory[end..end + 5], [2, 0, 0, 0, 0x11]);
    set(&mut cpu, 2, [0, sign, 0, 0, 0, 0, 0, sign]);
    assert!(raises(&mut cpu, VPMASKMOVD_STORE).is_some());
    assert_eq!(cpu.memory[end + 4], 0x11, "nothing is written");
}

#[test]
fn a_gather_goes_on_after_a_fault() {
    if !Extension::Avx2.host_has() {
        return;
    }
    let mut cpu = avx();
    for n in 0..8_u8 {
        cpu.memory[0x4000 + 4 * usize::from(n)] = n + 1;
    }
    let sign = 1 << 31;
    set(&mut cpu, 1, [9; 8]);
    set(&mut cpu, 2, [7, 6, 5, 0x10_0000, 3, 2, 1, 0]);
    set(&mut cpu, 3, [sign, sign, 0, sign, sign, 0, 0, sign]);
    assert!(raises(&mut cpu, VPGATHERDD).is_some());
    assert_eq!(get(&cpu, 1), [8, 7, 9, 9, 9, 9, 9, 9]);
    assert_eq!(get(&cpu, 3), [0, 0, 0, !0, !0, 0, 0, !0]);
    set(&mut cpu, 2, [7, 6, 5, 4, 3, 2, 1, 0]);
    run(&mut cpu, VPGATHERDD);
    assert_eq!(get(&cpu, 1), [8, 7, 9, 5, 4, 9, 9, 1]);
    assert_eq!(get(&cpu, 3), [0; 8]);
    // Two elements of four bytes by two indices of eight.
    set(&mut cpu, 1, [9; 8]);
    set(&mut cpu, 2, [8, 0, 4, 0, 0, 0, 0, 0]);
    set(&mut cpu, 3, [sign; 8]);
    run(&mut cpu, VPGATHERQD);
    assert_eq!(get(&cpu, 1), [3, 2, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_gather_of_128_bits_that_faults_clears_upper_halves() {
    if !Extension::Avx2.host_has() {
        return;
    }
    let mut cpu = avx();
    let sign = 1 << 31;
    set(&mut cpu, 1, [9; 8]);
    // The mask of two elements: of each of the four in the register its sign counts.
    set(&mut cpu, 3, [sign, sign, 1, sign, sign, 0, 0, 1]);
    set(&mut cpu, 2, [0x10_0000, 0, 0, 0, 0, 0, 0, 0]);
    assert!(raises(&mut cpu, VPGATHERQD).is_some());
    assert_eq!(get(&cpu, 1), [9; 8], "there is no element yet");
    assert_eq!(get(&cpu, 3), [!0, !0, 0, !0, 0, 0, 0, 0]);
    set(&mut cpu, 2, [0, 0, 0x10_0000, 0, 0, 0, 0, 0]);
    assert!(raises(&mut cpu, VPGATHERQD).is_some());
    assert_eq!(get(&cpu, 1)[1..], [9, 9, 9, 0, 0, 0, 0]);
    assert_eq!(get(&cpu, 3), [0, !0, 0, !0, 0, 0, 0, 0]);
}

#[test]
fn a_conversion_to_memory_raises_its_exceptions_before_the_store() {
    if !Extension::F16c.host_has() {
        return;
    }
    let mut cpu = avx();
    cpu.set_gpr(gpr::RSI, TestCpu::MEMORY as u64);
    set(&mut cpu, 1, [f32::MAX.to_bits(); 8]);
    assert_eq!(raises(&mut cpu, VCVTPS2PH).map(|fault| fault.vector), Some(exception::PF));
    assert_eq!(cpu.state.fx.mxcsr(), 0x1f80 | 1 << 5 | 1 << 3, "they stay");
    cpu.state.fx.set_mxcsr(0x1f80 & !(1 << 10));
    assert_eq!(raises(&mut cpu, VCVTPS2PH).map(|fault| fault.vector), Some(exception::XM));
    // 2^-20 is tiny, and exact.
    set(&mut cpu, 1, [0x3580_0000; 8]);
    cpu.state.fx.set_mxcsr(0x1f80 & !(1 << 11));
    assert_eq!(raises(&mut cpu, VCVTPS2PH).map(|fault| fault.vector), Some(exception::XM));
    assert_eq!(cpu.state.fx.mxcsr() & 0x3f, 1 << 4);
}

#[test]
fn only_the_parts_that_are_saved_or_restored_have_to_be_there() {
    let mut cpu = avx();
    let end = TestCpu::MEMORY;
    cpu.memory[end - 576..].fill(0);
    cpu.set_gpr(gpr::RSI, end as u64 - 576);
    ask(&mut cpu, xcr0::X87 | xcr0::SSE);
    for bytes in [XSAVE, XSAVEC, XRSTOR] {
        run(&mut cpu, bytes);
    }
    ask(&mut cpu, ALL);
    assert!(raises(&mut cpu, XSAVE).is_some());
}

/// Asks for `components`.
fn ask(cpu: &mut TestCpu, components: u64) {
    cpu.set_gpr(gpr::RAX, components);
    cpu.set_gpr(gpr::RDX, 0);
}

#[test]
fn what_is_saved_is_restored() {
    for save in [XSAVE, XSAVEC, XSAVEOPT] {
        let mut cpu = avx();
        cpu.memory[0x4000..0x4400].fill(0);
        for n in 0..16 {
            set(&mut cpu, n, [u32::from(n) + 1; 8]);
        }
        image::set_st(&mut cpu.state.fx, 3, 1 << 63, 0x3fff);
        cpu.state.fx.set_mxcsr(0x1fa0);
        let before = cpu.state.clone();
        ask(&mut cpu, u64::MAX);
        run(&mut cpu, save);
        let compacted = if save == XSAVEC { (ALL as u32, 1 << 31) } else { (0, 0) };
        let header = words(&cpu, 512, 4);
        assert_eq!((header[0], header[1]), (ALL as u32, 0));
        assert_eq!((header[2], header[3]), compacted);
        cpu.state.fx = arch_x86::regs::FxArea([0xff; 512]);
        cpu.state.fx.set_mxcsr(0x1f80);
        cpu.state.ymm_high.0 = [7; 16];
        run(&mut cpu, XRSTOR);
        assert_eq!(cpu.state.fx.0[160..416], before.fx.0[160..416]);
        assert_eq!(cpu.state.fx.mxcsr(), 0x1fa0);
        assert_eq!(image::st(&cpu.state.fx, 3), (1 << 63, 0x3fff));
        assert_eq!(cpu.state.ymm_high, before.ymm_high);
    }
}

#[test]
fn what_is_not_asked_for_is_left_alone_and_what_is_not_there_is_reset() {
    let mut cpu = avx();
    cpu.memory[0x4000..0x4400].fill(0);
    set(&mut cpu, 5, [5; 8]);
    ask(&mut cpu, xcr0::AVX);
    run(&mut cpu, XSAVE);
    assert_eq!(words(&cpu, 160, 64), [0; 64]);
    assert_eq!(words(&cpu, 576 + 5 * 16, 5), [5, 5, 5, 5, 0]);
    assert_eq!(words(&cpu, 512, 1), [xcr0::AVX as u32]);
    // SSE is not in the area: its registers become zero.
    ask(&mut cpu, xcr0::SSE);
    run(&mut cpu, XRSTOR);
    assert_eq!(get(&cpu, 5), [0, 0, 0, 0, 5, 5, 5, 5]);
    // In use is the upper half only; the optimised form leaves the rest alone.
    cpu.memory[0x4000..0x4200].fill(0x77);
    ask(&mut cpu, ALL);
    run(&mut cpu, XSAVEOPT);
    assert_eq!(words(&cpu, 160, 8), [0x7777_7777; 8]);
    assert_eq!(words(&cpu, 512, 1), [xcr0::AVX as u32]);
}

#[test]
fn a_malformed_area_is_refused() {
    let mut cpu = avx();
    cpu.memory[0x4000..0x4400].fill(0);
    ask(&mut cpu, ALL);
    for (at, bytes) in [
        (512, &[8_u8][..]), // a component that is not on
        (520, &[1]),        // XCOMP_BV without its highest bit
        (24, &[0, 0, 1]),   // MXCSR
        (512, &[4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0x80]), // not in XCOMP_BV
    ] {
        cpu.memory[0x4000..0x4400].fill(0);
        cpu.memory[0x4000 + at..0x4000 + at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(raises(&mut cpu, XRSTOR), Some(Exception::gp(0)), "{at}");
    }
    cpu.set_gpr(gpr::RSI, cpu.gpr(gpr::RSI) + 32);
    assert_eq!(raises(&mut cpu, XSAVE), Some(Exception::gp(0)));
}
