//! The soft TLB for data: from a linear page to a [`Page`] of host memory.
//!
//! Direct-mapped tables, one per [`Rights`], so that a change of privilege
//! flushes nothing. A hit is one comparison, which also says that the access does not leave the
//! page. What must not take the fast way (pages with decoded code, for
//! writes; everything while breakpoints are watched) has no tag to hit.
//!
//! Reads and writes have entries of their own, which lie apart: what is read all over 8 MiB then finds its entries in the host's
//! first-level cache, or most of them.
//!
//! The tables with what user mode may access are there once for each address space that is kept (see
//! [`crate::address_spaces`]). Those of a supervisor's own accesses, whose pages are mostly global, are not: a change of
//! CR3 drops what is not global there, whatever the PCIDs. A TLB may drop more than it is told to.

use std::collections::VecDeque;

use crate::address_spaces::{SPACES, Space};
use crate::large_pages::LargePages;
use crate::ram::{self, Page};
use crate::ranges;

/// Where an entry's parts are, for translated code.
pub const TAG_OFFSET: i32 = core::mem::offset_of!(Entry, tag) as i32;
pub const PAGE_OFFSET: i32 = core::mem::offset_of!(Entry, page) as i32;
/// Entries for reads are at a table's start; those for writes are so far behind them.
pub const WRITES_OFFSET: i32 = core::mem::offset_of!(Table, writes) as i32;
const _: () = assert!(core::mem::offset_of!(Table, reads) == 0);
/// Those for reads of large pages are so far behind them.
pub const LARGE_OFFSET: i32 = core::mem::offset_of!(Table, large) as i32;
/// An entry's distance from the first one is an address shifted right by this…
pub const INDEX_SHIFT: u8 = 12 - size_of::<Entry>().trailing_zeros() as u8;
/// … and masked with this.
pub const INDEX_MASK: u32 = ((ENTRIES - 1) * size_of::<Entry>()) as u32;
const _: () = assert!(size_of::<Entry>() == 16);

/// Entries of each table.
const ENTRIES: usize = 4096;
const WORDS: usize = ENTRIES / 64;
/// Two for all address spaces, and two for each.
const TABLES: usize = 2 + 2 * SPACES;
// So that it is cheap to keep an index within.
const _: () = assert!(TABLES.is_power_of_two());

/// With whose rights an access is made: which table it looks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rights {
    /// CPL 3.
    User = 0,
    /// CPL 0–2, and processor structures at any CPL.
    Supervisor = 1,
    /// CPL 0–2 while RFLAGS.AC lifts SMAP.
    SmapLifted = 2,
    /// Every access takes the slow way: this table stays empty.
    Watched = 3,
}

/// The tables of an address space, by [`Rights`].
const fn tables(space: Space) -> [usize; 4] {
    [2 + 2 * space, 0, 3 + 2 * space, 1]
}

/// What is known of accesses of a kind to one linear page.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// The linear page, if such accesses may hit.
    pub tag: u64,
    /// Where it lies.
    pub page: Page,
}

/// What else is known of a linear page.
#[derive(Clone, Copy)]
pub struct Frame(u64);

impl Frame {
    /// Rights, dirty bit and dirty log allow writes, even though no write may hit.
    const WRITABLE: u64 = 1;

    const fn new(gpa: u64, writable: bool) -> Self {
        Self((gpa & !(ram::SIZE - 1)) | if writable { Self::WRITABLE } else { 0 })
    }

    /// The guest-physical page.
    pub const fn gpa(self) -> u64 {
        self.0 & !(ram::SIZE - 1)
    }

    /// Whether rights, dirty bit and dirty log allow writes.
    pub const fn writable(self) -> bool {
        self.0 & Self::WRITABLE != 0
    }
}

/// What accesses with certain rights look into.
#[repr(C)]
struct Table {
    reads: [Entry; ENTRIES],
    writes: [Entry; ENTRIES],
    frames: [Frame; ENTRIES],
    large: LargePages,
}

impl Table {
    /// Nothing hits.
    fn boxed() -> Box<[Self]> {
        let entries = core::array::from_fn(empty);
        let table = || Self {
            reads: entries,
            writes: entries,
            frames: [Frame(0); ENTRIES],
            large: LargePages::new(),
        };
        (0..TABLES).map(|_| table()).collect()
    }

    fn clear(&mut self, slot: usize) {
        (self.reads[slot], self.writes[slot]) = (empty(slot), empty(slot));
        self.frames[slot] = Frame(0);
    }
}

/// A translation to be entered.
#[derive(Clone, Copy)]
pub struct Fill {
    /// Any address in the linear page.
    pub linear: u64,
    /// The guest-physical page.
    pub gpa: u64,
    /// Where it lies.
    pub page: Page,
    /// Writes are allowed, and need neither set the dirty bit nor mark the page in a dirty log.
    pub writable: bool,
    /// Writes have to look at decoded code.
    pub code: bool,
    /// Survives a change of CR3.
    pub global: bool,
    /// Size of the guest's page.
    pub page_size: u64,
}

/// A set of a table's slots.
#[derive(Clone, Copy)]
struct Slots {
    words: [u64; WORDS],
    /// The words that are not 0.
    some: u64,
}

impl Slots {
    const NONE: Self = Self { words: [0; WORDS], some: 0 };

    fn add(&mut self, slot: usize) {
        self.words[slot / 64] |= 1 << (slot % 64);
        self.some |= 1 << (slot / 64);
    }

    const fn has(&self, slot: usize) -> bool {
        self.words[slot / 64] >> (slot % 64) & 1 != 0
    }

    fn remove(&mut self, slot: usize) {
        self.words[slot / 64] &= !(1 << (slot % 64));
    }

    /// Removes all, and calls `each` with every one.
    fn take(&mut self, mut each: impl FnMut(usize)) {
        self.each(&mut each);
        for word in bits(self.some) {
            self.words[word] = 0;
        }
        self.some = 0;
    }

    fn each(&self, mut each: impl FnMut(usize)) {
        for word in bits(self.some) {
            bits(self.words[word]).for_each(|bit| each(word * 64 + bit));
        }
    }
}

const _: () = assert!(WORDS <= 64);

/// The numbers of the bits that are set.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize);
        word &= word.wrapping_sub(1);
        bit
    })
}

/// Which entries of a table are in use.
#[derive(Clone, Copy)]
struct Used {
    global: Slots,
    other: Slots,
}

impl Used {
    const NONE: Self = Self { global: Slots::NONE, other: Slots::NONE };
}

/// Linear addresses that lie one behind the other on the host, too: translated code looks here first.
///
/// A *stack* is the page that was last written through RSP. It is what an entry said, and stays when that is evicted;
/// but every flush drops it. A *range* is any number of pages: see [`crate::ranges`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Stretch {
    /// The first one.
    pub tag: u64,
    /// Where that is on the host.
    pub page: u64,
    /// Accesses may start below this offset: 0 if there are none.
    pub limit: u64,
}

impl Stretch {
    /// Bytes of an access at most.
    pub const MOST: u32 = 64;
    /// The limit of a page, so that such an access does not leave it.
    pub const LIMIT: u32 = ram::SIZE as u32 - Self::MOST + 1;

    /// `size` bytes.
    pub const fn new(tag: u64, page: u64, size: u64) -> Self {
        Self { tag, page, limit: (size + 1).saturating_sub(Self::MOST as u64) }
    }

    /// Whether an address of a page that is in it is `linear`.
    pub const fn has(&self, linear: u64) -> bool {
        self.limit != 0 && linear.wrapping_sub(self.tag) < self.limit + Self::MOST as u64
    }
}

/// The data TLB of one vCPU.
#[repr(C)]
pub struct Tlb {
    /// At the privilege levels 0 to 2 (with the supervisor's rights, and no others), and at 3.
    pub stacks: [Stretch; 2],
    /// What a supervisor may read: global pages of [`crate::ranges`].
    pub ranges: [Stretch; ranges::COUNT],
    tables: Box<[Table; TABLES]>,
    used: Box<[Used; TABLES]>,
    /// Which of them are the current address space's, by [`Rights`].
    current: [usize; 4],
    /// By half of the address space: hashes of the large pages (up to 4 MiB, and 1 GiB) of which parts are in the
    /// tables. A kernel's must not make a process's small pages look like parts of large ones.
    large: [[u64; 2]; 2],
    /// The tables and slots of the entries that were made last, if there are not to be more.
    recent: VecDeque<(usize, usize)>,
    /// How many are kept; 0: all.
    kept: usize,
    /// How many entries were made.
    pub fills: u64,
}

/// log2 of the regions that [`Tlb::large`] tells apart.
const LARGE_SHIFTS: [u32; 2] = [22, 30];

const fn half(linear: u64) -> usize {
    (linear >> 63) as usize
}

fn large_bit(linear: u64, shift: u32) -> u64 {
    1 << ((linear >> shift).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

const fn slot(linear: u64) -> usize {
    (linear >> 12) as usize % ENTRIES
}

/// An entry that no address hits: its tag is a page that belongs into another slot.
fn empty(slot: usize) -> Entry {
    Entry { tag: (slot ^ 1) as u64 * ram::SIZE, page: Page::nowhere() }
}

impl Tlb {
    /// An empty TLB that keeps so many entries at most; 0: as many as there are places.
    pub fn keeping(kept: usize) -> Self {
        let Ok(all) = Table::boxed().try_into() else { unreachable!("collected as many") };
        let used = Box::new([Used::NONE; TABLES]);
        let (stacks, ranges) = ([Stretch::default(); 2], [Stretch::default(); ranges::COUNT]);
        let (large, recent) = ([[0; 2]; 2], VecDeque::new());
        Self {
            stacks,
            ranges,
            tables: all,
            used,
            current: tables(0),
            large,
            recent,
            kept,
            fills: 0,
        }
    }

    /// The address of the entries of a table; those of user mode are the current address space's.
    pub fn table(&self, rights: Rights) -> u64 {
        self.current(rights).reads.as_ptr().expose_provenance() as u64
    }

    #[inline(always)]
    fn current(&self, rights: Rights) -> &Table {
        &self.tables[self.current[rights as usize] % TABLES]
    }

    /// The entry that a read of `linear` may hit.
    #[inline(always)]
    pub fn read(&self, rights: Rights, linear: u64) -> &Entry {
        &self.current(rights).reads[slot(linear)]
    }

    /// The entry that a write to `linear` may hit.
    #[inline(always)]
    pub fn write(&self, rights: Rights, linear: u64) -> &Entry {
        &self.current(rights).writes[slot(linear)]
    }

    /// What else is known of the page of an address that may be read.
    pub fn frame(&self, rights: Rights, linear: u64) -> Frame {
        self.current(rights).frames[slot(linear)]
    }

    /// Enters a large page that user mode may read: one of which [`fill`](Self::fill) has entered a part.
    pub fn enter_large(&mut self, linear: u64, place: u64) {
        self.tables[self.current[Rights::User as usize]].large.enter(linear, place);
    }

    /// Whether there are any such pages.
    pub fn has_large(&self) -> bool {
        !self.current(Rights::User).large.is_empty()
    }

    /// Whether `linear` is in a large page that was entered so.
    pub fn is_in_large(&self, linear: u64) -> bool {
        self.current(Rights::User).large.has(linear)
    }

    /// Enters a translation.
    pub fn fill(&mut self, rights: Rights, fill: Fill) {
        if rights == Rights::Watched {
            return;
        }
        self.fills += 1;
        let (table, slot) = (self.current[rights as usize], slot(fill.linear));
        if self.kept != 0 {
            self.make_room(table, slot);
        }
        let tag = fill.linear & !(ram::SIZE - 1);
        let entries = &mut self.tables[table];
        entries.reads[slot] = Entry { tag, page: fill.page };
        let hits = fill.writable && !fill.code;
        entries.writes[slot] = if hits { entries.reads[slot] } else { empty(slot) };
        entries.frames[slot] = Frame::new(fill.gpa, fill.writable);
        let used = &mut self.used[table];
        let (set, other) = match fill.global {
            true => (&mut used.global, &mut used.other),
            false => (&mut used.other, &mut used.global),
        };
        set.add(slot);
        other.remove(slot);
        if fill.page_size > ram::SIZE {
            let class = usize::from(fill.page_size > 4 << 20);
            self.large[half(fill.linear)][class] |= large_bit(fill.linear, LARGE_SHIFTS[class]);
        }
    }

    /// An entry is about to be made: drops the oldest one if there are too many.
    #[cold]
    fn make_room(&mut self, table: usize, slot: usize) {
        self.recent.retain(|recent| *recent != (table, slot));
        if self.recent.len() >= self.kept
            && let Some((table, slot)) = self.recent.pop_front()
        {
            self.clear(table, slot);
        }
        self.recent.push_back((table, slot));
    }

    /// Drops the translations of the page that holds `linear`, of whatever size it is: of the current address
    /// space, and global ones wherever they are.
    pub fn flush_page(&mut self, linear: u64) {
        for range in self.ranges.iter_mut().filter(|range| range.has(linear)) {
            *range = Stretch::default();
        }
        let large = self.large[half(linear)];
        let hashed = |class: usize| large[class] & large_bit(linear, LARGE_SHIFTS[class]) != 0;
        if hashed(0) || hashed(1) {
            self.flush_all();
            return;
        }
        let slot = slot(linear);
        for table in 0..TABLES {
            if self.current.contains(&table) || self.used[table].global.has(slot) {
                self.clear(table, slot);
            }
        }
    }

    /// Makes an address space current, and drops everything of it that is not global unless that is to be `kept`.
    pub fn switch(&mut self, space: Space, kept: bool) {
        self.forget_stacks();
        self.current = tables(space);
        for rights in [Rights::Supervisor, Rights::User, Rights::SmapLifted] {
            if rights == Rights::Supervisor || !kept {
                let table = self.current[rights as usize];
                self.flush_used(table, |used| &mut used.other);
                self.tables[table].large.clear();
            }
        }
    }

    /// Drops everything, of all address spaces.
    pub fn flush_all(&mut self) {
        self.forget_stretches();
        for table in 0..TABLES {
            self.flush_used(table, |used| &mut used.other);
            self.flush_used(table, |used| &mut used.global);
            self.tables[table].large.clear();
        }
        self.large = [[0; 2]; 2];
    }

    /// What was last written through RSP is looked up in the tables.
    pub fn forget_stacks(&mut self) {
        self.stacks = [Stretch::default(); 2];
    }

    /// All is looked up in the tables.
    pub fn forget_stretches(&mut self) {
        self.forget_stacks();
        self.ranges = [Stretch::default(); ranges::COUNT];
    }

    /// Whether it keeps all that it is told.
    pub const fn keeps_all(&self) -> bool {
        self.kept == 0
    }

    fn flush_used(&mut self, table: usize, part: impl Fn(&mut Used) -> &mut Slots) {
        let entries = &mut self.tables;
        part(&mut self.used[table]).take(|slot| entries[table].clear(slot));
    }

    fn clear(&mut self, table: usize, slot: usize) {
        self.forget_stacks();
        self.tables[table].clear(slot);
        let used = &mut self.used[table];
        used.global.remove(slot);
        used.other.remove(slot);
    }

    /// The guest-physical page `gpa` now holds decoded code: writes take the slow way, in all address spaces.
    pub fn withhold_writes(&mut self, gpa: u64) {
        self.forget_stacks();
        for (entries, used) in self.tables.iter_mut().zip(self.used.iter()) {
            let mut withhold = |slot: usize| {
                let frame = entries.frames[slot];
                if frame.gpa() == gpa && frame.writable() {
                    entries.writes[slot] = empty(slot);
                }
            };
            used.global.each(&mut withhold);
            used.other.each(&mut withhold);
        }
    }

    /// The page of `linear` holds no decoded code any more: writes may take the fast way.
    pub fn allow_writes(&mut self, rights: Rights, linear: u64) {
        let (entries, slot) = (&mut self.tables[self.current[rights as usize]], slot(linear));
        let entry = entries.reads[slot];
        if entries.frames[slot].writable() && linear.wrapping_sub(entry.tag) < ram::SIZE {
            entries.writes[slot] = entry;
        }
    }
}
