//! QEMU's firmware configuration device, `fw_cfg`: where firmware and small test kernels ask how
//! much memory and how many processors there are.
//!
//! [`Items`] is the state machine: an item is selected by its key and read byte by byte. [`FwCfg`]
//! puts it on the bus. See: QEMU, docs/specs/fw_cfg.rst; include/standard-headers/linux/qemu_fw_cfg.h.
//!
//! There is one named file, `etc/vmcoreinfo`: the guest writes there where it has what a dump of its memory is read by ([`vmcoreinfo`]). For
//! that, and because Linux's driver wants it, there is the interface by which the device itself accesses memory ([`dma`]). ACPI lists the device.

pub mod dma;
pub mod vmcoreinfo;

use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestMemoryMmap;

use self::vmcoreinfo::Note;
use crate::bus::Device;
use crate::memory::Wrote;

/// Where the key goes: 16 bits.
pub const FIRST_PORT: u16 = 0x510;
/// The last of its ports: behind the key are a byte of data, two ports that are nothing, and the address of a transfer.
pub const LAST_PORT: u16 = 0x51b;

/// Offset of the data register: 8 bits.
const DATA: u16 = 1;
/// Offsets of the halves of a transfer's address, 32 bits each and big-endian. A write to the lower one starts it.
const ADDRESS_HIGH: u16 = 4;
const ADDRESS_LOW: u16 = 8;

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
    /// The first file: `etc/vmcoreinfo`.
    pub const VMCOREINFO: u16 = 0x20;
}

/// Bits of [`key::ID`]: the selector and data registers, and transfers.
const ID_TRADITIONAL: u32 = 1 << 0;
const ID_DMA: u32 = 1 << 1;

/// The name of the only file, and the bytes that a name has in the directory.
const FILE: &str = "etc/vmcoreinfo";
const NAME: usize = 56;

/// Bit of a key by which a guest once announced that it writes: it selects the same item.
const WRITE_CHANNEL: u16 = 1 << 14;

/// The items, and which byte is read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    ram: u64,
    cpus: u16,
    vmcoreinfo: [u8; vmcoreinfo::SIZE],
    note: Option<Note>,
    /// The item that is selected, and its bytes.
    key: u16,
    selected: Vec<u8>,
    next: usize,
}

/// The directory: one file.
fn directory() -> Vec<u8> {
    let mut name = [0; NAME];
    name[..FILE.len()].copy_from_slice(FILE.as_bytes());
    let size = (vmcoreinfo::SIZE as u32).to_be_bytes();
    // How many there are; size, key, and two bytes that are nothing.
    [&1_u32.to_be_bytes()[..], &size, &key::VMCOREINFO.to_be_bytes(), &[0; 2], &name].concat()
}

impl Items {
    /// The items of a machine with `ram` bytes of memory and `cpus` processors. The signature is
    /// selected, as after a reset.
    #[must_use]
    pub fn new(ram: u64, cpus: u32) -> Self {
        let cpus = u16::try_from(cpus).unwrap_or(u16::MAX);
        let mut items = Self {
            ram,
            cpus,
            vmcoreinfo: vmcoreinfo::empty(),
            note: None,
            key: key::SIGNATURE,
            selected: Vec::new(),
            next: 0,
        };
        items.select(key::SIGNATURE);
        items
    }

    /// Goes to the beginning of the item `key`.
    pub fn select(&mut self, key: u16) {
        self.key = key & !WRITE_CHANNEL;
        self.selected = self.item();
        self.next = 0;
    }

    /// Reads the selected item's next byte. Behind its end, and of an item that is not there, all
    /// bytes are zero.
    pub fn read(&mut self) -> u8 {
        let byte = self.selected.get(self.next).copied().unwrap_or(0);
        self.skip(1);
        byte
    }

    /// Goes on behind so many bytes.
    pub fn skip(&mut self, size: usize) {
        self.next = self.next.saturating_add(size);
    }

    /// Writes to the selected item. `None`: that can't be written to, or has not as many bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Option<()> {
        if self.key != key::VMCOREINFO {
            return None;
        }
        let end = self.next.checked_add(bytes.len())?;
        self.vmcoreinfo.get_mut(self.next..end)?.copy_from_slice(bytes);
        if bytes.len() == vmcoreinfo::SIZE {
            // Only what is written at once is meant. See: QEMU, docs/specs/vmcoreinfo.rst.
            self.note = Note::parse(&self.vmcoreinfo);
        }
        self.next = end;
        Some(())
    }

    /// Where the guest has its `vmcoreinfo`, if it has said so.
    #[must_use]
    pub fn vmcoreinfo(&self) -> Option<Note> {
        self.note
    }

    /// The selected item's bytes; none if it is not there.
    fn item(&self) -> Vec<u8> {
        match self.key {
            key::SIGNATURE => b"QEMU".to_vec(),
            key::ID => (ID_TRADITIONAL | ID_DMA).to_le_bytes().to_vec(),
            key::RAM_SIZE => self.ram.to_le_bytes().to_vec(),
            key::NB_CPUS | key::MAX_CPUS => self.cpus.to_le_bytes().to_vec(),
            key::FILE_DIR => directory(),
            key::VMCOREINFO => self.vmcoreinfo.to_vec(),
            _ => Vec::new(),
        }
    }
}

/// The device.
pub struct FwCfg {
    state: Mutex<State>,
    memory: Arc<GuestMemoryMmap>,
    wrote: Wrote,
}

struct State {
    items: Items,
    /// The upper half of a transfer's address.
    address_high: u32,
}

impl FwCfg {
    /// The device with `items`, in a machine with `memory`. `wrote` is told what of that it writes.
    pub fn new(items: Items, memory: Arc<GuestMemoryMmap>, wrote: Wrote) -> Self {
        Self { state: Mutex::new(State { items, address_high: 0 }), memory, wrote }
    }

    /// The lines of the guest's `vmcoreinfo`, if it has told where that is.
    #[must_use]
    pub fn vmcoreinfo(&self) -> Option<String> {
        let note = self.lock().items.vmcoreinfo()?;
        vmcoreinfo::read(&self.memory, note)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for FwCfg {
    fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        // Each register has its width: another access is none to it.
        match (offset, data) {
            (DATA, [byte]) => *byte = self.lock().items.read(),
            (ADDRESS_HIGH, data @ [_, _, _, _]) => {
                data.copy_from_slice(&dma::SIGNATURE.to_be_bytes()[..4]);
            }
            (ADDRESS_LOW, data @ [_, _, _, _]) => {
                data.copy_from_slice(&dma::SIGNATURE.to_be_bytes()[4..]);
            }
            _ => {}
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.lock();
        match (offset, data) {
            (0, [low, high]) => state.items.select(u16::from_le_bytes([*low, *high])),
            (ADDRESS_HIGH, [a, b, c, d]) => {
                state.address_high = u32::from_be_bytes([*a, *b, *c, *d]);
            }
            (ADDRESS_LOW, [a, b, c, d]) => {
                let low = u32::from_be_bytes([*a, *b, *c, *d]);
                let at = u64::from(std::mem::take(&mut state.address_high)) << 32 | u64::from(low);
                dma::carry_out(&mut state.items, &self.memory, &*self.wrote, at);
            }
            _ => {}
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
        assert_eq!(u32::from_le_bytes(read(&mut items, key::ID)), 3);
        assert_eq!(u64::from_le_bytes(read(&mut items, key::RAM_SIZE)), 0x1_2345_6000);
        assert_eq!(u16::from_le_bytes(read(&mut items, key::NB_CPUS)), 3);
        assert_eq!(u16::from_le_bytes(read(&mut items, key::MAX_CPUS)), 3);
        let directory: [u8; 70] = read(&mut items, key::FILE_DIR);
        assert_eq!(directory[..12], [0, 0, 0, 1, 0, 0, 0, 16, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..27], b"etc/vmcoreinfo\0");
        assert_eq!(
            read(&mut items, key::VMCOREINFO),
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn behind_an_item_and_where_there_is_none_are_zeros() {
        let mut items = items();
        assert_eq!(read(&mut items, key::SIGNATURE), *b"QEMU\0\0\0\0\0\0\0\0");
        for key in [0x02, 0x21, 0x3fff, 0x8000, 0xffff] {
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
        let memory = GuestMemoryMmap::from_ranges(&[(vm_memory::GuestAddress(0), 4096)]).unwrap();
        let device = FwCfg::new(items(), Arc::new(memory), Arc::new(|_, _| {}));
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
        for (offset, expected) in [(ADDRESS_HIGH, b"QEMU"), (ADDRESS_LOW, b" CFG")] {
            device.read(offset, &mut wide);
            assert_eq!(&wide, expected);
            // An address that is nowhere.
            device.write(offset, &[0xff; 4]);
        }
        let bytes: [u8; 4] = std::array::from_fn(|_| {
            device.read(DATA, &mut byte);
            byte[0]
        });
        assert_eq!(bytes, [0, 0x60, 0x45, 0x23]);
    }
}
