//! The Multiboot header: where it is in a kernel's file, and what it asks for.
//!
//! [`Header::find`] looks for it in the file's first bytes; [`Header::image`] says what is to be
//! loaded of a file whose header gives the addresses itself (the "a.out kludge").
//! See: Multiboot Specification 0.6.96, 3.1.

use std::ops::Range;

use thiserror::Error;

use super::super::elf::{self, Elf, Segment};
use super::super::{kernel, layout};

/// As much of the file as [`Header::find`] looks at.
pub const SEARCHED: usize = 8192;

const MAGIC: u32 = 0x1bad_b002;
/// The header begins at a multiple of this.
const ALIGNMENT: usize = 4;

/// Modules are to be page aligned: they always are.
const PAGE_ALIGNED: u32 = 1 << 0;
/// Memory is to be told: it always is.
const MEMORY_INFORMATION: u32 = 1 << 1;
/// A video mode is wished for. There is no display: as with QEMU, the wish is ignored.
const VIDEO_MODE: u32 = 1 << 2;
/// What the flags of the lower half demand has to be met, or the kernel not be started.
const DEMANDS: u32 = 0xffff;
/// The header has the addresses.
const ADDRESSES: u32 = 1 << 16;

/// Why a kernel with a Multiboot header cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Its header demands what Multiboot 0.6.96 does not have.
    #[error("its Multiboot header demands what is not supported (flags {0:#x})")]
    Demands(u32),
    /// The addresses contradict each other, or the file's size.
    #[error("the addresses in its Multiboot header make no sense ({0})")]
    Addresses(&'static str),
    /// It has no addresses, and the file is no ELF file.
    #[error("its Multiboot header has no load addresses, and it is no ELF file")]
    NoAddresses,
    /// Where the boot structures or a PC's video memory and ROM are.
    #[error("it loads at {0:#x}, where a PC has no memory for a kernel")]
    Place(u64),
    /// Addresses in 32-bit mode end there.
    #[error("it starts at {0:#x}, which is beyond 4 GiB: a Multiboot kernel starts in 32-bit mode")]
    HighEntry(u64),
}

/// Where the kernel's parts go, if the header says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Of the header itself.
    pub header: u32,
    /// Of the first byte that is loaded.
    pub load: u32,
    /// Of the end of what is loaded; 0 for the rest of the file.
    pub load_end: u32,
    /// Of the end of what is to be zero behind it; 0 for none.
    pub bss_end: u32,
    /// Of the first instruction.
    pub entry: u32,
}

/// A Multiboot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it is in the file.
    pub offset: u64,
    /// What it asks for.
    pub flags: u32,
    /// Where the kernel's parts go.
    pub addresses: Option<Addresses>,
}

impl Header {
    /// Finds the header in the first bytes of a file.
    #[must_use]
    pub fn find(head: &[u8]) -> Option<Header> {
        let head = &head[..head.len().min(SEARCHED)];
        (0..head.len()).step_by(ALIGNMENT).find_map(|offset| Header::at(head, offset))
    }

    fn at(head: &[u8], offset: usize) -> Option<Header> {
        let word = |index: usize| {
            let bytes = head.get(offset..)?.get(index * 4..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (magic, flags, checksum) = (word(0)?, word(1)?, word(2)?);
        if magic != MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = match flags & ADDRESSES {
            0 => None,
            _ => Some(Addresses {
                header: word(3)?,
                load: word(4)?,
                load_end: word(5)?,
                bss_end: word(6)?,
                entry: word(7)?,
            }),
        };
        Some(Header { offset: offset as u64, flags, addresses })
    }

    /// Says what is to be loaded of the file, of `length` bytes, that has this header and begins
    /// with `head`.
    pub fn image(&self, head: &[u8], length: u64) -> Result<Elf, kernel::Error> {
        const KNOWN: u32 = PAGE_ALIGNED | MEMORY_INFORMATION | VIDEO_MODE;
        if self.flags & DEMANDS & !KNOWN != 0 {
            return Err(Error::Demands(self.flags).into());
        }
        let image = match self.addresses {
            Some(addresses) => addresses.image(self.offset, length)?,
            None if elf::detect(head) => Elf::parse_multiboot(head, length)?,
            None => return Err(Error::NoAddresses.into()),
        };
        check_places(&image.segments)?;
        if image.entry > u64::from(u32::MAX) {
            return Err(Error::HighEntry(image.entry).into());
        }
        Ok(image)
    }
}

/// What a kernel may not load to: the processor's interrupt vectors and our GDT; a PC's video memory
/// and ROM, where the ACPI tables are.
const TAKEN: [Range<u64>; 2] = [0..layout::PAGE, layout::LEGACY_HOLE..layout::HIGH_RAM];

fn check_places(segments: &[Segment]) -> Result<(), Error> {
    let overlaps = |segment: &Segment, taken: &Range<u64>| {
        // No overflow: the parsers have seen to that.
        segment.address < taken.end && taken.start < segment.address + segment.memory_size
    };
    match segments.iter().find(|segment| TAKEN.iter().any(|taken| overlaps(segment, taken))) {
        Some(segment) => Err(Error::Place(segment.address)),
        None => Ok(()),
    }
}

impl Addresses {
    /// What is to be loaded of a file of `length` bytes that has the header at `offset`.
    fn image(&self, offset: u64, length: u64) -> Result<Elf, Error> {
        let before = self.header.checked_sub(self.load);
        let offset = before
            .and_then(|before| offset.checked_sub(before.into()))
            .ok_or(Error::Addresses("the header is not in what is loaded"))?;
        let left = length.saturating_sub(offset);
        let file_size = match self.load_end {
            0 => left,
            end => end
                .checked_sub(self.load)
                .map(u64::from)
                .ok_or(Error::Addresses("what is loaded ends before its beginning"))?,
        };
        if file_size > left {
            return Err(Error::Addresses("the file ends before what is loaded does"));
        }
        let memory_size = match self.bss_end {
            0 => file_size,
            end => end
                .checked_sub(self.load)
                .map(u64::from)
                .filter(|size| *size >= file_size)
                .ok_or(Error::Addresses("the zeros end before their beginning"))?,
        };
        let address = u64::from(self.load);
        if memory_size > u64::from(u32::MAX) - address {
            return Err(Error::Addresses("what is loaded ends beyond 4 GiB"));
        }
        let entry = u64::from(self.entry);
        if !(address..address + file_size).contains(&entry) {
            return Err(Error::Addresses("the entry is not in what is loaded"));
        }
        let segment = Segment { offset, file_size, address, memory_size };
        Ok(Elf { segments: vec![segment], entry, notes: Vec::new() })
    }
}

#[cfg(test)]
#[path = "header_test.rs"]
mod header_test;
