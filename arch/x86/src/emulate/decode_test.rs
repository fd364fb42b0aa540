//! Tests of decoding: lengths, what is no instruction, what ends a block, whose an instruction is,
//! and what the vendors disagree on.

use alloc::boxed::Box;

use selftest::{check, check_eq};

use super::decode::{Mode, Undecoded, decode};
use super::test_cpu::TestCpu;
use super::{Feature, Insn, Op, Stop};
use crate::engine::{Features, Intercept};
use crate::exception::Exception;
use crate::regs::gpr::RAX;
use crate::regs::{Regs, Seg};

/// Whether the instruction in 64-bit mode ends a block; `None` if it does not decode.
fn ends(code: &[u8]) -> Option<bool> {
    decode::<TestCpu>(code, 0, Mode::Bits64, Features::default())
        .ok()
        .map(|decoded| decoded.ends_block)
}

/// A processor whose encodings are AMD's or Intel's.
fn vendor(amd: bool) -> Box<TestCpu> {
    let mut cpu = TestCpu::long();
    cpu.features = cpu.features.with(Feature::AmdEncodings, amd);
    cpu
}

selftest::cases! {
    fn lengths() {
        for len in 0..10 {
            let code = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0];
            let result = decode::<TestCpu>(&code[..len], 0, Mode::Bits64, Features::default());
            check!(matches!(result, Err(Undecoded::Truncated)));
        }
        let mut code = [0x66; 20];
        // With a whole instruction in 15 bytes, and not.
        code[14] = 0x90;
        let mut cpu = TestCpu::long();
        check_eq!(cpu.run(&code[..15]), Ok(()));
        code[14] = 0x66;
        check_eq!(cpu.run(&code), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::gp(0)));
    }

    fn no_instructions() {
        for code in [&[0x0f, 0x0b][..], &[0x06], &[0xd6], &[0x0f, 0xff, 0xc0], &[0xf0, 0x90], &[0x8d, 0xc0]] {
            let mut cpu = TestCpu::long();
            check_eq!(cpu.run(code), Err(Stop::Fault));
            check_eq!(cpu.exception, Some(Exception::ud()));
            let mut bytes = [0; 15];
            bytes[..code.len()].copy_from_slice(code);
            check_eq!(ends(&bytes), Some(true));
        }
    }

    fn no_instructions_have_a_length() {
        // RIP is found again by it; and a write to any byte of it is one to the instruction.
        for (code, len) in [(&[0x06, 0, 0][..], 2), (&[0x0f, 0xff, 0xc0], 3), (&[0xf0, 0x90, 0], 2), (&[0x66; 16], 15)] {
            let mut bytes = [0; 16];
            bytes[..code.len()].copy_from_slice(code);
            let decoded = decode::<TestCpu>(&bytes, 0, Mode::Bits64, Features::default());
            check_eq!(decoded.ok().map(|decoded| decoded.op.insn.len), Some(len), "{code:x?}");
        }
    }

    fn ends_of_blocks() {
        for code in [&[0x90][..], &[0x48, 0x01, 0xd8], &[0xa4], &[0x0f, 0xae, 0xf0], &[0xfc], &[0xfa], &[0x9d]] {
            check_eq!(ends(code), Some(false));
        }
        for code in [&[0xeb, 0][..], &[0x74, 0], &[0xc3], &[0xe8, 0, 0, 0, 0], &[0xf3, 0xa4], &[0xe2, 0], &[0xf4]] {
            check_eq!(ends(code), Some(true));
        }
    }

    fn vector_instructions_are_others() {
        for code in [&[0x0f, 0x58, 0xc1][..], &[0xd8, 0xc1], &[0xf2, 0x0f, 0x10, 0x06], &[0xc5, 0xf8, 0x77]] {
            let result = decode::<TestCpu>(code, 0, Mode::Bits64, Features::default());
            check!(matches!(result, Err(Undecoded::Foreign(_))), "{code:x?}");
        }
    }

    fn an_op_is_half_a_cache_line() {
        check_eq!(size_of::<Insn>(), 24);
        check_eq!(size_of::<Op<TestCpu>>(), 32);
    }

    fn modes() {
        check_eq!(Mode::of(&*TestCpu::long()), Mode::Bits64);
        check_eq!(Mode::of(&*TestCpu::protected()), Mode::Bits32);
        check_eq!(Mode::of(&*TestCpu::real()), Mode::Bits16);
        let mut cpu = TestCpu::long();
        let mut cs = cpu.segment(Seg::Cs);
        cs.attr.0 = 0xc9b;
        cpu.set_segment(Seg::Cs, cs);
        check_eq!(Mode::of(&*cpu), Mode::Bits32);
    }

    fn far_pointers_have_32_bits_at_most_on_amds() {
        // LGS RAX, [0x4000]: the null selector stands behind an offset of 4 bytes, or of 8.
        let code = [0x48, 0x0f, 0xb5, 0x04, 0x25, 0, 0x40, 0, 0];
        for (is_amd, offset) in [(true, 0x8765_4321), (false, 0xcafe_0000_8765_4321)] {
            let mut cpu = vendor(is_amd);
            cpu.set_gpr(RAX, !0);
            let pointer: u64 = if is_amd { 0x8765_4321 } else { offset };
            cpu.memory[0x4000..0x4008].copy_from_slice(&pointer.to_le_bytes());
            cpu.memory[0x4008..0x400a].copy_from_slice(&[if is_amd { 0xff } else { 0 }, 0]);
            check!(cpu.run(&code).is_ok());
            check_eq!((cpu.gpr(RAX), cpu.segment(Seg::Gs).selector), (offset, 0));
        }
    }

    fn cr8_has_another_name_on_amds() {
        // LOCK MOV EAX, CR0.
        let code = [0xf0, 0x0f, 0x20, 0xc0];
        let mut cpu = vendor(true);
        check_eq!(cpu.run(&code), Err(Stop::Intercept));
        check_eq!(cpu.intercept, Some(Intercept::ReadCr8 { gpr: RAX, len: 4 }));
        let mut cpu = vendor(false);
        check_eq!(cpu.run(&code), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ud()));
    }

    fn a_prefetch_of_a_register_is_none_on_amds() {
        let code = [0x0f, 0x0d, 0xc0];
        check_eq!(vendor(false).run(&code), Ok(()));
        let mut cpu = vendor(true);
        check_eq!(cpu.run(&code), Err(Stop::Fault));
        check_eq!(cpu.exception, Some(Exception::ud()));
    }

    fn ud0_is_shorter_on_amds() {
        for (is_amd, len) in [(true, 2), (false, 3)] {
            let features = vendor(is_amd).features;
            let decoded = decode::<TestCpu>(&[0x0f, 0xff, 0xc0], 0, Mode::Bits64, features);
            check_eq!(decoded.ok().map(|decoded| decoded.op.insn.len), Some(len));
        }
    }
}
