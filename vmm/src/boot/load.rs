//! Copies a kernel's segments from where they are to guest memory.
//!
//! [`stored`] takes them from a file, and touches nothing else of it; [`packed`] takes them from
//! what an [`Unpacker`] gives, as it comes, and keeps nothing. Memory that segments have beyond
//! their bytes is not written: it must be zero, as a new guest's memory is. So are pages of zeros in a packed kernel, which are a
//! third of Debian's. [`unpack`] gives its bytes to whoever wants them ([`super::repack`]).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::elf::{self, Elf};
use super::input::Input;
use super::kernel::Error;
use super::layout::PAGE;
use super::unpack::Unpacker;

/// Loads an ELF file that is not packed. Returns the bytes of its notes, one after the other.
pub(super) fn stored<M: GuestMemoryBackend>(
    input: &Input,
    elf: &Elf,
    memory: &M,
) -> Result<Vec<Vec<u8>>, Error> {
    for &elf::Segment { offset, file_size, address, .. } in &elf.segments {
        input.load(offset, file_size, memory, GuestAddress(address)).map_err(Error::Write)?;
    }
    let bytes = |notes: &elf::Notes| input.copy(notes.offset, notes.size as usize);
    elf.notes.iter().map(bytes).collect::<Result<_, _>>().map_err(Error::Read)
}

/// Loads an ELF file while it is unpacked. Returns the bytes of its notes, one after the other.
pub(super) fn packed<M: GuestMemoryBackend>(
    unpacker: Unpacker,
    elf: &Elf,
    memory: &M,
) -> Result<Vec<Vec<u8>>, Error> {
    unpack(unpacker, elf, |bytes, address| {
        memory.write_slice(bytes, GuestAddress(address)).map_err(Error::Write)
    })
}

/// Unpacks an ELF file, to its end: what is behind the segments may still tell that the stream is damaged. What segments
/// have is given to `place`, with its physical address, but for pages of zeros. Returns the bytes of the notes, one after the other.
pub(super) fn unpack<E: From<Error>>(
    mut unpacker: Unpacker,
    elf: &Elf,
    mut place: impl FnMut(&[u8], u64) -> Result<(), E>,
) -> Result<Vec<Vec<u8>>, E> {
    let mut notes = vec![Vec::new(); elf.notes.len()];
    while !unpacker.chunk().is_empty() {
        let chunk = Chunk { offset: unpacker.offset(), bytes: unpacker.chunk() };
        for segment in &elf.segments {
            if let Some((skipped, part)) = chunk.overlap(segment.offset, segment.file_size) {
                but_zeros(part, segment.address + skipped, &mut place)?;
            }
        }
        for (wanted, bytes) in elf.notes.iter().zip(&mut notes) {
            if let Some((_, part)) = chunk.overlap(wanted.offset, wanted.size) {
                bytes.extend_from_slice(part);
            }
        }
        unpacker.advance().map_err(Error::from)?;
    }
    let (length, needed) = (unpacker.offset(), elf.file_end());
    if length < needed {
        return Err(Error::from(elf::Error::Truncated { length, needed }).into());
    }
    Ok(notes)
}

const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

/// Gives bytes, of which the first has this address, to `place`, but for pages of zeros.
fn but_zeros<E>(
    bytes: &[u8],
    address: u64,
    place: &mut impl FnMut(&[u8], u64) -> Result<(), E>,
) -> Result<(), E> {
    // What was found to be placed: it begins there and ends where the next page does.
    let mut start = 0;
    let mut at = 0;
    while at < bytes.len() {
        let left_of_page = PAGE - (address + at as u64) % PAGE;
        let end = bytes.len().min(at + left_of_page as usize);
        if bytes[at..end] == ZEROS[..end - at] {
            if start < at {
                place(&bytes[start..at], address + start as u64)?;
            }
            start = end;
        }
        at = end;
    }
    match start < at {
        true => place(&bytes[start..at], address + start as u64),
        false => Ok(()),
    }
}

/// Some bytes of a file.
struct Chunk<'a> {
    offset: u64,
    bytes: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// What the chunk has of the `size` bytes at `offset`, and how many of them precede that.
    fn overlap(&self, offset: u64, size: u64) -> Option<(u64, &'a [u8])> {
        let start = offset.max(self.offset);
        let end = offset.saturating_add(size).min(self.offset + self.bytes.len() as u64);
        // Within the chunk if in order, and so are the sums.
        let part = (start < end)
            .then(|| (start - self.offset) as usize..(end - self.offset) as usize)
            .and_then(|range| self.bytes.get(range))?;
        Some((start - offset, part))
    }
}

#[cfg(test)]
#[path = "load_test.rs"]
mod load_test;
