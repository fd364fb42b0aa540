//! What is assembled, decoded again.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::assembler::{Address, Assembler, Opcode, condition};

/// Where the code would be executed.
const BASE: u64 = 0x7fff_1234_0000;
const RSP: u8 = 4;

/// At the edges of their encodings.
const DISPLACEMENTS: [i32; 10] = [0, 1, -1, 127, -128, 128, -129, 0x1234_5678, i32::MAX, i32::MIN];

/// Fields' offsets, small and large.
const OFFSETS: [i32; 7] = [0, 8, -8, -128, 0x7f0, 0x1_2340, -0x1_2340];

/// Assembles one instruction and decodes it.
fn one(assemble: impl FnOnce(&mut Assembler)) -> Instruction {
    let mut assembler = Assembler::new(BASE);
    assemble(&mut assembler);
    let bytes = assembler.bytes();
    let mut decoder = Decoder::with_ip(64, bytes, BASE, DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert!(!instruction.is_invalid(), "{bytes:x?}");
    assert_eq!(instruction.len(), bytes.len(), "one: {bytes:x?}");
    assert_eq!(assembler.here(), instruction.next_ip());
    instruction
}

/// A general-purpose register's number; `None` for none.
fn number(register: Register) -> Option<u8> {
    (register != Register::None).then(|| register.full_register().number() as u8)
}

fn r64(n: u8) -> Register {
    Register::RAX + u32::from(n)
}

/// The memory operand is at `at`, with the segment that is given.
fn assert_memory(i: &Instruction, at: Address, segment: Register) {
    let index =
        number(i.memory_index()).map(|n| (n, i.memory_index_scale().trailing_zeros() as u8));
    let displacement = i.memory_displacement64() as i64;
    assert_eq!((number(i.memory_base()), index), (at.base, at.index), "{at:?}");
    assert_eq!(displacement, at.displacement.into(), "{at:?}");
    assert_eq!(i.segment_prefix(), segment, "{at:?}");
    assert!(!i.is_ip_rel_memory_operand(), "{at:?}");
}

fn assert_field(i: &Instruction, offset: i32) {
    let at = Address { base: Some(RSP), index: None, displacement: offset };
    assert_memory(i, at, Register::None);
}

/// All kinds of addresses.
fn addresses() -> impl Iterator<Item = Address> {
    let bases = || std::iter::once(None).chain((0..16).map(Some));
    let indices = || {
        let registers = (0..16).filter(|index| *index != 4);
        let scaled = registers.flat_map(|index| (0..4).map(move |scale| Some((index, scale))));
        std::iter::once(None).chain(scaled)
    };
    bases().flat_map(move |base| {
        indices().flat_map(move |index| {
            DISPLACEMENTS.map(|displacement| Address { base, index, displacement })
        })
    })
}

#[test]
fn memory_operands_are_where_they_are_said_to_be() {
    let load = Opcode { wide: true, bytes: &[0x8b], ..Opcode::default() };
    for at in addresses() {
        for reg in 0..16 {
            let i = one(|code| code.memory(load, reg, at));
            assert_eq!((i.code(), i.op0_register()), (Code::Mov_r64_rm64, r64(reg)));
            assert_memory(&i, at, Register::None);
        }
    }
}

#[test]
fn displacements_are_as_short_as_they_can_be() {
    let size = |base, displacement| {
        let at = Address { base: Some(base), index: None, displacement };
        one(|code| code.lea(true, 0, at)).len()
    };
    for base in 0..16 {
        // REX, opcode, ModRM; RSP and R12 need a SIB byte; RBP and R13 a displacement.
        let least = if base & 7 == 4 { 4 } else { 3 };
        assert_eq!(size(base, 0), if base & 7 == 5 { least + 1 } else { least });
        assert_eq!((size(base, 127), size(base, -128)), (least + 1, least + 1));
        assert_eq!((size(base, 128), size(base, -129)), (least + 4, least + 4));
    }
}

#[test]
fn opcodes_keep_their_prefixes_and_bytes() {
    let at = Address { base: Some(13), index: Some((12, 1)), displacement: 0 };
    let i = one(|code| {
        // LOCK XADD [R13 + R12 * 2], R9W.
        let prefixes = &[0xf0, 0x66];
        code.memory(Opcode { prefixes, bytes: &[0x0f, 0xc1], ..Opcode::default() }, 9, at);
    });
    assert_eq!((i.code(), i.op1_register()), (Code::Xadd_rm16_r16, Register::R9W));
    assert!(i.has_lock_prefix());
    assert_memory(&i, at, Register::None);
    for reg in 0..16 {
        // With REX there is no AH.
        let opcode = Opcode { rex: true, bytes: &[0x88], ..Opcode::default() };
        let i = one(|code| code.memory(opcode, reg, Address { base: Some(0), ..at }));
        assert_eq!((i.code(), number(i.op1_register())), (Code::Mov_rm8_r8, Some(reg)));
        assert!(!matches!(i.op1_register(), Register::AH | Register::CH | Register::DH));
    }
}

#[test]
fn instructions_on_registers_have_those_registers() {
    for (reg, rm) in (0..16).flat_map(|reg| (0..16).map(move |rm| (reg, rm))) {
        let opcode = Opcode { wide: true, bytes: &[0x0f, 0xaf], ..Opcode::default() };
        let i = one(|code| code.registers(opcode, reg, rm));
        assert_eq!(i.code(), Code::Imul_r64_rm64);
        assert_eq!((i.op0_register(), i.op1_register()), (r64(reg), r64(rm)));
        let opcode = Opcode { bytes: &[0x01], ..Opcode::default() };
        let i = one(|code| code.registers(opcode, reg, rm));
        assert_eq!(i.code(), Code::Add_rm32_r32);
        assert_eq!((number(i.op0_register()), number(i.op1_register())), (Some(rm), Some(reg)));
        // SPL to DIL, not AH to BH.
        let opcode = Opcode { rex: true, bytes: &[0x8a], ..Opcode::default() };
        let i = one(|code| code.registers(opcode, reg, rm));
        assert_eq!(i.code(), Code::Mov_r8_rm8);
        assert_eq!((number(i.op0_register()), number(i.op1_register())), (Some(reg), Some(rm)));
        let i = one(|code| code.copy(reg, rm));
        assert_eq!(i.code(), Code::Mov_rm64_r64);
        assert_eq!((i.op0_register(), i.op1_register()), (r64(reg), r64(rm)));
    }
}

#[test]
fn fields_are_relative_to_rsp() {
    for (reg, offset) in (0..16).flat_map(|reg| OFFSETS.map(|offset| (reg, offset))) {
        let i = one(|code| code.load(reg, offset));
        assert_eq!((i.code(), i.op0_register()), (Code::Mov_r64_rm64, r64(reg)));
        assert_field(&i, offset);
        let i = one(|code| code.store(offset, reg));
        assert_eq!((i.code(), i.op1_register()), (Code::Mov_rm64_r64, r64(reg)));
        assert_field(&i, offset);
        let i = one(|code| code.add_field(reg, offset));
        assert_eq!((i.code(), i.op0_register()), (Code::Add_r64_rm64, r64(reg)));
        assert_field(&i, offset);
    }
    for offset in OFFSETS {
        for value in [0, 1, 0x8000_0000, u32::MAX] {
            let i = one(|code| code.store_value(offset, value));
            assert_eq!((i.code(), i.immediate32()), (Code::Mov_rm32_imm32, value));
            assert_field(&i, offset);
        }
        for value in [1, 64, 127] {
            let i = one(|code| code.count(offset, value));
            assert_eq!((i.code(), i.immediate(1)), (Code::Add_rm64_imm8, value.into()));
            assert_field(&i, offset);
        }
    }
}

#[test]
fn any_value_reaches_any_register_in_the_shortest_form() {
    for (value, bytes) in [
        (0, 5),
        (1, 5),
        (0x7fff_ffff, 5),
        (0x8000_0000, 5),
        (0xffff_ffff, 5),
        (0x1_0000_0000, 10),
        (u64::MAX, 7),
        (0xffff_ffff_8000_0000, 7),
        (0xffff_ffff_7fff_ffff, 10),
        (0x8000_0000_0000_0000, 10),
        (0x0123_4567_89ab_cdef, 10),
    ] {
        for reg in 0..16 {
            let i = one(|code| code.set(reg, value));
            assert_eq!(number(i.op0_register()), Some(reg));
            assert!(i.op0_register().size() >= 4, "the upper half changes, too");
            // 32 bits are extended with zeros, by the processor.
            let set = match i.op1_kind() {
                OpKind::Immediate32 => i.immediate32().into(),
                _ => i.immediate(1),
            };
            assert_eq!((set, i.code().mnemonic()), (value, iced_x86::Mnemonic::Mov));
            let extended = usize::from(bytes == 5 && reg >= 8);
            assert_eq!(i.len(), bytes + extended, "{value:#x}");
            assert_eq!(i.rflags_modified(), 0);
        }
    }
}

#[test]
fn lea_gives_the_whole_address_or_its_low_half() {
    for at in addresses().filter(|at| at.displacement != 1) {
        let i = one(|code| code.lea(true, 11, at));
        assert_eq!((i.code(), i.op0_register()), (Code::Lea_r64_m, Register::R11));
        assert_memory(&i, at, Register::None);
        let i = one(|code| code.lea(false, 3, at));
        assert_eq!((i.code(), i.op0_register()), (Code::Lea_r32_m, Register::EBX));
        assert_memory(&i, at, Register::None);
    }
}

#[test]
fn calls_and_jumps_reach_their_targets() {
    for target in [BASE, BASE + 5, BASE + 0x7fff_0000, BASE - 0x7fff_0000] {
        let i = one(|code| code.jump(target));
        assert_eq!((i.code(), i.near_branch_target()), (Code::Jmp_rel32_64, target));
    }
}

#[test]
fn stubs_are_called_below_the_red_zone() {
    let mut code = Assembler::new(BASE);
    code.stub(true);
    code.load(0, 8);
    code.end_stub();
    code.stub(true);
    code.abandon_stub();
    code.load(0, 8);
    code.call(BASE);
    let bytes = code.bytes();
    let decoder = Decoder::with_ip(64, bytes, BASE, DecoderOptions::NONE);
    let all: Vec<Instruction> = decoder.into_iter().collect();
    let [load, ret, back, again, down, call] = all[..] else { panic!("{all:?}") };
    // In a stub RSP is lower by the red zone and the return address.
    assert_field(&load, 8 + 136);
    assert_eq!((ret.code(), ret.immediate16()), (Code::Retnq_imm16, 128));
    assert_eq!((back.code(), back.op0_register()), (Code::Lea_r64_m, Register::RSP));
    assert_field(&back, 136);
    assert_field(&again, 8);
    assert_eq!((down.code(), down.op0_register()), (Code::Lea_r64_m, Register::RSP));
    assert_field(&down, -128);
    assert_eq!((call.code(), call.near_branch_target()), (Code::Call_rel32_64, BASE));
}

#[test]
fn jumps_go_to_where_they_were_bound() {
    let conditions = [condition::ABOVE, condition::EQUAL, condition::NOT_EQUAL];
    for (code, condition) in
        [Code::Ja_rel32_64, Code::Je_rel32_64, Code::Jne_rel32_64].into_iter().zip(conditions)
    {
        for between in [0, 1, 127, 128, 1000] {
            let mut assembler = Assembler::new(BASE);
            let jump = assembler.jump_if(condition);
            let other = assembler.jump_if(condition);
            assembler.raw(&vec![0x90; between]);
            assembler.bind(jump);
            let target = assembler.here();
            assembler.raw(&[0xcc]);
            assembler.bind(other);
            let bytes = assembler.bytes();
            let decoder = Decoder::with_ip(64, bytes, BASE, DecoderOptions::NONE);
            let jumps: Vec<_> = decoder.into_iter().take(2).collect();
            assert_eq!(jumps.iter().map(Instruction::code).collect::<Vec<_>>(), [code; 2]);
            assert_eq!(jumps[0].near_branch_target(), target);
            assert_eq!(jumps[1].near_branch_target(), target + 1);
        }
    }
}
