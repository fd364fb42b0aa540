//! Every form against the host: random operands, once through [`super::lower`] on the test
//! processor, once as the very instruction (its bytes, in a page of code) in this process.

use std::fmt::Write as _;

use arch_x86::emulate::test_cpu::TestCpu;
use arch_x86::emulate::{Mode, Status};
use arch_x86::regs::{FxArea, Regs, cr4, gpr, rflags};
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, Instruction, MemoryOperand,
    Mnemonic, OpCodeOperandKind as Kind, OpKind, Register,
};

use super::image;

/// Random cases for each form.
const CASES: u32 = 100;
/// Where the operand's surroundings are in the guest, and how large they are.
const AREA: u64 = 0x4000;
const AREA_SIZE: usize = 1024;

/// Xorshift, seeded for each form by its number: a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 20) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// 8 bytes that floating point and integers find interesting.
    fn bits(&mut self) -> u64 {
        const DOUBLES: [u64; 10] = [
            0,
            1 << 63,
            1,
            0x7ff0_0000_0000_0000,
            0xfff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x3ff0_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
        ];
        const SINGLES: [u32; 10] = [
            0,
            1 << 31,
            1,
            0x7f80_0000,
            0xffc0_0000,
            0x7f80_0001,
            0x3f80_0000,
            0x7f7f_ffff,
            0x007f_ffff,
            0x0080_0000,
        ];
        match self.below(8) {
            0 => self.of(&DOUBLES),
            1 => u64::from(self.of(&SINGLES)) << 32 | u64::from(self.of(&SINGLES)),
            2 => (self.below(2000) as f64 / 8.0 - 100.0).to_bits(),
            3 => {
                let mut single = || (self.below(2000) as f32 / 8.0 - 100.0).to_bits();
                u64::from(single()) << 32 | u64::from(single())
            }
            4 => self.below(20),
            5 => u64::MAX,
            _ => self.next(),
        }
    }
}

/// What the native run loads and saves. The offsets are [`Native::new`]'s.
#[derive(Clone)]
#[repr(C, align(64))]
struct State {
    fx: FxArea,
    gprs: [u64; 16],
    rflags: u64,
    host_mxcsr: u32,
}

/// A page of code that executes one instruction on a [`State`].
struct Native {
    page: *mut u8,
}

impl Native {
    const SIZE: usize = 4096;
    const GPRS: i64 = 512;
    const RFLAGS: i64 = 640;
    const HOST_MXCSR: i64 = 648;

    fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, of nothing.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        Self { page: page.cast() }
    }

    fn run(&mut self, instruction: &[u8], state: &mut State) {
        let code = Self::assemble(instruction);
        assert!(code.len() <= Self::SIZE);
        // SAFETY: the page holds what is written to it and is executable; the code keeps System V's
        // convention and uses the state alone, but for what the instruction accesses: its
        // operand, which the caller's memory area holds.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len());
            let function: unsafe extern "sysv64" fn(*mut State) = std::mem::transmute(self.page);
            function(state);
        }
    }

    fn assemble(instruction: &[u8]) -> Vec<u8> {
        const SAVED: [Register; 6] = [
            Register::RBX,
            Register::RBP,
            Register::R12,
            Register::R13,
            Register::R14,
            Register::R15,
        ];
        let at = |offset: i64| MemoryOperand::with_base_displ(Register::RDI, offset);
        let mut code = Vec::new();
        let push = |instruction: Result<Instruction, iced_x86::IcedError>| {
            let mut encoder = Encoder::new(64);
            encoder.encode(&instruction.expect("operands"), 0).expect("encodable");
            encoder.take_buffer()
        };
        for register in SAVED {
            code.extend(push(Instruction::with1(Code::Push_r64, register)));
        }
        code.extend(push(Instruction::with1(Code::Push_r64, Register::RDI)));
        code.extend(push(Instruction::with1(Code::Fxrstor64_m512byte, at(0))));
        code.extend(push(Instruction::with1(Code::Push_rm64, at(Self::RFLAGS))));
        code.extend(push(Ok(Instruction::with(Code::Popfq))));
        for n in (0..16u32).filter(|n| *n != 4 && *n != 7).chain([7]) {
            let from = at(Self::GPRS + i64::from(n) * 8);
            code.extend(push(Instruction::with2(Code::Mov_r64_rm64, Register::RAX + n, from)));
        }
        code.extend_from_slice(instruction);
        let top = MemoryOperand::with_base(Register::RSP);
        code.extend(push(Instruction::with2(Code::Xchg_rm64_r64, top, Register::RDI)));
        for n in (0..16u32).filter(|n| *n != 4 && *n != 7) {
            let to = at(Self::GPRS + i64::from(n) * 8);
            code.extend(push(Instruction::with2(Code::Mov_rm64_r64, to, Register::RAX + n)));
        }
        code.extend(push(Ok(Instruction::with(Code::Pushfq))));
        code.extend(push(Instruction::with1(Code::Pop_rm64, at(Self::RFLAGS))));
        code.extend(push(Instruction::with1(Code::Pop_rm64, at(Self::GPRS + 7 * 8))));
        code.extend(push(Instruction::with1(Code::Fxsave64_m512byte, at(0))));
        code.extend(push(Ok(Instruction::with(Code::Fninit))));
        code.extend(push(Instruction::with1(Code::Ldmxcsr_m32, at(Self::HOST_MXCSR))));
        for register in SAVED.into_iter().rev() {
            code.extend(push(Instruction::with1(Code::Pop_r64, register)));
        }
        code.extend(push(Ok(Instruction::with(Code::Retnq))));
        code
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing refers to it any more.
        unsafe { libc::munmap(self.page.cast(), Self::SIZE) };
    }
}

/// An operand's surroundings, aligned as a page is.
#[repr(C, align(4096))]
struct Area([u8; AREA_SIZE]);

/// The forms of x87, MMX and SSE.
fn vector_codes() -> Vec<Code> {
    const FEATURES: [CpuidFeature; 14] = [
        CpuidFeature::FPU,
        CpuidFeature::FPU287,
        CpuidFeature::FPU387,
        CpuidFeature::FXSR,
        CpuidFeature::MMX,
        CpuidFeature::SSE,
        CpuidFeature::SSE2,
        CpuidFeature::SSE3,
        CpuidFeature::SSSE3,
        CpuidFeature::SSE4_1,
        CpuidFeature::SSE4_2,
        CpuidFeature::AES,
        CpuidFeature::PCLMULQDQ,
        CpuidFeature::SHA,
    ];
    Code::values()
        .filter(|code| code.encoding() == EncodingKind::Legacy)
        .filter(|code| code.op_code().mode64() && !code.op_code().fwait())
        .filter(|code| code.cpuid_features().iter().any(|f| FEATURES.contains(f)))
        .collect()
}

/// Instructions of those CPUID bits that are not this module's.
fn is_foreign(code: Code) -> bool {
    use Mnemonic::*;
    matches!(
        code.mnemonic(),
        Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Lfence
            | Mfence
            | Sfence
            | Movnti
            | Pause
            | Crc32
            | Monitor
            | Mwait
    )
}

/// An instruction with its memory operand's place.
struct Case {
    bytes: Vec<u8>,
    /// The register that points to the operand, and the displacement to take off.
    pointer: Option<(usize, u64)>,
    /// Offset of the operand in the area.
    offset: u64,
}

/// Encodes `code` with random operands.
fn random_case(code: Code, random: &mut Random) -> Case {
    const POINTERS: [Register; 11] = [
        Register::RBX,
        Register::RBP,
        Register::RSI,
        Register::RDI,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R15,
    ];
    let mut i = Instruction::new();
    i.set_code(code);
    let mut case = Case { bytes: Vec::new(), pointer: None, offset: 256 };
    let aligned = super::table::Form::find(code).is_none_or(|(_, form)| form.aligned())
        && code.op_code().memory_size().size() >= 16;
    if !aligned {
        case.offset += random.below(16);
    }
    let displacement = random.below(0x2000);
    let pointer = random.of(&POINTERS);
    for n in 0..code.op_code().op_count() {
        let number = random.below(16) as u32;
        // With a memory operand some processors change to MMX registers, and some do not.
        let in_memory = random.one_in(2) && code != Code::Cvtpi2ps_xmm_mmm64;
        // Neither RSP nor what points to memory.
        let gpr = [0, 1, 2, 14][number as usize & 3];
        let register = match code.op_code().op_kind(n) {
            Kind::imm8 => {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(random.next() as u8);
                continue;
            }
            Kind::seg_rDI => {
                i.set_op_kind(n, OpKind::MemorySegRDI);
                case.pointer = Some((7, 0));
                continue;
            }
            Kind::st0 => Register::ST0,
            Kind::sti_opcode => Register::ST0 + (number & 7),
            Kind::ax => Register::AX,
            Kind::mem => Register::None,
            Kind::xmm_or_mem | Kind::mm_or_mem | Kind::r32_or_mem | Kind::r64_or_mem
                if in_memory =>
            {
                Register::None
            }
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm => Register::XMM0 + number,
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => Register::MM0 + (number & 7),
            Kind::r32_or_mem | Kind::r32_reg => Register::EAX + gpr,
            Kind::r64_or_mem | Kind::r64_reg => Register::RAX + gpr,
            kind => panic!("{code:?}: operand kind {kind:?}"),
        };
        if register == Register::None {
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_base(pointer);
            i.set_memory_displ_size(8);
            i.set_memory_displacement64(displacement);
            case.pointer = Some((pointer.number(), displacement));
        } else {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, register);
        }
    }
    let mut encoder = Encoder::new(64);
    encoder.encode(&i, 0).unwrap_or_else(|error| panic!("{code:?}: {error}"));
    case.bytes = encoder.take_buffer();
    case
}

/// A register file with nothing pending and all SSE exceptions masked.
fn random_registers(random: &mut Random) -> FxArea {
    let mut fx = FxArea::at_reset();
    for i in 0..8 {
        let exponent = match random.below(6) {
            0 => 0,
            1 => 0x7fff,
            2 => random.below(0x8000) as u16,
            _ => 0x3fff - 20 + random.below(60) as u16,
        };
        let significand = random.bits() | if random.one_in(8) { 0 } else { 1 << 63 };
        image::set_st(&mut fx, i, significand, exponent | (random.below(2) as u16) << 15);
    }
    image::set_tags(&mut fx, if random.one_in(2) { 0xff } else { random.next() as u8 });
    let masks = if random.one_in(3) { random.below(64) as u16 } else { 0x3f };
    let fcw = masks | (random.below(16) as u16) << 8;
    let fsw = random.next() as u16 & !(image::fsw::EXCEPTIONS & !masks);
    image::set_control_and_status(&mut fx, fcw, fsw);
    for n in 0..16 {
        let value = u128::from(random.bits()) << 64 | u128::from(random.bits());
        fx.set_xmm(n, if random.one_in(10) { 0 } else { value });
    }
    let control = random.of(&[0, 0, 0x2000, 0x4000, 0x6000]) | random.of(&[0, 0, 0x40, 0x8000]);
    fx.set_mxcsr(0x1f80 | control | random.below(64) as u32);
    fx
}

fn random_area(code: Code, offset: usize, random: &mut Random) -> Box<Area> {
    let mut area = Box::new(Area([0; AREA_SIZE]));
    for chunk in area.0.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.bits().to_le_bytes());
    }
    // So that scalars are interesting wherever they are.
    let at = offset;
    area.0[at..at + 8].copy_from_slice(&random.bits().to_le_bytes());
    area.0[at + 8..at + 16].copy_from_slice(&random.bits().to_le_bytes());
    match code.mnemonic() {
        Mnemonic::Ldmxcsr => area.0[at + 2..at + 4].fill(0),
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => area.0[at + 26..at + 28].fill(0),
        _ => {}
    }
    area
}

/// Clears what is not kept: last opcode and pointers, MXCSR_MASK, reserved fields.
fn normalised(fx: &FxArea) -> FxArea {
    let mut fx = *fx;
    fx.0[5..24].fill(0);
    fx.0[28..32].fill(0);
    for i in 0..8 {
        fx.0[image::ST0 + i * 16 + 10..][..6].fill(0);
    }
    fx.0[416..].fill(0);
    fx
}

/// Clears the same in memory that the instruction stored.
fn normalise_area(code: Code, area: &mut [u8], at: usize) {
    match code.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => {
            area[at + 5..at + 24].fill(0);
            area[at + 28..at + 32].fill(0);
        }
        Mnemonic::Fnstenv | Mnemonic::Fnsave => {
            let small = matches!(code, Code::Fnstenv_m14byte | Code::Fnsave_m94byte);
            let pointers = if small { 6..14 } else { 12..28 };
            area[at..][pointers].fill(0);
        }
        _ => {}
    }
}

/// Runs one case both ways; what differs, as text.
fn compare(code: Code, random: &mut Random, native: &mut Native) -> Option<String> {
    let case = random_case(code, random);
    let mut area = random_area(code, case.offset as usize, random);
    let registers = random_registers(random);
    let mut gprs: [u64; 16] = std::array::from_fn(|_| random.bits());
    let flags = random.next() & rflags::STATUS;

    let mut cpu = TestCpu::long();
    cpu.state.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.state.fx = registers;
    cpu.memory[AREA as usize..][..AREA_SIZE].copy_from_slice(&area.0);
    if let Some((register, displacement)) = case.pointer {
        gprs[register] = (AREA + case.offset).wrapping_sub(displacement);
    }
    cpu.state.gprs = gprs;
    cpu.status = Status::from_bits(flags);
    let i = Decoder::with_ip(64, &case.bytes, 0x1000, DecoderOptions::NONE).decode();
    if i.code() != code {
        return Some(format!("{code:?} decodes as {:?}: {:02x?}", i.code(), case.bytes));
    }
    let Some(op) = super::lower::<TestCpu>(&i, Mode::Bits64) else {
        return Some(format!("{code:?} is not known"));
    };
    let stopped = (op.exec)(&mut cpu, &op.insn).is_err();

    let mut state =
        State { fx: registers, gprs, rflags: flags | rflags::FIXED, host_mxcsr: 0x1f80 };
    if let Some((register, displacement)) = case.pointer {
        let operand = area.0.as_mut_ptr() as u64 + case.offset;
        state.gprs[register] = operand.wrapping_sub(displacement);
    }
    native.run(&case.bytes, &mut state);
    if let Some((register, _)) = case.pointer {
        state.gprs[register] = cpu.state.gprs[register];
    }
    state.gprs[4] = gprs[4];

    let mut memory = cpu.memory[AREA as usize..][..AREA_SIZE].to_vec();
    normalise_area(code, &mut memory, case.offset as usize);
    normalise_area(code, &mut area.0, case.offset as usize);
    let (ours, theirs) = (normalised(&cpu.state.fx), normalised(&state.fx));
    let mut text = String::new();
    if stopped {
        let _ = write!(text, " stopped {:?}", cpu.exception);
    }
    if ours != theirs {
        let at = (0..512).find(|n| ours.0[*n] != theirs.0[*n]).unwrap_or(0) & !15;
        let _ = write!(
            text,
            " registers at {at}: {:02x?} {:02x?}",
            &ours.0[at..at + 16],
            &theirs.0[at..at + 16]
        );
    }
    if cpu.state.gprs != state.gprs {
        let _ = write!(text, " gprs {:x?} {:x?}", cpu.state.gprs, state.gprs);
    }
    if cpu.rflags() & rflags::STATUS != state.rflags & rflags::STATUS {
        let _ = write!(text, " flags {:x} {:x}", cpu.rflags(), state.rflags);
    }
    if memory != area.0 {
        let at = (0..AREA_SIZE).find(|n| memory[*n] != area.0[*n]).unwrap_or(0) & !15;
        let (ours, theirs) = (&memory[at..at + 16], &area.0[at..at + 16]);
        let _ = write!(text, " memory at {at}: {ours:02x?} {theirs:02x?}");
    }
    (!text.is_empty()).then(|| format!("{code:?} {:02x?}:{text}", case.bytes))
}

#[test]
fn every_form_does_what_the_host_does() {
    let mut native = Native::new();
    let mut failures = Vec::new();
    let mut forms = 0;
    for code in vector_codes() {
        if is_foreign(code) {
            continue;
        }
        if let Some((_, form)) = super::table::Form::find(code)
            && !form.extension().host_has()
        {
            continue;
        }
        forms += 1;
        let seed = 0x9e37_79b9_7f4a_7c15 ^ code as u64;
        let mut random = Random(seed);
        let failed = (0..CASES).find_map(|n| Some((n, compare(code, &mut random, &mut native)?)));
        if let Some((n, text)) = failed {
            failures.push(format!("seed {seed:#x}, case {n}: {text}"));
        }
    }
    assert!(forms > 450, "{forms}");
    assert!(failures.is_empty(), "{} of {forms} forms:\n{}", failures.len(), failures.join("\n"));
}

/// The operand of MASKMOVQ and MASKMOVDQU is where RDI points.
#[test]
fn masked_stores_go_to_rdi() {
    let bytes = [0x66, 0x0f, 0xf7, 0xc1]; // maskmovdqu xmm0, xmm1
    let mut cpu = TestCpu::long();
    cpu.state.cr4 |= cr4::OSFXSR;
    cpu.state.gprs[usize::from(gpr::RDI)] = TestCpu::MEMORY as u64 - 8;
    cpu.state.fx.set_xmm(0, u128::MAX);
    cpu.state.fx.set_xmm(1, 0x80_00_80);
    let i = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE).decode();
    let op = super::lower::<TestCpu>(&i, Mode::Bits64).expect("known");
    // The other half of the operand is not there, and is not accessed.
    assert_eq!((op.exec)(&mut cpu, &op.insn), Ok(()));
    let end = &cpu.memory[TestCpu::MEMORY - 8..];
    assert_eq!(end, [0xff, 0, 0xff, 0, 0, 0, 0, 0]);
}
