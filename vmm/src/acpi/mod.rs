//! ACPI tables: what tells the guest of its processors, interrupt
//! controllers, serial ports, and how to switch itself off.
//!
//! The machine describes itself with a [`Platform`]; [`place`] writes the
//! tables to guest memory and returns the RSDP's address. The machine is a
//! PC with fixed ACPI hardware, not a hardware-reduced one: a stock kernel
//! then uses the 8254, the 8259s and I/O APIC as on any PC, and switches
//! off by the PM1 control register. Modules: `fadt`, `madt`, `dsdt`, `mcfg`, one for
//! each table that is more than a list, and `pci`, a part of the DSDT.
//!
//! See: ACPI Specification 6.5.

mod dsdt;
mod fadt;
mod madt;
mod mcfg;
mod pci;

use acpi_tables::{Aml, facs::FACS, rsdp::Rsdp, xsdt::XSDT};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::boot::layout;

const OEM_ID: [u8; 6] = *b"UNIBDY";
const OEM_TABLE_ID: [u8; 8] = *b"UNIBODY ";
const OEM_REVISION: u32 = 1;

/// Tables begin at multiples of this. The FACS must: ACPI 6.5, 5.2.10.
const ALIGNMENT: u64 = 64;

/// Why there can be no ACPI tables.
#[derive(Debug, Error)]
pub enum Error {
    /// No processor.
    #[error("a machine without processors cannot be described")]
    NoCpus,
    /// More devices than there are names for.
    #[error("{count} {what} are more than ACPI names can tell apart: up to {limit}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The tables do not fit in their place.
    #[error("the ACPI tables need {needed} bytes, and there is room for {room}")]
    TooBig {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The guest's memory did not take them.
    #[error("cannot write the ACPI tables to guest memory")]
    Write(#[source] GuestMemoryError),
}

/// The machine, as far as ACPI describes it. All of it is the machine's to
/// choose; nothing is assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// APIC ids of the processors, in the order of their numbers.
    pub apic_ids: Vec<u32>,
    /// Address of the local APICs.
    pub local_apic: u32,
    /// The I/O APIC, which takes the GSIs from 0.
    pub io_apic: IoApic,
    /// Power management registers.
    pub power: Power,
    /// The register that resets the machine.
    pub reset: Reset,
    /// Serial ports, COM1 first.
    pub uarts: Vec<Uart>,
    /// The real-time clock, if there is one.
    pub rtc: Option<Rtc>,
    /// Whether there is a keyboard controller at 0x60 and 0x64. Without, the
    /// kernel is told not to look for it, which would take time.
    pub i8042: bool,
    /// The port by which a kernel tells that it panics, if there is one: QEMU's `pvpanic`.
    pub pvpanic: Option<u16>,
    /// The first of the ports of QEMU's firmware configuration device, if there is one.
    pub fw_cfg: Option<u16>,
    /// PCI's root bus, if there is one.
    pub pci: Option<Pci>,
}

/// The only bus of PCI's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci {
    /// Its configuration space as memory: 1 MiB.
    pub ecam: u32,
    /// Where its functions' memory may be.
    pub memory: std::ops::Range<u32>,
    /// The GSIs of the devices' interrupt lines, by device number; level-triggered.
    pub lines: Vec<u32>,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its APIC id.
    pub id: u8,
    /// Its address.
    pub address: u32,
}

/// The fixed hardware's registers, as I/O ports. See: ACPI 6.5, 4.8.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Power {
    /// The system control interrupt, level-triggered and active high.
    pub sci: u8,
    /// PM1a status (2 bytes) and enable (2 bytes) registers.
    pub pm1a_event: u16,
    /// PM1a control register (2 bytes). SCI_EN (bit 0) is set from reset:
    /// there is no SMI command to enter ACPI mode with.
    pub pm1a_control: u16,
    /// Power management timer (4 bytes, 32 bits, 3.579545 MHz), if any.
    pub timer: Option<u16>,
    /// What the guest writes to SLP_TYP (bits 10–12 of the control register)
    /// with SLP_EN (bit 13) to switch off.
    pub s5_sleep_type: u8,
    /// Whether the power button is PWRBTN_STS (bit 8) of the status register.
    /// By it a guest is asked to shut down.
    pub power_button: bool,
}

/// A reset register: writing `value` to it resets the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// I/O port, one byte wide.
    pub port: u16,
    /// The value.
    pub value: u8,
}

/// A serial port with a 16550 behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// The first of its eight I/O ports.
    pub port: u16,
    /// Its GSI, edge-triggered.
    pub irq: u32,
}

/// The MC146818 real-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtc {
    /// The first of its two I/O ports.
    pub port: u16,
    /// Its GSI, edge-triggered.
    pub irq: u32,
}

/// The tables, as one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Where they belong, which is where the RSDP is.
    pub address: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Makes the tables that describe `platform`, to stand at `address`.
pub fn tables(platform: &Platform, address: u64) -> Result<Tables, Error> {
    if platform.apic_ids.is_empty() {
        return Err(Error::NoCpus);
    }
    at_most("serial ports", platform.uarts.len(), dsdt::UARTS_MAX)?;
    let mut tables = Tables { address, bytes: Vec::new() };
    // The RSDP comes first, and points to the table made last.
    tables.add(&vec![0; Rsdp::len()]);
    let facs = tables.add(&bytes_of(&FACS::new()));
    let dsdt = tables.add(&dsdt::dsdt(platform));
    let fadt = tables.add(&fadt::fadt(platform, dsdt, facs));
    let madt = tables.add(&madt::madt(platform));

    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    if let Some(pci) = &platform.pci {
        xsdt.add_entry(tables.add(&mcfg::mcfg(pci)));
    }
    let xsdt = tables.add(&bytes_of(&xsdt));
    let rsdp = bytes_of(&Rsdp::new(OEM_ID, xsdt));
    tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    Ok(tables)
}

/// Writes the tables for `platform` to their place in guest memory and
/// returns the RSDP's address.
pub fn place<M: GuestMemoryBackend>(memory: &M, platform: &Platform) -> Result<u64, Error> {
    let tables = tables(platform, layout::ACPI)?;
    let needed = tables.bytes.len() as u64;
    if needed > layout::ACPI_SIZE {
        return Err(Error::TooBig { needed, room: layout::ACPI_SIZE });
    }
    memory.write_slice(&tables.bytes, GuestAddress(tables.address)).map_err(Error::Write)?;
    Ok(tables.address)
}

impl Tables {
    /// Appends a table and returns its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT as usize);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        self.address + offset as u64
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    if count > limit { Err(Error::TooMany { what, count, limit }) } else { Ok(()) }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
#[path = "acpi_test.rs"]
mod acpi_test;
