//! PVH's start info: what a kernel finds through RBX when it is entered at
//! the 32-bit address of its ELF note.
//!
//! See: Xen, docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h.

use std::ops::Range;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use super::layout;
use super::linux::Boot;
use super::memory_map::Entry;

/// The version that has a memory map.
const VERSION: u32 = 1;
/// The list of modules, of one: the initial file system.
const MODULES: u64 = layout::PVH_START_INFO + 0x40;
/// The memory map: to the end of the page there is room for 160 entries.
const MEMORY_MAP: u64 = layout::PVH_START_INFO + 0x80;

/// Writes the start info with its lists.
pub(crate) fn write_start_info<M: GuestMemoryBackend>(
    memory: &M,
    boot: &Boot<'_>,
    initrd: Option<&Range<u64>>,
    map: &[Entry],
) -> Result<(), GuestMemoryError> {
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: boot.rsdp.unwrap_or(0),
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.end - initrd.start,
            ..Default::default()
        };
        memory.write_obj(module, GuestAddress(MODULES))?;
    }
    for (entry, index) in map.iter().zip(0u64..) {
        let entry = hvm_memmap_table_entry {
            addr: entry.address,
            size: entry.size,
            type_: entry.kind as u32,
            reserved: 0,
        };
        let offset = index * size_of::<hvm_memmap_table_entry>() as u64;
        memory.write_obj(entry, GuestAddress(MEMORY_MAP + offset))?;
    }
    memory.write_obj(info, GuestAddress(layout::PVH_START_INFO))
}
