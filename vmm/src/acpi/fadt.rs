//! The Fixed ACPI Description Table: the power management registers.
//!
//! See: ACPI 6.5, 5.2.9.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Platform, bytes_of};

/// `IAPC_BOOT_ARCH`. See: ACPI 6.5, table 5.11.
mod boot_architecture {
    /// There are devices on an ISA bus.
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    /// There is a keyboard controller.
    pub const I8042: u16 = 1 << 1;
    /// Do not look for VGA.
    pub const NO_VGA: u16 = 1 << 2;
    /// Do not look for a real-time clock.
    pub const NO_CMOS_RTC: u16 = 1 << 5;
}

/// There is no C2 or C3 state: the specification's values for that.
const NO_C2_LATENCY: u16 = 101;
const NO_C3_LATENCY: u16 = 1001;

/// CMOS address of the century, where a PC's clock has it.
const RTC_CENTURY: u8 = 0x32;

/// Makes the table. `dsdt` and `facs` are those tables' addresses.
pub fn fadt(platform: &Platform, dsdt: u64, facs: u64) -> Vec<u8> {
    let power = &platform.power;
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    if !power.power_button {
        // "A control method device, or not there": no fixed power button.
        fadt = fadt.flag(Flags::PwrButton);
    }
    if power.timer.is_some() {
        fadt = fadt.flag(Flags::TmrValExt);
    }
    // Both tables lie below 1 MiB: the 32-bit fields hold them, too.
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.firmware_ctrl = (facs as u32).into();

    fadt.sci_int = u16::from(power.sci).into();
    fadt.pm1a_evt_blk = u32::from(power.pm1a_event).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io_register(power.pm1a_event, 4, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(power.pm1a_control).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io_register(power.pm1a_control, 2, AccessSize::WordAccess);
    if let Some(timer) = power.timer {
        fadt.pm_tmr_blk = u32::from(timer).into();
        fadt.pm_tmr_len = 4;
        fadt.x_pm_tmr_blk = io_register(timer, 4, AccessSize::DwordAccess);
    }
    fadt.p_lvl2_lat = NO_C2_LATENCY.into();
    fadt.p_lvl3_lat = NO_C3_LATENCY.into();
    if platform.rtc.is_some() {
        fadt.century = RTC_CENTURY;
    }
    fadt.iapc_boot_arch = boot_architecture(platform).into();
    fadt.reset_reg = io_register(platform.reset.port, 1, AccessSize::ByteAccess);
    fadt.reset_value = platform.reset.value;
    bytes_of(&fadt.finalize())
}

fn boot_architecture(platform: &Platform) -> u16 {
    let mut flags = boot_architecture::NO_VGA | boot_architecture::LEGACY_DEVICES;
    if platform.i8042 {
        flags |= boot_architecture::I8042;
    }
    if platform.rtc.is_none() {
        flags |= boot_architecture::NO_CMOS_RTC;
    }
    flags
}

fn io_register(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}
