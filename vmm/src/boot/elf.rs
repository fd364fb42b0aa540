//! The kernel's ELF file, `vmlinux`: inside a `bzImage`, or as it was linked.
//!
//! [`Elf::parse`] reads headers only, so that a `vmlinux` with a gigabyte of
//! debugging information costs no more than its segments.
//! See: System V ABI, chapters 4 and 5; Linux, arch/x86/kernel/vmlinux.lds.S.

use std::ops::Range;

use object::elf::{ELFCLASS64, ELFDATA2LSB, EM_X86_64, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadRef};
use thiserror::Error;

use super::layout;

/// The note that carries PVH's entry. See: Linux, include/xen/interface/elfnote.h.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// A kernel's notes are a few hundred bytes; more than this is not read.
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

/// What has to be known of a kernel's ELF file to load and start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Its segments, in the file's order; at least one.
    pub segments: Vec<Segment>,
    /// Physical address of the 64-bit entry, `startup_64`.
    pub entry: u64,
    /// Physical address of the 32-bit entry, if the kernel has PVH's note.
    pub pvh_entry: Option<u64>,
}

/// Whether `file` begins like an ELF file.
#[must_use]
pub fn detect(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
}

impl Elf {
    /// Reads the headers of `file`.
    pub fn parse<'d>(file: impl ReadRef<'d>) -> Result<Elf, Error> {
        check_architecture(file)?;
        let header = FileHeader64::<LittleEndian>::parse(file).map_err(damaged)?;
        let headers = header.program_headers(LittleEndian, file).map_err(damaged)?;
        let length = file.len().unwrap_or(0);

        let mut segments = Vec::new();
        let mut entry = header.e_entry.get(LittleEndian);
        let mut entry_is_code = false;
        let mut pvh_entry = None;
        for ph in headers {
            match ph.p_type(LittleEndian) {
                PT_LOAD => {
                    let segment = segment(ph, length)?;
                    if segment.memory_size == 0 {
                        continue;
                    }
                    if !entry_is_code {
                        (entry, entry_is_code) = entry_in(ph, &segment, entry);
                    }
                    segments.push(segment);
                }
                PT_NOTE => pvh_entry = pvh_entry.or_else(|| pvh_note(ph, file)),
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(Error::NoSegments);
        }
        if !entry_is_code {
            return Err(Error::Entry(entry));
        }
        Ok(Elf { segments, entry, pvh_entry })
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
fn check_architecture<'d>(file: impl ReadRef<'d>) -> Result<(), Error> {
    let ident: &[u8] = file
        .read_bytes_at(0, 20)
        .map_err(|()| Error::Truncated { length: file.len().unwrap_or(0), needed: 64 })?;
    let little = ident[5] == ELFDATA2LSB.0;
    let machine = [ident[18], ident[19]];
    let machine = if little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    if machine == EM_X86_64.0 && little && ident[4] == ELFCLASS64.0 {
        return Ok(());
    }
    Err(Error::Architecture(machine_name(machine, ident[4])))
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

fn segment(ph: &object::elf::ProgramHeader64<LittleEndian>, length: u64) -> Result<Segment, Error> {
    let segment = Segment {
        offset: ph.p_offset(LittleEndian),
        file_size: ph.p_filesz(LittleEndian),
        address: ph.p_paddr(LittleEndian),
        memory_size: ph.p_memsz(LittleEndian),
    };
    let needed = segment.offset.saturating_add(segment.file_size);
    if needed > length {
        return Err(Error::Truncated { length, needed });
    }
    if segment.file_size > segment.memory_size {
        return Err(Error::Headers("a segment is bigger in the file than in memory".into()));
    }
    if segment.address.checked_add(segment.memory_size).is_none() {
        return Err(Error::Headers("a segment goes around the end of memory".into()));
    }
    if segment.memory_size > 0 && segment.address < layout::HIGH_RAM {
        return Err(Error::LowSegment(segment.address));
    }
    Ok(segment)
}

/// Translates `entry` to a physical address if it lies in this segment.
/// Linux's is physical already; other kernels give the virtual one.
fn entry_in(
    ph: &object::elf::ProgramHeader64<LittleEndian>,
    segment: &Segment,
    entry: u64,
) -> (u64, bool) {
    let offset_in = |start: u64| entry.checked_sub(start).filter(|o| *o < segment.file_size);
    match offset_in(segment.address).or_else(|| offset_in(ph.p_vaddr(LittleEndian))) {
        Some(offset) => (segment.address + offset, true),
        None => (entry, false),
    }
}

/// Finds PVH's entry in a note segment. Damaged notes are no notes: they
/// matter to nothing else here.
fn pvh_note<'d>(
    ph: &object::elf::ProgramHeader64<LittleEndian>,
    file: impl ReadRef<'d>,
) -> Option<u64> {
    if ph.p_filesz(LittleEndian) > NOTES_LIMIT {
        return None;
    }
    let mut notes = ph.notes(LittleEndian, file).ok()??;
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
