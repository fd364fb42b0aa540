//! Kernels that start without being unpacked first: [`repack`] makes a `bzImage` of a `bzImage`, in which the kernel is an ELF file of
//! what goes into memory. Long stretches of zeros are not in it, so that nobody copies them; a third of Debian's kernel are some.
//!
//! [`Kernel::open`](super::Kernel::open) reads that as any other. Nothing else can boot it: there is still the decompressor in front,
//! which finds nothing to unpack.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use object::LittleEndian;
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_EXEC, EV_CURRENT, FileFlags,
    FileHeader64, Ident, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramHeader64, ProgramType,
    SHN_UNDEF,
};
use object::endian::{U16, U32, U64};
use object::pod::bytes_of;
use thiserror::Error;

use super::elf::{Elf, Notes, Segment};
use super::input::Input;
use super::layout::PAGE;
use super::load::unpack;
use super::unpack::Unpacker;
use super::{bzimage, elf, kernel};

/// Where the setup header has the payload's length. See: Linux, Documentation/arch/x86/boot.rst, `payload_length`.
const PAYLOAD_LENGTH: u64 = 0x24c;

/// How many zeros are left out, rather than written: to begin another segment costs as much as to copy some pages.
const STRETCH: u64 = 16 * PAGE;

/// More program headers than a kernel needs.
const MAX_HEADERS: usize = 64;

/// How much of the ELF file is its headers'.
const HEADERS: u64 = (size_of::<FileHeader>() + MAX_HEADERS * size_of::<ProgramHeader>()) as u64;

type FileHeader = FileHeader64<LittleEndian>;
type ProgramHeader = ProgramHeader64<LittleEndian>;

/// Why there is no such file.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel can't be used, packed or not.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The kernel has zeros in too many places.
    #[error("the kernel is of more than {MAX_HEADERS} parts, with zeros in between")]
    Scattered,
    /// The file can't be written.
    #[error("cannot write it: {0}")]
    Write(#[source] io::Error),
}

/// Writes the `bzImage` in the file at `from`, which may unpack to `limit` bytes, to `to`. Gives how many bytes that are; 0, and nothing
/// is written, if it is no `bzImage`, or not packed.
///
/// # Errors
/// When the file can't be read or is damaged, or would become larger than `limit`; when `to` can't be written. Part of it may be, then.
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
    let elf = Elf::parse(unpacker.chunk(), None).map_err(kernel::Error::from)?;
    to.write_all(&before).map_err(Error::Write)?;
    let mut payload = Payload::new(to, before.len() as u64, limit)?;
    let notes = unpack(unpacker, &elf, |bytes, address| payload.place(bytes, address))?;
    payload.finish(&elf, &notes)
}

/// The ELF file, while it is written.
struct Payload<'a, W> {
    to: &'a mut W,
    /// Where in `to` it begins.
    start: u64,
    /// Where the next byte goes.
    end: u64,
    /// As far as it may go.
    limit: u64,
    segments: Vec<Segment>,
}

impl<'a, W: Write + Seek> Payload<'a, W> {
    fn new(to: &'a mut W, start: u64, limit: u64) -> Result<Self, Error> {
        // It has to say how long it is in 32 bits.
        let limit = limit.min(u32::MAX.into());
        let mut payload = Self { to, start, end: start, limit, segments: Vec::new() };
        payload.skip(HEADERS)?;
        Ok(payload)
    }

    /// Adds what goes to `address` in memory: to the last segment, with the zeros in between, unless there are many.
    fn place(&mut self, bytes: &[u8], address: u64) -> Result<(), Error> {
        let size = bytes.len() as u64;
        let last = self.segments.last_mut();
        let near = last.and_then(|last| {
            let zeros = address.checked_sub(last.address + last.file_size)?;
            (zeros < STRETCH).then_some((last, zeros))
        });
        let skipped = if let Some((last, zeros)) = near {
            last.file_size += zeros + size;
            last.memory_size = last.file_size;
            zeros
        } else {
            if self.segments.len() == MAX_HEADERS {
                return Err(Error::Scattered);
            }
            // A page of the file is one of memory: so they are copied best.
            let skipped = address.wrapping_sub(self.end) % PAGE;
            let offset = self.end + skipped - self.start;
            self.segments.push(Segment { offset, file_size: size, address, memory_size: size });
            skipped
        };
        self.skip(skipped)?;
        self.append(bytes)
    }

    /// Leaves zeros.
    fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.end += count;
        self.to.seek(SeekFrom::Start(self.end)).map_err(Error::Write)?;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.end += bytes.len() as u64;
        if self.end > self.limit {
            return Err(kernel::Error::TooBig(self.limit).into());
        }
        self.to.write_all(bytes).map_err(Error::Write)
    }

    /// Writes what `elf` has besides, the headers, and how long all that is. Gives the length of the whole file.
    fn finish(mut self, elf: &Elf, notes: &[Vec<u8>]) -> Result<u64, Error> {
        let mut placed = Vec::new();
        for (from, bytes) in elf.notes.iter().zip(notes) {
            let (offset, size) = (self.end - self.start, bytes.len() as u64);
            placed.push(Notes { offset, size, ..*from });
            self.append(bytes)?;
        }
        // What the kernel needs besides its bytes is memory from its beginning to its end.
        let Range { start: address, end } = elf.range();
        let all = Segment { offset: 0, file_size: 0, address, memory_size: end - address };
        self.segments.insert(0, all);
        let headers = headers(elf.entry, &self.segments, &placed)?;
        let length = self.end - self.start;
        self.put(self.start, &headers)?;
        self.put(PAYLOAD_LENGTH, &(length as u32).to_le_bytes())?; // Within `limit`.
        Ok(self.end)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let sought = self.to.seek(SeekFrom::Start(at));
        sought.and_then(|_| self.to.write_all(bytes)).map_err(Error::Write)
    }
}

/// The headers of an ELF file, at most [`HEADERS`] bytes.
fn headers(entry: u64, segments: &[Segment], notes: &[Notes]) -> Result<Vec<u8>, Error> {
    let count = segments.len() + notes.len();
    if count > MAX_HEADERS {
        return Err(Error::Scattered);
    }
    let mut headers = bytes_of(&file_header(entry, count as u16)).to_vec();
    for segment in segments {
        headers.extend(bytes_of(&program_header(PT_LOAD, segment, 1)));
    }
    for notes in notes {
        let Notes { offset, size, align } = *notes;
        let segment = Segment { offset, file_size: size, address: 0, memory_size: 0 };
        headers.extend(bytes_of(&program_header(PT_NOTE, &segment, align)));
    }
    Ok(headers)
}

fn file_header(entry: u64, count: u16) -> FileHeader {
    let half = |size: usize| U16::new(LittleEndian, size as u16);
    FileHeader {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LittleEndian, ET_EXEC),
        e_machine: U16::new(LittleEndian, EM_X86_64),
        e_version: U32::new(LittleEndian, EV_CURRENT.0.into()),
        e_entry: U64::new(LittleEndian, entry),
        e_phoff: U64::new(LittleEndian, size_of::<FileHeader>() as u64),
        e_shoff: U64::new(LittleEndian, 0),
        e_flags: U32::new(LittleEndian, FileFlags(0)),
        e_ehsize: half(size_of::<FileHeader>()),
        e_phentsize: half(size_of::<ProgramHeader>()),
        e_phnum: U16::new(LittleEndian, count),
        e_shentsize: half(0),
        e_shnum: half(0),
        e_shstrndx: U16::new(LittleEndian, SHN_UNDEF),
    }
}

fn program_header(kind: ProgramType, segment: &Segment, align: u64) -> ProgramHeader {
    let word = |value| U64::new(LittleEndian, value);
    ProgramHeader {
        p_type: U32::new(LittleEndian, kind),
        p_flags: U32::new(LittleEndian, PF_R | PF_W | PF_X),
        p_offset: word(segment.offset),
        p_vaddr: word(segment.address),
        p_paddr: word(segment.address),
        p_filesz: word(segment.file_size),
        p_memsz: word(segment.memory_size),
        p_align: word(align),
    }
}

#[cfg(test)]
#[path = "repack_test.rs"]
mod repack_test;
