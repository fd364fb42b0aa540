//! The bytes that a kernel, or a part of an initial file system, is read from: a file, or memory; all of them, or a part.
//!
//! [`Input`] can be looked at in any place, and read once from its beginning to its end. A file's
//! bytes stay in the file until then: a packed kernel is never in this process's memory as a whole.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, ReadVolatile};

/// Where the bytes are.
#[derive(Debug)]
enum Data {
    File(File),
    Bytes(Cow<'static, [u8]>),
}

/// A range of a file's bytes, or of bytes in memory.
#[derive(Debug)]
pub struct Input {
    data: Data,
    range: Range<u64>,
}

impl Input {
    /// The first `length` bytes of a regular file. Its position is moved: nobody else reads through the same open file meanwhile.
    #[must_use]
    pub fn file(file: File, length: u64) -> Input {
        Input { data: Data::File(file), range: 0..length }
    }

    /// All of `bytes`.
    #[must_use]
    pub fn bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Input {
        let bytes = bytes.into();
        let range = 0..bytes.len() as u64;
        Input { data: Data::Bytes(bytes), range }
    }

    /// How many bytes are left to read.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Narrows the input to a part of it; what `range` has beyond its end is cut off.
    #[must_use]
    pub fn part(self, range: Range<u64>) -> Input {
        let within = |offset: u64| self.range.start.saturating_add(offset).min(self.range.end);
        let start = within(range.start);
        let range = start..within(range.end).max(start);
        Input { range, ..self }
    }

    /// The first bytes: `length` of them, or all there are.
    pub fn head(&self, length: usize) -> io::Result<Vec<u8>> {
        self.copy(0, length)
    }

    /// The bytes at `offset`: `length` of them, or as many as there are.
    pub fn copy(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.length().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(left)];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(offset + filled as u64, &mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length().saturating_sub(offset);
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..room];
        let start = self.range.start.saturating_add(offset);
        match &self.data {
            Data::File(file) => file.read_at(buffer, start),
            Data::Bytes(bytes) => {
                let start = usize::try_from(start).unwrap_or(usize::MAX);
                bytes.get(start..).unwrap_or_default().read(buffer)
            }
        }
    }

    /// Copies the `size` bytes at `offset`, which there have to be, to guest memory. Moves a file's position.
    pub(crate) fn load<M: GuestMemoryBackend>(
        &self,
        offset: u64,
        size: u64,
        memory: &M,
        address: GuestAddress,
    ) -> Result<(), GuestMemoryError> {
        let size =
            usize::try_from(size).map_err(|_| GuestMemoryError::InvalidGuestAddress(address))?;
        let start = self.range.start.saturating_add(offset);
        match &self.data {
            Data::File(file) => {
                let mut file: &File = file;
                file.seek(SeekFrom::Start(start)).map_err(GuestMemoryError::IOError)?;
                memory.get_slices(address, size).try_for_each(|slice| {
                    file.read_exact_volatile(&mut slice?).map_err(GuestMemoryError::from)
                })
            }
            Data::Bytes(bytes) => {
                let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
                let bytes = rest.and_then(|rest| rest.get(..size));
                let none = || GuestMemoryError::IOError(ErrorKind::UnexpectedEof.into());
                memory.write_slice(bytes.ok_or_else(none)?, address)
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(0, buffer)?;
        self.range.start += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "input_test.rs"]
mod input_test;
