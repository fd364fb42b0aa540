//! Where things stand in the guest's physical memory, and why there.
//!
//! ```text
//! 0x0000_0500  GDT                       0x000e_0000  ACPI tables
//! 0x0000_6000  PVH start info            0x0010_0000  RAM: kernel … initrd
//! 0x0000_7000  boot_params               0xc000_0000  devices
//! 0x0000_8000  setup_data, boot stack    0x1_0000_0000  RAM above 4 GiB
//! 0x0000_9000  page tables
//! 0x0002_0000  command line            (Multiboot: information, at 0x9000)
//! 0x0009_fc00  end of low RAM
//! ```
//!
//! The kernel copies or replaces all that lies below 640 KiB early in its
//! start and treats the area as free from then on.

use vm_memory::GuestAddress;

/// A page of guest memory.
pub const PAGE: u64 = 0x1000;

/// The GDT: after the interrupt vectors (0–0x3ff) and the BIOS data area
/// (0x400–0x4ff), which some kernels look at.
pub const GDT: u64 = 0x500;

/// `hvm_start_info` with its lists, one page: only PVH uses it.
pub const PVH_START_INFO: u64 = 0x6000;

/// `boot_params`, "the zero page": one page, page aligned, below 640 KiB as
/// the boot protocol's loaders have always had it.
pub const BOOT_PARAMS: u64 = 0x7000;

/// The chain of `setup_data`: the page after `boot_params`. Its lower half
/// is enough for what is handed over; the boot stack uses the upper end.
pub const SETUP_DATA: u64 = 0x8000;

/// Top of the stack at start. Linux's 64-bit entry sets its own before the
/// first push; other kernels may not.
pub const BOOT_STACK: u64 = 0x8ff0;

/// Identity page tables, [`PAGE_TABLES_SIZE`] long.
pub const PAGE_TABLES: u64 = 0x9000;

/// One PML4, one page-directory-pointer table, four page directories of
/// 2 MiB pages: 4 GiB. 1 GiB pages would need one table less, but a
/// processor may lack them.
pub const PAGE_TABLES_SIZE: u64 = 6 * PAGE;

/// Multiboot's information, with its strings: where QEMU has it. Such a kernel gets no page tables.
pub const MULTIBOOT: u64 = 0x9000;

/// The command line: well clear of the page tables, and the place that
/// other VMMs chose too.
pub const COMMAND_LINE: u64 = 0x2_0000;

/// Room for the command line with its NUL; no kernel so far takes more.
pub const COMMAND_LINE_SIZE: u64 = 0x1_0000;

/// End of low RAM: the last KiB below 640 KiB is where a PC's extended BIOS
/// data area lies, and kernels reserve it whatever the memory map says.
pub const LOW_RAM_END: u64 = 0x9_fc00;

/// 640 KiB: from here to 1 MiB a PC has video memory and ROM.
pub const LEGACY_HOLE: u64 = 0xa_0000;

/// ACPI tables. The RSDP stands first, so that a kernel which does not know
/// `boot_params.acpi_rsdp_addr` (before 5.0) finds it in its scan of
/// 0xe0000–0xfffff. See: ACPI 6.5, 5.2.5.1.
pub const ACPI: u64 = 0xe_0000;

/// Room for the ACPI tables: up to 1 MiB.
pub const ACPI_SIZE: u64 = HIGH_RAM - ACPI;

/// 1 MiB: RAM that nothing of a PC's past has a claim to.
pub const HIGH_RAM: u64 = 0x10_0000;

/// 3 GiB: RAM gives way to devices here. A gigabyte is more than all devices
/// need, and it keeps the memory map the same for each size of memory.
pub const DEVICES: u64 = 0xc000_0000;

/// PCI functions' memory: up to [`PCI_CONFIGURATION`].
pub const PCI_MEMORY: u32 = 0xc000_0000;

/// PCI's configuration space as memory.
pub const PCI_CONFIGURATION: u32 = 0xe000_0000;

/// The I/O APIC, where every PC has it.
pub const IO_APIC: u32 = 0xfec0_0000;

/// The local APICs, where the processor has them at reset.
/// See: Intel SDM vol. 3, 11.4.1.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// 4 GiB: the RAM that did not fit below [`DEVICES`] goes on here.
pub const RAM_ABOVE_4G: u64 = 0x1_0000_0000;

/// Ends the RAM below 4 GiB of a guest with `ram` bytes.
#[must_use]
pub fn low_ram_end(ram: u64) -> u64 {
    ram.min(DEVICES)
}

/// Lists the RAM regions of a guest with `ram` bytes, as
/// `GuestMemoryMmap::from_ranges` wants them.
#[must_use]
pub fn ram_regions(ram: u64) -> Vec<(GuestAddress, usize)> {
    let below = low_ram_end(ram);
    let above = ram - below;
    [(GuestAddress(0), below), (GuestAddress(RAM_ABOVE_4G), above)]
        .into_iter()
        .filter(|(_, size)| *size > 0)
        .filter_map(|(start, size)| Some((start, usize::try_from(size).ok()?)))
        .collect()
}
