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

/// Archives, or parts of them, and where each of them goes.
#[derive(Debug)]
pub struct Initrd {
    archives: Vec<Input>,
    offsets: Vec<u64>,
    range: Range<u64>,
}

impl Initrd {
    /// Finds a place for `archives` as high as possible in `room`, page aligned; `None` if they have no bytes.
    pub fn new(archives: Vec<Input>, room: Range<u64>) -> Result<Option<Initrd>, Error> {
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
        Ok(Some(Initrd { archives, offsets, range: start..start + size }))
    }

    /// Where they go.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Writes them there, and gives their own memory free.
    pub fn load<M: GuestMemoryBackend>(self, memory: &M) -> Result<(), Error> {
        for (archive, offset) in self.archives.into_iter().zip(self.offsets) {
            let address = GuestAddress(self.range.start + offset);
            archive.load(0, archive.length(), memory, address).map_err(Error::Write)?;
        }
        Ok(())
    }
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
