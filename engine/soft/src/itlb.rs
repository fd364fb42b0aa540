//! The instruction TLB, and the keys under which blocks may be found by RIP.
//!
//! A block that was once found at some RIP may be used again without
//! translation as long as its *key* holds: a number that changes with
//! everything that decides what RIP means (paging, privilege, code size, the freshness of
//! decoded bytes). The upper and the lower half of the address space have a key
//! each: a kernel's global pages keep theirs when CR3 changes. The lower half's is the current address space's
//! (see [`crate::address_spaces`]): no two of them ever have the same, so that what was found in one is
//! found again when it is switched back to, and in no other.

use arch_x86::emulate::Mode;

use crate::address_spaces::{SPACES, Space};
use crate::code_pages::PageId;
use crate::page_marks::PageMarks;
use crate::ram::{self, Page};

const ENTRIES: usize = 1024;

/// How many pages are noted.
const NOTED: usize = 32;

/// Bits of a key. The rest, above them, is the generation.
pub mod key {
    /// The block has a translation. No part of what the key says: [`super::InstructionTlb`]'s keys have it set.
    pub const TRANSLATED: u32 = 1 << 0;
    /// How code is decoded.
    pub const CODE_SIZE: u32 = 3 << 1;
    /// The privilege level's.
    pub const CPL_SHIFT: u32 = 3;
    /// The half of the address space.
    pub const HALF_SHIFT: u32 = 5;
    pub const GENERATION_SHIFT: u32 = 6;
    /// No block has it: all keys are this once they are used up.
    pub const NONE: u32 = 0;
    /// No key has it: see [`crate::polled`].
    pub const POISON: u32 = 1 << 31;
    /// Of what is no block. No key is this, not even [`NONE`]: there are but three sizes of code.
    pub const NO_BLOCK: u32 = u32::MAX;
}

/// By privilege level, and by half of the address space.
pub type Keys = [[u32; 2]; 4];

/// How 64-bit code is decoded.
const BITS64: u32 = 2;

/// Generations that keys have room for.
const GENERATIONS: u32 = 1 << (31 - key::GENERATION_SHIFT);
/// Nothing has been entered: no key has it.
const NO_GENERATION: u32 = 0;

#[derive(Clone, Copy)]
struct Entry {
    linear: u64,
    key: u32,
    fetched: Fetched,
}

fn no_entry() -> Entry {
    Entry { linear: 0, key: key::NONE, fetched: Fetched { page: Page::nowhere(), id: 0 } }
}

/// A page that instructions come from.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    /// Where it lies.
    pub page: Page,
    /// Its decoded code.
    pub id: PageId,
}

/// Hashes of pages: which may have been entered since the last time that all were dropped.
#[derive(Clone, Copy)]
struct Seen {
    small: [u64; 16],
    /// Of up to 4 MiB, and of 1 GiB.
    large: [u64; 2],
}

impl Seen {
    const NONE: Self = Self { small: [0; 16], large: [0; 2] };

    fn small_bit(linear: u64) -> (usize, u64) {
        let hash = (linear >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
        (hash as usize / 64, 1 << (hash % 64))
    }

    fn large_bit(linear: u64, class: usize) -> u64 {
        let region = linear >> [22, 30][class];
        1 << (region.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
    }

    fn add(&mut self, linear: u64, page_size: u64) {
        if page_size > ram::SIZE {
            let class = usize::from(page_size > 4 << 20);
            self.large[class] |= Self::large_bit(linear, class);
        } else {
            let (word, bit) = Self::small_bit(linear);
            self.small[word] |= bit;
        }
    }

    fn has(&self, linear: u64) -> bool {
        let (word, bit) = Self::small_bit(linear);
        self.small[word] & bit != 0
            || (0..2).any(|class| self.large[class] & Self::large_bit(linear, class) != 0)
    }
}

/// The instruction TLB of one vCPU.
pub struct InstructionTlb {
    entries: Box<[Entry; ENTRIES]>,
    /// By privilege level, and by half of the address space.
    pub(crate) keys: Keys,
    /// The newest generation of each half.
    generations: [u32; 2],
    /// Those of the address spaces' lower halves, or [`NO_GENERATION`].
    lower: [u32; SPACES],
    /// The current one.
    space: Space,
    code_size: u32,
    pub(crate) cpl: u8,
    /// Of the address spaces' lower halves, and of the upper half.
    seen: [Seen; SPACES + 1],
    /// For translated code.
    pub(crate) marks: PageMarks,
    /// Some address space's lower half has global entries.
    lower_global: bool,
    /// The upper half has entries that are not global.
    upper_non_global: bool,
    /// How many entries were made.
    pub fills: u64,
    /// All pages with entries that may hold, if they are few: [`NOTED`] of them at most.
    noted: Vec<Fetched>,
    /// They are not few.
    overflowed: bool,
}

const fn half(linear: u64) -> usize {
    (linear >> 63) as usize
}

/// Whether code is decoded the same way under two keys.
pub const fn same_mode(a: u32, b: u32) -> bool {
    (a ^ b) & (key::CODE_SIZE | 3 << key::CPL_SHIFT) == 0
}

impl InstructionTlb {
    /// An empty TLB.
    pub fn new() -> Self {
        let mut itlb = Self {
            entries: Box::new([no_entry(); ENTRIES]),
            keys: [[key::NONE; 2]; 4],
            generations: [NO_GENERATION; 2],
            lower: [NO_GENERATION; SPACES],
            space: 0,
            code_size: 0,
            cpl: 0,
            seen: [Seen::NONE; SPACES + 1],
            marks: PageMarks::new(),
            lower_global: false,
            upper_non_global: false,
            fills: 0,
            noted: Vec::with_capacity(NOTED),
            overflowed: false,
        };
        itlb.flush_all();
        itlb
    }

    /// The key that holds for blocks at `rip`.
    #[inline(always)]
    pub fn key(&self, rip: u64) -> u32 {
        self.keys[usize::from(self.cpl & 3)][half(rip)]
    }

    /// The current address space.
    #[inline(always)]
    pub const fn space(&self) -> Space {
        self.space
    }

    fn update_keys(&mut self) {
        let generations = [self.lower[self.space], self.generations[1]];
        for (cpl, keys) in (0..).zip(&mut self.keys) {
            for (half, key) in (0..).zip(keys) {
                let generation = generations[half as usize];
                *key = match generation {
                    GENERATIONS.. => key::NONE,
                    _ => {
                        generation << key::GENERATION_SHIFT
                            | half << key::HALF_SHIFT
                            | cpl << key::CPL_SHIFT
                            | self.code_size
                            | key::TRANSLATED
                    }
                };
            }
        }
    }

    /// Code is decoded as `mode`, and executed at a privilege level.
    pub fn set_mode(&mut self, mode: Mode, cpl: u8) {
        let code_size = match mode {
            Mode::Bits16 => 0,
            Mode::Bits32 => 1,
            Mode::Bits64 => BITS64,
        } << key::CODE_SIZE.trailing_zeros();
        self.cpl = cpl;
        if self.code_size != code_size {
            self.code_size = code_size;
            self.update_keys();
        }
    }

    /// Whether there are no keys any more: nothing is found until [`restart`](Self::restart).
    pub fn is_used_up(&self) -> bool {
        self.generations.iter().any(|generation| *generation >= GENERATIONS)
    }

    /// All keys but so many are used up.
    #[cfg(test)]
    pub fn use_up(&mut self, left: u32) {
        self.generations = [GENERATIONS - left; 2];
        self.lower = [NO_GENERATION; SPACES];
        self.lower[self.space] = GENERATIONS - left;
        self.update_keys();
    }

    /// Drops all, and starts with the first keys again: blocks must not be found under any.
    pub fn restart(&mut self) {
        self.entries.fill(no_entry());
        self.marks.restart();
        // No key is `NONE`: the first generation is 1.
        self.generations = [NO_GENERATION; 2];
        self.flush_all();
    }

    /// The index of the entry for `linear`. The same programs in several address spaces do not evict each other.
    const fn index(&self, linear: u64) -> usize {
        let space = if half(linear) == 0 { self.space } else { 0 };
        ((linear >> 12) as usize + space * (ENTRIES / 8)) % ENTRIES
    }

    /// Where it is noted what was entered of the half that `linear` is in.
    const fn seen_of(&self, linear: u64) -> usize {
        if half(linear) == 0 { self.space } else { SPACES }
    }

    /// The page of `linear`, if it is known.
    pub fn find(&self, linear: u64) -> Option<Fetched> {
        let entry = &self.entries[self.index(linear)];
        let hit = entry.linear == linear & !(ram::SIZE - 1)
            && entry.key == self.key(linear)
            && entry.key != key::NONE;
        hit.then_some(entry.fetched)
    }

    /// Lets translated code know that a kernel's page is at `linear`, if it is one.
    pub fn mark(&mut self, linear: u64, page: PageId) {
        if self.is_marked(linear) && self.key(linear) != key::NONE {
            self.marks.set(linear, page);
        }
    }

    /// Whether code there has a mark.
    const fn is_marked(&self, linear: u64) -> bool {
        half(linear) == 1
            && self.cpl == 0
            && self.code_size == BITS64 << key::CODE_SIZE.trailing_zeros()
    }

    /// The page that was entered at `linear`, and its mark, if it has one.
    pub fn marked(&self, linear: u64) -> Option<(PageId, u32)> {
        let fetched = self.find(linear).filter(|_| self.is_marked(linear))?;
        Some((fetched.id, self.marks.of(linear, fetched.id)?))
    }

    /// Enters the page of `linear`.
    pub fn fill(&mut self, linear: u64, fetched: Fetched, page_size: u64, global: bool) {
        self.fills += 1;
        self.note(fetched);
        let half = half(linear);
        self.seen[self.seen_of(linear)].add(linear, page_size);
        self.upper_non_global |= half == 1 && !global;
        self.lower_global |= half == 0 && global;
        self.entries[self.index(linear)] =
            Entry { linear: linear & !(ram::SIZE - 1), key: self.key(linear), fetched };
    }

    fn note(&mut self, fetched: Fetched) {
        if self.overflowed || self.noted.iter().any(|noted| noted.id == fetched.id) {
            return;
        }
        self.overflowed = self.noted.len() == NOTED;
        if !self.overflowed {
            self.noted.push(fetched);
        }
    }

    /// All pages with entries that may hold, unless they are many.
    pub fn noted(&self) -> Option<&[Fetched]> {
        (!self.overflowed).then_some(&self.noted)
    }

    /// Drops all, of all address spaces.
    pub fn flush_all(&mut self) {
        self.noted.clear();
        self.overflowed = false;
        self.drop_lower_halves();
        self.drop_upper_half();
        self.update_keys();
    }

    /// Makes an address space current, and drops what it has in the lower half (be it global) unless that is to be
    /// `kept`. What is not global in the upper half is dropped.
    pub fn switch(&mut self, space: Space, kept: bool) {
        self.space = space;
        if !kept || self.lower[space] == NO_GENERATION {
            self.drop_lower_half();
        }
        if self.upper_non_global {
            self.drop_upper_half();
        }
        self.update_keys();
    }

    /// Drops the page of `linear`, of whatever size it is (and all others of its half): of the current address
    /// space, and of the others if it may be global there.
    pub fn flush_page(&mut self, linear: u64) {
        let may_have = |seen: &Seen| seen.has(linear);
        if half(linear) == 0 && self.lower_global && self.seen[..SPACES].iter().any(may_have) {
            self.drop_lower_halves();
        } else if self.seen[self.seen_of(linear)].has(linear) {
            match half(linear) {
                0 => self.drop_lower_half(),
                _ => self.drop_upper_half(),
            }
        } else {
            return;
        }
        self.update_keys();
    }

    /// A generation that nothing has been entered under.
    fn next_generation(&mut self, half: usize) -> u32 {
        self.generations[half] = (self.generations[half] + 1).min(GENERATIONS);
        self.generations[half]
    }

    /// Of all address spaces: all but the current one have a new generation when they are switched to.
    fn drop_lower_halves(&mut self) {
        self.lower = [NO_GENERATION; SPACES];
        self.lower_global = false;
        self.drop_lower_half();
    }

    /// Of the current address space.
    fn drop_lower_half(&mut self) {
        self.lower[self.space] = self.next_generation(0);
        self.seen[self.space] = Seen::NONE;
    }

    fn drop_upper_half(&mut self) {
        self.next_generation(1);
        self.marks.clear();
        self.seen[SPACES] = Seen::NONE;
        self.upper_non_global = false;
    }
}
