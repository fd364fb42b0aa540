//! All instructions that have a shape, against what iced-x86 knows of them.

use std::collections::HashSet;

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess,
    OpCodeOperandKind, OpKind, Register,
};

use super::shape::{Encoding, Map, Role, Shape};

const PREFIXES: [&[u8]; 9] =
    [&[], &[0x66], &[0x67], &[0xf0], &[0xf2], &[0xf3], &[0x66, 0xf0], &[0x65, 0x66], &[0xf3, 0x66]];
/// REX: none, without bits, each bit, all.
const REX: [Option<u8>; 7] =
    [None, Some(0x40), Some(0x41), Some(0x42), Some(0x44), Some(0x48), Some(0x4f)];

/// What calls with each valid instruction.
type Check<'a> = &'a mut dyn FnMut(&[u8], &Decoder<'_>, &Instruction);

/// Calls `check` with each valid instruction of the first three maps, and those of BMI: prefixes, REX, opcode and ModRM
/// in all combinations. SIB, displacement and immediate operands are always the same.
fn every_instruction(check: Check<'_>) {
    for (prefixes, rex) in PREFIXES.iter().flat_map(|p| REX.map(|rex| (p, rex))) {
        for escape in [&[][..], &[0x0f], &[0x0f, 0x38]] {
            let start: Vec<u8> =
                prefixes.iter().copied().chain(rex).chain(escape.to_vec()).collect();
            every_opcode(&start, 0, check);
        }
    }
    // VEX with each bit of R, X and B, of vvvv and pp, W and L.
    for (registers, map, rest) in [0xe0u8, 0x60, 0xa0, 0xc0, 0]
        .into_iter()
        .flat_map(|registers| [2, 3].map(|map| (registers, map)))
        .flat_map(|(registers, map)| (0..=255u8).map(move |rest| (registers, map, rest)))
    {
        every_opcode(&[0x65, 0xc4, registers | map, rest], 0xf0, check);
    }
}

/// Calls it with each opcode from `first` on behind `start`.
fn every_opcode(start: &[u8], first: u8, check: Check<'_>) {
    for (opcode, modrm) in (first..=255).flat_map(|opcode| (0..=255).map(move |n| (opcode, n))) {
        let mut bytes = [start, &[opcode, modrm]].concat();
        // An index, a base, and a displacement of any size.
        bytes.extend([0x4a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        bytes.truncate(15);
        let mut decoder = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if !instruction.is_invalid() {
            check(&bytes[..instruction.len()], &decoder, &instruction);
        }
    }
}

/// What names an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Reg,
    Rm,
    Vvvv,
}

/// Of an operand that is in none of these, `None`.
fn part(kind: OpCodeOperandKind) -> Option<(Part, bool)> {
    use OpCodeOperandKind as Kind;
    Some(match kind {
        Kind::r8_reg => (Part::Reg, true),
        Kind::r16_reg | Kind::r32_reg | Kind::r64_reg => (Part::Reg, false),
        Kind::r8_or_mem => (Part::Rm, true),
        Kind::r16_or_mem | Kind::r32_or_mem | Kind::r64_or_mem | Kind::mem => (Part::Rm, false),
        Kind::r32_vvvv | Kind::r64_vvvv => (Part::Vvvv, false),
        Kind::imm8
        | Kind::imm8_const_1
        | Kind::imm8sex16
        | Kind::imm8sex32
        | Kind::imm8sex64
        | Kind::imm16
        | Kind::imm32
        | Kind::imm32sex64
        | Kind::cl => return None,
        other => panic!("an operand of another kind: {other:?}"),
    })
}

fn role(access: OpAccess) -> Role {
    match access {
        OpAccess::Read | OpAccess::CondRead => Role::Read,
        OpAccess::Write => Role::Write,
        // What is perhaps not written keeps what it was.
        OpAccess::ReadWrite | OpAccess::ReadCondWrite | OpAccess::CondWrite => Role::Both,
        other => panic!("an operand of which nothing is used: {other:?}"),
    }
}

/// XOR and SUB of a register with itself do not depend on it, which iced-x86 knows.
fn is_zeroing(i: &Instruction) -> bool {
    i.op_count() == 2
        && i.op1_kind() == OpKind::Register
        && i.op0_register() == i.op1_register()
        && i.op0_kind() == OpKind::Register
}

/// A number as encoded, and the register: without REX 4 to 7 are AH to BH.
fn assert_register(number: u8, register: Register, what: &str) {
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    let full = register.full_register().number() as u8;
    assert_eq!(number, if high { full + 4 } else { full }, "{what}");
}

#[test]
fn shapes_say_what_instructions_do() {
    let mut factory = InstructionInfoFactory::new();
    let mut seen = HashSet::new();
    every_instruction(&mut |bytes, decoder, i| {
        let Some(encoding) = Encoding::of(bytes, &decoder.get_constant_offsets(i)) else { return };
        let Some(shape) = Shape::of(&encoding) else { return };
        let what = format!("{bytes:02x?} {:?} {shape:?}", i.code());
        seen.insert(i.code());
        let info = factory.info(i);
        let (mut reg, mut rm, mut vvvv) = (Role::None, Role::None, Role::None);
        let mut explicit = vec![i.memory_base().full_register(), i.memory_index().full_register()];
        for (n, kind) in (0..i.op_count()).zip(i.code().op_code().op_kinds()) {
            let Some((part, byte)) = part(*kind) else { continue };
            let is_register = i.op_kind(n) == OpKind::Register;
            let (expected, encoded) = match part {
                Part::Reg => (shape.reg, Some(encoding.reg())),
                Part::Rm => (shape.rm, encoding.rm()),
                Part::Vvvv => (shape.vvvv, encoding.vex.map(|vex| vex.register)),
            };
            let role = if is_zeroing(i) { expected } else { role(info.op_access(n)) };
            if is_register {
                let register = i.op_register(n);
                explicit.push(register.full_register());
                assert_register(encoded.expect("a register"), register, &what);
            }
            match part {
                Part::Reg => {
                    assert_eq!(shape.byte_reg, byte, "{what}");
                    reg = role;
                }
                Part::Rm => {
                    assert_eq!((shape.byte_rm, encoding.rm().is_some()), (byte, is_register));
                    rm = role;
                }
                Part::Vvvv => vvvv = role,
            }
        }
        assert_eq!((shape.reg, shape.rm, shape.vvvv), (reg, rm, vvvv), "{what}");
        assert!(!i.is_stack_instruction(), "{what}");
        for used in info.used_registers() {
            let register = used.register().full_register();
            let implied = matches!(register, Register::RAX | Register::RCX | Register::RDX);
            let is_segment = register.is_segment_register();
            assert!(implied || is_segment || explicit.contains(&register), "{what} {register:?}");
        }
        if encoding.rm().is_none() {
            assert_eq!(info.used_memory().len(), 1, "{what}");
            assert!(matches!(i.memory_size().size(), 1 | 2 | 4 | 8), "{what}");
        }
        // The immediate operand is what is behind the rest, if there is one.
        assert!(bytes.ends_with(encoding.immediate), "{what}");
        let sizes: usize = (0..i.op_count()).map(|n| immediate_size(i.op_kind(n))).sum();
        let implied = i.code().op_code().op_kinds().contains(&OpCodeOperandKind::imm8_const_1);
        assert_eq!(encoding.immediate.len(), if implied { 0 } else { sizes }, "{what}");
    });
    // What most of the instructions of programs are.
    for code in [
        Code::Add_rm64_r64,
        Code::Cmp_r8_rm8,
        Code::Mov_rm32_imm32,
        Code::Movsxd_r64_rm32,
        Code::Movzx_r32_rm8,
        Code::Cmove_r64_rm64,
        Code::Setne_rm8,
        Code::Imul_r64_rm64,
        Code::Cmpxchg_rm64_r64,
        Code::Xadd_rm32_r32,
        Code::Shl_rm64_imm8,
        Code::Test_rm8_r8,
    ] {
        assert!(seen.contains(&code), "{code:?}");
    }
    if is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2") {
        assert!(seen.contains(&Code::VEX_Mulx_r64_r64_rm64));
    }
    println!("{} forms have a shape", seen.len());
}

fn immediate_size(kind: OpKind) -> usize {
    match kind {
        OpKind::Immediate8
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64 => 1,
        OpKind::Immediate16 => 2,
        OpKind::Immediate32 | OpKind::Immediate32to64 => 4,
        _ => 0,
    }
}

/// What is said of a valid instruction and its parts.
pub(super) fn taken_apart<T>(
    bytes: &[u8],
    say: impl FnOnce(&Instruction, &Encoding<'_>) -> T,
) -> T {
    let (decoder, i) = decoded(bytes);
    let encoding = Encoding::of(bytes, &decoder.get_constant_offsets(&i));
    say(&i, &encoding.expect("an encoding"))
}

fn decoded(bytes: &[u8]) -> (Decoder<'_>, Instruction) {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let instruction = decoder.decode();
    assert!(!instruction.is_invalid(), "{bytes:02x?}");
    (decoder, instruction)
}

#[test]
fn encodings_are_taken_apart() {
    // LOCK ADD word GS:[R12D + R9D * 4 + 0x10], 0x1234, with a FS that GS overrides.
    let bytes = [0x64, 0x65, 0xf0, 0x66, 0x67, 0x43, 0x81, 0x44, 0x8c, 0x10, 0x34, 0x12];
    let (decoder, instruction) = decoded(&bytes);
    let encoding = Encoding::of(&bytes, &decoder.get_constant_offsets(&instruction)).expect("one");
    assert!(encoding.operand_size && encoding.address_size && encoding.lock);
    assert_eq!((encoding.repeat, encoding.rex, encoding.wide()), (None, 0x43, false));
    assert_eq!((encoding.map, encoding.opcode, encoding.next), (Map::One, 0x81, 0x44));
    assert_eq!((encoding.rm(), encoding.immediate), (None, &[0x34, 0x12][..]));

    // REPNE MOVZX R9, R10W; of F2 and F3 the last one counts.
    let bytes = [0xf3, 0xf2, 0x4d, 0x0f, 0xb7, 0xca];
    let (decoder, instruction) = decoded(&bytes);
    let encoding = Encoding::of(&bytes, &decoder.get_constant_offsets(&instruction)).expect("one");
    assert!(!encoding.operand_size && !encoding.address_size && !encoding.lock);
    assert_eq!((encoding.repeat, encoding.wide(), encoding.map), (Some(0xf2), true, Map::Two));
    assert_eq!((encoding.reg(), encoding.rm()), (9, Some(10)));
    assert!(encoding.immediate.is_empty() && Shape::of(&encoding).is_none());

    // BSWAP R11.
    let bytes = [0x49, 0x0f, 0xcb];
    let (decoder, instruction) = decoded(&bytes);
    let encoding = Encoding::of(&bytes, &decoder.get_constant_offsets(&instruction)).expect("one");
    assert_eq!(encoding.in_opcode(), 11);
}

#[test]
fn vector_instructions_have_no_shapes() {
    // PSHUFB, PALIGNR, two- and three-byte VEX.
    for bytes in [
        &[0x66, 0x0f, 0x38, 0x00, 0xc1][..],
        &[0x66, 0x0f, 0x3a, 0x0f, 0xc1, 3],
        &[0xc5, 0xf8, 0x58, 0xc1],
        &[0xc4, 0xe2, 0x79, 0x58, 0xc2],
    ] {
        let (decoder, instruction) = decoded(bytes);
        let constants = decoder.get_constant_offsets(&instruction);
        let shape = Encoding::of(bytes, &constants).and_then(|encoding| Shape::of(&encoding));
        assert!(shape.is_none(), "{bytes:02x?}");
    }
}

#[test]
fn what_ends_early_is_not_taken_apart() {
    let (decoder, instruction) = decoded(&[0x0f, 0xa2]);
    let constants = decoder.get_constant_offsets(&instruction);
    for bytes in [&[][..], &[0x66], &[0x48], &[0x0f]] {
        assert!(Encoding::of(bytes, &constants).is_none(), "{bytes:02x?}");
    }
}
