//! The machine as ACPI tells of it.

use super::{UARTS, pci};
use crate::acpi;
use crate::boot::layout;
use crate::devices::{cmos, fw_cfg, power, pvpanic};

/// The interrupt of ACPI's events. None is ever raised.
const SCI: u8 = 9;

/// The machine with so many processors, and whether it has PCI.
pub(super) fn platform(cpus: u32, has_pci: bool) -> acpi::Platform {
    acpi::Platform {
        apic_ids: (0..cpus).collect(),
        local_apic: layout::LOCAL_APIC,
        io_apic: acpi::IoApic { id: 0, address: layout::IO_APIC },
        power: acpi::Power {
            sci: SCI,
            pm1a_event: power::FIRST_PORT,
            pm1a_control: power::FIRST_PORT + power::CONTROL,
            timer: None,
            s5_sleep_type: power::SLEEP_TYPE_OFF as u8,
            power_button: false,
        },
        reset: acpi::Reset { port: power::RESET_PORT, value: power::RESET_VALUE },
        uarts: UARTS.iter().map(|(port, irq)| acpi::Uart { port: *port, irq: *irq }).collect(),
        rtc: Some(acpi::Rtc { port: cmos::FIRST_PORT, irq: 8 }),
        i8042: false,
        pvpanic: Some(pvpanic::PORT),
        fw_cfg: Some(fw_cfg::FIRST_PORT),
        pci: has_pci.then(pci::platform),
    }
}
