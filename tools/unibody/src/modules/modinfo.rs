//! What a module says of itself: its section `.modinfo`, which is `key=value` again and again, each ended by a zero.
//!
//! See: Linux, include/linux/module.h, `MODULE_INFO`, and scripts/mod/modpost.c, `add_depends`.

use std::fs::{self, File};
use std::path::Path;

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use object::read::{ReadCache, ReadRef};
use vmm::boot::input::Input;
use vmm::boot::unpack::{Compression, Unpacker};

use super::{Error, name, text};

/// The largest module that is unpacked; the largest of a stock kernel has some 20 MB.
pub(super) const MOST_UNPACKED: u64 = 256 << 20;
/// The largest section: a driver of many devices has some 100 KB of aliases.
const MOST_INFO: u64 = 4 << 20;
/// More sections than any module has.
const MOST_SECTIONS: u32 = 1 << 20;

/// What of it is of use here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModInfo {
    /// The modules that have to be loaded before it.
    pub(super) depends: Vec<String>,
    /// Other names, or patterns of them.
    pub(super) aliases: Vec<String>,
    /// What it would like to have.
    pub(super) soft: Vec<String>,
}

/// Reads a section's bytes. What can't be the name of anything is left out.
pub(super) fn parse(section: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    for entry in section.split(|byte| *byte == 0) {
        let Some((key, value)) = std::str::from_utf8(entry).ok().and_then(|e| e.split_once('='))
        else {
            continue;
        };
        match key {
            "depends" => info.depends.extend(value.split(',').filter_map(name::canonical)),
            "alias" if text::is_word(value) => info.aliases.push(value.to_string()),
            "softdep" => info.soft.extend(text::soft_words(value).map(str::to_string)),
            _ => {}
        }
    }
    info
}

/// Reads what the module in a file says of itself.
pub(super) fn read(path: &Path) -> Result<ModInfo, Error> {
    let input = open(path)?;
    let packed = input.head(6).map_err(Error::read(path))?;
    let section = if Compression::detect(&packed).is_some() {
        let bytes = unpack(path, input)?;
        section(bytes.as_slice())
    } else {
        let file = File::open(path).map_err(Error::read(path))?;
        section(&ReadCache::new(file))
    };
    let section = section.map_err(|why| Error::Module { path: path.to_path_buf(), why })?;
    Ok(parse(&section))
}

/// A module's file, packed or not.
pub(super) fn open(path: &Path) -> Result<Input, Error> {
    // What isn't a file may block, or never end.
    let data = fs::metadata(path).map_err(Error::read(path))?;
    if !data.is_file() {
        let why = "it is no file".to_string();
        return Err(Error::Module { path: path.to_path_buf(), why });
    }
    let file = File::open(path).map_err(Error::read(path))?;
    Ok(Input::file(file, data.len()))
}

/// What is in a packed module.
pub(super) fn unpack(path: &Path, packed: Input) -> Result<Vec<u8>, Error> {
    let unpacked = Unpacker::new(packed, MOST_UNPACKED).and_then(Unpacker::into_bytes);
    unpacked.map_err(|error| Error::Module { path: path.to_path_buf(), why: error.to_string() })
}

/// The bytes of the section, if this is a module that has one.
fn section<'a, R: ReadRef<'a>>(data: R) -> Result<Vec<u8>, String> {
    let words = |error: object::read::Error| error.to_string();
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(words)?;
    let endian = header.endian().map_err(words)?;
    if header.shnum(endian, data).map_err(words)? > MOST_SECTIONS {
        return Err("it has more sections than a module has".to_string());
    }
    let sections = header.sections(endian, data).map_err(words)?;
    let Some((_, info)) = sections.section_by_name(endian, b".modinfo") else {
        return Err("it has no section .modinfo".to_string());
    };
    if info.sh_size(endian) > MOST_INFO {
        return Err("its section .modinfo is larger than that of a module".to_string());
    }
    info.data(endian, data).map(<[u8]>::to_vec).map_err(words)
}

#[cfg(test)]
#[path = "modinfo_test.rs"]
mod modinfo_test;
