//! MMX instructions, and how their registers are the x87's.

use arch_x86::exception;
use arch_x86::regs::{Regs, cr0, gpr};
use iced_x86::code_asm::*;

use crate::Options;
use crate::test_machine::{at, machine, run_to_halt};
use crate::test_ways::in_every_way;
use crate::x87_test::{go, reset, st, status};

in_every_way! {
    registers_are_computed_with,
    operands_are_anywhere,
    general_purpose_registers_are_moved,
    registers_are_the_x87s,
    what_stands_in_the_way_is_told,
    a_loop_adds_arrays,
}

fn registers_are_computed_with(options: Options) {
    let machine = machine(options, |a| {
        a.movq(mm0, qword_ptr(rsi))?;
        a.movq(mm7, qword_ptr(rsi + 8))?;
        a.movq(mm1, mm0)?;
        a.paddb(mm1, mm7)?;
        a.movq(mm2, mm0)?;
        a.psrlw(mm2, 4)?;
        a.pshufw(mm3, mm0, 0x1b)?;
        a.pcmpeqb(mm4, mm4)?;
        a.movq(qword_ptr(rsi + 16), mm1)?;
        a.movntq(qword_ptr(rsi + 24), mm2)?;
        a.movq(qword_ptr(rsi + 32), mm3)?;
        a.movq(qword_ptr(rsi + 40), mm4)?;
        a.emms()?;
        a.hlt()
    });
    machine.write_u64(at::DATA, 0x8877_6655_4433_2211);
    machine.write_u64(at::DATA + 8, 0x0101_0101_0101_ffff);
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        go(&mut vcpu);
        let found = [16, 24, 32, 40].map(|at| machine.read_u64(at::DATA + at));
        let sum = 0x8978_6756_4534_2110;
        assert_eq!(found, [sum, 0x0887_0665_0443_0221, 0x2211_4433_6655_8877, !0]);
        assert_eq!((status(&vcpu), vcpu.fxsave().0[4]), (0, 0));
    }
}

fn operands_are_anywhere(options: Options) {
    let machine = machine(options, |a| {
        a.movd(mm0, dword_ptr(r9 + r10))?;
        a.punpcklbw(mm0, dword_ptr(r15))?;
        a.paddw(mm0, qword_ptr(rsi))?;
        a.movq(qword_ptr(rdi), mm0)?;
        a.movd(dword_ptr(rdi + 8), mm0)?;
        a.hlt()
    });
    let page = at::DATA + 0x1000;
    let mut vcpu = machine.vcpu();
    for place in [page, page + 0x123, page - 8, page - 7, page - 4, page - 3, page - 1] {
        for _ in 0..3 {
            machine.write_u64(place, 0x0004_0003_0201_ff00);
            reset(&mut vcpu, 0x37f);
            for n in [gpr::RSI, 15] {
                vcpu.set_gpr(n, place);
            }
            vcpu.set_gpr(gpr::RDI, place + 0x2000);
            vcpu.set_gpr(9, place - 0x123);
            vcpu.set_gpr(10, 0x123);
            go(&mut vcpu);
            // 00 ff 01 02, each next to itself, and the words added.
            let sum = 0x0206_0104_0200_ff00;
            assert_eq!(machine.read_u64(place + 0x2000), sum, "{place:x}");
            assert_eq!(machine.read_u64(place + 0x2008) as u32, sum as u32);
        }
    }
}

fn general_purpose_registers_are_moved(options: Options) {
    let machine = machine(options, |a| {
        a.movd(mm1, r11d)?;
        a.movq(mm2, r15)?;
        a.movq(mm3, rax)?;
        a.pinsrw(mm3, r9d, 1)?;
        // MOVQ MM4, MM3 with REX.R and REX.B, which say nothing.
        a.db(&[0x45, 0x0f, 0x6f, 0xe3])?;
        a.movd(r10d, mm2)?;
        a.movq(rbx, mm1)?;
        a.movq(r9, mm4)?;
        a.pmovmskb(r15d, mm2)?;
        a.pextrw(ecx, mm2, 3)?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        vcpu.set_gpr(11, 0x1122_3344_5566_7788);
        vcpu.set_gpr(15, 0x8001_ff02_0380_7fff);
        vcpu.set_gpr(gpr::RAX, 0x0123_4567_89ab_cdef);
        vcpu.set_gpr(9, 0xffff_aaaa);
        go(&mut vcpu);
        let found = [10, gpr::RBX, 9, 15, gpr::RCX].map(|n| vcpu.gpr(n));
        let expected = [0x0380_7fff, 0x5566_7788, 0x0123_4567_aaaa_cdef, 0b1010_0101, 0x8001];
        assert_eq!(found, expected, "{found:x?}");
    }
}

/// See: AMD APM vol. 1, 5.4.
fn registers_are_the_x87s(options: Options) {
    let machine = machine(options, |a| {
        a.fld1()?;
        a.fldz()?;
        a.fldpi()?;
        a.movq(rax, mm7)?;
        a.fnstsw(word_ptr(rsi))?;
        a.movq(mm5, rbx)?;
        a.fxsave64(ptr(rdi))?;
        a.fincstp()?;
        a.emms()?;
        a.fnstsw(word_ptr(rsi + 2))?;
        a.fld1()?;
        a.hlt()
    });
    let mut vcpu = machine.vcpu();
    for _ in 0..3 {
        reset(&mut vcpu, 0x37f);
        vcpu.set_gpr(gpr::RSI, at::DATA);
        vcpu.set_gpr(gpr::RDI, at::LARGE);
        vcpu.set_gpr(gpr::RBX, 0x1234);
        go(&mut vcpu);
        // Register 7 has 1.
        assert_eq!(vcpu.gpr(gpr::RAX), 1 << 63);
        assert_eq!(machine.read_u64(at::DATA) as u32 & 0x3800_3800, 0);
        assert_eq!(machine.read_u64(at::LARGE) >> 32 & 0xff, 0xff);
        assert_eq!(machine.read_u64(at::LARGE + 32 + 5 * 16), 0x1234);
        assert_eq!(machine.read_u64(at::LARGE + 40 + 5 * 16) & 0xffff, 0xffff);
        assert_eq!(vcpu.fxsave().0[4], 0x80);
        assert_eq!(st(&vcpu, 0), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
    }
}

fn what_stands_in_the_way_is_told(options: Options) {
    // (CR0, status word with an exception that is not masked, what it comes to)
    let cases = [
        (cr0::TS, 0, exception::NM),
        (cr0::EM, 0, exception::UD),
        (cr0::EM | cr0::TS, 0x8081, exception::UD),
        (0, 0x8081, exception::MF),
    ];
    for emms in [false, true] {
        let machine = machine(options, |a| {
            a.inc(edi)?;
            if emms {
                a.emms()?
            } else {
                a.paddb(mm0, mm1)?
            }
            a.hlt()
        });
        for (_, _, vector) in cases {
            machine.handle(vector, &[0x89, 0xfb, 0xf4]); // mov ebx, edi
        }
        let mut vcpu = machine.vcpu();
        let plain = vcpu.cr0();
        for (bits, fsw, vector) in cases.into_iter().chain(cases) {
            reset(&mut vcpu, 0x37e);
            vcpu.fxsave_mut().0[2..4].copy_from_slice(&u16::to_le_bytes(fsw));
            vcpu.set_cr0(plain | bits);
            vcpu.set_gpr(gpr::RDI, 0);
            vcpu.set_rip(at::CODE);
            vcpu.set_gpr(gpr::RSP, at::STACK);
            run_to_halt(&mut vcpu);
            assert_eq!(vcpu.rip(), at::HANDLERS + u64::from(vector) * 256 + 3, "{vector}");
            assert_eq!(machine.read_u64(vcpu.gpr(gpr::RSP)), at::CODE + 2);
            assert_eq!(vcpu.gpr(gpr::RBX), 1);
        }
    }
}

fn a_loop_adds_arrays(options: Options) {
    const COUNT: u64 = 1000;
    let machine = machine(options, |a| {
        let mut top = a.create_label();
        a.mov(rsi, at::DATA)?;
        a.mov(rdi, at::LARGE)?;
        a.mov(ecx, COUNT as u32)?;
        a.set_label(&mut top)?;
        a.movq(mm0, qword_ptr(rsi))?;
        a.paddw(mm0, qword_ptr(rdi))?;
        a.movq(qword_ptr(rdi), mm0)?;
        a.add(rsi, 8)?;
        a.add(rdi, 8)?;
        a.sub(ecx, 1)?;
        a.jnz(top)?;
        a.emms()?;
        a.hlt()
    });
    for n in 0..COUNT {
        machine.write_u64(at::DATA + n * 8, n | n << 48);
    }
    let mut vcpu = machine.vcpu();
    for round in 1..=3 {
        reset(&mut vcpu, 0x37f);
        go(&mut vcpu);
        for n in 0..COUNT {
            let sum = n * round;
            assert_eq!(machine.read_u64(at::LARGE + n * 8), sum | sum << 48);
        }
    }
}
