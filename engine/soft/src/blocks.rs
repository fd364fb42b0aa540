//! Decoded code: blocks of [`Op`]s, found by where their bytes lie.
//!
//! A block is found in two ways: by RIP in the jump cache, as long as the key holds
//! (see [`crate::itlb`]), and by page and RIP in the map. All lie in one
//! array, which is dropped as a whole when it is full.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use arch_x86::emulate::{Mode, Op};

use crate::code_pages::{CodePages, PageId};
use crate::itlb::same_mode;
use crate::vcpu::SoftVcpu;

/// Instructions of a block at most.
pub const MAX_BLOCK: usize = 64;

const JUMPS: usize = 4096;
/// Instructions that cross a page, kept at most.
const MAX_CROSSINGS: usize = 1024;

/// Instructions that are executed one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    first: u32,
    /// How many they are.
    count: u16,
    /// How many bytes they are.
    pub bytes: u16,
}

/// By which a block is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The page of its first byte.
    pub page: PageId,
    /// How it is decoded.
    pub mode: Mode,
    /// RIP: relative operands are absolute in the decoded form.
    pub rip: u64,
}

#[derive(Clone, Copy)]
struct Block {
    place: Place,
    run: Run,
}

#[derive(Clone, Copy)]
struct Jump {
    rip: u64,
    key: u64,
    run: Run,
    page: PageId,
}

/// An instruction that crosses a page's end. Its bytes are compared each time.
struct Crossing {
    bytes: [u8; 15],
    run: Run,
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
    blocks: Vec<Block>,
    map: AddressMap<Place, u32>,
    jumps: Box<[Jump; JUMPS]>,
    crossings: AddressMap<(u64, Mode), Crossing>,
    /// How many instructions were decoded.
    pub decoded: u64,
    /// How many times all was dropped because it was full.
    pub drops: u64,
}

const NO_RUN: Run = Run { first: 0, count: 0, bytes: 0 };
const NO_JUMP: Jump = Jump { rip: 0, key: 0, run: NO_RUN, page: PageId::MAX };

const fn slot(rip: u64) -> usize {
    (rip ^ rip >> 12) as usize % JUMPS
}

impl Blocks {
    /// No code. Memory for `capacity` instructions is reserved, and used as code comes.
    pub fn new(capacity: usize) -> Self {
        Self {
            ops: Vec::with_capacity(capacity.max(MAX_BLOCK)),
            blocks: Vec::new(),
            map: AddressMap::default(),
            jumps: Box::new([NO_JUMP; JUMPS]),
            crossings: AddressMap::default(),
            decoded: 0,
            drops: 0,
        }
    }

    /// Whether there may be no room for another block within `limit` instructions.
    pub fn is_full(&self, limit: usize) -> bool {
        self.ops.len() + MAX_BLOCK > limit.min(self.ops.capacity())
    }

    /// Drops everything. Keys and pages that refer to it are for the caller to drop.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.map.clear();
        self.crossings.clear();
        self.jumps.fill(NO_JUMP);
        self.drops += 1;
    }

    /// The instructions of a block.
    #[inline(always)]
    pub fn ops(&self, run: Run) -> &[Op<SoftVcpu>] {
        let first = run.first as usize;
        self.ops.get(first..first + usize::from(run.count)).unwrap_or(&[])
    }

    /// The block at `rip`, if the jump cache knows it under `key`.
    #[inline(always)]
    pub fn jump(&self, rip: u64, key: u64) -> Option<Run> {
        let jump = &self.jumps[slot(rip)];
        // One test.
        if (jump.rip ^ rip) | (jump.key ^ key) == 0 { Some(jump.run) } else { None }
    }

    /// Lets the jump cache know a block.
    pub fn remember(&mut self, place: &Place, key: u64, run: Run) {
        self.jumps[slot(place.rip)] = Jump { rip: place.rip, key, run, page: place.page };
    }

    /// The block at a place; the jump cache then knows it under `key`.
    pub fn find(&mut self, place: &Place, key: u64) -> Option<Run> {
        let jump = &mut self.jumps[slot(place.rip)];
        if jump.rip == place.rip && jump.page == place.page && same_mode(jump.key, key) {
            // Only its key was too old: dropped blocks are in no jump.
            jump.key = key;
            return Some(jump.run);
        }
        let block = *self.map.get(place)?;
        let run = self.blocks[block as usize].run;
        self.remember(place, key, run);
        Some(run)
    }

    /// Where the next block starts.
    pub fn next(&self) -> usize {
        self.ops.len()
    }

    /// Adds an instruction to the block that is being made.
    pub fn push(&mut self, op: Op<SoftVcpu>) {
        self.decoded += 1;
        self.ops.push(op);
    }

    /// The instructions since `first`, which are `bytes` long.
    fn finish(&self, first: usize, bytes: usize) -> Run {
        let count = (self.ops.len() - first) as u16;
        Run { first: first as u32, count, bytes: bytes as u16 }
    }

    /// Makes a block of the instructions since `first`, which are `bytes` long. Gives its number, too.
    pub fn add(&mut self, place: Place, first: usize, bytes: usize) -> (u32, Run) {
        let run = self.finish(first, bytes);
        let block = self.blocks.len() as u32;
        self.blocks.push(Block { place, run });
        self.map.insert(place, block);
        (block, run)
    }

    /// The instruction at `rip` that crosses a page, if it was decoded from `bytes`.
    pub fn find_crossing(&self, rip: u64, mode: Mode, bytes: &[u8]) -> Option<Run> {
        let crossing = self.crossings.get(&(rip, mode))?;
        let known = crossing.bytes.get(..crossing.run.bytes.into())?;
        bytes.starts_with(known).then_some(crossing.run)
    }

    /// Keeps the instruction pushed last, which crosses a page.
    pub fn add_crossing(&mut self, rip: u64, mode: Mode, bytes: &[u8], len: usize) -> Run {
        if self.crossings.len() >= MAX_CROSSINGS {
            self.crossings.clear();
        }
        let run = self.finish(self.ops.len() - 1, len);
        let mut kept = [0; 15];
        let len = bytes.len().min(15);
        kept[..len].copy_from_slice(&bytes[..len]);
        self.crossings.insert((rip, mode), Crossing { bytes: kept, run });
        run
    }

    /// Drops the blocks in `granules` of a page.
    pub fn forget(&mut self, pages: &mut CodePages, id: PageId, granules: u64) {
        pages.forget(id, granules, |block| {
            let Block { place, run } = self.blocks[block as usize];
            self.map.remove(&place);
            let jump = &mut self.jumps[slot(place.rip)];
            if jump.run.first == run.first {
                *jump = NO_JUMP;
            }
        });
    }
}
