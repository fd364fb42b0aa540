//! Tests of decoding: lengths, what is no instruction, what ends a block, whose an instruction is.

use selftest::{check, check_eq};

use super::decode::{Mode, Undecoded, decode};
use super::test_cpu::TestCpu;
use super::{Insn, Op, Stop};
use crate::exception::Exception;
use crate::regs::{Regs, Seg};

/// Whether the instruction in 64-bit mode ends a block; `None` if it does not decode.
fn ends(code: &[u8]) -> Option<bool> {
    decode::<TestCpu>(code, 0, Mode::Bits64).ok().map(|decoded| decoded.ends_block)
}

selftest::cases! {
    fn lengths() {
        for len in 0..10 {
            let code = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0];
            let result = decode::<TestCpu>(&code[..len], 0, Mode::Bits64);
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
            let decoded = decode::<TestCpu>(&bytes, 0, Mode::Bits64);
            check_eq!(decoded.ok().map(|decoded| decoded.op.insn.len), Some(len), "{code:x?}");
        }
    }

    fn ends_of_blocks() {
        for code in [&[0x90][..], &[0x48, 0x01, 0xd8], &[0xa4], &[0x0f, 0xae, 0xf0], &[0xfc]] {
            check_eq!(ends(code), Some(false));
        }
        for code in [&[0xeb, 0][..], &[0x74, 0], &[0xc3], &[0xe8, 0, 0, 0, 0], &[0xf3, 0xa4], &[0xe2, 0]] {
            check_eq!(ends(code), Some(true));
        }
    }

    fn vector_instructions_are_others() {
        for code in [&[0x0f, 0x58, 0xc1][..], &[0xd8, 0xc1], &[0xf2, 0x0f, 0x10, 0x06], &[0xc5, 0xf8, 0x77]] {
            let result = decode::<TestCpu>(code, 0, Mode::Bits64);
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
}
