//! [`Vector`]: the x87, MMX, SSE and AVX registers.
//!
//! See: Intel SDM vol. 1, 10.5.1 (the FXSAVE area), 13.4 (XSAVE's).

use arch_x86::regs::FxArea;

/// Bits of the x87 status word.
pub mod fsw {
    /// The exceptions that the control word masks.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// The physical number of ST(0).
    pub const TOP: u16 = 7 << 11;
    /// Some exception is not masked, in both its places.
    pub const SUMMARY: u16 = 1 << 7 | 1 << 15;
}

/// Bits of MXCSR.
pub mod mxcsr {
    /// All sticky flags.
    pub const FLAGS: u32 = 0x3f;
    /// A result was too great.
    pub const OVERFLOW: u32 = 1 << 3;
    /// A result was too small.
    pub const UNDERFLOW: u32 = 1 << 4;
    /// A result was rounded.
    pub const PRECISION: u32 = 1 << 5;
    /// From a flag to its mask.
    pub const MASK_SHIFT: u32 = 7;
}

/// Values of the registers.
#[derive(Clone, PartialEq, Eq)]
pub struct Vector {
    /// All but the upper halves of the YMM registers, as FXSAVE64 lays them out. The registers of the
    /// x87 are those relative to TOP; where they are MMX registers, MM(TOP + i) is ST(i).
    pub fx: FxArea,
    /// The upper halves of the YMM registers.
    pub upper: [u128; 16],
}

impl Default for Vector {
    /// The values after FNINIT, with all SSE exceptions masked.
    fn default() -> Self {
        Self { fx: FxArea::at_reset(), upper: [0; 16] }
    }
}

impl Vector {
    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fx.0[at], self.fx.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.fx.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// The x87 control word.
    #[must_use]
    pub fn fcw(&self) -> u16 {
        self.word(0)
    }

    /// The x87 status word.
    #[must_use]
    pub fn fsw(&self) -> u16 {
        self.word(2)
    }

    /// Sets control and status words.
    pub fn set_control(&mut self, fcw: u16, fsw: u16) {
        self.set_word(0, fcw);
        self.set_word(2, fsw);
    }

    /// A bit for each x87 register, by physical number, that is not empty.
    #[must_use]
    pub fn tags(&self) -> u8 {
        self.fx.0[4]
    }

    /// Sets the tags.
    pub fn set_tags(&mut self, tags: u8) {
        self.fx.0[4] = tags;
    }

    /// The physical number of ST(0).
    #[must_use]
    pub fn top(&self) -> usize {
        usize::from(self.fsw() >> 11 & 7)
    }

    /// ST(n): the significand in the low 64 bits, exponent and sign above.
    #[must_use]
    pub fn st(&self, n: usize) -> u128 {
        let at = 32 + n % 8 * 16;
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(&self.fx.0[at..at + 10]);
        u128::from_le_bytes(bytes)
    }

    /// The x87 register that has this physical number, as [`Self::st`] gives it.
    #[must_use]
    pub fn physical(&self, number: usize) -> u128 {
        self.st(number.wrapping_sub(self.top()) & 7)
    }

    /// Sets the 80 bits of ST(n).
    pub fn set_st(&mut self, n: usize, value: u128) {
        let at = 32 + n % 8 * 16;
        self.fx.0[at..at + 10].copy_from_slice(&value.to_le_bytes()[..10]);
    }

    /// XMM register `n`.
    #[must_use]
    pub fn xmm(&self, n: usize) -> u128 {
        self.fx.xmm(n as u8)
    }

    /// Sets YMM register `n`.
    pub fn set_ymm(&mut self, n: usize, bytes: &[u8; 32]) {
        let [mut low, mut high] = [[0; 16]; 2];
        low.copy_from_slice(&bytes[..16]);
        high.copy_from_slice(&bytes[16..]);
        self.fx.set_xmm(n as u8, u128::from_le_bytes(low));
        self.upper[n % 16] = u128::from_le_bytes(high);
    }
}
