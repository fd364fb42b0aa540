//! A kernel as a person gives it, read and understood, not yet in memory.
//!
//! [`Kernel::open`] takes a `bzImage` (unpacked on the host), a `vmlinux`,
//! or either of them compressed as a whole. Everything else is an error that
//! says what the file is instead.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use object::ReadCache;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::unpack::{self, Compression, unpack};
use super::{bzimage, command_line, elf, layout};

/// Default for the `limit` of [`Kernel::open`]: more than any kernel that
/// boots, little enough not to fill the host's memory.
pub const DEFAULT_LIMIT: u64 = 1 << 30;

/// Linux's `initrd_addr_max` where no setup header gives one.
const DEFAULT_INITRD_MAX: u32 = 0x7fff_ffff;

/// Why a file cannot be used as a kernel. The caller names the file.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open it: {}", reason(.0))]
    Open(#[source] io::Error),
    /// The file cannot be read.
    #[error("cannot read it: {}", reason(.0))]
    Read(#[source] io::Error),
    /// It is a directory.
    #[error("it is a directory, not a kernel")]
    Directory,
    /// It has no bytes.
    #[error("it is an empty file")]
    Empty,
    /// Bigger than the caller allows.
    #[error("it is bigger than {0} bytes")]
    TooBig(u64),
    /// It is something else.
    #[error("it is {0}, not a kernel for x86-64 (a bzImage or an ELF vmlinux)")]
    NotAKernel(String),
    /// A `bzImage`, but not a usable one.
    #[error(transparent)]
    BzImage(#[from] bzimage::Error),
    /// The packed part cannot be unpacked.
    #[error("cannot unpack the kernel: {0}")]
    Unpack(#[from] unpack::Error),
    /// An ELF file, but not a usable one.
    #[error(transparent)]
    Elf(#[from] elf::Error),
    /// The kernel does not fit in the guest's memory.
    #[error(
        "the kernel needs memory up to {needed} bytes, but the guest has {memory}: give it more memory"
    )]
    NoRoom {
        /// End of the kernel's last segment.
        needed: u64,
        /// End of the memory that it may use.
        memory: u64,
    },
    /// The guest's memory did not take it.
    #[error("cannot write the kernel to guest memory")]
    Write(#[source] GuestMemoryError),
}

/// What a person wants to read of an I/O error.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

/// Where the segments' bytes are.
#[derive(Debug)]
enum Source {
    /// Unpacked, in memory.
    Bytes(Vec<u8>),
    /// Still in the file: a `vmlinux` may carry a gigabyte of debugging
    /// information that nobody wants to read.
    File(File),
}

/// A kernel that can be placed in guest memory.
#[derive(Debug)]
pub struct Kernel {
    source: Source,
    elf: elf::Elf,
    header: Option<setup_header>,
    compression: Option<Compression>,
    version: Option<String>,
}

impl Kernel {
    /// Reads the kernel in the file at `path`, which may be no bigger than
    /// `limit` bytes, nor unpack to more ([`DEFAULT_LIMIT`] does). A
    /// `vmlinux` is not counted: it is read segment by segment.
    pub fn open(path: &Path, limit: u64) -> Result<Kernel, Error> {
        let file = File::open(path).map_err(Error::Open)?;
        let metadata = file.metadata().map_err(Error::Open)?;
        if metadata.is_dir() {
            return Err(Error::Directory);
        }
        let mut magic = [0; 4];
        if metadata.is_file() && file.read_exact_at(&mut magic, 0).is_ok() && elf::detect(&magic) {
            let cache = ReadCache::new(file);
            let elf = elf::Elf::parse(&cache)?;
            return Ok(Kernel::from_elf(Source::File(cache.into_inner()), elf));
        }
        let mut bytes = Vec::new();
        let room = usize::try_from(metadata.len().min(limit)).unwrap_or(0);
        bytes.try_reserve_exact(room + 1).map_err(|_| Error::TooBig(limit))?;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::Read)?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooBig(limit));
        }
        Kernel::from_bytes(bytes, limit)
    }

    /// Reads the kernel that `bytes` are, unpacking to at most `limit` bytes.
    pub fn from_bytes(bytes: Vec<u8>, limit: u64) -> Result<Kernel, Error> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let whole = match Compression::detect(&bytes) {
            Some(compression) if !bzimage::detect(&bytes) => Some(compression),
            _ => None,
        };
        let bytes = if whole.is_some() { unpack(&bytes, None, limit)? } else { bytes };
        let mut kernel = Kernel::from_image(bytes, limit)?;
        kernel.compression = kernel.compression.or(whole);
        Ok(kernel)
    }

    /// Reads a file that is not compressed as a whole.
    fn from_image(bytes: Vec<u8>, limit: u64) -> Result<Kernel, Error> {
        if elf::detect(&bytes) {
            let elf = elf::Elf::parse(bytes.as_slice())?;
            return Ok(Kernel::from_elf(Source::Bytes(bytes), elf));
        }
        if !bzimage::detect(&bytes) {
            return Err(Error::NotAKernel(super::foreign::describe(&bytes)));
        }
        let image = bzimage::parse(&bytes)?;
        let (vmlinux, compression) = if elf::detect(image.payload) {
            (image.payload.to_vec(), None)
        } else {
            let vmlinux = unpack(image.payload, image.unpacked_size(), limit)?;
            (vmlinux, Compression::detect(image.payload))
        };
        if !elf::detect(&vmlinux) {
            return Err(elf::Error::Headers("the bzImage contains no ELF file".into()).into());
        }
        let elf = elf::Elf::parse(vmlinux.as_slice())?;
        Ok(Kernel {
            header: Some(image.header),
            version: image.version,
            compression,
            ..Kernel::from_elf(Source::Bytes(vmlinux), elf)
        })
    }

    fn from_elf(source: Source, elf: elf::Elf) -> Kernel {
        Kernel { source, elf, header: None, compression: None, version: None }
    }

    /// Its segments and entries.
    #[must_use]
    pub fn elf(&self) -> &elf::Elf {
        &self.elf
    }

    /// Its setup header, if it came as a `bzImage`.
    #[must_use]
    pub fn setup_header(&self) -> Option<&setup_header> {
        self.header.as_ref()
    }

    /// How it was packed.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// Its version, if it came as a `bzImage`: a `vmlinux` does not say.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether the kernel will run at a random address: never. Its own
    /// decompressor would choose one and relocate it, and that does not run;
    /// symbols are where System.map says.
    #[must_use]
    pub fn kaslr(&self) -> bool {
        false
    }

    /// How long its command line may be, without the NUL.
    #[must_use]
    pub fn command_line_limit(&self) -> usize {
        let limit = match self.header {
            Some(header) if header.cmdline_size > 0 => header.cmdline_size as usize,
            _ => command_line::DEFAULT_LIMIT,
        };
        limit.min(layout::COMMAND_LINE_SIZE as usize - 1)
    }

    /// The highest address that a byte of the initial file system may have.
    #[must_use]
    pub(crate) fn initrd_address_max(&self) -> u64 {
        let max = self.header.map_or(DEFAULT_INITRD_MAX, |header| header.initrd_addr_max);
        u64::from(max)
    }

    /// Copies the segments to their physical addresses in `memory`, whose
    /// lower part ends at `memory_end`. Returns the range that they take.
    ///
    /// Memory that the segments have beyond their bytes is not written: it
    /// must be zero, as a new guest's memory is.
    pub(crate) fn load<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        memory_end: u64,
    ) -> Result<Range<u64>, Error> {
        let range = self.elf.range();
        if range.end > memory_end {
            return Err(Error::NoRoom { needed: range.end, memory: memory_end });
        }
        for segment in &self.elf.segments {
            self.load_segment(memory, segment)?;
        }
        Ok(range)
    }

    fn load_segment<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        segment: &elf::Segment,
    ) -> Result<(), Error> {
        let address = GuestAddress(segment.address);
        // Both fit: `Elf::parse` has checked them against the source's length.
        let size = segment.file_size as usize;
        match &self.source {
            Source::Bytes(bytes) => {
                let start = segment.offset as usize;
                let bytes = bytes.get(start..start + size).ok_or(elf::Error::Truncated {
                    length: bytes.len() as u64,
                    needed: segment.offset + segment.file_size,
                })?;
                memory.write_slice(bytes, address).map_err(Error::Write)
            }
            Source::File(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(segment.offset)).map_err(Error::Read)?;
                memory.read_exact_volatile_from(address, &mut file, size).map_err(Error::Write)
            }
        }
    }
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod kernel_test;
