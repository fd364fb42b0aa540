//! [`JumpCache`]: blocks by RIP, for Rust and for translated code.
//!
//! It is two-way associative, and has a part for the privilege levels 0 to 2 and one for level 3 of each address space
//! (see [`crate::address_spaces`]): processes of the same program have the same RIPs, and would
//! evict each other. A busy kernel jumps to some thousand places: of these dozens would evict each other if each had
//! but one entry. Translated code looks at the first way where it jumps; what it finds in the second, out of the way, changes
//! places with what is in the first.

use core::cell::Cell;
use core::mem::offset_of;

use crate::address_spaces::{SPACES, Space};
use crate::blocks::{Found, Run};
use crate::itlb::key;

/// log2 of the entries of the parts.
const SYSTEM_BITS: u8 = 17;
const USER_BITS: u8 = 13;

const SYSTEM: usize = 1 << SYSTEM_BITS;
const USER: usize = 1 << USER_BITS;

/// Where a jump's parts are.
pub const RIP: i32 = offset_of!(Jump, rip) as i32;
pub const KEY: i32 = offset_of!(Jump, key) as i32;
pub const CODE: i32 = offset_of!(Jump, code) as i32;
/// The number of an address's first jump in its part is twice that of the group of addresses that it is in, of those that there
/// is room for: a wrong guess of an indirect jump's target is known the later the longer this takes. At level 3 a group has so many
/// addresses as this is the log2 of, for there is less room: seldom more than two targets lie so near together. Else it is one address.
pub const GROUP_SHIFT: u8 = 3;
/// A jump's distance from its part's first one is its number shifted left by this.
pub const SIZE_SHIFT: u8 = size_of::<Jump>().trailing_zeros() as u8;
const _: () = assert!(size_of::<Jump>() == 32);
/// The second way is so far behind the first one.
pub const SECOND: i32 = 1 << SIZE_SHIFT;

/// What is left of a distance at level 3.
pub const USER_MASK: u32 = ((USER - 2) << SIZE_SHIFT) as u32;
const _: () = assert!(SYSTEM_BITS == u16::BITS as u8 + 1);

const fn number(cpl: u8, rip: u64) -> usize {
    if cpl == 3 {
        (rip as usize >> GROUP_SHIFT << 1) & (USER - 1)
    } else {
        (rip as u16 as usize) << 1
    }
}

/// The distance of the first jump for `rip` from its part's first one.
pub const fn distance(cpl: u8, rip: u64) -> i32 {
    (number(cpl, rip) << SIZE_SHIFT) as i32
}

/// The first entry of a part.
const fn start(cpl: u8, space: Space) -> usize {
    if cpl == 3 { SYSTEM + space * USER } else { 0 }
}

/// The distance of a part from the first one.
pub const fn part(cpl: u8, space: Space) -> u64 {
    (start(cpl, space) << SIZE_SHIFT) as u64
}

/// What is known of the code at some RIP.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Jump {
    pub rip: u64,
    /// Of its translation, if its key says that there is one.
    code: u64,
    run: Run,
    pub block: u32,
    pub key: u32,
}

const NO_JUMP: Jump =
    Jump { rip: 0, code: 0, run: Run::NONE, block: Found::NONE, key: key::NO_BLOCK };

impl Jump {
    /// A block is at `rip` under a key.
    pub fn new(rip: u64, key: u32, found: Found) -> Self {
        let key = if found.code == 0 { key & !key::TRANSLATED } else { key };
        Self { rip, code: found.code, run: found.run, block: found.block, key }
    }

    /// The block.
    pub const fn found(&self) -> Found {
        Found { code: self.code, run: self.run, block: self.block }
    }
}

/// The jump cache of one vCPU.
///
/// Cells, because translated code exchanges them.
pub struct JumpCache(Box<[Cell<Jump>]>);

impl JumpCache {
    /// Nothing is known.
    pub fn new() -> Self {
        Self(vec![Cell::new(NO_JUMP); SYSTEM + SPACES * USER].into())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.fill(Cell::new(NO_JUMP));
    }

    /// The address of the first part.
    pub fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// What is known of `rip` at a privilege level.
    #[inline(always)]
    pub fn get(&self, cpl: u8, space: Space, rip: u64) -> Option<Jump> {
        let jump = self.ways(cpl, space, rip)[0].get();
        if jump.rip == rip {
            return Some(jump);
        }
        let jump = self.ways(cpl, space, rip)[1].get();
        (jump.rip == rip).then_some(jump)
    }

    /// The two entries that `rip` may have.
    #[inline(always)]
    fn ways(&self, cpl: u8, space: Space, rip: u64) -> [&Cell<Jump>; 2] {
        let first = start(cpl, space) + number(cpl, rip);
        [&self.0[first], &self.0[first + 1]]
    }

    /// Enters what is known at `jump.rip`. What is in the first way moves to the second.
    pub fn enter(&mut self, cpl: u8, space: Space, jump: Jump) {
        let [first, second] = self.ways(cpl, space, jump.rip);
        if second.get().rip == jump.rip {
            second.set(jump);
            return;
        }
        if first.get().rip != jump.rip {
            second.set(first.get());
        }
        first.set(jump);
    }

    /// Changes the entries in all parts that have `block`, which is at `rip`: it may be in any address space.
    fn change(&mut self, cpl: u8, rip: u64, block: u32, change: impl Fn(Jump) -> Jump) {
        let spaces = if cpl == 3 { SPACES } else { 1 };
        for space in 0..spaces {
            let ways = self.ways(cpl, space, rip).into_iter();
            ways.filter(|jump| jump.get().block == block)
                .for_each(|jump| jump.set(change(jump.get())));
        }
    }

    /// A block was translated.
    pub fn translated(&mut self, cpl: u8, rip: u64, found: Found) {
        self.change(cpl, rip, found.block, |jump| {
            Jump::new(rip, jump.key | key::TRANSLATED, found)
        });
    }

    /// A block is dropped.
    pub fn forget(&mut self, cpl: u8, rip: u64, block: u32) {
        self.change(cpl, rip, block, |_| NO_JUMP);
    }
}
