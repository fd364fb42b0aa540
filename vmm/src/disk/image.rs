//! [`Image`]: an image as `imago` has it, and the files of the host's that its blocks are in ([`ImageFile`]).
//!
//! `imago` says of a block which of its own files it is in, and no more. Here is what that file is to the host: so a request can be done at
//! the file itself, and a file that was cut off is seen to be, whether it is the image's own or one that it names as its backing file.

use std::cell::RefCell;
use std::fs::File as HostFile;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hv::io_ring::Direction;
use imago::file::File;
use imago::{FormatAccess, Mapping, Storage};
use rustix::fs::{fstat, fstatfs};

use super::SECTOR;

/// What `statfs` says of a file system that is in memory. See: statfs(2).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A file that blocks of an image are in.
pub struct ImageFile {
    /// Where `imago` has what it knows of it: that stays where it is as long as the image is open, and is nothing but a name here.
    storage: usize,
    /// Where it was found; one that has no name is this process's own.
    path: Option<PathBuf>,
    /// The file.
    pub file: Arc<HostFile>,
    /// It has a length, as a block device has not.
    is_regular: bool,
    /// What is in it is in memory: who reads it waits for no medium.
    pub is_in_memory: bool,
    /// The file system does not say whether a read would wait, or a write. It is found out.
    pub never_says: [AtomicBool; 2],
}

/// A file by the name that `imago` knows it by.
type Named = (Option<PathBuf>, HostFile);

/// Files that were opened for an image.
#[derive(Clone, Default)]
pub struct Opened(Rc<RefCell<Vec<Named>>>);

impl Opened {
    /// One more. An image that names itself, or another one twice, is none: to follow that would not end.
    pub fn add(&self, path: Option<&Path>, file: &HostFile) -> io::Result<()> {
        let identity = |file: &HostFile| file.metadata().map(|facts| (facts.dev(), facts.ino()));
        let this = identity(file)?;
        let mut all = self.0.borrow_mut();
        for (known, other) in &*all {
            if known.as_deref() == path || identity(other)? == this {
                return Err(io::Error::other("the image names it twice, or itself"));
            }
        }
        all.push((path.map(Path::to_path_buf), file.try_clone()?));
        Ok(())
    }
}

/// An image that is open.
pub struct Image {
    /// Its blocks.
    pub access: FormatAccess<File>,
    files: Vec<Arc<ImageFile>>,
}

/// Where blocks are, all of them in one piece.
pub enum Spot {
    /// Nowhere: they read as zeroes.
    Zeroes,
    /// In a file.
    InFile {
        /// Which.
        file: Arc<ImageFile>,
        /// Where in it.
        offset: u64,
        /// Bytes that the file is at least as long as.
        length: u64,
        /// What has to be a multiple of this: address, and offset and size. Of files that are not accessed directly it is 1.
        alignment: [u64; 2],
    },
}

fn address(storage: &File) -> usize {
    std::ptr::from_ref(storage).addr()
}

/// Bytes that a file is at least as long as, as `imago` has seen or made it. What is no whole sector at its end is nobody's.
fn length_of(storage: &File) -> io::Result<u64> {
    let size = storage.size()?;
    Ok(size - size % SECTOR)
}

impl Image {
    /// What was opened so, of these files.
    pub fn new(access: FormatAccess<File>, opened: &Opened) -> io::Result<Self> {
        let mut files = Vec::new();
        let opened = opened.0.borrow();
        for storage in access.inner().collect_storage_dependencies() {
            let name = storage.get_filename();
            let Some((path, file)) = opened.iter().find(|(path, _)| *path == name) else {
                continue;
            };
            files.push(Arc::new(ImageFile {
                storage: address(storage),
                path: path.clone(),
                file: Arc::new(file.try_clone()?),
                is_regular: file.metadata()?.is_file(),
                is_in_memory: fstatfs(file).is_ok_and(|facts| facts.f_type == TMPFS_MAGIC),
                never_says: Default::default(),
            }));
        }
        Ok(Self { access, files })
    }

    fn file_of(&self, storage: &File) -> Option<&Arc<ImageFile>> {
        let address = address(storage);
        self.files.iter().find(|file| file.storage == address)
    }

    /// Looks at all its files: one that is shorter than it was.
    pub fn find_cut(&self) -> io::Result<Option<&Arc<ImageFile>>> {
        for storage in self.access.inner().collect_storage_dependencies() {
            if let Some(file) = self.file_of(storage)
                && file.is_cut(length_of(storage)?)?
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Where a range is, if it is in one piece there, for bytes to go this way.
    pub fn find(&self, direction: Direction, offset: u64, size: u64) -> io::Result<Option<Spot>> {
        let mut found: Option<Option<(&File, u64)>> = None;
        let mut done = 0;
        while done < size {
            let (mapping, length) = self.access.get_mapping(offset + done, size - done)?;
            let piece = match mapping {
                Mapping::Raw { storage, offset, writable, .. }
                    if writable || direction == Direction::Read =>
                {
                    Some((storage, offset))
                }
                Mapping::Zero { .. } if direction == Direction::Read => None,
                _ => return Ok(None),
            };
            let goes_on = match (&found, piece) {
                (None, _) | (Some(None), None) => true,
                (Some(Some((first, at))), Some((storage, offset))) => {
                    address(first) == address(storage) && at.checked_add(done) == Some(offset)
                }
                _ => false,
            };
            if !goes_on || length == 0 {
                return Ok(None);
            }
            found.get_or_insert(piece);
            done += length.min(size - done);
        }
        let Some(piece) = found else { return Ok(None) };
        let Some((storage, offset)) = piece else { return Ok(Some(Spot::Zeroes)) };
        let (file, length) = (self.file_of(storage), length_of(storage)?);
        // What is behind the file's end is imago's to write, who keeps in mind how long the file is, and no read's.
        let is_there = offset.checked_add(size).is_some_and(|end| end <= length);
        Ok(file.filter(|_| is_there).map(|file| Spot::InFile {
            file: Arc::clone(file),
            offset,
            length,
            alignment: [storage.mem_align() as u64, storage.req_align() as u64],
        }))
    }

    /// Whether each block of a range that is in a file is within its length.
    pub fn check_range(&self, mut offset: u64, mut size: u64) -> io::Result<()> {
        while size > 0 {
            let (mapping, length) = self.access.get_mapping(offset, size)?;
            if let Mapping::Raw { storage, offset, .. } = mapping
                && offset >= storage.size()?
            {
                return Err(io::Error::other("the image's file is shorter than its tables say"));
            }
            if length == 0 {
                return Ok(());
            }
            offset += length;
            size = size.saturating_sub(length);
        }
        Ok(())
    }

    /// Whether a range can be written to without that a table changes, and without that what is beside it is read and written as well.
    pub fn is_in_place(&self, mut offset: u64, mut size: u64) -> io::Result<bool> {
        while size > 0 {
            let (mapping, length) = self.access.get_mapping(offset, size)?;
            let Mapping::Raw { storage, offset: at, writable: true, .. } = mapping else {
                return Ok(false);
            };
            let length = length.min(size);
            let (address, unit) = (storage.mem_align() as u64, storage.req_align() as u64);
            let is_aligned = at.is_multiple_of(unit) && length.is_multiple_of(unit.max(address));
            if length == 0 || !is_aligned {
                return Ok(false);
            }
            offset += length;
            size -= length;
        }
        Ok(true)
    }
}

impl ImageFile {
    /// Whether it is shorter than so many bytes by now.
    pub fn is_cut(&self, length: u64) -> io::Result<bool> {
        // Asked with each request: `File::metadata` would look for it by an empty path, which costs the host several times as much.
        Ok(self.is_regular && u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0) < length)
    }

    /// Says that it is, of an image at this path.
    pub fn why_cut(&self, image: &Path) -> String {
        match self.path.as_deref().filter(|path| *path != image) {
            Some(path) => format!("its backing file '{}' has become shorter", path.display()),
            None => "the image's file has become shorter".to_owned(),
        }
    }
}
