//! x87 instructions: arithmetic, the stack, comparisons, control words.
//!
//! Each program is executed several times: the first time its pages may not be in the TLB.

use arch_x86::regs::{Regs, gpr, rflags};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

use crate::test_code::Random;
use crate::test_machine::{at, machine, run_to_halt};
use crate::test_ways::in_every_way;
use crate::{Options, SoftVcpu};

in_every_way! {
    arithmetic_is_that_of_doubles,
    a_stack_fault_is_told_and_masked,
    comparisons_make_flags,
    moves_read_flags,
    the_status_word_is_stored,
    the_control_word_rounds,
    a_loop_sums_an_array,
    vectors_and_what_is_interpreted_stay_apart,
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// The control word of doubles: all exceptions masked, results of 53 bits, to nearest.
const DOUBLES: u16 = 0x27f;

/// Status word: stack fault, invalid operation, C1.
const OVERFLOWN: u16 = 0x241;
const UNDERFLOWN: u16 = 0x41;

/// Sets the control word, with an empty stack.
pub fn reset(vcpu: &mut SoftVcpu, fcw: u16) {
    let fx = vcpu.fxsave_mut();
    fx.0[..8].fill(0);
    fx.0[..2].copy_from_slice(&fcw.to_le_bytes());
}

pub fn status(vcpu: &SoftVcpu) -> u16 {
    u16::from_le_bytes([vcpu.fxsave().0[2], vcpu.fxsave().0[3]])
}

/// ST(i), as it is in memory.
pub fn st(vcpu: &SoftVcpu, i: usize) -> [u8; 10] {
    let at = 32 + i * 16;
    core::array::from_fn(|n| vcpu.fxsave().0[at + n])
}

/// Runs from the start.
pub fn go(vcpu: &mut SoftVcpu) {
    vcpu.set_rip(at::CODE);
    vcpu.set_gpr(gpr::RSP, at::STACK);
    run_to_halt(vcpu);
}

fn arithmetic_is_that_of_doubles(options: Options) {
    let machine = machine(options, |a| {
        a.fld(qword_ptr(rsi))?;
        a.fadd(qword_ptr(rsi + 8))?;
        a.fstp(qword_ptr(rdi))?;
        a.fld(qword_ptr(rsi))?;
        a.fld(qword_ptr(rsi + 8))?;
        a.fsubp(st1, st0)?;
        a.fstp(qword_ptr(rdi + 8))?;
        a.fld(qword_ptr(rsi + 8))?;
        a.fld(qword_ptr(rsi))?;
        a.fmul_2(st0, st1)?;
        a.fst(qword_ptr(rdi + 16))?;
        a.fdivrp(st1, st0)?;
        a.fstp(qword_ptr(rdi + 24))?;
        a.fld(qword_ptr(rsi + 8))?;
        a.fabs()?;
        a.fsqrt()?;
        a.fchs()?;
        a.fld1()?;
        a.fxch(st0, st1)?;
        a.fstp(qword_ptr(rdi + 32))?;
        a.fstp(qword_ptr(rdi + 40))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    let mut random = Random(1);
    for _ in 0..50 {
        // Between 2^-256 and 2^256: no result leaves the range.
        let mut number = || {
            let bits = random.bits();
            let exponent = 767 + (bits >> 54) % 512;
            f64::from_bits(bits & 0x800f_ffff_ffff_ffff | exponent << 52)
        };
        let [x, y] = [number(), number()];
        machine.write_u64(at::DATA, x.to_bits());
        machine.write_u64(at::DATA + 8, y.to_bits());
        reset(&mut vcpu, DOUBLES);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RDI, at::DATA + 0x1000);
        go(&mut vcpu);
        // FDIVRP: ST(0), the product, by ST(1).
        let expected = [x + y, x - y, x * y, x * y / y, -y.abs().sqrt(), 1.0];
        for (n, expected) in (0..).zip(expected) {
            let found = f64::from_bits(machine.read_u64(at::DATA + 0x1000 + n * 8));
            assert_eq!(found.to_bits(), expected.to_bits(), "{x:e}, {y:e}, {n}: {found:e}");
        }
        assert_eq!((vcpu.fxsave().0[4], status(&vcpu) >> 11 & 7), (0, 0), "the stack is empty");
    }
}

fn a_stack_fault_is_told_and_masked(options: Options) {
    /// The indefinite QNaN. See: AMD APM vol. 1, 6.3.5.
    const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
    let over = machine(options, |a| {
        for _ in 0..9 {
            a.fldpi()?;
        }
        a.hlt()
    });
    let mut vcpu = over.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        go(&mut vcpu);
        assert_eq!(status(&vcpu), OVERFLOWN | 7 << 11);
        assert_eq!((st(&vcpu, 0), vcpu.fxsave().0[4]), (INDEFINITE, 0xff));
        assert_eq!(st(&vcpu, 1)[9], 0x40);
    }
    let under = machine(options, |a| {
        a.fld1()?;
        a.faddp(st1, st0)?;
        a.hlt()
    });
    let mut vcpu = under.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        go(&mut vcpu);
        assert_eq!(status(&vcpu) & !0x4700, UNDERFLOWN, "{:#x}", status(&vcpu));
        assert_eq!((st(&vcpu, 0), vcpu.fxsave().0[4]), (INDEFINITE, 1));
    }
}

/// Two numbers, and ZF, PF and CF of the first compared with the second.
/// See: AMD APM vol. 5, FCOMI.
const COMPARED: [(f64, f64, u64); 5] = [
    (1.0, 2.0, rflags::CF),
    (2.0, 1.0, 0),
    (-1.5, -1.5, rflags::ZF),
    (0.0, -0.0, rflags::ZF),
    (f64::NAN, 1.0, rflags::ZF | rflags::PF | rflags::CF),
];
const FLAGS: u64 = rflags::ZF | rflags::PF | rflags::CF;

fn comparisons_make_flags(options: Options) {
    let instructions: [Program; 4] = [
        |a| a.fcomi(st0, st1),
        |a| a.fucomi(st0, st1),
        |a| a.fcomip(st0, st1),
        |a| a.fucomip(st0, st1),
    ];
    for instruction in instructions {
        let machine = machine(options, |a| {
            let mut below = a.create_label();
            a.xor(ebx, ebx)?;
            a.fld(qword_ptr(rsi + 8))?;
            a.fld(qword_ptr(rsi))?;
            a.cmp(rbx, rbp)?;
            instruction(a)?;
            a.mov(ecx, dword_ptr(rsi))?;
            a.pushfq()?;
            a.pop(r14)?;
            a.cmp(rbp, rbp)?;
            instruction(a)?;
            a.mov(r10, qword_ptr(rsi))?;
            a.jb(below)?;
            a.inc(ebx)?;
            a.set_label(&mut below)?;
            a.fld(st0)?;
            instruction(a)?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        for (x, y, flags) in COMPARED.into_iter().cycle().take(15) {
            machine.write_u64(at::DATA, x.to_bits());
            machine.write_u64(at::DATA + 8, y.to_bits());
            reset(&mut vcpu, 0x37f);
            vcpu.set_gpr(gpr::RSI, at::DATA);
            vcpu.set_gpr(gpr::RBP, 1);
            go(&mut vcpu);
            assert_eq!(vcpu.gpr(14) & FLAGS, flags, "{x}, {y}");
            // Of one that pops, the second time Y is compared with nothing.
            let pops = vcpu.fxsave().0[2] & 0x40 != 0;
            let above = u64::from(!pops && flags & rflags::CF == 0);
            assert_eq!(vcpu.gpr(gpr::RBX), above, "{x}, {y}");
        }
    }
}

fn moves_read_flags(options: Options) {
    // (the instruction, what it reads, whether it moves if none of that is set)
    let instructions: [(Program, u64, bool); 8] = [
        (|a| a.fcmovb(st0, st1), rflags::CF, false),
        (|a| a.fcmove(st0, st1), rflags::ZF, false),
        (|a| a.fcmovbe(st0, st1), rflags::CF | rflags::ZF, false),
        (|a| a.fcmovu(st0, st1), rflags::PF, false),
        (|a| a.fcmovnb(st0, st1), rflags::CF, true),
        (|a| a.fcmovne(st0, st1), rflags::ZF, true),
        (|a| a.fcmovnbe(st0, st1), rflags::CF | rflags::ZF, true),
        (|a| a.fcmovnu(st0, st1), rflags::PF, true),
    ];
    for (instruction, read, moves_without) in instructions {
        let machine = machine(options, |a| {
            a.fld1()?;
            a.fldz()?;
            a.cmp(rax, rdx)?;
            a.fst(qword_ptr(rsi))?;
            instruction(a)?;
            a.setb(cl)?;
            a.fstp(qword_ptr(rsi))?;
            a.hlt()
        });
        let mut vcpu = machine.vcpu();
        for (x, y, flags) in
            [(1, 2, FLAGS & !rflags::ZF), (7, 7, rflags::ZF | rflags::PF), (3, 2, 0)]
        {
            reset(&mut vcpu, 0x37f);
            vcpu.set_gpr(gpr::RSI, at::DATA);
            vcpu.set_gpr(gpr::RAX, x);
            vcpu.set_gpr(gpr::RDX, y);
            go(&mut vcpu);
            let moves = (flags & read != 0) != moves_without;
            let expected = if moves { 1.0_f64 } else { 0.0 };
            assert_eq!(machine.read_u64(at::DATA), expected.to_bits(), "{x}, {y}, {read:x}");
            assert_eq!(vcpu.gpr(gpr::RCX) & 0xff, flags & rflags::CF);
        }
    }
}

fn the_status_word_is_stored(options: Options) {
    let machine = machine(options, |a| {
        a.mov(rax, -1i64)?;
        a.fldz()?;
        a.fld1()?;
        a.fcom_2(st0, st1)?;
        a.fnstsw(word_ptr(rsi))?;
        a.fcomp(qword_ptr(rsi + 16))?;
        a.fnstsw(ax)?;
        a.mov(r10, rax)?;
        a.sahf()?;
        a.setb(bl)?;
        a.fdiv_2(st0, st0)?;
        a.fnstsw(word_ptr(rsi + 2))?;
        a.fnclex()?;
        a.fnstsw(word_ptr(rsi + 4))?;
        a.wait()?;
        a.fnop()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    machine.write_u64(at::DATA + 16, 2.0_f64.to_bits());
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        machine.write_u64(at::DATA, 0);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        go(&mut vcpu);
        // 1 is above 0: none of C0, C2, C3; and below 2: C0.
        assert_eq!(vcpu.gpr(10), !0xffff | 7 << 11 | 0x100);
        assert_eq!(vcpu.gpr(gpr::RBX) & 0xff, 1);
        let words = machine.read_u64(at::DATA).to_le_bytes();
        let word = |n: usize| u16::from_le_bytes([words[n], words[n + 1]]);
        assert_eq!(word(0), 6 << 11);
        // 0 / 0 is invalid.
        assert_eq!(word(2) & !0x4700, 7 << 11 | 1);
        assert_eq!(word(4) & !0x4700, 7 << 11);
    }
}

fn the_control_word_rounds(options: Options) {
    // As C compilers convert to an integer: to nearest (even), down, up, to zero.
    let machine = machine(options, |a| {
        a.fnstcw(word_ptr(rsi))?;
        a.movzx(eax, word_ptr(rsi))?;
        a.or(eax, ebx)?;
        a.mov(word_ptr(rsi + 2), ax)?;
        a.fld(qword_ptr(rsi + 8))?;
        a.cmp(rcx, 1)?;
        a.fldcw(word_ptr(rsi + 2))?;
        a.setc(dl)?;
        a.fistp(dword_ptr(rsi + 16))?;
        a.fnstcw(word_ptr(rsi + 4))?;
        a.fldcw(word_ptr(rsi))?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..2 {
        for (number, rounded) in
            [(2.5, [2, 2, 3, 2]), (-2.5, [-2, -3, -2, -2]), (3.7, [4, 3, 4, 3])]
        {
            for (mode, expected) in (0..).zip(rounded) {
                reset(&mut vcpu, 0x37f);
                vcpu.set_gpr(gpr::RSI, at::DATA);
                vcpu.set_gpr(gpr::RBX, mode << 10);
                vcpu.set_gpr(gpr::RCX, mode & 1);
                machine.write_u64(at::DATA + 8, f64::to_bits(number));
                go(&mut vcpu);
                assert_eq!(machine.read_u64(at::DATA + 16) as i32, expected, "{number}, {mode}");
                let words = [0x37f, 0x37f | mode << 10, 0x37f | mode << 10];
                let found = [0, 16, 32].map(|bit| machine.read_u64(at::DATA) >> bit & 0xffff);
                assert_eq!(found, words);
                assert_eq!(vcpu.fxsave().0[..2], [0x7f, 3]);
                assert_eq!(vcpu.gpr(gpr::RDX) & 1, 1 - (mode & 1));
            }
        }
    }
    // All bits: those that are reserved stay as they are.
    for word in [0xffff, 0x3f, 0xf3ff] {
        vcpu.set_gpr(gpr::RBX, word);
        go(&mut vcpu);
        assert_eq!(machine.read_u64(at::DATA) >> 32 & 0xffff, (word | 0x37f) & 0x1f3f | 0x40);
    }
}

fn a_loop_sums_an_array(options: Options) {
    const COUNT: u64 = 1500;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(rsi, at::DATA + 8)?;
        a.mov(rdi, at::LARGE)?;
        a.mov(ecx, COUNT as u32)?;
        a.fldz()?;
        a.set_label(&mut top)?;
        a.fld(qword_ptr(rsi))?;
        a.fadd_2(st1, st0)?;
        a.fmul_2(st0, st0)?;
        a.fistp(qword_ptr(rdi))?;
        a.add(rsi, 8)?;
        a.add(rdi, 8)?;
        a.sub(ecx, 1)?;
        a.jnz(top)?;
        a.fistp(qword_ptr(at::DATA))?;
        a.hlt()
    });
    for n in 0..COUNT {
        machine.write_u64(at::DATA + 8 + n * 8, (n as f64).to_bits());
    }
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        go(&mut vcpu);
        assert_eq!(machine.read_u64(at::DATA), COUNT * (COUNT - 1) / 2);
        for n in 0..COUNT {
            assert_eq!(machine.read_u64(at::LARGE + n * 8), n * n);
        }
    }
}

/// FNSTENV, STMXCSR and LDMXCSR are interpreted.
fn vectors_and_what_is_interpreted_stay_apart(options: Options) {
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 500)?;
        a.fldz()?;
        a.set_label(&mut top)?;
        a.movsd_2(xmm1, qword_ptr(rsi))?;
        a.fadd(qword_ptr(rsi))?;
        a.addsd(xmm2, xmm1)?;
        a.stmxcsr(dword_ptr(rsi + 32))?;
        a.fld1()?;
        a.addsd(xmm2, xmm1)?;
        a.fnstenv(ptr(rsi + 64))?;
        a.faddp(st1, st0)?;
        a.ldmxcsr(dword_ptr(rsi + 32))?;
        a.movaps(xmm3, xmm2)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.fstp(qword_ptr(rsi + 8))?;
        a.movsd_2(qword_ptr(rsi + 16), xmm3)?;
        a.hlt()
    });
    machine.write_u64(at::DATA, 0.5_f64.to_bits());
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.fxsave_mut().set_mxcsr(0x7f80);
        vcpu.fxsave_mut().set_xmm(2, 0);
        vcpu.fxsave_mut().set_xmm(9, 0x1234_5678);
        go(&mut vcpu);
        let found = [8, 16].map(|at| f64::from_bits(machine.read_u64(at::DATA + at)));
        assert_eq!(found, [750.0, 500.0]);
        assert_eq!((vcpu.fxsave().mxcsr(), vcpu.fxsave().xmm(9)), (0x7f80, 0x1234_5678));
    }
}
