//! [`Vendor`]: whose processor the tests run on, as far as decoding depends on it.
//!
//! The forms and the generator are told, so that those of another vendor than the host's can be looked
//! at, too; what is executed is the host's.

use std::fmt;
use std::sync::LazyLock;

use iced_x86::{Code, Decoder, DecoderOptions};

/// By whose manuals instructions are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// AMD, and those whose processors behave alike.
    Amd,
    /// Intel, and everybody else.
    Intel,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Amd, Self::Intel];

    /// The host's.
    #[must_use]
    pub fn host() -> Self {
        static HOST: LazyLock<Vendor> = LazyLock::new(|| {
            let leaf = std::arch::x86_64::__cpuid(0);
            // "Auth" and "Hygo".
            let amd = matches!(leaf.ebx, 0x6874_7541 | 0x6f67_7948);
            if amd { Vendor::Amd } else { Vendor::Intel }
        });
        *HOST
    }

    /// A decoder of `bytes` at `rip`.
    #[must_use]
    pub fn decoder(self, bytes: &[u8], rip: u64) -> Decoder<'_> {
        let options = match self {
            Self::Amd => DecoderOptions::AMD,
            Self::Intel => DecoderOptions::NONE,
        };
        Decoder::with_ip(64, bytes, rip, options)
    }

    /// Whether 64-bit mode has `code` at all.
    #[must_use]
    pub fn has(self, code: Code) -> bool {
        let op_code = code.op_code();
        match self {
            // The decoder has PREFETCH of a register for both.
            Self::Amd => op_code.amd_decoder64() && !is_prefetch_of_register(code),
            Self::Intel => op_code.intel_decoder64(),
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Amd { "AMD" } else { "Intel" })
    }
}

/// 0F 0D with a register, which is a NOP on Intel's processors.
const fn is_prefetch_of_register(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

/// Whether the host's processor is one of AMD's, or behaves as they do.
#[must_use]
pub fn is_amd() -> bool {
    Vendor::host() == Vendor::Amd
}

/// Whether a null selector makes the base of FS or GS 0. See: AMD APM vol. 3, appendix E, NullSelectorClearsBase.
#[must_use]
pub fn null_clears_base() -> bool {
    let leaf = |function| std::arch::x86_64::__cpuid(function);
    !is_amd() || leaf(0x8000_0000).eax >= 0x8000_0021 && leaf(0x8000_0021).eax >> 6 & 1 != 0
}
