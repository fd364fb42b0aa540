//! [`Element`]: what vector registers, x87 registers and memory hold, such that it is of interest to
//! who computes with it; and control and status words.

use iced_x86::MemorySize;

use crate::random::Random;
use crate::vector::fsw;

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Extended precision.
    F80,
    /// 18 decimal digits.
    Decimal,
    /// Integer of that many bytes.
    Integer(usize),
}

impl Element {
    /// Those that fill a vector register.
    const PACKED: [Element; 5] =
        [Element::F32, Element::F64, Element::Integer(1), Element::Integer(4), Element::Integer(8)];

    /// Any that fills a vector register.
    pub fn any(random: &mut Random) -> Self {
        random.one_of(&Self::PACKED)
    }

    /// What a memory operand consists of, if the tables tell.
    pub fn of(size: MemorySize) -> Option<Self> {
        let element = size.element_type();
        Some(match element {
            MemorySize::Float16 => Element::F16,
            MemorySize::Float32 => Element::F32,
            MemorySize::Float64 => Element::F64,
            MemorySize::Float80 => Element::F80,
            MemorySize::Bcd => Element::Decimal,
            _ if matches!(element.size(), 1 | 2 | 4 | 8) => Element::Integer(element.size()),
            _ => return None,
        })
    }

    /// Size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
            Element::F80 | Element::Decimal => 10,
            Element::Integer(size) => size,
        }
    }

    /// A value, in the low [`Element::size`] bytes.
    pub fn value(self, random: &mut Random) -> u128 {
        match self {
            Element::F16 => float(random, 5, 10).into(),
            Element::F32 => float(random, 8, 23).into(),
            Element::F64 => float(random, 11, 52).into(),
            Element::F80 => extended(random),
            Element::Decimal => decimal(random),
            Element::Integer(_) => random.operand().into(),
        }
    }

    /// Fills `bytes` with such values.
    pub fn fill(self, random: &mut Random, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(self.size()) {
            chunk.copy_from_slice(&self.value(random).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A binary floating-point number with such fields.
fn float(random: &mut Random, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let fractions = (1_u64 << fraction_bits) - 1;
    let top = (1_u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let any = random.bits() & fractions;
    let quiet = 1 << (fraction_bits - 1);
    let simple = random.one_of(&[0, 0, quiet, fractions, fractions - 1, 1, any]);
    let (exponent, fraction) = match random.below(24) {
        0 | 1 => (0, 0),
        2 | 3 => (bias, 0),
        4 => (top, 0),
        5 => (top, quiet | any),
        6 => (top, any & (quiet - 1) | 1),
        // Denormal.
        7 => (0, any | 1),
        8 => (0, simple),
        // The smallest and the greatest.
        9 => (1, simple),
        10 => (top - 1, simple),
        // Where integers end.
        11 | 12 => {
            let width = random.one_of(&[7, 8, 15, 16, 31, 32, 63, 64]);
            let width = bias + width - random.below(2);
            (width.min(top), simple)
        }
        // Small integers and halves.
        13..=15 => {
            let exponent = random.below(8);
            let kept = fraction_bits - (exponent as u32).min(fraction_bits);
            (bias + exponent - 1, any >> kept << kept)
        }
        // Whose product or quotient is tiny or huge.
        16 => (bias / 2 + random.below(8), any),
        17 => (bias + bias / 2 + random.below(8) - 4, any),
        18 => (random.below(top + 1), any),
        _ => ((bias + random.below(16)).wrapping_sub(8) & top, any),
    };
    let negative = random.bits() & 1;
    (negative << exponent_bits | exponent) << fraction_bits | fraction
}

/// A number of extended precision; sometimes one that only the 8087 took for a number.
fn extended(random: &mut Random) -> u128 {
    let number = if random.chance(20) {
        // One of the other formats, converted: exact.
        return widened(random);
    } else {
        // The integer bit is written out, and is not in the low 63.
        let exponent = u64::from(random.bits() as u16);
        let value = float(random, 8, 23);
        let (exponent, fraction) = match value >> 23 & 0xff {
            0 if value & 0x7f_ffff == 0 => (0, 0),
            0 => (0, random.bits() >> random.below(64)),
            0xff if value & 0x7f_ffff == 0 => (0x7fff, 0),
            0xff => (0x7fff, (value & 0x7f_ffff) << 40 | random.bits() >> 40),
            small if random.chance(85) => (small + 0x3fff - 0x7f, random.bits()),
            _ => (exponent & 0x7fff, random.bits()),
        };
        let integer = u64::from(exponent != 0) << 63;
        (value >> 31 & 1, exponent, fraction & !(1 << 63) | integer)
    };
    let (negative, exponent, mut significand) = number;
    if random.chance(8) {
        // Unnormal, pseudo-denormal, pseudo-infinity, pseudo-NaN.
        significand ^= 1 << 63;
    }
    u128::from(negative << 15 | exponent) << 64 | u128::from(significand)
}

/// A number of double precision that is not special, in extended precision.
fn widened(random: &mut Random) -> u128 {
    let value = float(random, 11, 52);
    let (negative, exponent) = (value >> 63, value >> 52 & 0x7ff);
    let exponent = if exponent == 0 || exponent == 0x7ff { 0x3ff } else { exponent };
    let significand = (value << 11) | 1 << 63;
    u128::from(negative << 15 | (exponent + 0x3fff - 0x3ff)) << 64 | u128::from(significand)
}

fn decimal(random: &mut Random) -> u128 {
    if random.chance(15) {
        return u128::from(random.bits()) | u128::from(random.bits()) << 64;
    }
    let digits = random.below(19);
    let number = (0..digits).fold(0, |all, _| all << 4 | u128::from(random.below(10)));
    number | u128::from(random.below(2)) << 79
}

/// A control word of the x87.
pub fn control_word(random: &mut Random) -> u16 {
    if random.chance(40) {
        return 0x37f;
    }
    let masks = masks(random) as u16;
    masks | 0x40 | (random.below(4) << 8 | random.below(4) << 10 | random.below(2) << 12) as u16
}

/// Six masks of exceptions, mostly set.
fn masks(random: &mut Random) -> u64 {
    match random.below(10) {
        0..=4 => 0x3f,
        5..=7 => 0x3f & !(1 << random.below(6)),
        8 => 0,
        _ => random.below(0x40),
    }
}

/// A status word of the x87 that fits the control word. Seldom is an exception pending: nothing
/// else would be executed.
pub fn status_word(random: &mut Random, fcw: u16) -> u16 {
    let mut status = random.bits() as u16 & !fsw::SUMMARY;
    if random.chance(50) {
        status &= !(fsw::EXCEPTIONS | 0x40);
    } else if !random.chance(10) {
        status &= fcw | !fsw::EXCEPTIONS;
    }
    if status & !fcw & fsw::EXCEPTIONS != 0 { status | fsw::SUMMARY } else { status }
}

/// Tags: a bit for each register that is not empty.
pub fn tags(random: &mut Random) -> u8 {
    match random.below(10) {
        0..=3 => 0xff,
        4 => 0,
        5..=7 => !(1 << random.below(8)),
        _ => random.bits() as u8,
    }
}

/// MXCSR, with bits that every processor has.
pub fn mxcsr(random: &mut Random) -> u32 {
    if random.chance(30) {
        return 0x1f80;
    }
    let flags = if random.chance(50) { 0 } else { random.below(0x40) };
    // Flushing to zero and reading denormals as zero, less often.
    let modes = random.bits() & random.bits() & 0x8040;
    (flags | masks(random) << 7 | random.below(4) << 13 | modes) as u32
}
