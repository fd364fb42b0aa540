//! Random numbers that a seed reproduces: SplitMix64.

/// A source of random numbers.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// The source that `seed` stands for.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of the product: without a division.
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        low.wrapping_add(self.below((high - low) as u64 + 1) as i64)
    }

    /// `true` in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `all`, which is not empty.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// A number as operands are: often small, near a power of two, or near an edge of a type.
    pub fn operand(&mut self) -> u64 {
        match self.below(16) {
            0..=4 => self.bits(),
            5 => self.bits() >> self.below(64),
            6 => self.below(256),
            7 => 1 << self.below(64),
            8 => (1 << self.below(64)) - 1,
            9 => u64::MAX << self.below(64),
            10 => self.bits() as i32 as u64,
            11 => 0,
            12 => self.one_of(&[0x7f, 0x7fff, 0x7fff_ffff, i64::MAX as u64]),
            13 => self.one_of(&[0x80, 0x8000, 0x8000_0000, 1 << 63]),
            14 => self.one_of(&[0xff, 0xffff, 0xffff_ffff, u64::MAX]),
            _ => self
                .one_of(&[0_u64, 1 << 8, 1 << 16, 1 << 32])
                .wrapping_add(self.within(-9, 9) as u64),
        }
    }
}
