//! Where things lie: the same linear addresses in this process and in the guest.
//!
//! ```text
//! CODE   0x1000_0000   two pages, executable, not writable; absent around
//! DATA   0x2000_0000   writable, writable, read-only, writable; absent around
//! SEAM   0xffff_f000   two writable pages, across 4 GiB; absent around
//! ```
//! Behind one another ([`BACKING`] bytes, in this order) they are a file that this process
//! maps, and a range of the guest's memory.

/// Size of a page.
pub const PAGE: u64 = 4096;

/// A range of pages with the same addresses on both sides.
pub struct Region {
    /// Linear address.
    pub start: u64,
    /// Offset in the backing memory.
    pub offset: u64,
    /// How many pages.
    pub pages: u64,
    /// What may be done with them.
    pub rights: Rights,
}

/// What may be done with a page, beside reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Execution.
    Execute,
    /// Writing.
    Write,
    /// Nothing.
    Read,
}

/// Start of the code.
pub const CODE: u64 = 0x1000_0000;
/// Size of the code.
pub const CODE_SIZE: u64 = 2 * PAGE;
/// Start of the data.
pub const DATA: u64 = 0x2000_0000;
/// Size of the data.
pub const DATA_SIZE: u64 = 4 * PAGE;
/// Start of the pages around 4 GiB.
pub const SEAM: u64 = 0xffff_f000;

/// All regions.
pub const REGIONS: [Region; 5] = [
    Region { start: CODE, offset: 0, pages: 2, rights: Rights::Execute },
    Region { start: DATA, offset: CODE_SIZE, pages: 2, rights: Rights::Write },
    Region { start: DATA + 2 * PAGE, offset: CODE_SIZE + 2 * PAGE, pages: 1, rights: Rights::Read },
    Region {
        start: DATA + 3 * PAGE,
        offset: CODE_SIZE + 3 * PAGE,
        pages: 1,
        rights: Rights::Write,
    },
    Region { start: SEAM, offset: CODE_SIZE + DATA_SIZE, pages: 2, rights: Rights::Write },
];

/// Size of the backing memory.
pub const BACKING: u64 = CODE_SIZE + IMAGE as u64;
/// Size of what is compared of it: all but the code.
pub const IMAGE: usize = 6 * PAGE as usize;

/// The first bytes and the ends of runs of pages with the same rights.
pub const EDGES: [u64; 7] = [
    DATA,
    DATA + PAGE,
    DATA + 2 * PAGE,
    DATA + 3 * PAGE,
    DATA + 4 * PAGE,
    SEAM + PAGE,
    SEAM + 2 * PAGE,
];

/// Where in the compared image `linear` lies.
#[must_use]
pub fn image_offset(linear: u64) -> Option<usize> {
    let of = |start: u64, size: u64, offset: u64| {
        let at = linear.wrapping_sub(start);
        (at < size).then_some(offset.wrapping_add(at) as usize)
    };
    of(DATA, DATA_SIZE, 0).or_else(|| of(SEAM, 2 * PAGE, DATA_SIZE))
}

/// The linear address of a byte of the compared image.
#[must_use]
pub fn image_address(offset: usize) -> u64 {
    let offset = offset as u64;
    if offset < DATA_SIZE { DATA + offset } else { SEAM + (offset - DATA_SIZE) }
}
