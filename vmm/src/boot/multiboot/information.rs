//! The information structure, with the lists and strings that it points to: one block of bytes.
//!
//! See: Multiboot Specification 0.6.96, 3.3.

use std::ops::Range;

use super::super::layout;
use super::super::memory_map::memory_map;

/// "mem_lower" and "mem_upper" are there.
const MEMORY: u32 = 1 << 0;
/// "cmdline" is there.
const COMMAND_LINE: u32 = 1 << 2;
/// "mods_count" and "mods_addr" are there.
const MODULES: u32 = 1 << 3;
/// "mmap_length" and "mmap_addr" are there.
const MEMORY_MAP: u32 = 1 << 6;
/// "boot_loader_name" is there.
const BOOT_LOADER_NAME: u32 = 1 << 9;

/// Up to "framebuffer_palette_addr" and what follows it.
const STRUCTURE: u64 = 120;
/// A module: start, end, string, reserved.
const MODULE: u64 = 16;
/// An entry of the memory map: its size without this field, address, length, type.
const MAP_ENTRY: u64 = 24;
const NAME: &[u8] = b"Unibody\0";

/// What a Multiboot kernel is told.
#[derive(Clone, Debug)]
pub struct Information<'a> {
    /// Its command line.
    pub command_line: &'a str,
    /// Where its modules are, below 4 GiB.
    pub modules: &'a [Range<u64>],
    /// Bytes of memory of the guest.
    pub ram: u64,
}

/// Where the parts are in the block.
struct Parts {
    modules: u64,
    map: u64,
    name: u64,
    command_line: u64,
    end: u64,
}

impl Parts {
    fn new(command_line: &str, modules: usize, ram: u64) -> Self {
        let map = STRUCTURE + MODULE * modules as u64;
        let name = map + MAP_ENTRY * memory_map(ram).len() as u64;
        let command_line_at = name + NAME.len() as u64;
        Parts {
            modules: STRUCTURE,
            map,
            name,
            command_line: command_line_at,
            end: command_line_at + command_line.len() as u64 + 1,
        }
    }
}

impl Information<'_> {
    /// How many bytes the block has.
    #[must_use]
    pub fn size(command_line: &str, modules: usize, ram: u64) -> u64 {
        Parts::new(command_line, modules, ram).end
    }

    /// The block, for a place at `address`, below 4 GiB.
    #[must_use]
    pub fn bytes(&self, address: u64) -> Vec<u8> {
        let parts = Parts::new(self.command_line, self.modules.len(), self.ram);
        let map = memory_map(self.ram);
        let mut block = self.structure(address, &parts, map.len());
        for module in self.modules {
            block.extend(words(&[module.start as u32, module.end as u32, 0, 0]));
        }
        for entry in map {
            block.extend((MAP_ENTRY as u32 - 4).to_le_bytes());
            block.extend(entry.address.to_le_bytes());
            block.extend(entry.size.to_le_bytes());
            block.extend((entry.kind as u32).to_le_bytes());
        }
        block.extend(NAME);
        block.extend(self.command_line.as_bytes());
        block.push(0);
        block
    }

    fn structure(&self, address: u64, parts: &Parts, map_entries: usize) -> Vec<u8> {
        let at = |part: u64| (address + part) as u32;
        let upper = layout::low_ram_end(self.ram).saturating_sub(layout::HIGH_RAM);
        let mut fields = [0; STRUCTURE as usize / 4];
        // The kernel's flags demand, at most, that modules are aligned and memory is told.
        fields[0] = MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | BOOT_LOADER_NAME;
        fields[1] = (layout::LOW_RAM_END >> 10) as u32;
        fields[2] = (upper >> 10) as u32;
        fields[4] = at(parts.command_line);
        fields[5] = self.modules.len() as u32;
        fields[6] = at(parts.modules);
        fields[11] = MAP_ENTRY as u32 * map_entries as u32;
        fields[12] = at(parts.map);
        fields[16] = at(parts.name);
        words(&fields).collect()
    }
}

fn words(words: &[u32]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_le_bytes())
}
