//! Decoded code: blocks of [`Op`]s, found by where their bytes lie.
//!
//! A block is found in two ways: by RIP in the jump cache, as long as the key holds
//! (see [`crate::itlb`]), and by page and RIP in the map. All lie in one
//! array, which is dropped as a whole when it is full.
//!
//! An instruction that crosses a page's end is a block of its own, found by both pages. No block of its first page
//! leads to it without the jump cache: the second page may become another one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use arch_x86::emulate::{Mode, Op};
use arch_x86::engine::Features;

use crate::address_spaces::Space;
use crate::code_pages::{CodePages, PageId};
use crate::engine::Options;
use crate::itlb::{key, same_mode};
use crate::jit::{Jit, Part, Unit};
use crate::jump_cache::{Jump, JumpCache};
use crate::ranges::Seen;
use crate::vcpu::SoftVcpu;

/// Instructions of a block at most.
pub const MAX_BLOCK: usize = 64;

/// Instructions that are executed one after the other.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Run {
    first: u32,
    /// How many they are.
    count: u16,
    /// How many bytes they are.
    pub bytes: u16,
}

impl Run {
    /// No instructions.
    pub const NONE: Self = Self { first: 0, count: 0, bytes: 0 };
}

/// By which a block is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The page of its first byte.
    pub page: PageId,
    /// How it is decoded.
    pub mode: Mode,
    /// The privilege level: translations depend on it.
    pub cpl: u8,
    /// RIP: relative operands are absolute in the decoded form.
    pub rip: u64,
}

/// A block as it is to be executed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Found {
    /// Address of its translation, or 0.
    pub code: u64,
    /// Its instructions.
    pub run: Run,
    /// Its number, or [`Found::NONE`].
    pub block: u32,
}

impl Found {
    /// The number of what is no block.
    pub const NONE: u32 = u32::MAX;
}

/// A block is not to be translated, or was.
const NEVER: u32 = 0;

#[derive(Clone, Copy)]
struct Block {
    place: Place,
    /// The page of its last byte, if it is another one.
    tail: Option<PageId>,
    found: Found,
    /// How many times it is yet to be interpreted before it is translated, and once more; or [`NEVER`].
    left: u32,
}

/// Multiplies; the keys are addresses, which nobody chooses to collide but a guest that slows down
/// itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(29) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }
    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }
}

/// A map whose keys are made of addresses.
pub type AddressMap<K, V> = HashMap<K, V, BuildHasherDefault<AddressHasher>>;

/// The decoded code of one vCPU.
pub struct Blocks {
    ops: Vec<Op<SoftVcpu>>,
    /// Where each of them was seen to read.
    seen: Vec<Seen>,
    blocks: Vec<Block>,
    map: AddressMap<Place, u32>,
    jumps: JumpCache,
    /// Instructions that cross a page's end, by both pages.
    crossings: AddressMap<(Place, PageId), u32>,
    jit: Option<Jit>,
    /// The flags that instructions leave undefined, by their number, where [`crate::modes`] asks for it.
    undefined: AddressMap<u32, u64>,
    /// How many times a block is interpreted before it is translated, and once more; or [`NEVER`].
    patience: u32,
    /// How many instructions were decoded.
    pub decoded: u64,
    /// How many blocks were translated.
    pub translated: u64,
    /// How many instructions they have.
    pub translated_instructions: u64,
    /// How long that took, if it is `timed`.
    pub translation_time: Duration,
    /// It is measured how long translations take. That is not free.
    timed: bool,
    /// How many times all was dropped because it was full.
    pub drops: u64,
}

impl Blocks {
    /// No code. Memory for as much as `options` allow is reserved, and used as code comes; of translated
    /// code, for one of `sharers` vCPUs.
    pub fn new(options: &Options, sharers: usize) -> Self {
        let capacity = options.code_instructions;
        let jit = match options.translated {
            0 => None,
            // A host that denies executable memory has the interpreter.
            size => Jit::new(size / sharers, !options.lockstep)
                .ok()
                .map(|jit| jit.polling(options.modes.every != 0).counting(options.counted)),
        };
        let patience = if jit.is_some() { options.patience.saturating_add(1) } else { NEVER };
        Self {
            jit,
            patience,
            undefined: AddressMap::default(),
            ops: Vec::with_capacity(capacity.max(MAX_BLOCK)),
            seen: Vec::with_capacity(capacity.max(MAX_BLOCK)),
            blocks: Vec::new(),
            map: AddressMap::default(),
            jumps: JumpCache::new(),
            crossings: AddressMap::default(),
            decoded: 0,
            translated: 0,
            translated_instructions: 0,
            translation_time: Duration::ZERO,
            timed: options.counted,
            drops: 0,
        }
    }

    /// Whether there may be no room for another block within `limit` instructions.
    pub fn is_full(&self, limit: usize) -> bool {
        self.ops.len() + MAX_BLOCK > limit.min(self.ops.capacity())
            || self.jit.as_ref().is_some_and(Jit::is_full)
    }

    /// Drops everything. Keys and pages that refer to it are for the caller to drop.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.seen.clear();
        self.undefined.clear();
        self.blocks.clear();
        self.map.clear();
        self.crossings.clear();
        self.jumps.clear();
        if let Some(jit) = &mut self.jit {
            jit.clear();
        }
        self.drops += 1;
    }

    /// The instructions of a block.
    #[inline(always)]
    pub fn ops(&self, run: Run) -> &[Op<SoftVcpu>] {
        let first = run.first as usize;
        self.ops.get(first..first + usize::from(run.count)).unwrap_or(&[])
    }

    /// The block at `rip`, if the jump cache knows it in an address space under `key`.
    #[inline(always)]
    pub fn jump(&self, cpl: u8, space: Space, rip: u64, key: u32) -> Option<Found> {
        let jump = self.jumps.get(cpl, space, rip)?;
        let is_known = (jump.key ^ key) & !key::TRANSLATED == 0;
        is_known.then_some(jump.found())
    }

    /// Lets the jump cache know a block in an address space.
    pub fn remember(&mut self, place: &Place, space: Space, key: u32, found: Found) {
        self.jumps.enter(place.cpl, space, Jump::new(place.rip, key, found));
    }

    /// The block at a place; the jump cache then knows it in an address space under `key`.
    pub fn find(&mut self, place: &Place, space: Space, key: u32) -> Option<Found> {
        let is_here = |block: &Block| block.place.page == place.page && block.tail.is_none();
        if let Some(jump) = self.jumps.get(place.cpl, space, place.rip)
            && same_mode(jump.key, key)
            && self.blocks.get(jump.block as usize).is_some_and(is_here)
        {
            // Only its key was too old: dropped blocks are in no jump.
            let found = jump.found();
            self.remember(place, space, key, found);
            return Some(found);
        }
        let block = *self.map.get(place)?;
        let found = self.blocks[block as usize].found;
        self.remember(place, space, key, found);
        Some(found)
    }

    /// Where the next block starts.
    pub fn next(&self) -> usize {
        self.ops.len()
    }

    /// The next instruction leaves `flags` undefined.
    pub fn note_undefined_flags(&mut self, flags: u64) {
        self.undefined.insert(self.ops.len() as u32, flags);
    }

    /// What was noted of the first instruction of a block.
    pub fn undefined_flags(&self, run: Run) -> u64 {
        self.undefined.get(&run.first).copied().unwrap_or(0)
    }

    /// Adds an instruction to the block that is being made.
    pub fn push(&mut self, op: Op<SoftVcpu>) {
        self.decoded += 1;
        self.ops.push(op);
        self.seen.push(Seen::Nowhere);
    }

    /// The instructions since `first`, which are `bytes` long.
    fn finish(&self, first: usize, bytes: usize) -> Run {
        let count = (self.ops.len() - first) as u16;
        Run { first: first as u32, count, bytes: bytes as u16 }
    }

    /// Makes a block of the instructions since `first`, which are `bytes` long.
    pub fn add(&mut self, place: Place, first: usize, bytes: usize) -> Found {
        let found = self.number(place, None, first, bytes);
        self.map.insert(place, found.block);
        found
    }

    fn number(&mut self, place: Place, tail: Option<PageId>, first: usize, bytes: usize) -> Found {
        let block = self.blocks.len() as u32;
        let found = Found { code: 0, run: self.finish(first, bytes), block };
        let left = if place.mode == Mode::Bits64 { self.patience } else { NEVER };
        self.blocks.push(Block { place, tail, found, left });
        found
    }

    /// A block will not be translated.
    pub fn keep_interpreted(&mut self, block: u32) {
        self.blocks[block as usize].left = NEVER;
    }

    /// A block is about to be interpreted. Gives where it lies if it is rather to be translated.
    #[inline]
    pub fn is_hot(&mut self, block: u32) -> Option<Place> {
        self.jit.as_ref()?;
        let block = self.blocks.get_mut(block as usize)?;
        block.left = block.left.checked_sub(1)?;
        (block.left == 0).then_some(block.place)
    }

    /// Whether blocks that are executed one after the other are translated together: see [`crate::traces`].
    pub fn follows(&self) -> bool {
        self.jit.as_ref().is_some_and(Jit::follows)
    }

    /// The number of the block at a place.
    pub fn known(&self, place: &Place) -> Option<u32> {
        self.map.get(place).copied()
    }

    /// Whether a block has a translation of its own.
    pub fn is_translated(&self, block: u32) -> bool {
        self.blocks[block as usize].found.code != 0
    }

    /// How many times a block was executed, as far as that is counted; of one that is not any more, more than of any
    /// other.
    pub fn executions(&self, block: u32) -> u32 {
        match self.blocks[block as usize].left {
            NEVER => u32::MAX,
            left => self.patience - left,
        }
    }

    /// Whether it is to be noted what a block that is about to be interpreted reads: when that is for the first time, and
    /// for the last.
    #[inline]
    pub fn is_noted(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(|block| {
            block.left != NEVER && (block.left == 1 || block.left + 1 == self.patience)
        })
    }

    /// A block's instructions were seen to read there.
    pub fn note(&mut self, run: Run, seen: &[Seen]) {
        let first = run.first as usize;
        for (to, seen) in self.seen[first..].iter_mut().zip(&seen[..run.count.into()]) {
            if *seen != Seen::Nowhere && *to != Seen::Large {
                *to = *seen;
            }
        }
    }

    /// Translates a block together with others, each with the bytes that it was decoded from. Gives it as it is then.
    /// `marked` gives what page is at an address, and its mark: see [`crate::page_marks`].
    pub fn translate(
        &mut self,
        trace: &[(u32, &[u8])],
        features: Features,
        marked: impl Fn(u64) -> Option<(PageId, u32)>,
    ) -> Found {
        let Some((number, _)) = trace.first().copied() else {
            return Found { code: 0, run: Run::NONE, block: Found::NONE };
        };
        let Block { place, tail, mut found, .. } = self.blocks[number as usize];
        if let Some(jit) = &mut self.jit {
            let part = |&(block, bytes)| {
                let Block { place, found, .. } = self.blocks[block as usize];
                let first = found.run.first as usize;
                let instructions = first..first + usize::from(found.run.count);
                let (ops, seen) = (&self.ops[instructions.clone()], &self.seen[instructions]);
                Part { block, page: place.page, rip: place.rip, bytes, ops, seen }
            };
            let parts: Vec<_> = trace.iter().map(part).collect();
            let instructions: usize = parts.iter().map(|part| part.ops.len()).sum();
            let crosses = tail.is_some();
            let unit = Unit { place, crosses, parts: &parts, features, marked: &marked };
            let start = self.timed.then(Instant::now);
            found.code = jit.translate(&unit);
            self.translation_time += start.map_or(Duration::ZERO, |start| start.elapsed());
            if found.code != 0 {
                self.translated += 1;
                self.translated_instructions += instructions as u64;
            }
            self.blocks[number as usize].found = found;
            self.jumps.translated(place.cpl, place.rip, found);
        }
        found
    }

    /// By which a block is found.
    pub fn place(&self, block: u32) -> Place {
        self.blocks[block as usize].place
    }

    /// The page that a block ends in, if it is another one than it starts in.
    pub fn tail(&self, block: u32) -> Option<PageId> {
        self.blocks[block as usize].tail
    }

    /// How many bytes a block is.
    pub fn size(&self, block: u32) -> usize {
        self.blocks[block as usize].found.run.bytes.into()
    }

    /// Where a block starts, and its instructions.
    pub fn block(&self, block: u32) -> (u64, &[Op<SoftVcpu>]) {
        let block = &self.blocks[block as usize];
        (block.place.rip, self.ops(block.found.run))
    }

    /// The translated code, if there is any.
    pub fn jit(&self) -> Option<&Jit> {
        self.jit.as_ref()
    }

    /// The same, to be changed.
    pub const fn jit_mut(&mut self) -> Option<&mut Jit> {
        self.jit.as_mut()
    }

    /// The address of the jump cache.
    pub fn jumps_address(&self) -> u64 {
        self.jumps.address()
    }

    /// The instruction at a place that ends in the page `tail`.
    pub fn find_crossing(&self, place: &Place, tail: PageId) -> Option<Found> {
        let block = *self.crossings.get(&(*place, tail))?;
        Some(self.blocks[block as usize].found)
    }

    /// Makes a block of an instruction that ends in the page `tail`.
    pub fn add_crossing(&mut self, place: Place, tail: PageId, op: Op<SoftVcpu>) -> Found {
        let (first, bytes) = (self.next(), usize::from(op.insn.len));
        self.push(op);
        let found = self.number(place, Some(tail), first, bytes);
        self.crossings.insert((place, tail), found.block);
        found
    }

    /// Drops the blocks in `granules` of a page.
    pub fn forget(&mut self, pages: &mut CodePages, id: PageId, granules: u64) {
        pages.forget(id, granules, |block| {
            let Block { place, tail, found, .. } = self.blocks[block as usize];
            let known = match tail {
                None => self.map.get(&place),
                Some(tail) => self.crossings.get(&(place, tail)),
            };
            // One of a trace lies in several granules: it may have been dropped before.
            if known != Some(&block) {
                return;
            }
            match tail {
                None => self.map.remove(&place),
                Some(tail) => self.crossings.remove(&(place, tail)),
            };
            if found.code != 0
                && let Some(jit) = &mut self.jit
            {
                jit.forget(&place);
            }
            self.jumps.forget(place.cpl, place.rip, block);
        });
    }
}
