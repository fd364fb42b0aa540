//! A kernel as a person gives it, understood, but not yet in memory.
//!
//! [`Kernel::open`] takes a `bzImage` (unpacked on the host), a `vmlinux`, a
//! Multiboot kernel, or any of them compressed as a whole. Everything else is an error that
//! says what the file is instead. A packed kernel is unpacked only as far as
//! that takes; the rest of it comes out while it is placed (`load`), and may
//! turn out to be damaged then.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryError};

use super::input::Input;
use super::unpack::{self, Compression, Unpacker};
use super::{bzimage, command_line, elf, foreign, layout, load, multiboot};

/// Default for the `limit` of [`Kernel::open`]: more than any kernel that
/// boots, little enough not to fill the host's memory.
pub const DEFAULT_LIMIT: u64 = 1 << 30;

/// How much of a file is looked at to tell what it is.
const HEAD: usize = bzimage::HEAD;

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
    #[error("it is {0}, not a kernel for x86-64 (a bzImage, an ELF vmlinux or a Multiboot kernel)")]
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
    /// A Multiboot kernel, but not a usable one.
    #[error(transparent)]
    Multiboot(#[from] multiboot::header::Error),
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
    /// In the file, or a part of it: a `vmlinux` may carry a gigabyte of
    /// debugging information that nobody wants to read.
    Stored(Input),
    /// Still packed, but for the beginning.
    Packed(Unpacker),
}

/// A kernel that can be placed in guest memory, once.
#[derive(Debug)]
pub struct Kernel {
    source: Source,
    elf: elf::Elf,
    header: Option<setup_header>,
    compression: Option<Compression>,
    version: Option<String>,
    is_multiboot: bool,
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
        // The system's own files (/proc) have bytes, but no length.
        if metadata.is_file() && metadata.len() > 0 {
            return Kernel::read(Input::file(file, metadata.len()), limit);
        }
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::Read)?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooBig(limit));
        }
        Kernel::from_bytes(bytes, limit)
    }

    /// Reads the kernel that `bytes` are, as [`Kernel::open`] does a file's.
    pub fn from_bytes(bytes: Vec<u8>, limit: u64) -> Result<Kernel, Error> {
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        Kernel::read(Input::bytes(bytes), limit)
    }

    fn read(input: Input, limit: u64) -> Result<Kernel, Error> {
        let head = input.head(HEAD).map_err(Error::Read)?;
        if input.length() > limit && !elf::detect(&head) {
            return Err(Error::TooBig(limit));
        }
        match Compression::detect(&head) {
            Some(_) if !bzimage::detect(&head) => Kernel::from_packed(input, limit),
            _ => Kernel::from_image(input, &head, limit),
        }
    }

    /// Reads a file that is compressed as a whole.
    fn from_packed(input: Input, limit: u64) -> Result<Kernel, Error> {
        let unpacker = Unpacker::new(input, limit)?;
        let multiboot = multiboot_header(unpacker.chunk());
        if elf::detect(unpacker.chunk()) && multiboot.is_none() {
            return Kernel::from_packed_elf(unpacker);
        }
        if !bzimage::detect(unpacker.chunk()) && multiboot.is_none() {
            return Err(Error::NotAKernel(foreign::describe(unpacker.chunk())));
        }
        // Twice packed: nobody does that but by mistake, and it is small. So is a Multiboot kernel.
        let compression = unpacker.compression();
        let input = Input::bytes(unpacker.into_bytes()?);
        let head = input.head(HEAD).map_err(Error::Read)?;
        let mut kernel = Kernel::from_image(input, &head, limit)?;
        kernel.compression = kernel.compression.or(Some(compression));
        Ok(kernel)
    }

    /// Reads a file that is not compressed as a whole and begins with `head`.
    fn from_image(input: Input, head: &[u8], limit: u64) -> Result<Kernel, Error> {
        if let Some(header) = multiboot_header(head) {
            let elf = header.image(head, input.length())?;
            let kernel = Kernel::of(Source::Stored(input), elf, None);
            return Ok(Kernel { is_multiboot: true, ..kernel });
        }
        if elf::detect(head) {
            return Kernel::from_stored_elf(input, head);
        }
        if !bzimage::detect(head) {
            return Err(Error::NotAKernel(foreign::describe(head)));
        }
        let image = bzimage::parse(head, input.length())?;
        let payload = input.part(image.payload);
        let head = payload.head(HEAD).map_err(Error::Read)?;
        let kernel = if elf::detect(&head) {
            Kernel::from_stored_elf(payload, &head)?
        } else {
            let unpacker = Unpacker::new(payload, limit)?;
            if !elf::detect(unpacker.chunk()) {
                return Err(elf::Error::Headers("the bzImage contains no ELF file".into()).into());
            }
            Kernel::from_packed_elf(unpacker)?
        };
        Ok(Kernel { header: Some(image.header), version: image.version, ..kernel })
    }

    fn from_stored_elf(input: Input, head: &[u8]) -> Result<Kernel, Error> {
        let elf = elf::Elf::parse(head, Some(input.length()))?;
        Ok(Kernel::of(Source::Stored(input), elf, None))
    }

    fn from_packed_elf(unpacker: Unpacker) -> Result<Kernel, Error> {
        let elf = elf::Elf::parse(unpacker.chunk(), None)?;
        if elf.file_end() > unpacker.limit() {
            return Err(unpacker.too_big().into());
        }
        let compression = Some(unpacker.compression());
        Ok(Kernel::of(Source::Packed(unpacker), elf, compression))
    }

    fn of(source: Source, elf: elf::Elf, compression: Option<Compression>) -> Kernel {
        Kernel { source, elf, header: None, compression, version: None, is_multiboot: false }
    }

    /// Whether it is started as a Multiboot kernel: it is not Linux.
    #[must_use]
    pub fn is_multiboot(&self) -> bool {
        self.is_multiboot
    }

    /// Its segments and entry.
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

    /// The version's first word, as `uname -r` says it.
    #[must_use]
    pub fn release(&self) -> Option<&str> {
        self.version().and_then(|version| version.split(' ').next())
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
            None if self.is_multiboot => usize::MAX,
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

    /// The range of guest memory that it takes, if that ends before
    /// `memory_end`.
    pub(crate) fn range(&self, memory_end: u64) -> Result<Range<u64>, Error> {
        let range = self.elf.range();
        if range.end > memory_end {
            return Err(Error::NoRoom { needed: range.end, memory: memory_end });
        }
        Ok(range)
    }

    /// Copies the segments to their physical addresses in `memory`; that
    /// they have room there is [`Kernel::range`]'s to tell. Returns the
    /// physical address of PVH's entry, if the kernel's notes give one.
    pub(crate) fn load<M: GuestMemoryBackend>(self, memory: &M) -> Result<Option<u64>, Error> {
        let notes = match self.source {
            Source::Stored(input) => load::stored(&input, &self.elf, memory)?,
            Source::Packed(unpacker) => load::packed(unpacker, &self.elf, memory)?,
        };
        Ok(self
            .elf
            .notes
            .iter()
            .zip(notes)
            .find_map(|(notes, bytes)| elf::pvh_entry(notes, &bytes)))
    }
}

/// The Multiboot header of a file that begins with `head`, unless it is a `bzImage`.
fn multiboot_header(head: &[u8]) -> Option<multiboot::Header> {
    if bzimage::detect(head) && !elf::detect(head) {
        return None;
    }
    multiboot::Header::find(head)
}

#[cfg(test)]
#[path = "kernel_test.rs"]
mod kernel_test;
