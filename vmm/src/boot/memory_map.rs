//! The memory map that the guest is told: e820 in `boot_params`, the same
//! ranges in PVH's start info.

use super::layout;
use crate::pci::root::ECAM_SIZE;

/// What a range is for. The values are e820's, which PVH shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// RAM that the kernel may use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// First byte.
    pub address: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it is for.
    pub kind: Kind,
}

/// Makes the map of a guest with `ram` bytes of memory, in ascending order.
///
/// Of the devices there is PCI's configuration space alone, which Linux uses
/// as memory only if it is reserved: a kernel takes what the map does not name
/// for devices, and looks for room for PCI's there.
/// See: PCI Firmware Specification 3.0, 4.1.2.
#[must_use]
pub fn memory_map(ram: u64) -> Vec<Entry> {
    use Kind::{Ram, Reserved};
    const PCI: u64 = layout::PCI_CONFIGURATION as u64;
    let ranges = [
        (0, layout::LOW_RAM_END.min(ram), Ram),
        (layout::LOW_RAM_END, layout::LEGACY_HOLE, Reserved),
        (layout::ACPI, layout::HIGH_RAM, Reserved),
        (layout::HIGH_RAM, layout::low_ram_end(ram), Ram),
        (PCI, PCI + ECAM_SIZE, Reserved),
        (layout::RAM_ABOVE_4G, layout::RAM_ABOVE_4G + (ram - layout::low_ram_end(ram)), Ram),
    ];
    ranges
        .into_iter()
        .filter(|(start, end, _)| start < end)
        .map(|(address, end, kind)| Entry { address, size: end - address, kind })
        .collect()
}

#[cfg(test)]
#[path = "memory_map_test.rs"]
mod memory_map_test;
