//! Page tables in every format.

use crate::guest::Memory;

/// Bits of an entry.
pub mod pte {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const P: u64 = 1 << 0;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    /// Page size, in entries that may point to a table.
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
    /// What everybody may do everything with.
    pub const ALL: u64 = P | W | U;
}

/// A format of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Two levels of 32-bit entries.
    Legacy32,
    /// Three levels, outside long mode.
    Pae,
    /// Four levels.
    FourLevel,
    /// Five levels.
    FiveLevel,
}

impl Format {
    /// The lowest address bit that each level looks at, from the root down.
    fn shifts(self) -> &'static [u32] {
        match self {
            Format::Legacy32 => &[22, 12],
            Format::Pae => &[30, 21, 12],
            Format::FourLevel => &[39, 30, 21, 12],
            Format::FiveLevel => &[48, 39, 30, 21, 12],
        }
    }

    /// Size of an entry in bytes.
    fn entry(self) -> u64 {
        if self == Format::Legacy32 { 4 } else { 8 }
    }

    /// Size of the pages that the second-lowest level maps.
    #[must_use]
    pub fn large(self) -> u64 {
        if self == Format::Legacy32 { 4 << 20 } else { 2 << 20 }
    }

    /// Whether entries have an NX bit.
    #[must_use]
    pub fn has_nx(self) -> bool {
        self != Format::Legacy32
    }
}

/// One set of page tables.
pub struct Tables {
    format: Format,
    root: u64,
    next: u64,
}

impl Tables {
    /// Empty ones, in pages from `root` on.
    #[must_use]
    pub fn new(memory: &Memory, format: Format, root: u64) -> Self {
        memory.write(root, &[0; 0x1000]);
        Self { format, root, next: root + 0x1000 }
    }

    /// What goes into CR3.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps a page of `size` bytes at `linear`; gives the addresses of the entries from the root down.
    pub fn map(
        &mut self,
        memory: &Memory,
        linear: u64,
        physical: u64,
        size: u64,
        flags: u64,
    ) -> Vec<u64> {
        let mut path = Vec::new();
        let mut table = self.root;
        let format = self.format;
        for (level, shift) in format.shifts().iter().enumerate() {
            let slots =
                if format == Format::Pae && level == 0 { 4 } else { 0x1000 / format.entry() };
            let entry = table + (linear >> shift) % slots * format.entry();
            path.push(entry);
            if 1 << shift == size {
                let large = if *shift > 12 { pte::PS } else { 0 };
                self.write(memory, entry, physical | flags | large);
                break;
            }
            table = self.read(memory, entry) & 0xf_ffff_f000;
            if table == 0 {
                table = self.next;
                self.next += 0x1000;
                memory.write(table, &[0; 0x1000]);
                let root_of_pae = format == Format::Pae && level == 0;
                self.write(memory, entry, table | if root_of_pae { pte::P } else { pte::ALL });
            }
        }
        path
    }

    /// Maps `start..end` to itself in pages of `size`.
    pub fn identity(&mut self, memory: &Memory, start: u64, end: u64, size: u64, flags: u64) {
        for address in (start..end).step_by(size as usize) {
            self.map(memory, address, address, size, flags);
        }
    }

    /// Reads an entry.
    #[must_use]
    pub fn read(&self, memory: &Memory, entry: u64) -> u64 {
        match self.format {
            Format::Legacy32 => memory.read_u32(entry).into(),
            _ => memory.read_u64(entry),
        }
    }

    /// Writes an entry.
    pub fn write(&self, memory: &Memory, entry: u64, value: u64) {
        match self.format {
            Format::Legacy32 => memory.write(entry, &(value as u32).to_le_bytes()),
            _ => memory.write(entry, &value.to_le_bytes()),
        }
    }
}
