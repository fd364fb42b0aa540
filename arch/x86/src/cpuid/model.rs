//! Processors that a guest can be offered on any host: [`Model`].
//!
//! What a host's processor says of itself differs from host to host, and so would a table that is made of it. A model says the same
//! everywhere: it stands for the host's processor where the policy ([`default_table`](super::default_table)) asks that. It is one of two
//! makers', as programs compare what they are offered with what the processor itself tells them, and of one of three levels of the
//! System V ABI, with what was common beside it.
//!
//! What is left of the host is how fast its TSC is. All models are in `docs/cpu-models.md`, which is made from here.
//!
//! See: System V ABI, AMD64 supplement, 3.1.1; Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.

use super::policy::bits;
use super::{Hardware, Instructions, Leaf, Vendor};

/// Which instructions there are, each with those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// x86-64: up to SSE2.
    One,
    /// SSE4.2, POPCNT, CMPXCHG16B.
    Two,
    /// AVX2, BMI, FMA, MOVBE; AES, PCLMULQDQ, random numbers and ADX.
    Three,
}

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    intel: bool,
    level: Level,
}

/// What a model is called, and what it answers as a host's processor: [`Model::hardware`].
type Named = (Model, &'static str, fn(u32, u32) -> Leaf);

const fn intel(level: Level) -> Model {
    Model { intel: true, level }
}

const fn amd(level: Level) -> Model {
    Model { intel: false, level }
}

/// The better ones of a maker first.
const NAMED: [Named; 6] = [
    (intel(Level::Three), "unibody-intel-v3", |f, i| intel(Level::Three).cpuid(f, i)),
    (intel(Level::Two), "unibody-intel-v2", |f, i| intel(Level::Two).cpuid(f, i)),
    (intel(Level::One), "unibody-intel-v1", |f, i| intel(Level::One).cpuid(f, i)),
    (amd(Level::Three), "unibody-amd-v3", |f, i| amd(Level::Three).cpuid(f, i)),
    (amd(Level::Two), "unibody-amd-v2", |f, i| amd(Level::Two).cpuid(f, i)),
    (amd(Level::One), "unibody-amd-v1", |f, i| amd(Level::One).cpuid(f, i)),
];

impl Model {
    /// How many bits a guest-physical address has: MAXPHYADDR.
    pub const PHYSICAL_BITS: u32 = 48;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        NAMED.into_iter().map(|(model, ..)| model)
    }

    /// The best one of the host's maker's that an engine of these instructions can be on it: AMD's on a processor of anybody else.
    #[must_use]
    pub fn best(hardware: &impl Hardware, instructions: Instructions) -> Self {
        let intel = Vendor::of(hardware.cpuid(0, 0)) == Vendor::Intel;
        let runs = |model: &Self| model.intel == intel && model.runs(hardware, instructions);
        // The last one of either maker has nothing that not all have.
        Self::all().find(runs).unwrap_or(Self { intel, level: Level::One })
    }

    /// Whether an engine of these instructions can be it on such a host.
    #[must_use]
    pub fn runs(&self, hardware: &impl Hardware, instructions: Instructions) -> bool {
        instructions.on(hardware).have(&self.instructions())
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|model| model.name() == name)
    }

    fn entry(&self) -> &'static Named {
        const { &NAMED }.iter().find(|(model, ..)| model == self).unwrap_or(const { &NAMED[0] })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.entry().1
    }

    /// What [`Hardware`] is made of.
    #[must_use]
    pub fn hardware(&self) -> fn(u32, u32) -> Leaf {
        self.entry().2
    }

    /// The instructions that it has, of those that an engine may have or not.
    #[must_use]
    pub const fn instructions(&self) -> Instructions {
        match self.level {
            Level::One => ONE,
            Level::Two => TWO,
            Level::Three => THREE,
        }
    }

    /// What it answers, as far as the policy asks it.
    #[must_use]
    pub fn cpuid(&self, function: u32, index: u32) -> Leaf {
        let instructions = self.instructions();
        let signature = if self.intel { INTEL } else { AMD };
        match function {
            0 => self.vendor(),
            0x8000_0000 if !self.intel => self.vendor(),
            1 => [signature, 0, instructions.leaf1_ecx, instructions.leaf1_edx],
            4 if self.intel => CACHES.get(index as usize).copied().unwrap_or_default(),
            7 if index == 0 => {
                [0, instructions.leaf7_ebx, instructions.leaf7_ecx, instructions.leaf7_edx]
            }
            0x8000_0001 => {
                let own = if self.intel { 0 } else { signature };
                [own, 0, instructions.extended1_ecx, instructions.extended1_edx]
            }
            0x8000_0002..=0x8000_0004 => self.brand(function - 0x8000_0002),
            // 32 KiB each, 8 ways, lines of 64 bytes; TLBs of 64 entries.
            0x8000_0005 if !self.intel => [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140],
            // 512 KiB and 32 MiB, 8 and 16 ways.
            0x8000_0006 if !self.intel => [0x4800_6400, 0x6800_6400, 0x0200_6140, 0x0100_8140],
            // 2 MiB, 16 ways.
            0x8000_0006 => [0, 0, 0x0800_8040, 0],
            0x8000_0008 => [Self::PHYSICAL_BITS, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn vendor(&self) -> Leaf {
        let words: [&[u8; 4]; 3] =
            if self.intel { [b"Genu", b"ntel", b"ineI"] } else { [b"Auth", b"cAMD", b"enti"] };
        let [ebx, ecx, edx] = words.map(|word| u32::from_le_bytes(*word));
        [0, ebx, ecx, edx]
    }

    /// The words of one of the three leaves with the name that people see.
    fn brand(&self, leaf: u32) -> Leaf {
        let level = match self.level {
            Level::One => b'1',
            Level::Two => b'2',
            Level::Three => b'3',
        };
        let mut text = [0; 48];
        let name = b"Unibody virtual processor, x86-64-v";
        text[..name.len()].copy_from_slice(name);
        text[name.len()] = level;
        core::array::from_fn(|n| {
            let at = leaf as usize * 16 + n * 4;
            u32::from_le_bytes(core::array::from_fn(|byte| {
                text.get(at + byte).copied().unwrap_or(0)
            }))
        })
    }
}

/// Family 6, model 0xcf, stepping 2. See: Intel SDM vol. 4, table 2-1.
const INTEL: u32 = 0x000c_06f2;
/// Family 0x19, model 1, stepping 1. See: AMD APM vol. 3, appendix E.
const AMD: u32 = 0x00a0_0f11;

/// Leaf 4: 48 KiB of data (12 ways) and 32 KiB of code (8 ways), 2 MiB (16 ways), 32 MiB (16 ways) that all share. The ways less 1, with
/// lines of 64 bytes, and the sets less 1.
const CACHES: [Leaf; 4] = [
    [0x121, 11 << 22 | 63, 63, 0],
    [0x122, 7 << 22 | 63, 63, 0],
    [0x143, 15 << 22 | 63, 2047, 0],
    [0x163, 15 << 22 | 63, 0x7fff, 0],
];

/// FPU, MMX, FXSR, SSE, SSE2.
const ONE: Instructions = Instructions {
    leaf1_ecx: 0,
    leaf1_edx: bits(&[0, 23, 24, 25, 26]),
    leaf7_ebx: 0,
    leaf7_ecx: 0,
    leaf7_edx: 0,
    extended1_ecx: bits(&[0]),
    extended1_edx: 0,
    leaf_d1_eax: 0,
    extended8_ebx: 0,
    extended21_eax: 0,
};

/// And SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT.
const TWO: Instructions = Instructions { leaf1_ecx: bits(&[0, 9, 13, 19, 20, 23]), ..ONE };

/// And PCLMULQDQ, FMA, MOVBE, AES, AVX, F16C, RDRAND; BMI1, AVX2, BMI2, RDSEED, ADX, CLFLUSHOPT; LZCNT, PREFETCHW.
const THREE: Instructions = Instructions {
    leaf1_ecx: TWO.leaf1_ecx | bits(&[1, 12, 22, 25, 28, 29, 30]),
    leaf7_ebx: bits(&[3, 5, 8, 18, 19, 23]),
    extended1_ecx: bits(&[0, 5, 8]),
    ..TWO
};
