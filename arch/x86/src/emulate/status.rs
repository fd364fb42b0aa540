//! The six arithmetic flags, kept as what they are computed from.
//!
//! An ALU instruction leaves its result and its carries; CF, PF, AF, ZF, SF
//! and OF are computed from the two only when something reads them, which
//! most flags never are. [`Status`] is what an engine stores.

use super::Int;
use crate::regs::rflags;

/// The arithmetic flags as `result` and `carries`: 16 bytes, and an ALU
/// instruction computes them with a handful of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The result, sign-extended to 64 bits from the operand's size. ZF is
    /// `result == 0`, SF its bit 63, PF the even parity of its low byte; the
    /// last two as corrected by `carries`.
    pub result: u64,
    /// Bit 63: carry (or borrow) out of the operand's sign bit: CF.
    /// Bit 62: carry into the sign bit; OF is bit 63 ^ bit 62.
    /// Bit 3: carry out of bit 3: AF.
    /// Bits 8–15 are XORed to the byte whose parity is PF, bit 16 to SF: for
    /// flags that no result could have left, as after POPF. All others are zero.
    pub carries: u64,
}

impl Status {
    /// The bits of `carries` that an ALU instruction sets.
    pub const CARRY_BITS: u64 = 0b11 << 62 | 1 << 3;

    /// The flags, in their places in RFLAGS; all other bits are zero.
    #[must_use]
    #[inline]
    pub fn bits(self) -> u64 {
        let mut bits = self.carries >> 63; // CF is bit 0
        bits |= u64::from(self.pf()) << 2;
        bits |= (self.carries & 1 << 3) << 1; // AF is bit 4
        bits |= u64::from(self.zf()) << 6;
        bits |= u64::from(self.sf()) << 7;
        bits |= u64::from(self.of()) << 11;
        bits
    }

    /// The state in which [`bits`](Self::bits) gives the arithmetic flags of `rflags`.
    #[must_use]
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        let cf = bits & rflags::CF;
        let of = bits >> 11 & 1;
        // A result of 0 (ZF) or 1 << 8 (not ZF): even parity, no sign.
        let odd = u64::from(bits & rflags::PF == 0);
        let sign = bits >> 7 & 1;
        Self {
            result: u64::from(bits & rflags::ZF == 0) << 8,
            carries: cf << 63 | (cf ^ of) << 62 | (bits & rflags::AF) >> 1 | odd << 8 | sign << 16,
        }
    }

    /// The flags of a logical operation: no carry, no overflow.
    #[must_use]
    #[inline(always)]
    pub fn logic<T: Int>(result: T) -> Self {
        Self { result: result.sign_extend(), carries: 0 }
    }

    /// The flags of `sum`, which is `a + b` or `a + b + 1`. All three are zero-extended;
    /// `sum`'s bits above the operand's size do not matter.
    #[must_use]
    #[inline(always)]
    pub fn sum<T: Int>(a: u64, b: u64, sum: u64) -> Self {
        // Bit n is the carry out of bit n.
        Self::carried::<T>(sum, (a & b) | ((a | b) & !sum))
    }

    /// The flags of `difference`, which is `a - b` or `a - b - 1`, as [`Status::sum`] has them.
    #[must_use]
    #[inline(always)]
    pub fn difference<T: Int>(a: u64, b: u64, difference: u64) -> Self {
        // Bit n is the borrow into bit n + 1.
        Self::carried::<T>(difference, (!a & b) | ((!a | b) & difference))
    }

    #[inline(always)]
    fn carried<T: Int>(result: u64, carry: u64) -> Self {
        let top = carry << (64 - T::BITS) & 0b11 << 62;
        Self { result: T::truncate(result).sign_extend(), carries: top | carry & 1 << 3 }
    }

    /// ZF, SF and PF of `result`, and the other three as given.
    #[must_use]
    #[inline(always)]
    pub fn new<T: Int>(result: T, cf: bool, of: bool, af: bool) -> Self {
        Self { result: result.sign_extend(), carries: u64::from(af) << 3 }.with_cf_of(cf, of)
    }

    /// The same but for CF and OF.
    #[must_use]
    #[inline(always)]
    pub fn with_cf_of(self, cf: bool, of: bool) -> Self {
        let carries = self.carries & !(0b11 << 62);
        Self { carries: carries | u64::from(cf) << 63 | u64::from(cf ^ of) << 62, ..self }
    }

    /// The same but for CF.
    #[must_use]
    #[inline(always)]
    pub fn with_cf(self, cf: bool) -> Self {
        let of = self.of();
        self.with_cf_of(cf, of)
    }

    /// AF.
    #[must_use]
    #[inline]
    pub fn af(self) -> bool {
        self.carries & 1 << 3 != 0
    }

    /// Carry.
    #[must_use]
    #[inline]
    pub fn cf(self) -> bool {
        self.carries >> 63 != 0
    }

    /// Zero.
    #[must_use]
    #[inline]
    pub fn zf(self) -> bool {
        self.result == 0
    }

    /// Sign.
    #[must_use]
    #[inline]
    pub fn sf(self) -> bool {
        (self.result >> 63 ^ self.carries >> 16) & 1 != 0
    }

    /// Overflow.
    #[must_use]
    #[inline]
    pub fn of(self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// Parity.
    #[must_use]
    #[inline]
    pub fn pf(self) -> bool {
        ((self.result ^ self.carries >> 8) as u8).count_ones() & 1 == 0
    }
}
