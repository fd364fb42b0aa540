//! [`LargePages`]: where a program's large pages lie.
//!
//! A program that reads all over a large heap would have the TLB's tables hold an entry for each page of 4 KiB of it; its kernel gives
//! it pages of 2 MiB, which lie in one piece on the host, too. Beside each table the TLB has few entries for such
//! pages. Translated code looks here first where a program was seen to read from one ([`crate::ranges::Seen`]), and then into the
//! table. Only reads do: what is written may be code, or is to be logged, by page.
//!
//! An entry is dropped with all others of its table, as an entry there that is of a large page is.

use arch_x86::mmu::Translation;

use crate::tlb::Rights;
use crate::vcpu::SoftVcpu;

/// Size of a large page, or of what is entered of a larger one.
pub const SIZE: u64 = 2 << 20;
/// Entries of a table.
const ENTRIES: usize = 64;

/// Where an entry's parts are, for translated code: the first one is at [`crate::tlb::LARGE_OFFSET`].
pub const TAG_OFFSET: i32 = core::mem::offset_of!(LargePage, tag) as i32;
pub const PLACE_OFFSET: i32 = core::mem::offset_of!(LargePage, place) as i32;
const _: () = assert!(core::mem::offset_of!(LargePages, entries) == 0);
/// An entry's distance from the first one is an address shifted right by this…
pub const INDEX_SHIFT: u8 = (SIZE.trailing_zeros() - size_of::<LargePage>().trailing_zeros()) as u8;
/// … and masked with this.
pub const INDEX_MASK: u32 = ((ENTRIES - 1) * size_of::<LargePage>()) as u32;
const _: () = assert!(size_of::<LargePage>() == 16);

/// A large page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct LargePage {
    /// Its linear address.
    tag: u64,
    /// Where it lies on the host.
    place: u64,
}

/// The large pages beside one of the TLB's tables.
#[derive(Debug)]
#[repr(C)]
pub struct LargePages {
    entries: [LargePage; ENTRIES],
    /// Which entries there are, a bit each.
    used: u64,
}

const fn slot(linear: u64) -> usize {
    (linear / SIZE) as usize % ENTRIES
}

/// An entry that no address hits: its tag is a page that belongs into another slot.
const fn empty(slot: usize) -> LargePage {
    LargePage { tag: (slot ^ 1) as u64 * SIZE, place: 0 }
}

impl LargePages {
    /// None.
    pub fn new() -> Self {
        Self { entries: core::array::from_fn(empty), used: 0 }
    }

    /// Enters the page that holds `linear`, which lies at `place`.
    pub fn enter(&mut self, linear: u64, place: u64) {
        let slot = slot(linear);
        self.entries[slot] = LargePage { tag: linear & !(SIZE - 1), place };
        self.used |= 1 << slot;
    }

    /// Whether the page that holds `linear` is here.
    pub const fn has(&self, linear: u64) -> bool {
        self.entries[slot(linear)].tag == linear & !(SIZE - 1)
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Drops all.
    pub fn clear(&mut self) {
        while self.used != 0 {
            let slot = self.used.trailing_zeros() as usize;
            self.entries[slot] = empty(slot);
            self.used &= self.used - 1;
        }
    }
}

impl SoftVcpu {
    /// A program has accessed `linear`, and the tables did not know it: enters the large page that it is in, if it is.
    pub(crate) fn note_large_page(&mut self, linear: u64, found: &Translation, rights: Rights) {
        if found.page_size < SIZE || rights != Rights::User || !self.tlb.keeps_all() {
            return;
        }
        if let Some(place) = self.large_place(linear, found.gpa) {
            self.tlb.enter_large(linear, place);
        }
    }

    /// Where the large page that holds `linear` is on the host, if it is in one slot.
    fn large_place(&self, linear: u64, gpa: u64) -> Option<u64> {
        let start = gpa.checked_sub(linear % SIZE)?;
        let slot = self.view.slots().find(gpa)?;
        let distance = start.checked_sub(slot.gpa)?;
        let is_in = distance.checked_add(SIZE)? <= slot.size;
        is_in.then(|| slot.hva + distance)
    }
}
