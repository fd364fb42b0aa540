//! [`Disk`]: an image file as blocks: raw or qcow2, by `imago`.
//!
//! - [`lock`]: who else may have the file open.
//!
//! What is written is in the host's page cache, unless [`Options::direct`]; [`Disk::flush`] has it be on the medium. An image whose format
//! nobody has named is taken by its file's name, and not by its contents: those are the guest's, who could make of a raw image one that
//! names any file of the host's as its backing file.
//!
//! Not implemented: writing to a qcow2 image. `imago` 0.2 enters a new table of clusters before the cluster is counted as used; a process that is
//! killed in between leaves an image that the next writer overwrites tables of. What is written over such an image ([`Options::ephemeral`])
//! is in a file that ends with the process. Nor: a backing file of a backing file that is not there any more, resizing.

pub mod lock;

use std::fs::File as HostFile;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hv::host_error::explain;
use imago::file::File;
use imago::format::gate::ImplicitOpenGate;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, FormatCreateBuilder, FormatDriverBuilder, StorageOpenOptions};
use vm_memory::VolatileSlice;

/// Bytes of a sector, in which virtio counts.
pub const SECTOR: u64 = 512;

/// By what a qcow2 image begins. See: QEMU, docs/interop/qcow2.txt.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The blocks as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// How an image is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is.
    pub path: PathBuf,
    /// What it is; by its name if nothing is said.
    pub format: Option<Format>,
    /// Nothing is written to it, and the guest cannot.
    pub read_only: bool,
    /// What the guest writes is kept elsewhere, and is gone when the machine is.
    pub ephemeral: bool,
    /// The host's page cache is not used.
    pub direct: bool,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened.
    #[error("{}", explain(.0))]
    Open(io::Error),
    /// Neither a file nor a block device.
    #[error("it is neither a file nor a block device")]
    NotAFile,
    /// Somebody else has it.
    #[error(transparent)]
    Locked(#[from] lock::Held),
    /// Its name says one thing, its contents another.
    #[error("it begins as a qcow2 image does, and its name does not say that it is one")]
    Ambiguous,
    /// It is no image of its format.
    #[error("it cannot be read as {format}: {}", explain(error))]
    Format {
        /// The format.
        format: &'static str,
        /// Why.
        error: io::Error,
    },
    /// It is one that is not written to yet.
    #[error("a qcow2 image can be read here, and not written to")]
    WritesQcow2,
    /// There is no place for what the guest writes.
    #[error("there is no place for what the guest writes: {}", explain(.0))]
    Ephemeral(io::Error),
    /// Not whole sectors.
    #[error("its size, {0} bytes, is not a multiple of {SECTOR}")]
    OddSize(u64),
}

/// Backing files and the like, which images name: opened for reading, while nobody writes to them.
#[derive(Default)]
struct Named {
    direct: bool,
}

impl ImplicitOpenGate<File> for Named {
    fn open_format<F: FormatDriverBuilder<File>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<File>> {
        Ok(FormatAccess::new(builder.write(false).open(Self { direct: self.direct })?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<File> {
        let path = options.get_filename().map(Path::to_path_buf).unwrap_or_default();
        let in_words =
            |error: Error| io::Error::other(format!("backing file '{}': {error}", path.display()));
        let file = open_file(&path, false, self.direct).map_err(in_words)?;
        storage(file, &path, false, self.direct)
    }
}

/// An image.
pub struct Disk {
    /// Discarding needs it alone.
    access: RwLock<FormatAccess<File>>,
    size: u64,
    read_only: bool,
}

impl Disk {
    /// Opens an image.
    ///
    /// # Errors
    /// When it cannot be used, or is in use.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let writes = !options.read_only && !options.ephemeral;
        let file = open_file(&options.path, writes, options.direct)?;
        let format = format_of(&file, options)?;
        if writes && format == Format::Qcow2 {
            return Err(Error::WritesQcow2);
        }
        let access = open_image(file, format, options, writes)?;
        let size = access.size();
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::OddSize(size));
        }
        let access = if options.ephemeral { overlay(access)? } else { access };
        Ok(Self { access: RwLock::new(access), size, read_only: options.read_only })
    }

    /// In bytes, a multiple of [`SECTOR`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether nothing can be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<File>> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, FormatAccess<File>> {
        self.access.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads into the guest's memory.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, to: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(to);
        self.shared().readv(vector, offset)
    }

    /// Writes from it.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        self.shared().writev(vector, offset)
    }

    /// When this returns, all that was written before is on the medium.
    ///
    /// # Errors
    /// The host's: it may be on it, or not.
    pub fn flush(&self) -> io::Result<()> {
        let access = self.shared();
        access.flush()?;
        access.sync()
    }

    /// The guest does not need what is there any more: it may read as anything.
    ///
    /// # Errors
    /// The host's. That it cannot do so is none.
    pub fn discard(&self, offset: u64, size: u64) -> io::Result<()> {
        match self.alone().discard_to_any(offset, size) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Has bytes be zero.
    ///
    /// # Errors
    /// The host's.
    pub fn write_zeroes(&self, offset: u64, size: u64) -> io::Result<()> {
        self.shared().write_zeroes(offset, size)
    }
}

/// Opens a file of the host's, and locks it.
fn open_file(path: &Path, writes: bool, direct: bool) -> Result<HostFile, Error> {
    let mut options = HostFile::options();
    options.read(true).write(writes);
    // Not to wait for a FIFO's other end.
    let flags = libc_flags(direct);
    options.custom_flags(flags);
    let file = options.open(path).map_err(Error::Open)?;
    let kind = file.metadata().map_err(Error::Open)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::NotAFile);
    }
    lock::take(&file, writes)?;
    Ok(file)
}

fn libc_flags(direct: bool) -> i32 {
    let flags = rustix::fs::OFlags::NONBLOCK;
    let direct = if direct { rustix::fs::OFlags::DIRECT } else { rustix::fs::OFlags::empty() };
    (flags | direct).bits() as i32
}

/// For `imago`.
fn storage(file: HostFile, path: &Path, writes: bool, direct: bool) -> io::Result<File> {
    let options = StorageOpenOptions::new().filename(path).write(writes).direct(direct);
    File::from_open_file(file, options)
}

/// What the image is.
fn format_of(file: &HostFile, options: &Options) -> Result<Format, Error> {
    if let Some(format) = options.format {
        return Ok(format);
    }
    let by_name = options.path.extension().is_some_and(|name| name == "qcow2" || name == "qcow");
    // As large as direct I/O may want it to be.
    let mut start = vec![0; 4096];
    let begins_so = match options.direct {
        // Alignment is not this function's to know: another descriptor has none.
        true => HostFile::open(&options.path).and_then(|mut file| file.read(&mut start)),
        false => file.read_at(&mut start, 0),
    };
    let begins_so = begins_so.map_err(Error::Open)? >= 4 && start.starts_with(&QCOW2_MAGIC);
    match (by_name, begins_so) {
        (true, _) => Ok(Format::Qcow2),
        (false, false) => Ok(Format::Raw),
        (false, true) => Err(Error::Ambiguous),
    }
}

fn open_image(
    file: HostFile,
    format: Format,
    options: &Options,
    writes: bool,
) -> Result<FormatAccess<File>, Error> {
    let name = match format {
        Format::Raw => "a raw image",
        Format::Qcow2 => "a qcow2 image",
    };
    let failed = |error| Error::Format { format: name, error };
    let storage = storage(file, &options.path, writes, options.direct).map_err(failed)?;
    let gate = Named { direct: options.direct };
    match format {
        Format::Raw => Raw::builder(storage).write(writes).open(gate).map(FormatAccess::new),
        Format::Qcow2 => {
            let builder = Qcow2::<File>::builder(storage).write(writes);
            builder.open(gate).map(FormatAccess::new)
        }
    }
    .map_err(failed)
}

/// What is written goes to an image in a file without a name.
fn overlay(base: FormatAccess<File>) -> Result<FormatAccess<File>, Error> {
    let failed = Error::Ephemeral;
    let file = tempfile::tempfile().map_err(failed)?;
    let options = StorageOpenOptions::new().write(true);
    let storage = File::from_open_file(file, options).map_err(failed)?;
    let size = base.size();
    let create = Qcow2::<File>::create_builder(storage).size(size);
    let open = |image| Ok(Qcow2::<File>::builder(image).backing(Some(base)).write(true));
    create.create_open(Named::default(), open).map(FormatAccess::new).map_err(failed)
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
