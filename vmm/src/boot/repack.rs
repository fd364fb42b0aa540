//! Kernels that start without being unpacked first: [`repack`] makes a `bzImage` of a `bzImage`, in which the kernel is as it
//! comes out.
//!
//! [`Kernel::open`](super::Kernel::open) reads that as any other. Nothing else can boot it: there is still the decompressor in front,
//! which finds nothing to unpack.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use thiserror::Error;

use super::input::Input;
use super::unpack::Unpacker;
use super::{bzimage, elf, kernel};

/// Where the setup header has the payload's length. See: Linux, Documentation/arch/x86/boot.rst, `payload_length`.
const PAYLOAD_LENGTH: u64 = 0x24c;

/// Why there is no such file.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel can't be used, packed or not.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The file can't be written.
    #[error("cannot write it: {0}")]
    Write(#[source] io::Error),
}

/// Writes the `bzImage` in the file at `from`, which may unpack to `limit` bytes, to `to`. Gives how many bytes that are; 0, and nothing
/// is written, if it is no `bzImage`, or not packed.
///
/// # Errors
/// When the file can't be read or is damaged; when `to` can't be written. Part of it may be, then.
pub fn repack(from: &Path, limit: u64, to: &mut (impl Write + Seek)) -> Result<u64, Error> {
    let file = File::open(from).map_err(kernel::Error::Open)?;
    let length = file.metadata().map_err(kernel::Error::Open)?.len();
    let input = Input::file(file, length);
    let head = input.head(bzimage::HEAD).map_err(kernel::Error::Read)?;
    if !bzimage::detect(&head) {
        return Ok(0);
    }
    let payload = bzimage::parse(&head, length).map_err(kernel::Error::from)?.payload;
    let before = usize::try_from(payload.start).unwrap_or(usize::MAX);
    let before = input.head(before).map_err(kernel::Error::Read)?;
    let payload = input.part(payload);
    if elf::detect(&payload.head(bzimage::HEAD).map_err(kernel::Error::Read)?) {
        return Ok(0);
    }
    let unpacker = Unpacker::new(payload, limit).map_err(kernel::Error::from)?;
    write(&before, unpacker, to)
}

fn write(
    before: &[u8],
    mut unpacker: Unpacker,
    to: &mut (impl Write + Seek),
) -> Result<u64, Error> {
    to.write_all(before).map_err(Error::Write)?;
    while !unpacker.chunk().is_empty() {
        to.write_all(unpacker.chunk()).map_err(Error::Write)?;
        unpacker.advance().map_err(kernel::Error::from)?;
    }
    let unpacked = unpacker.offset();
    let length = u32::try_from(unpacked).map_err(|_| kernel::Error::TooBig(u32::MAX.into()))?;
    to.seek(SeekFrom::Start(PAYLOAD_LENGTH)).map_err(Error::Write)?;
    to.write_all(&length.to_le_bytes()).map_err(Error::Write)?;
    Ok(before.len() as u64 + unpacked)
}

#[cfg(test)]
#[path = "repack_test.rs"]
mod repack_test;
