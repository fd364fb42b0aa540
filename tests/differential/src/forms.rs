//! [`Forms`]: the instructions that are tested, from the decoder's own tables.
//!
//! All that is available in 64-bit mode and that the engine executes, but for what
//! [`excluded`] lists.

use std::collections::HashSet;

use arch_x86::emulate::Mode;
use arch_x86::emulate::decode::lower;
use engine_soft::{SoftVcpu, vector};
use iced_x86::{Code, EncodingKind, Instruction, Mnemonic};

use crate::operands::Builder;
use crate::random::Random;
use crate::vendor::Vendor;

/// Which part of the engine is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `arch_x86::emulate`: integer instructions, and what users may do of the system's.
    Integer,
    /// `engine_soft::vector`: x87, MMX, SSE and what followed.
    Vector,
}

/// What the host's kernel lets programs do, and so what can be tested.
#[derive(Clone, Copy, Debug)]
pub struct Permits {
    /// FS and GS may have bases.
    pub bases: bool,
    /// Selectors mean what they do to the guest.
    pub selectors: bool,
}

impl Permits {
    /// Everything.
    pub const ALL: Self = Self { bases: true, selectors: true };
    /// Nothing.
    pub const NONE: Self = Self { bases: false, selectors: false };
}

/// The instructions that are tested.
pub struct Forms {
    /// Which they are.
    pub kind: Kind,
    /// Whose instructions they are.
    pub vendor: Vendor,
    /// All of them.
    pub codes: Vec<Code>,
    /// Others that stand among them now and then.
    companions: Vec<Code>,
    known: HashSet<Code>,
}

impl Forms {
    /// Looks for those that the host permits.
    #[must_use]
    pub fn new(kind: Kind, vendor: Vendor, permits: Permits) -> Self {
        let of = |kind| -> Vec<Code> {
            let candidates = Code::values().filter(|code| is_candidate(*code, vendor, permits));
            candidates.filter(|code| executed_by(*code) == Some(kind)).collect()
        };
        let codes = of(kind);
        let companions = if kind == Kind::Vector { of(Kind::Integer) } else { Vec::new() };
        let known = codes.iter().chain(&companions).copied().collect();
        Self { kind, vendor, codes, companions, known }
    }

    /// One of them; in a block, where others set and read flags and registers, sometimes one of those.
    pub fn choose(&self, random: &mut Random, block: bool) -> Code {
        if block && !self.companions.is_empty() && random.chance(12) {
            return random.one_of(&self.companions);
        }
        random.one_of(&self.codes)
    }

    /// Whether `instruction`, decoded from `bytes`, may be executed on both sides.
    #[must_use]
    pub fn allows(&self, instruction: &Instruction, bytes: &[u8]) -> bool {
        (instruction.code() == Code::INVALID || self.known.contains(&instruction.code()))
            && !calls_linux(instruction)
            && !depends_on_model(instruction, bytes, self.vendor)
    }
}

/// INT with the one vector by which Linux may be called; but for it, INT3's and INTO's the gates are the kernel's.
fn calls_linux(instruction: &Instruction) -> bool {
    instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x80
}

/// Whether a processor may execute `instruction` otherwise than the decoder knows: of AMD's some know
/// LOCK MOV CR0 as MOV CR8, and all ignore the prefix of LOCK VERW; calls of a hypervisor and their kin with a
/// prefix are none to the decoder, but reach the hypervisor; and of vector instructions the host may have ones
/// that are none to the decoder.
fn depends_on_model(instruction: &Instruction, bytes: &[u8], vendor: Vendor) -> bool {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let opcode = bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(bytes.len());
    let (prefixes, opcode) = bytes.split_at(opcode);
    let lock = prefixes.contains(&0xf0);
    vendor == Vendor::Amd && lock && matches!(opcode, [0x0f, 0x00 | 0x20 | 0x22, ..])
        || instruction.is_invalid()
            && matches!(
                opcode,
                [0x62 | 0x8f | 0xc4 | 0xc5, ..] | [0x0f, 0x01, 0xc0..=0xc4 | 0xd8..=0xdf, ..]
            )
}

/// The instruction behind WAIT, of those that are two: to an assembler they are one.
#[must_use]
pub const fn behind_wait(code: Code) -> Option<Code> {
    Some(match code {
        Code::Fstenv_m14byte => Code::Fnstenv_m14byte,
        Code::Fstenv_m28byte => Code::Fnstenv_m28byte,
        Code::Fstcw_m2byte => Code::Fnstcw_m2byte,
        Code::Feni => Code::Fneni,
        Code::Fdisi => Code::Fndisi,
        Code::Fclex => Code::Fnclex,
        Code::Finit => Code::Fninit,
        Code::Fsetpm => Code::Fnsetpm,
        Code::Fsave_m94byte => Code::Fnsave_m94byte,
        Code::Fsave_m108byte => Code::Fnsave_m108byte,
        Code::Fstsw_m2byte => Code::Fnstsw_m2byte,
        Code::Fstsw_AX => Code::Fnstsw_AX,
        _ => return None,
    })
}

fn is_candidate(code: Code, vendor: Vendor, permits: Permits) -> bool {
    let op_code = code.op_code();
    op_code.is_instruction()
        && op_code.mode64()
        && vendor.has(code)
        // Not one that the decoder has to be asked for.
        && op_code.decoder_option() == 0
        && matches!(op_code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && excluded(code, permits).is_none()
}

/// What executes any form of an instruction's operands, if anything does.
#[must_use]
pub fn executed_by(code: Code) -> Option<Kind> {
    let code = behind_wait(code).unwrap_or(code);
    let mut random = Random::new(code as u64);
    (0..64).find_map(|_| {
        let instruction = Builder::new(random.bits(), false).instruction(code)?;
        if lower::<SoftVcpu>(&instruction, Mode::Bits64).is_some() {
            return Some(Kind::Integer);
        }
        vector::lower::<SoftVcpu>(&instruction, Mode::Bits64).map(|_| Kind::Vector)
    })
}

/// Why an instruction is not tested.
#[must_use]
pub fn excluded(code: Code, permits: Permits) -> Option<&'static str> {
    use Mnemonic as M;
    Some(match code.mnemonic() {
        M::Int1 => "is seen by the host's hypervisor, which may restart it",
        M::Syscall | M::Sysenter | M::Vmcall | M::Vmmcall => "calls a kernel or hypervisor",
        M::Rdtsc | M::Rdtscp | M::Rdpid | M::Rdpmc | M::Rdrand | M::Rdseed => "gives what it likes",
        M::Vmrun | M::Vmload | M::Vmsave | M::Clgi | M::Stgi | M::Skinit | M::Invlpga => {
            "the host's hypervisor has it, the guest has not"
        }
        M::Xbegin | M::Xend | M::Xabort | M::Xtest => "the host may have it, the guest has not",
        M::Xsetbv => "depends on CR4, which the host's kernel has otherwise",
        M::Cpuid | M::Xgetbv => "gives what the guest is told of its processor",
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => "gives the host kernel's tables",
        M::Lar | M::Lsl | M::Verr | M::Verw if !permits.selectors => {
            "asks the host kernel's tables"
        }
        M::Lss | M::Lfs | M::Lgs if !permits.selectors => {
            "loads segments from the host kernel's tables"
        }
        M::Retf | M::Iret | M::Iretd | M::Iretq | M::Sysret | M::Sysexit | M::Sysexitq => {
            "loads segments from the host kernel's tables"
        }
        M::Ud0 | M::Ud1 => "is as long as the processor likes",
        M::Vmread | M::Vmwrite => "is another instruction with some prefixes, not offered",
        M::Pause => "with REX.B is an exchange, which the decoder does not tell apart",
        M::Monitor | M::Mwait | M::Monitorx | M::Mwaitx | M::Umwait | M::Tpause => "waits",
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase if !permits.bases => {
            "the host keeps it off"
        }
        _ => match code {
            Code::Movsxd_r16_rm16 => "reads two bytes or four, as the processor likes",
            Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
            | Code::Popw_FS
            | Code::Popw_GS
            | Code::Popq_FS
            | Code::Popq_GS
                if !permits.selectors =>
            {
                "loads segments from the host kernel's tables"
            }
            Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664 => "loads segments from the host kernel's tables",
            _ => return None,
        },
    })
}
