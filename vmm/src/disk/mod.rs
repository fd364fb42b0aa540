//! [`Disk`]: an image file as blocks: raw or qcow2, by `imago`.
//!
//! - [`lock`]: who else may have the file open;
//! - `open`: from a file to an image; `image`: which files its blocks are in;
//! - [`straight`]: a request is done at such a file itself, where that is all there is to it;
//! - [`qcow2`]: a qcow2 image is made ready to be written to;
//! - [`watch`]: that a file may have become longer.
//!
//! What is written is in the host's page cache, unless [`Options::direct`]; [`Disk::flush`] has it be on the medium. An image whose format
//! nobody has named is taken by its file's name, and not by its contents: those are the guest's, who could make of a raw image one that
//! names any file of the host's as its backing file.
//!
//! A file that becomes shorter while it is in use, be it one that the image names, has taken blocks with it: what is asked for from then on fails.
//!
//! A process that is killed leaves a qcow2 image whole, with all in it that was flushed; clusters may be left that are counted as used and are
//! not (`qemu-img check -r leaks` frees them). So what gives a place in the file to blocks, or takes it away, is done by one thread at a time:
//! `imago` orders its writes of tables only as long as nobody else changes them. A host that loses its power may leave more behind, as
//! between two flushes nothing orders what it writes to its medium.
//!
//! Not implemented: qcow2 images with snapshots in them or on block devices are not written to, a qcow2 image that is made larger while it is in use is
//! not seen to be, and its file is not made smaller by what the guest discards: that is used again.

mod image;
pub mod lock;
mod open;
pub mod qcow2;
pub mod straight;
pub mod watch;

use std::fs::File as HostFile;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hv::host_error::explain;
use imago::io_buffers::{IoVector, IoVectorMut};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use vm_memory::VolatileSlice;

use self::image::{Image, Opened};

/// Bytes of a sector, in which virtio counts.
pub const SECTOR: u64 = 512;

/// Bytes that are written at once where zeroes are written as such.
const FILLED_AT_ONCE: u64 = 1 << 20;

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
    /// It is a qcow2 image that is not written to.
    #[error("it cannot be written to as a qcow2 image: {0}")]
    Tables(#[from] qcow2::Error),
    /// There is no place for what the guest writes.
    #[error("there is no place for what the guest writes: {}", explain(.0))]
    Ephemeral(io::Error),
    /// Not whole sectors.
    #[error("its size, {0} bytes, is not a multiple of {SECTOR}")]
    OddSize(u64),
}

/// An image.
pub struct Disk {
    /// What changes where in the file blocks are has it alone, and so has what discards. What is done at a file itself shares it until that is
    /// done ([`straight::InFile`]).
    image: Arc<RwLock<Image>>,
    /// The image's own file, to look at its length.
    file: Arc<HostFile>,
    options: Options,
    format: Format,
    size: AtomicU64,
    /// Why nothing is read or written any more.
    lost: OnceLock<String>,
}

impl Disk {
    /// Opens an image.
    ///
    /// # Errors
    /// When it cannot be used, or is in use.
    pub fn open(options: &Options) -> Result<Self, Error> {
        let writes = !options.read_only && !options.ephemeral;
        let file = open::open_file(&options.path, writes)?;
        let format = open::format_of(&file, options)?;
        if writes && format == Format::Qcow2 {
            qcow2::prepare(&file)?;
        }
        let own = file.try_clone().map_err(Error::Open)?;
        let opened = Opened::default();
        let access = open::open_image(file, format, options, writes, &opened)?;
        let size = access.size();
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::OddSize(size));
        }
        let access = if options.ephemeral { open::overlay(access, &opened)? } else { access };
        let image = Image::new(access, &opened).map_err(Error::Open)?;
        Ok(Self {
            image: Arc::new(RwLock::new(image)),
            file: Arc::new(own),
            options: options.clone(),
            format,
            size: size.into(),
            lost: OnceLock::new(),
        })
    }

    /// In bytes, a multiple of [`SECTOR`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether nothing can be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// The image's file.
    #[must_use]
    pub fn file(&self) -> &HostFile {
        &self.file
    }

    fn shared(&self) -> RwLockReadGuard<'_, Image> {
        self.image.read()
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Image> {
        self.image.write()
    }

    /// Reads into the guest's memory.
    ///
    /// # Errors
    /// The host's, and that a file has become shorter, or never was as long as it says: what is not in it is not zero.
    pub fn read(&self, to: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.is_lost()?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(to);
        // imago asserts that there is something, in is_empty as well.
        let size = vector.len();
        if size == 0 {
            return Ok(());
        }
        let image = self.shared();
        if self.is_mapped() {
            image.check_range(offset, size)?;
        }
        image.access.readv(vector, offset)?;
        self.check(&image)
    }

    /// Writes from it.
    ///
    /// # Errors
    /// The host's, and that a file has become shorter.
    pub fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        self.is_lost()?;
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        let size = vector.len();
        if size == 0 {
            return Ok(());
        }
        let image = self.shared();
        self.check(&image)?;
        let is_alone = self.needs_order() && {
            // imago writes of what is not aligned more than it is, beyond its end, too.
            let (address, unit) = (image.access.mem_align(), image.access.req_align());
            !vector.is_aligned(address, unit) || !image.is_in_place(offset, size)?
        };
        if is_alone {
            drop(image);
            return self.alone().access.writev(vector, offset);
        }
        image.access.writev(vector, offset)
    }

    /// When this returns, all that was written before is on the medium.
    ///
    /// # Errors
    /// The host's: it may be on it, or not. If the host says that what it had is not on it, nothing more is read or written.
    pub fn flush(&self) -> io::Result<()> {
        self.check_all()?;
        if self.is_ordered() {
            self.alone().access.flush()?;
        } else {
            self.shared().access.flush()?;
        }
        self.synced(self.shared().access.sync())
    }

    /// The guest does not need what is there any more: it may read as anything.
    ///
    /// # Errors
    /// The host's. That it cannot do so is none.
    pub fn discard(&self, offset: u64, size: u64) -> io::Result<()> {
        self.check_all()?;
        if size == 0 {
            return Ok(());
        }
        match self.alone().access.discard_to_any(offset, size) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Has bytes be zero.
    ///
    /// # Errors
    /// The host's.
    pub fn write_zeroes(&self, offset: u64, size: u64) -> io::Result<()> {
        self.check_all()?;
        if size == 0 {
            return Ok(());
        }
        let result = match self.needs_order() {
            true => self.alone().access.write_zeroes(offset, size),
            false => self.shared().access.write_zeroes(offset, size),
        };
        match result {
            // Version 2 of qcow2 knows no clusters of zeroes.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.fill(offset, size),
            result => result,
        }
    }

    /// Writes zeroes as any other bytes.
    fn fill(&self, offset: u64, size: u64) -> io::Result<()> {
        let mut zeroes = vec![0; size.min(FILLED_AT_ONCE) as usize];
        for done in (0..size).step_by(FILLED_AT_ONCE as usize) {
            let part = (size - done).min(FILLED_AT_ONCE) as usize;
            self.write(&[VolatileSlice::from(&mut zeroes[..part])], offset + done)?;
        }
        Ok(())
    }

    /// Whether it becomes larger when its file does: raw images do.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        self.format == Format::Raw && !self.options.ephemeral
    }

    /// Looks whether its file has been made longer, and gives whether the disk is larger now.
    pub fn grow(&self) -> bool {
        if !self.can_grow() || self.check_all().is_err() {
            return false;
        }
        let mut image = self.alone();
        let grown = length_of(&self.file).ok().map(|size| size - size % SECTOR);
        if grown.is_none_or(|size| size <= self.size()) {
            return false;
        }
        let writes = !self.options.read_only;
        let again = || {
            let opened = Opened::default();
            let file = self.file.try_clone().map_err(Error::Open)?;
            let access = open::open_image(file, self.format, &self.options, writes, &opened)?;
            Image::new(access, &opened).map_err(Error::Open)
        };
        // The disk is as large as it was, then.
        let Ok(again) = again() else { return false };
        let size = again.access.size() - again.access.size() % SECTOR;
        *image = again;
        self.size.store(size, Ordering::Release);
        true
    }

    /// Whether its blocks are anywhere in a file.
    fn is_mapped(&self) -> bool {
        self.format == Format::Qcow2 || self.options.ephemeral
    }

    /// Whether it matters in which order its tables are written.
    fn is_ordered(&self) -> bool {
        self.format == Format::Qcow2 && !self.options.read_only && !self.options.ephemeral
    }

    /// Whether a write that is no plain one is to be alone: one that changes tables, or, past the page cache, reads what is beside it
    /// and writes that again.
    fn needs_order(&self) -> bool {
        self.is_ordered() || self.options.direct
    }

    /// Whether all is there that was.
    fn is_lost(&self) -> io::Result<()> {
        match self.lost.get() {
            Some(why) => Err(io::Error::other(why.clone())),
            None => Ok(()),
        }
    }

    /// Nothing is read or written from now on. Gives why.
    fn lose(&self, why: String) -> io::Error {
        io::Error::other(self.lost.get_or_init(|| why).clone())
    }

    fn check(&self, image: &Image) -> io::Result<()> {
        if let Some(cut) = image.find_cut()? {
            return Err(self.lose(cut.why_cut(&self.options.path)));
        }
        self.is_lost()
    }

    fn check_all(&self) -> io::Result<()> {
        self.is_lost()?;
        self.check(&self.shared())
    }
}

impl Drop for Disk {
    /// What the guest has not flushed is in the image, too, if nothing goes wrong. Who wants to know has flushed it.
    fn drop(&mut self) {
        if self.is_ordered() {
            let _ = self.alone().access.flush();
        }
    }
}

/// Bytes of a file or a block device.
fn length_of(mut file: &HostFile) -> io::Result<u64> {
    match file.metadata()? {
        facts if facts.file_type().is_block_device() => file.seek(SeekFrom::End(0)),
        facts => Ok(facts.len()),
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
