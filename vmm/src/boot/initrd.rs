//! Places the initial file system in guest memory.
//!
//! What the kernel is given may be several archives one behind the other:
//! the tool's own and a person's, compressed or not. The kernel unpacks all
//! of them, later files over earlier ones. An uncompressed archive is
//! recognized at multiples of four bytes only, and zeros in between are
//! skipped. So an archive may be several parts as well, which end where four bytes do but for
//! zeros ([`super::cpio::Writer::file_apart`]). See: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

use std::ops::Range;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::input::Input;
use super::layout;

/// Why an initial file system cannot be placed.
#[derive(Debug, Error)]
pub enum Error {
    /// Too little memory between the kernel and the top.
    #[error(
        "the initial file system has {size} bytes, but the guest's memory has only {room} left beside the kernel: give it more memory"
    )]
    TooBig {
        /// Bytes of all archives together.
        size: u64,
        /// Bytes between the kernel's end and the highest usable address.
        room: u64,
    },
    /// The guest's memory did not take it.
    #[error("cannot write the initial file system to guest memory")]
    Write(#[source] GuestMemoryError),
}

/// Writes `archives`, or parts of them, as high as possible in `room`, page aligned, and gives
/// their own memory free. Returns where they are, or `None` if there are none.
pub fn place<M: GuestMemoryBackend>(
    memory: &M,
    archives: Vec<Input>,
    room: Range<u64>,
) -> Result<Option<Range<u64>>, Error> {
    let offsets = offsets(&archives);
    let size = archives.iter().zip(&offsets).map(|(a, o)| o + a.length()).max().unwrap_or(0);
    if size == 0 {
        return Ok(None);
    }
    let lowest = room.start.next_multiple_of(layout::PAGE);
    let start = room
        .end
        .checked_sub(size)
        .map(|start| start - start % layout::PAGE)
        .filter(|start| *start >= lowest)
        .ok_or(Error::TooBig { size, room: room.end.saturating_sub(lowest) })?;
    for (archive, offset) in archives.into_iter().zip(offsets) {
        let address = GuestAddress(start + offset);
        archive.load(0, archive.length(), memory, address).map_err(Error::Write)?;
    }
    Ok(Some(start..start + size))
}

/// Where each archive begins, from the first one's start.
fn offsets(archives: &[Input]) -> Vec<u64> {
    let mut end = 0u64;
    archives
        .iter()
        .map(|archive| {
            let start = end.next_multiple_of(4);
            end = start + archive.length();
            start
        })
        .collect()
}

#[cfg(test)]
#[path = "initrd_test.rs"]
mod initrd_test;
