//! The guest-physical pages that hold decoded code, and what their bytes were.
//!
//! A page is divided into granules of 64 bytes. A granule with decoded
//! instructions has its bit set, and its bytes are kept: instructions are decoded from
//! the kept bytes, and compared with memory again when the page enters the
//! instruction TLB, and at a fresh entry ([`CodePages::stale`]). The guest's own writes to such a granule are seen at once.

use crate::blocks::AddressMap;
use crate::ram::{self, Page};

/// log2 of a granule's size.
const GRANULE_SHIFT: u32 = 6;
const GRANULE: usize = 1 << GRANULE_SHIFT;

/// Number of a code page; stable until everything is dropped.
pub type PageId = u32;

/// The granules that hold `size` (not 0) bytes at `offset`.
pub fn granules(offset: u64, size: u64) -> u64 {
    let first = (offset % ram::SIZE) >> GRANULE_SHIFT;
    let last = (offset % ram::SIZE + size - 1).min(ram::SIZE - 1) >> GRANULE_SHIFT;
    (u64::MAX >> (63 - (last - first))) << first
}

/// A block in its page.
#[derive(Clone, Copy)]
struct Extent {
    granules: u64,
    block: u32,
}

struct CodePage {
    gpa: u64,
    /// The granules with decoded instructions.
    decoded: u64,
    bytes: Box<[u8; ram::SIZE as usize]>,
    blocks: Vec<Extent>,
}

/// All pages with decoded code of one vCPU.
#[derive(Default)]
pub struct CodePages {
    by_gpa: AddressMap<u64, PageId>,
    pages: Vec<CodePage>,
}

impl CodePages {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.by_gpa.clear();
        self.pages.clear();
    }

    /// The page at `gpa` (its start), made if need be.
    pub fn enter(&mut self, gpa: u64) -> PageId {
        *self.by_gpa.entry(gpa).or_insert_with(|| {
            let bytes = Box::new([0; ram::SIZE as usize]);
            self.pages.push(CodePage { gpa, decoded: 0, bytes, blocks: Vec::new() });
            self.pages.len() as PageId - 1
        })
    }

    /// Whether the page at `gpa` (its start) holds decoded code.
    pub fn is_code(&self, gpa: u64) -> bool {
        self.decoded(gpa).is_some_and(|(_, decoded)| decoded != 0)
    }

    /// The decoded granules of the page at `gpa` (its start).
    pub fn decoded(&self, gpa: u64) -> Option<(PageId, u64)> {
        let id = *self.by_gpa.get(&gpa)?;
        Some((id, self.pages[id as usize].decoded))
    }

    /// The guest-physical address of a page.
    pub fn gpa(&self, id: PageId) -> u64 {
        self.pages[id as usize].gpa
    }

    /// Up to `room` bytes at `offset`, as they are to be decoded: fresh ones where nothing is decoded
    /// yet.
    pub fn peek(&mut self, id: PageId, page: Page, offset: usize, room: usize) -> &[u8] {
        let code = &mut self.pages[id as usize];
        let end = (offset + room).min(code.bytes.len());
        for granule in offset >> GRANULE_SHIFT..=(end - 1) >> GRANULE_SHIFT {
            if code.decoded >> granule & 1 == 0 {
                let at = granule << GRANULE_SHIFT;
                // Whole within the page.
                let _ = page.read(at as u64, &mut code.bytes[at..at + GRANULE]);
            }
        }
        &code.bytes[offset..end]
    }

    /// Bytes that were decoded.
    pub fn kept(&self, id: PageId, offset: usize, size: usize) -> &[u8] {
        &self.pages[id as usize].bytes[offset..offset + size]
    }

    /// Bytes just peeked at were decoded. Gives whether they are the page's first.
    pub fn mark(&mut self, id: PageId, offset: usize, size: usize) -> bool {
        let code = &mut self.pages[id as usize];
        let first = code.decoded == 0;
        code.decoded |= granules(offset as u64, size as u64);
        first
    }

    /// A block was made of the bytes at `offset`.
    pub fn add_block(&mut self, id: PageId, offset: usize, size: usize, block: u32) {
        let granules = granules(offset as u64, size as u64);
        self.pages[id as usize].blocks.push(Extent { granules, block });
    }

    /// How many granules of a page are decoded.
    pub fn size(&self, id: PageId) -> u32 {
        self.pages[id as usize].decoded.count_ones()
    }

    /// The granules whose memory is no longer what was decoded.
    pub fn stale(&self, id: PageId, page: Page) -> u64 {
        let code = &self.pages[id as usize];
        let mut stale = 0;
        let mut left = code.decoded;
        while left != 0 {
            let granule = left.trailing_zeros() as usize;
            left &= left - 1;
            let kept = &code.bytes.as_chunks::<GRANULE>().0[granule];
            let is_it = page.is((granule << GRANULE_SHIFT) as u64, kept) == Some(true);
            stale |= u64::from(!is_it) << granule;
        }
        stale
    }

    /// Forgets `granules` of a page; calls `drop` with each block that lies in any of them.
    pub fn forget(&mut self, id: PageId, granules: u64, mut drop: impl FnMut(u32)) {
        let code = &mut self.pages[id as usize];
        code.decoded &= !granules;
        code.blocks.retain(|extent| {
            let keep = extent.granules & granules == 0;
            if !keep {
                drop(extent.block);
            }
            keep
        });
    }
}
