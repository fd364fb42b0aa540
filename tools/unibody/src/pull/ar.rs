//! Reads `ar` archives: the outer layer of a `.deb`.
//!
//! [`Archive`] goes through the members in order, without seeking. Long member names, symbol tables
//! and other extensions are not implemented: no `.deb` has them. See: deb(5).

use std::io::{self, ErrorKind, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Ends each member's header.
const HEADER_END: &[u8; 2] = b"`\n";

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be read, or ends too early.
    #[error("cannot read the ar archive: {0}")]
    Read(#[source] io::Error),
    /// It begins with something else.
    #[error("it is no ar archive")]
    Magic,
    /// A member's header is damaged.
    #[error("the ar archive is damaged")]
    Header,
}

/// An archive that is being read.
pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes of the current member that have not been read.
    rest: u64,
    /// Members begin at even offsets.
    padding: bool,
}

impl<R: Read> Archive<R> {
    /// Reads the archive's magic.
    pub(crate) fn new(mut reader: R) -> Result<Self, Error> {
        let mut magic = [0; 8];
        match reader.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => Ok(Self { reader, rest: 0, padding: false }),
            Ok(()) => Err(Error::Magic),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Error::Magic),
            Err(error) => Err(Error::Read(error)),
        }
    }

    /// Goes to the next member and returns its name, or `None` at the end.
    pub(crate) fn next_member(&mut self) -> Result<Option<String>, Error> {
        io::copy(&mut self.contents(), &mut io::sink()).map_err(Error::Read)?;
        let mut byte = [0];
        if self.padding && self.read_up_to(&mut byte)? == 0 {
            return Ok(None);
        }
        let mut header = [0; 60];
        match self.read_up_to(&mut header)? {
            0 => return Ok(None),
            60 if header.ends_with(HEADER_END) => {}
            _ => return Err(Error::Header),
        }
        self.rest = number(&header[48..58]).ok_or(Error::Header)?;
        self.padding = self.rest % 2 == 1;
        // GNU's ar puts a slash behind the name, dpkg's does not.
        let name = std::str::from_utf8(&header[..16]).map_err(|_| Error::Header)?;
        Ok(Some(name.trim_end().trim_end_matches('/').to_string()))
    }

    /// The current member's bytes, those that have not been read yet.
    pub(crate) fn contents(&mut self) -> Contents<'_, R> {
        Contents(self)
    }

    /// Fills `buffer` as far as there are bytes, and returns how far.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(filled)
    }
}

/// A number in decimal digits, padded with spaces.
fn number(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_end_matches(' ');
    // `parse` would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The bytes of an archive's current member.
pub(crate) struct Contents<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let archive = &mut *self.0;
        let most = buffer.len().min(usize::try_from(archive.rest).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = archive.reader.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the file is cut off"));
        }
        archive.rest -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
#[path = "ar_test.rs"]
pub(super) mod ar_test;
