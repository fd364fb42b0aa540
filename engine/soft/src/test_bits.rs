//! What BMI, MOVBE, CRC32 and ADX do, in plain Rust: [`State::execute`].

use arch_x86::emulate::Feature;
use arch_x86::engine::{EngineVcpu, Features};
use arch_x86::regs::rflags;
use iced_x86::{
    Code, EncodingKind, Instruction, MemorySize, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

use crate::SoftVcpu;
use crate::test_machine::Machine;

/// The extensions.
pub const FEATURES: [Feature; 5] =
    [Feature::Movbe, Feature::Sse42, Feature::Adx, Feature::Bmi1, Feature::Bmi2];

/// The extension that a mnemonic is of, if it is one of these; TZCNT is not.
fn feature_of(mnemonic: Mnemonic) -> Option<Feature> {
    use Mnemonic::*;
    Some(match mnemonic {
        Movbe => Feature::Movbe,
        Crc32 => Feature::Sse42,
        Adcx | Adox => Feature::Adx,
        Andn | Bextr | Blsi | Blsmsk | Blsr => Feature::Bmi1,
        Bzhi | Mulx | Pdep | Pext | Rorx | Sarx | Shlx | Shrx => Feature::Bmi2,
        _ => return None,
    })
}

/// Has the guest's CPUID offer these of the extensions.
pub fn offer(vcpu: &mut SoftVcpu, features: impl IntoIterator<Item = Feature>) {
    let set = |all: Features, feature: Feature| all.with(feature, true);
    vcpu.set_features(features.into_iter().fold(Features::default(), set));
}

/// A vCPU that is offered all of them.
pub fn vcpu(machine: &Machine) -> SoftVcpu {
    let mut vcpu = machine.vcpu();
    offer(&mut vcpu, FEATURES);
    vcpu
}

/// One of the instructions' forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub code: Code,
    pub feature: Feature,
}

/// An operand that may be memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    Register(u8),
    /// AH, CH, DH or BH, by the number of the register that it is part of.
    High(u8),
    /// At a distance from a register.
    Memory(u8, i32),
}

impl Form {
    /// All of 64-bit mode.
    pub fn all() -> Vec<Self> {
        let forms = Code::values().filter_map(|code| {
            let feature = feature_of(code.mnemonic())?;
            let op_code = code.op_code();
            let is_meant = matches!(op_code.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
            (is_meant && op_code.mode64()).then_some(Self { code, feature })
        });
        let forms: Vec<_> = forms.collect();
        // ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, MULX, PDEP, PEXT, RORX, SARX, SHLX, SHRX, ADCX, ADOX; CRC32; MOVBE.
        assert_eq!(forms.len(), 15 * 2 + 5 + 6);
        forms
    }

    fn operands(&self) -> &'static [OpCodeOperandKind] {
        self.code.op_code().op_kinds()
    }

    fn has(&self, kinds: &[OpCodeOperandKind]) -> bool {
        self.operands().iter().any(|kind| kinds.contains(kind))
    }

    /// Whether a register is in VEX.vvvv.
    pub fn has_vvvv(&self) -> bool {
        self.has(&[OpCodeOperandKind::r32_vvvv, OpCodeOperandKind::r64_vvvv])
    }

    /// Whether a register is in ModRM's `reg`.
    pub fn has_reg(&self) -> bool {
        use OpCodeOperandKind::{r16_reg, r32_reg, r64_reg};
        self.has(&[r16_reg, r32_reg, r64_reg])
    }

    /// Whether an operand is always memory.
    pub fn is_memory(&self) -> bool {
        self.has(&[OpCodeOperandKind::mem])
    }

    /// Whether an operand may be a byte register.
    pub fn has_byte(&self) -> bool {
        self.has(&[OpCodeOperandKind::r8_or_mem])
    }

    /// Bytes of its memory operand.
    pub fn size(&self) -> usize {
        let size = self.code.op_code().memory_size();
        if size == MemorySize::Unknown { 0 } else { size.size() }
    }

    /// Its instruction with some registers; those that it has no operand for are not used.
    pub fn instruction(&self, reg: u8, vvvv: u8, rm: Rm, immediate: u8) -> Instruction {
        use OpCodeOperandKind as Kind;
        let mut i = Instruction::new();
        i.set_code(self.code);
        for (n, kind) in (0..).zip(self.operands()) {
            let register = match (*kind, rm) {
                (Kind::r16_reg, _) => Register::AX + u32::from(reg),
                (Kind::r32_reg, _) => Register::EAX + u32::from(reg),
                (Kind::r64_reg, _) => Register::RAX + u32::from(reg),
                (Kind::r32_vvvv, _) => Register::EAX + u32::from(vvvv),
                (Kind::r64_vvvv, _) => Register::RAX + u32::from(vvvv),
                (Kind::r8_or_mem, Rm::High(n)) => Register::AH + u32::from(n),
                // Behind BL are AH to BH.
                (Kind::r8_or_mem, Rm::Register(n @ 0..4)) => Register::AL + u32::from(n),
                (Kind::r8_or_mem, Rm::Register(n)) => Register::SPL + u32::from(n - 4),
                (Kind::r16_or_mem, Rm::Register(n)) => Register::AX + u32::from(n),
                (Kind::r32_or_mem, Rm::Register(n)) => Register::EAX + u32::from(n),
                (Kind::r64_or_mem, Rm::Register(n)) => Register::RAX + u32::from(n),
                _ => Register::None,
            };
            match (*kind, rm) {
                (Kind::imm8, _) => {
                    i.set_op_kind(n, OpKind::Immediate8);
                    i.set_immediate8(immediate);
                }
                (_, Rm::Memory(base, distance)) if register == Register::None => {
                    i.set_op_kind(n, OpKind::Memory);
                    i.set_memory_base(Register::RAX + u32::from(base));
                    i.set_memory_displacement64(i64::from(distance) as u64);
                    // As many bytes as it takes.
                    i.set_memory_displ_size(1);
                }
                _ => {
                    assert_ne!(register, Register::None, "{self:?}, {rm:?}");
                    i.set_op_kind(n, OpKind::Register);
                    i.set_op_register(n, register);
                }
            }
        }
        i
    }
}

/// What the instructions work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub gprs: [u64; 16],
    pub rflags: u64,
    /// The memory operand, in the lowest bytes.
    pub memory: u64,
}

/// The lowest `bits` bits.
fn low(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

impl State {
    fn bits(i: &Instruction, n: u32) -> u32 {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size() as u32 * 8,
            _ => i.memory_size().size() as u32 * 8,
        }
    }

    fn read(&self, i: &Instruction, n: u32) -> u64 {
        let value = match i.op_kind(n) {
            OpKind::Register => {
                let register = i.op_register(n);
                let value = self.gprs[register.full_register().number()];
                let is_high = (Register::AH..=Register::BH).contains(&register);
                if is_high { value >> 8 } else { value }
            }
            OpKind::Immediate8 => return i.immediate8().into(),
            _ => self.memory,
        };
        value & low(Self::bits(i, n))
    }

    fn write(&mut self, i: &Instruction, n: u32, value: u64) {
        let bits = Self::bits(i, n);
        let is_register = i.op_kind(n) == OpKind::Register;
        let to = match is_register {
            true => &mut self.gprs[i.op_register(n).full_register().number()],
            false => &mut self.memory,
        };
        let kept = if is_register && bits >= 32 { 0 } else { *to & !low(bits) };
        *to = kept | value & low(bits);
    }

    fn set(&mut self, flag: u64, on: bool) {
        self.rflags = if on { self.rflags | flag } else { self.rflags & !flag };
    }

    /// The flags of a result; those that are undefined as on AMD's processors.
    fn set_by(&mut self, result: u64, bits: u32, carry: bool) {
        self.rflags &= !rflags::STATUS;
        self.set(rflags::CF, carry);
        self.set(rflags::ZF, result == 0);
        self.set(rflags::SF, result >> (bits - 1) != 0);
        self.set(rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    }

    /// Executes an instruction.
    pub fn execute(&mut self, i: &Instruction) {
        use Mnemonic::*;
        let bits = Self::bits(i, 0);
        let (first, second) = (self.read(i, 0), self.read(i, 1));
        let third = if i.op_count() > 2 { self.read(i, 2) } else { 0 };
        let count = third as u32 & (bits - 1);
        let result = match i.mnemonic() {
            Movbe => second.swap_bytes() >> (64 - bits),
            Crc32 => checksum(first as u32, second, Self::bits(i, 1)).into(),
            Andn => !second & third,
            Bextr => {
                let (start, length) = (third & 0xff, third >> 8 & 0xff);
                (0..length.min(64))
                    .filter(|n| start + n < bits.into() && second >> (start + n) & 1 != 0)
                    .fold(0, |all, n| all | 1 << n)
            }
            Blsi => second & second.wrapping_neg(),
            Blsmsk => second ^ second.wrapping_sub(1),
            Blsr => second & second.wrapping_sub(1),
            Bzhi if third & 0xff >= bits.into() => second,
            Bzhi => second & ((1 << (third & 0xff)) - 1),
            Pdep => places(third).enumerate().fold(0, |all, (n, at)| all | (second >> n & 1) << at),
            Pext => places(third).enumerate().fold(0, |all, (n, at)| all | (second >> at & 1) << n),
            Rorx if bits == 64 => second.rotate_right(count),
            Rorx => (second as u32).rotate_right(count).into(),
            Shlx => second << count,
            Shrx => second >> count,
            Sarx => ((second << (64 - bits)) as i64 >> (64 - bits) >> count) as u64,
            Mulx => {
                let factor = self.gprs[2] & low(bits);
                let product = u128::from(factor) * u128::from(third);
                self.write(i, 1, product as u64);
                (product >> bits) as u64
            }
            Adcx | Adox => {
                let flag = if i.mnemonic() == Adcx { rflags::CF } else { rflags::OF };
                let carry = u128::from(self.rflags & flag != 0);
                let sum = u128::from(first) + u128::from(second) + carry;
                self.set(flag, sum >> bits != 0);
                sum as u64
            }
            other => panic!("{other:?}"),
        } & low(bits);
        match i.mnemonic() {
            Andn | Bextr => self.set_by(result, bits, false),
            Blsi => self.set_by(result, bits, second != 0),
            Blsmsk | Blsr => self.set_by(result, bits, second == 0),
            Bzhi => self.set_by(result, bits, third & 0xff >= bits.into()),
            _ => {}
        }
        if i.mnemonic() == Bextr {
            self.set(rflags::SF, false);
            self.set(rflags::AF, true);
        }
        self.write(i, 0, result);
    }
}

/// The numbers of the bits that are set.
fn places(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |n| mask >> n & 1 != 0)
}

/// CRC32C of so many more bits, bit by bit.
fn checksum(start: u32, value: u64, bits: u32) -> u32 {
    (0..bits).fold(start, |rest, n| {
        let carry = (rest ^ (value >> n) as u32) & 1 != 0;
        rest >> 1 ^ if carry { 0x82f6_3b78 } else { 0 }
    })
}
