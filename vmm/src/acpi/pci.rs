//! PCI's root bus in the DSDT: what it decodes, and where its interrupt lines go.
//!
//! See: ACPI 6.5, 6.2.13 (`_PRT`), 6.4 (resources); PCI Firmware Specification 3.0, 4.6.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, Package,
    ResourceTemplate, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::{Pci, bytes_of};
use crate::pci::root::{ADDRESS_PORT, ECAM_SIZE, LAST_DATA_PORT};

/// Makes the devices: the bus, and what holds its configuration space.
pub fn root(pci: &Pci) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &ZERO);
    let bus = Name::new("_BBN".into(), &ZERO);
    let buses = AddressSpace::new_bus_number(0_u16, 0);
    let ports = IO::new(ADDRESS_PORT, ADDRESS_PORT, 1, (LAST_DATA_PORT - ADDRESS_PORT + 1) as u8);
    let last = pci.memory.end - 1;
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        pci.memory.start,
        last,
        None,
    );
    let resources = ResourceTemplate::new(vec![&buses, &ports, &memory]);
    let crs = Name::new("_CRS".into(), &resources);

    let lines: Vec<_> =
        (0..).zip(&pci.lines).map(|(device, gsi)| Line { device, gsi: *gsi }).collect();
    let package = Package::new(lines.iter().map(|line| line as &dyn Aml).collect());
    let routing = Name::new("_PRT".into(), &package);
    let parts: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &bus, &crs, &routing];
    let root = bytes_of(&Device::new("PCI0".into(), parts));

    // Linux uses the memory only if a device of this kind has it, or the memory map.
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let ecam = Memory32Fixed::new(true, pci.ecam, ECAM_SIZE as u32);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam]));
    [root, bytes_of(&Device::new("MCFG".into(), vec![&hid, &uid, &crs]))].concat()
}

/// INTA of a device, all its functions: the GSI, without a link device in between.
struct Line {
    device: u32,
    gsi: u32,
}

impl Aml for Line {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let address = self.device << 16 | 0xffff;
        Package::new(vec![&address, &ZERO, &ZERO, &self.gsi]).to_aml_bytes(sink);
    }
}
