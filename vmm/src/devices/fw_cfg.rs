//! QEMU's firmware configuration device, `fw_cfg`: where firmware and small test kernels ask how
//! much memory and how many processors there are.
//!
//! [`Items`] is the state machine: an item is selected by its key and read byte by byte. [`FwCfg`]
//! puts it on the bus. See: QEMU, docs/specs/fw_cfg.rst; include/standard-headers/linux/qemu_fw_cfg.h.
//!
//! Not implemented: the DMA interface (the item [`key::ID`] says so) and named files (the directory
//! is empty). ACPI does not list the device, so that Linux does not look for it.

use std::sync::{Mutex, PoisonError};

use crate::bus::Device;

/// Where the key goes: 16 bits.
pub const FIRST_PORT: u16 = 0x510;
/// Where the item's bytes are: 8 bits.
pub const LAST_PORT: u16 = 0x511;

/// Offset of the data register.
const DATA: u16 = LAST_PORT - FIRST_PORT;

/// The keys of the items that there are.
pub mod key {
    /// "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are: `u32`.
    pub const ID: u16 = 0x01;
    /// Bytes of memory: `u64`.
    pub const RAM_SIZE: u16 = 0x03;
    /// How many processors run: `u16`.
    pub const NB_CPUS: u16 = 0x05;
    /// How many there may be: `u16`.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The directory of files: how many (`u32`, big-endian), then an entry for each.
    pub const FILE_DIR: u16 = 0x19;
}

/// Bit of [`key::ID`]: the selector and data registers. Bit 1, for DMA, is not set.
const ID_TRADITIONAL: u32 = 1 << 0;
/// Bit of a key by which a guest once announced that it writes: it selects the same item.
const WRITE_CHANNEL: u16 = 1 << 14;

/// The items, and which byte is read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    ram: u64,
    cpus: u16,
    key: u16,
    next: usize,
}

impl Items {
    /// The items of a machine with `ram` bytes of memory and `cpus` processors. The signature is
    /// selected, as after a reset.
    #[must_use]
    pub fn new(ram: u64, cpus: u32) -> Self {
        let cpus = u16::try_from(cpus).unwrap_or(u16::MAX);
        Self { ram, cpus, key: key::SIGNATURE, next: 0 }
    }

    /// Goes to the beginning of the item `key`.
    pub fn select(&mut self, key: u16) {
        self.key = key & !WRITE_CHANNEL;
        self.next = 0;
    }

    /// Reads the selected item's next byte. Behind its end, and of an item that is not there, all
    /// bytes are zero.
    pub fn read(&mut self) -> u8 {
        let mut item = [0; 8];
        match self.key {
            key::SIGNATURE => item[..4].copy_from_slice(b"QEMU"),
            key::ID => item[..4].copy_from_slice(&ID_TRADITIONAL.to_le_bytes()),
            key::RAM_SIZE => item = self.ram.to_le_bytes(),
            key::NB_CPUS | key::MAX_CPUS => item[..2].copy_from_slice(&self.cpus.to_le_bytes()),
            // key::FILE_DIR: no files. Everything else: not there.
            _ => {}
        }
        let byte = item.get(self.next).copied().unwrap_or(0);
        self.next = self.next.saturating_add(1);
        byte
    }
}

/// The device.
pub struct FwCfg(Mutex<Items>);

impl FwCfg {
    /// The device with `items`.
    pub fn new(items: Items) -> Self {
        Self(Mutex::new(items))
    }
}

impl Device for FwCfg {
    fn read(&self, offset: u16, data: &mut [u8]) {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        data.fill(0);
        // The register has 8 bits: a wider access is none to it.
        if let (DATA, [byte]) = (offset, data) {
            *byte = items.read();
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (0, [low, high]) = (offset, data) {
            items.select(u16::from_le_bytes([*low, *high]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(items: &mut Items, key: u16) -> [u8; N] {
        items.select(key);
        std::array::from_fn(|_| items.read())
    }

    fn items() -> Items {
        Items::new(0x1_2345_6000, 3)
    }

    #[test]
    fn the_items_say_what_the_machine_has() {
        let mut items = items();
        assert_eq!(read(&mut items, key::SIGNATURE), *b"QEMU");
        assert_eq!(u32::from_le_bytes(read(&mut items, key::ID)), 1, "no DMA");
        assert_eq!(u64::from_le_bytes(read(&mut items, key::RAM_SIZE)), 0x1_2345_6000);
        assert_eq!(u16::from_le_bytes(read(&mut items, key::NB_CPUS)), 3);
        assert_eq!(u16::from_le_bytes(read(&mut items, key::MAX_CPUS)), 3);
        assert_eq!(u32::from_be_bytes(read(&mut items, key::FILE_DIR)), 0);
    }

    #[test]
    fn behind_an_item_and_where_there_is_none_are_zeros() {
        let mut items = items();
        assert_eq!(read(&mut items, key::SIGNATURE), *b"QEMU\0\0\0\0\0\0\0\0");
        for key in [0x02, 0x20, 0x3fff, 0x8000, 0xffff] {
            assert_eq!(read(&mut items, key), [0; 16], "{key:#x}");
        }
    }

    #[test]
    fn an_item_is_read_from_its_beginning_each_time_it_is_selected() {
        let mut items = items();
        assert_eq!([items.read(), items.read()], *b"QE");
        items.select(key::SIGNATURE);
        assert_eq!(items.read(), b'Q');
        items.select(key::SIGNATURE | WRITE_CHANNEL);
        assert_eq!(items.read(), b'Q');
    }

    #[test]
    fn the_registers_have_their_widths() {
        let device = FwCfg::new(items());
        device.write(0, &key::RAM_SIZE.to_le_bytes());
        // None of these is an access to a register that there is.
        device.write(0, &[0]);
        device.write(DATA, &[0, 0]);
        device.write(0, &[0; 4]);
        let mut wide = [0xaa; 4];
        device.read(DATA, &mut wide);
        assert_eq!(wide, [0; 4]);
        let mut byte = [0xaa];
        device.read(0, &mut byte);
        assert_eq!(byte, [0]);
        let bytes: [u8; 4] = std::array::from_fn(|_| {
            device.read(DATA, &mut byte);
            byte[0]
        });
        assert_eq!(bytes, [0, 0x60, 0x45, 0x23]);
    }
}
