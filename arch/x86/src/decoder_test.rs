//! The instruction decoder works wherever the core is compiled into, the kernel included.

use iced_x86::{
    Code, Decoder, DecoderOptions, InstructionInfoFactory, InstructionInfoOptions, MemorySize,
    OpAccess, Register,
};
use selftest::{cases, check, check_eq};

/// `lock cmpxchg [rdi+rcx*8+0x10], rdx`.
const LOCK_CMPXCHG: [u8; 7] = [0xf0, 0x48, 0x0f, 0xb1, 0x54, 0xcf, 0x10];

cases! {
    fn decodes_a_locked_instruction_with_its_memory_operand() {
        let mut decoder = Decoder::with_ip(64, &LOCK_CMPXCHG, 0x1000, DecoderOptions::NONE);
        let instruction = decoder.decode();
        check_eq!(instruction.code(), Code::Cmpxchg_rm64_r64);
        check!(instruction.has_lock_prefix());
        check_eq!(instruction.next_ip(), 0x1007);
        check_eq!(instruction.memory_base(), Register::RDI);
        check_eq!(instruction.memory_index(), Register::RCX);
        check_eq!(instruction.memory_index_scale(), 8);
        check_eq!(instruction.memory_displacement64(), 0x10);
        check_eq!(instruction.memory_size(), MemorySize::UInt64);
    }

    fn knows_what_an_instruction_reads_and_writes() {
        let mut decoder = Decoder::new(64, &LOCK_CMPXCHG, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info_options(&instruction, InstructionInfoOptions::NONE);
        check_eq!(info.op0_access(), OpAccess::ReadCondWrite);
        check!(
            info.used_registers().iter().any(|used| used.register() == Register::RAX),
            "CMPXCHG compares with RAX"
        );
    }

    fn refuses_what_is_no_instruction() {
        // In 64-bit mode 06 (PUSH ES) is no instruction.
        let invalid = Decoder::new(64, &[0x06], DecoderOptions::NONE).decode();
        check!(invalid.is_invalid());
        let truncated = Decoder::new(64, &LOCK_CMPXCHG[..4], DecoderOptions::NONE).decode();
        check!(truncated.is_invalid());
    }
}
