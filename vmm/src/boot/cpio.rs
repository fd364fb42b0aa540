//! cpio archives in the "newc" format, of which an initial file system is
//! made: [`Writer`] and [`Reader`].
//!
//! The writer is deterministic: the same calls give the same bytes, with no
//! time, owner or inode number of this machine in them.
//! See: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeSet;

use thiserror::Error;

/// "newc" without checksums.
const MAGIC: &[u8; 6] = b"070701";
/// Magic and thirteen fields of eight hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;
/// Ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Names and data begin at multiples of this.
const ALIGNMENT: usize = 4;
/// Linux's `PATH_MAX`: the kernel skips longer names silently.
const NAME_LIMIT: usize = 4096;

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const TYPE_MASK: u32 = 0o170_000;
const PERMISSIONS_MASK: u32 = 0o7777;

/// Why an archive cannot be made or read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A name that the kernel would not unpack, or not there.
    #[error("{0:?} is no usable name in an archive")]
    Name(String),
    /// The kernel would not unpack it: there is no such directory yet.
    #[error("{0:?} lies in a directory that the archive does not have")]
    NoParent(String),
    /// The name is there twice.
    #[error("{0:?} is in the archive already")]
    Duplicate(String),
    /// The format's sizes have 32 bits.
    #[error("{0:?} is too big for an archive (4 GiB)")]
    TooBig(String),
    /// No header where one must be.
    #[error("there is no cpio header at byte {0}")]
    Header(usize),
    /// The archive ends within an entry.
    #[error("the archive is cut off within the entry at byte {0}")]
    Truncated(usize),
}

/// Makes one archive.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    directories: BTreeSet<String>,
}

/// An entry's header, as far as it varies.
#[derive(Clone, Copy, Default)]
struct Node {
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Writer {
    /// Begins an archive.
    #[must_use]
    pub fn new() -> Self {
        Writer::default()
    }

    /// Adds a directory. Like all names, `name` is relative to the root, and
    /// the directory that it lies in must be there already.
    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<(), Error> {
        self.add(name, Node { mode: DIRECTORY | permissions, links: 2, ..Node::default() }, 0)?;
        self.directories.insert(clean(name)?.to_string());
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<(), Error> {
        self.add(name, file(permissions), data.len() as u64)?;
        self.append(data);
        Ok(())
    }

    /// Adds a file whose `size` bytes are somewhere else. Gives what of the archive comes before them: what comes after them begins
    /// at the next multiple of four, with zeros in between.
    pub fn file_apart(
        &mut self,
        name: &str,
        permissions: u32,
        size: u64,
    ) -> Result<Vec<u8>, Error> {
        self.add(name, file(permissions), size)?;
        Ok(std::mem::take(&mut self.bytes))
    }

    /// Adds a symbolic link that leads to `target`.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<(), Error> {
        if target.is_empty() || target.contains('\0') || target.len() >= NAME_LIMIT {
            return Err(Error::Name(target.to_string()));
        }
        let node = Node { mode: SYMLINK | 0o777, links: 1, ..Node::default() };
        self.add(name, node, target.len() as u64)?;
        self.append(target.as_bytes());
        Ok(())
    }

    /// Adds a character device's node.
    pub fn character_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), Error> {
        let mode = CHARACTER_DEVICE | permissions;
        self.add(name, Node { mode, links: 1, device: (major, minor) }, 0)
    }

    /// Adds a block device's node.
    pub fn block_device(
        &mut self,
        name: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> Result<(), Error> {
        let mode = BLOCK_DEVICE | permissions;
        self.add(name, Node { mode, links: 1, device: (major, minor) }, 0)
    }

    /// Ends the archive and returns its bytes; those behind the last file that is apart, if there are such.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.write(TRAILER, Node { links: 1, ..Node::default() }, 0, 0);
        self.bytes
    }

    /// Adds an entry, but for its `size` bytes.
    fn add(&mut self, name: &str, node: Node, size: u64) -> Result<(), Error> {
        let name = clean(name)?;
        let size = u32::try_from(size).map_err(|_| Error::TooBig(name.to_string()))?;
        if let Some((parent, _)) = name.rsplit_once('/')
            && !self.directories.contains(parent)
        {
            return Err(Error::NoParent(name.to_string()));
        }
        if !self.names.insert(name.to_string()) {
            return Err(Error::Duplicate(name.to_string()));
        }
        // The kernel takes equal numbers for hard links: each has its own.
        self.write(name, node, self.names.len() as u32, size);
        Ok(())
    }

    fn write(&mut self, name: &str, node: Node, inode: u32, size: u32) {
        const OWNER: u32 = 0;
        const TIME: u32 = 0;
        let fields = [
            inode,
            node.mode,
            OWNER,
            OWNER,
            node.links,
            TIME,
            size,
            0,
            0,
            node.device.0,
            node.device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn append(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

fn file(permissions: u32) -> Node {
    Node { mode: FILE | permissions, links: 1, ..Node::default() }
}

/// Takes a leading slash off a name, and refuses what the kernel would not
/// unpack as one would expect.
fn clean(name: &str) -> Result<&str, Error> {
    let clean = name.strip_prefix('/').unwrap_or(name);
    let bad = clean.len() >= NAME_LIMIT
        || clean == TRAILER
        || clean.contains('\0')
        || clean.split('/').any(|part| matches!(part, "" | "." | ".."));
    if bad { Err(Error::Name(name.to_string())) } else { Ok(clean) }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its data is the target.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A pipe, a socket, or nonsense.
    Other,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name, as it stands there.
    pub name: &'a [u8],
    /// Type and permissions.
    pub mode: u32,
    /// Inode number: equal ones are one file.
    pub inode: u32,
    /// Number of links.
    pub links: u32,
    /// Time of change.
    pub time: u32,
    /// Major and minor number, of a device.
    pub device: (u32, u32),
    /// Its contents.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.mode & TYPE_MASK {
            FILE => Kind::File,
            DIRECTORY => Kind::Directory,
            SYMLINK => Kind::Symlink,
            CHARACTER_DEVICE => Kind::CharacterDevice,
            BLOCK_DEVICE => Kind::BlockDevice,
            _ => Kind::Other,
        }
    }

    /// Its permissions.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & PERMISSIONS_MASK
    }
}

/// Reads archives, one behind the other as the kernel does: zeros between
/// them are skipped. It ends where no archive follows: at the end, or where
/// something else begins, such as a compressed archive ([`Reader::rest`]).
///
/// The "newc" format with checksums (070702) is not implemented.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    within: bool,
    failed: bool,
}

impl<'a> Reader<'a> {
    /// Reads from the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, position: 0, within: false, failed: false }
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.position..]
    }

    /// Goes to the next archive; false if there is none.
    fn next_archive(&mut self) -> bool {
        let zeros = self.rest().iter().take_while(|byte| **byte == 0).count();
        self.position += zeros;
        self.within =
            self.position.is_multiple_of(ALIGNMENT) && self.rest().starts_with(&MAGIC[..]);
        self.within
    }

    fn entry(&mut self) -> Result<Entry<'a>, Error> {
        let start = self.position;
        let header = self.bytes.get(start..start + HEADER).ok_or(Error::Truncated(start))?;
        if !header.starts_with(MAGIC) {
            return Err(Error::Header(start));
        }
        let field = |n: usize| hexadecimal(&header[6 + n * 8..][..8]).ok_or(Error::Header(start));
        let name_size = field(11)? as usize;
        let size = field(6)? as usize;
        self.position += HEADER;
        let name = self.take(name_size).ok_or(Error::Truncated(start))?;
        let name = name.strip_suffix(&[0]).ok_or(Error::Header(start))?;
        let data = self.take(size).ok_or(Error::Truncated(start))?;
        Ok(Entry {
            name,
            mode: field(1)?,
            inode: field(0)?,
            links: field(4)?,
            time: field(5)?,
            device: (field(9)?, field(10)?),
            data,
        })
    }

    /// Takes `size` bytes and what aligns the next ones. The padding may be
    /// missing at the very end.
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(size)?;
        let taken = self.bytes.get(self.position..end)?;
        self.position = end.checked_next_multiple_of(ALIGNMENT)?.min(self.bytes.len());
        Some(taken)
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed || !(self.within || self.next_archive()) {
                return None;
            }
            match self.entry() {
                Ok(entry) if entry.name == TRAILER.as_bytes() => self.within = false,
                Ok(entry) => return Some(Ok(entry)),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | digit)
    })
}

#[cfg(test)]
#[path = "cpio_test.rs"]
mod cpio_test;
