//! The kernel's ELF file, `vmlinux`: inside a `bzImage`, or as it was linked; or a Multiboot kernel.
//!
//! [`Elf::parse`] reads headers only, at the file's beginning: a `vmlinux` with
//! a gigabyte of debugging information costs no more than its segments, and one
//! that is being unpacked is understood before its segments have come out.
//! See: System V ABI, chapters 4 and 5; Linux, arch/x86/kernel/vmlinux.lds.S.

use std::ops::Range;

use object::LittleEndian;
use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2LSB, EM_386, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD,
    PT_NOTE,
};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use thiserror::Error;

use super::layout;

/// The note that carries PVH's entry. See: Linux, include/xen/interface/elfnote.h.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// A kernel's notes are a few hundred bytes; more than this, all together, is not read.
const NOTES_LIMIT: u64 = 1 << 20;

/// Why an ELF file is no usable kernel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Another processor's.
    #[error("it is a kernel for {0}, not for x86-64")]
    Architecture(String),
    /// The headers make no sense.
    #[error("its ELF headers are damaged ({0})")]
    Headers(String),
    /// A segment lies outside of the file.
    #[error("the ELF file is cut off: it has {length} bytes and needs {needed}")]
    Truncated {
        /// Bytes there are.
        length: u64,
        /// Bytes that the headers speak of.
        needed: u64,
    },
    /// Nothing to load: an object file, or debugging information alone.
    #[error("the ELF file contains nothing to load: it is an object or debug file, not a kernel")]
    NoSegments,
    /// A segment where the first megabyte's own contents are.
    #[error("the ELF file loads at {0:#x}, below 1 MiB: it is an ordinary program, not a kernel")]
    LowSegment(u64),
    /// The entry is in none of the segments.
    #[error("the ELF file starts at {0:#x}, where it has no code")]
    Entry(u64),
}

/// A part of the file that goes into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Physical address.
    pub address: u64,
    /// Bytes in memory: those beyond `file_size` are zero.
    pub memory_size: u64,
}

/// Bytes of the file that are notes: the kernel says something about itself in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notes {
    /// Where they begin in the file.
    pub offset: u64,
    /// How many bytes they are.
    pub size: u64,
    /// To how many bytes each is aligned.
    pub align: u64,
}

/// What has to be known of a kernel's ELF file to load and start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Its segments, in the file's order; at least one.
    pub segments: Vec<Segment>,
    /// Physical address of the entry: of the 64-bit one, `startup_64`, if it is a `vmlinux`.
    pub entry: u64,
    /// Its notes, in the file's order. Damaged ones are no notes: they matter to PVH alone.
    pub notes: Vec<Notes>,
}

/// Whether `file` begins like an ELF file.
#[must_use]
pub fn detect(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

impl Elf {
    /// Reads the headers of a file of `length` bytes, if that is known, which begins with `head`:
    /// all headers have to be in there, as linkers place them.
    pub fn parse(head: &[u8], length: Option<u64>) -> Result<Elf, Error> {
        check_architecture(head)?;
        Elf::read::<FileHeader64<LittleEndian>>(head, length, layout::HIGH_RAM)
    }

    /// The same for a Multiboot kernel, which may be of either class and load to any address.
    pub fn parse_multiboot(head: &[u8], length: u64) -> Result<Elf, Error> {
        let (class, machine) = class_and_machine(head)?;
        match (class, object::elf::Machine(machine)) {
            (class, EM_386 | EM_X86_64) if class == ELFCLASS32.0 => {
                Elf::read::<FileHeader32<LittleEndian>>(head, Some(length), 0)
            }
            (class, EM_X86_64) if class == ELFCLASS64.0 => {
                Elf::read::<FileHeader64<LittleEndian>>(head, Some(length), 0)
            }
            _ => Err(Error::Architecture(machine_name(machine, class))),
        }
    }

    /// Reads the headers of one class. Segments may not begin below `lowest`.
    fn read<H: FileHeader<Endian = LittleEndian>>(
        head: &[u8],
        length: Option<u64>,
        lowest: u64,
    ) -> Result<Elf, Error> {
        let header = H::parse(head).map_err(damaged)?;
        let headers = header.program_headers(LittleEndian, head).map_err(damaged)?;

        let mut segments = Vec::new();
        let mut notes = Vec::new();
        let mut notes_left = NOTES_LIMIT;
        let mut entry: u64 = header.e_entry(LittleEndian).into();
        let mut entry_is_code = false;
        for ph in headers {
            match ph.p_type(LittleEndian) {
                PT_LOAD => {
                    let segment = segment(ph, length, lowest)?;
                    if segment.memory_size == 0 {
                        continue;
                    }
                    if !entry_is_code {
                        (entry, entry_is_code) = entry_in(ph, &segment, entry);
                    }
                    segments.push(segment);
                }
                PT_NOTE => {
                    let part = notes_of(ph);
                    if let Some(left) = notes_left.checked_sub(part.size) {
                        notes_left = left;
                        notes.push(part);
                    }
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(Error::NoSegments);
        }
        if !entry_is_code {
            return Err(Error::Entry(entry));
        }
        Ok(Elf { segments, entry, notes })
    }

    /// Where in the file the last segment ends: so much of it is needed.
    #[must_use]
    pub fn file_end(&self) -> u64 {
        self.segments.iter().map(|s| s.offset + s.file_size).max().unwrap_or(0)
    }

    /// The physical addresses that the kernel takes, from its first byte to
    /// the end of its last segment.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let start = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.address + s.memory_size).max().unwrap_or(0);
        start..end
    }
}

/// Looks at the bytes that mean the same in all ELF files, whatever their
/// class and byte order: a foreign kernel is named, not called damaged.
fn check_architecture(head: &[u8]) -> Result<(), Error> {
    let (class, machine) = class_and_machine(head)?;
    let little = head.get(5) == Some(&ELFDATA2LSB.0);
    if machine == EM_X86_64.0 && little && class == ELFCLASS64.0 {
        return Ok(());
    }
    Err(Error::Architecture(machine_name(machine, class)))
}

fn class_and_machine(head: &[u8]) -> Result<(u8, u16), Error> {
    let ident: &[u8; 20] =
        head.first_chunk().ok_or(Error::Truncated { length: head.len() as u64, needed: 64 })?;
    let little = ident[5] == ELFDATA2LSB.0;
    let machine = [ident[18], ident[19]];
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    Ok((ident[4], machine))
}

fn machine_name(machine: u16, class: u8) -> String {
    use object::elf;
    let name = match object::elf::Machine(machine) {
        elf::EM_386 => "32-bit x86",
        elf::EM_X86_64 => "x86-64 with 32-bit addresses (x32)",
        elf::EM_AARCH64 => "64-bit Arm (AArch64)",
        elf::EM_ARM => "32-bit Arm",
        elf::EM_RISCV if class == ELFCLASS64.0 => "64-bit RISC-V",
        elf::EM_RISCV => "32-bit RISC-V",
        elf::EM_PPC64 => "64-bit PowerPC",
        elf::EM_PPC => "32-bit PowerPC",
        elf::EM_S390 => "IBM Z (s390x)",
        elf::EM_MIPS => "MIPS",
        elf::EM_LOONGARCH => "LoongArch",
        elf::EM_SPARCV9 => "64-bit SPARC",
        _ => return format!("another architecture (ELF machine {machine})"),
    };
    name.to_string()
}

fn damaged(error: object::Error) -> Error {
    Error::Headers(error.to_string())
}

fn segment(
    ph: &impl ProgramHeader<Endian = LittleEndian>,
    length: Option<u64>,
    lowest: u64,
) -> Result<Segment, Error> {
    let segment = Segment {
        offset: ph.p_offset(LittleEndian).into(),
        file_size: ph.p_filesz(LittleEndian).into(),
        address: ph.p_paddr(LittleEndian).into(),
        memory_size: ph.p_memsz(LittleEndian).into(),
    };
    let needed = segment.offset.saturating_add(segment.file_size);
    if let Some(length) = length.filter(|length| needed > *length) {
        return Err(Error::Truncated { length, needed });
    }
    if segment.offset.checked_add(segment.file_size).is_none() {
        return Err(Error::Headers("a segment goes around the end of the file".into()));
    }
    if segment.file_size > segment.memory_size {
        return Err(Error::Headers("a segment is bigger in the file than in memory".into()));
    }
    if segment.address.checked_add(segment.memory_size).is_none() {
        return Err(Error::Headers("a segment goes around the end of memory".into()));
    }
    if segment.memory_size > 0 && segment.address < lowest {
        return Err(Error::LowSegment(segment.address));
    }
    Ok(segment)
}

/// Translates `entry` to a physical address if it lies in this segment.
/// Linux's is physical already; other kernels give the virtual one.
fn entry_in(
    ph: &impl ProgramHeader<Endian = LittleEndian>,
    segment: &Segment,
    entry: u64,
) -> (u64, bool) {
    let offset_in = |start: u64| entry.checked_sub(start).filter(|o| *o < segment.file_size);
    match offset_in(segment.address).or_else(|| offset_in(ph.p_vaddr(LittleEndian).into())) {
        Some(offset) => (segment.address + offset, true),
        None => (entry, false),
    }
}

fn notes_of(ph: &impl ProgramHeader<Endian = LittleEndian>) -> Notes {
    Notes {
        offset: ph.p_offset(LittleEndian).into(),
        size: ph.p_filesz(LittleEndian).into(),
        align: ph.p_align(LittleEndian).into(),
    }
}

/// Finds the physical address of PVH's 32-bit entry in the bytes of `notes`.
#[must_use]
pub fn pvh_entry(notes: &Notes, bytes: &[u8]) -> Option<u64> {
    type Header = FileHeader64<LittleEndian>;
    let mut notes = NoteIterator::<Header>::new(LittleEndian, notes.align, bytes).ok()?;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"Xen" && note.n_type(LittleEndian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
            // Four bytes by the note's definition; a 64-bit kernel writes eight.
            return note.desc().first_chunk().map(|entry| u64::from(u32::from_le_bytes(*entry)));
        }
    }
    None
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod elf_test;
