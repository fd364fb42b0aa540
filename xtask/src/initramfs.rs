//! What the initial file systems of xtask's machines are made of.
//!
//! [`cpio`] writes the archive. In it there is a [`busybox`], and no library unless one was added: so
//! [`is_static`] and [`interpreted`] tell programs that need some from those that do not.

pub mod cpio;

use object::read::elf::{FileHeader, ProgramHeader};
use std::fs;
use std::path::{Path, PathBuf};

/// A statically linked BusyBox.
pub fn busybox() -> Option<PathBuf> {
    ["/usr/bin/busybox", "/bin/busybox"].iter().map(PathBuf::from).find(|file| is_static(file))
}

/// Whether a file is an ELF file that asks for no interpreter.
fn is_static(file: &Path) -> bool {
    fs::read(file).is_ok_and(|bytes| interpreted(&bytes) == Some(false))
}

/// Whether an ELF file asks for an interpreter, which is the loader of libraries. `None`: no ELF file.
pub fn interpreted(bytes: &[u8]) -> Option<bool> {
    let header = object::elf::FileHeader64::<object::Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    Some(segments.iter().any(|segment| segment.p_type(endian) == object::elf::PT_INTERP))
}
