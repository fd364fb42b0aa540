//! A set of interrupt vectors: [`Vectors`], the form of a local APIC's request,
//! in-service and trigger-mode registers ([`super::lapic`]).

/// A set of the vectors 0–255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// How many 32-bit registers show the set.
    pub const WORDS: usize = 8;

    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; 4])
    }

    /// Adds `vector`.
    pub const fn insert(&mut self, vector: u8) {
        self.0[vector as usize / 64] |= 1 << (vector % 64);
    }

    /// Takes `vector` out.
    pub const fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// Adds `vector` or takes it out.
    pub const fn set(&mut self, vector: u8, on: bool) {
        if on { self.insert(vector) } else { self.remove(vector) }
    }

    /// Whether `vector` is in the set.
    #[must_use]
    pub const fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 64] >> (vector % 64) & 1 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0[0] | self.0[1] | self.0[2] | self.0[3] == 0
    }

    /// The highest vector, which has the highest priority.
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        let word = self.0.iter().rposition(|word| *word != 0)?;
        Some((word * 64 + self.0[word].ilog2() as usize) as u8)
    }

    /// The vectors `32 * n` to `32 * n + 31` as a register shows them (`n` modulo 8).
    #[must_use]
    pub const fn word(&self, n: usize) -> u32 {
        (self.0[n / 2 % 4] >> (n % 2 * 32)) as u32
    }

    /// Sets what [`Self::word`] shows.
    pub const fn set_word(&mut self, n: usize, value: u32) {
        let shift = n % 2 * 32;
        let word = &mut self.0[n / 2 % 4];
        *word = *word & !(0xffff_ffff << shift) | (value as u64) << shift;
    }
}
