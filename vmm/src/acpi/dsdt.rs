//! The Differentiated System Description Table: devices that cannot be found
//! by looking, and how to switch off.
//!
//! See: ACPI 6.5, 5.2.11.1 (the table), 7.4.2 (`_S5`), 6.4 (resources).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope, Usize, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform, Rtc, Uart, bytes_of, pci};

/// The standard header alone.
const HEADER: u32 = 36;
/// Integers have 64 bits.
const REVISION: u8 = 2;

/// Selector, data, and the address of a transfer. See: QEMU, docs/specs/fw_cfg.rst.
const FW_CFG_PORTS: u8 = 12;

/// Names have four characters: `COM1` to `COM9`.
pub const UARTS_MAX: usize = 9;

/// Makes the table.
pub fn dsdt(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut devices = Vec::new();
    for (uart, number) in platform.uarts.iter().zip(1usize..) {
        let shared = platform.uarts.iter().filter(|other| other.irq == uart.irq).count() > 1;
        devices.push(serial_port(uart, number, shared));
    }
    devices.extend(platform.rtc.as_ref().map(real_time_clock));
    if platform.i8042 {
        devices.push(keyboard());
        devices.push(mouse());
    }
    devices.extend(platform.pvpanic.map(|port| qemus("PEVT", "QEMU0001", port, 1)));
    devices.extend(platform.fw_cfg.map(|port| qemus("FWCF", "QEMU0002", port, FW_CFG_PORTS)));
    devices.extend(platform.pci.iter().map(pci::root));
    table.append_slice(&Scope::raw("\\_SB_".into(), devices.concat()));
    table.append_slice(&switched_off(platform.power.s5_sleep_type));
    table.as_slice().to_vec()
}

/// `_S5`: the sleep type for the PM1a control register, PM1b's (there is
/// none), and two reserved values.
fn switched_off(sleep_type: u8) -> Vec<u8> {
    let package = Package::new(vec![&sleep_type, &ZERO, &ZERO, &ZERO]);
    bytes_of(&Name::new("_S5_".into(), &package))
}

/// `COM1` and so on. See: ACPI 6.5, 5.6.7 (device class PNP0501: 16550A).
fn serial_port(uart: &Uart, number: usize, shared: bool) -> Vec<u8> {
    let ports = IO::new(uart.port, uart.port, 1, 8);
    let irq = isa_interrupt(uart.irq, shared);
    device(&format!("COM{number}"), "PNP0501", number, &[&ports, &irq])
}

fn real_time_clock(rtc: &Rtc) -> Vec<u8> {
    let ports = IO::new(rtc.port, rtc.port, 1, 2);
    let irq = isa_interrupt(rtc.irq, false);
    device("RTC_", "PNP0B00", 0, &[&ports, &irq])
}

/// The keyboard controller's first half; Linux wants the ports here.
fn keyboard() -> Vec<u8> {
    let data = IO::new(0x60, 0x60, 1, 1);
    let command = IO::new(0x64, 0x64, 1, 1);
    device("KBD_", "PNP0303", 0, &[&data, &command, &isa_interrupt(1, false)])
}

fn mouse() -> Vec<u8> {
    device("MOU_", "PNP0F13", 0, &[&isa_interrupt(12, false)])
}

/// A device of QEMU's: its id is no EISA one, but a string. It is there, decodes its ports and works (`_STA`).
fn qemus(name: &str, id: &'static str, port: u16, ports: u8) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &id);
    let status = Name::new("_STA".into(), &0xf_u8);
    let ports = IO::new(port, port, 1, ports);
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports]));
    bytes_of(&Device::new(name.into(), vec![&hid, &status, &crs]))
}

fn device(name: &str, id: &str, uid: usize, resources: &[&dyn Aml]) -> Vec<u8> {
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &(uid as Usize));
    let crs = Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec()));
    bytes_of(&Device::new(name.into(), vec![&hid, &uid, &crs]))
}

/// Edge-triggered and active high, as ISA's interrupts are.
fn isa_interrupt(irq: u32, shared: bool) -> Interrupt {
    Interrupt::new(true, true, false, shared, irq)
}
