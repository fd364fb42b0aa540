//! The table that says where PCI's configuration space is as memory.
//!
//! See: PCI Firmware Specification 3.0, 4.1.2.

use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Pci};

/// The standard header, and 8 bytes that are reserved.
const HEADER: u32 = 36 + 8;
const REVISION: u8 = 1;

/// Makes the table: segment 0, bus 0 alone.
pub fn mcfg(pci: &Pci) -> Vec<u8> {
    let mut table = Sdt::new(*b"MCFG", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut allocation = [0; 16];
    allocation[..8].copy_from_slice(&u64::from(pci.ecam).to_le_bytes());
    table.append_slice(&allocation);
    table.as_slice().to_vec()
}
