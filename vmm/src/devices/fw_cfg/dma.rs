//! [`carry_out`]: transfers, by which the device itself reads and writes the guest's memory.
//!
//! See: QEMU, docs/specs/fw_cfg.rst, "Guest-side DMA Interface".

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Items;

/// What the guest reads at the register, if there is the interface: "QEMU CFG".
pub const SIGNATURE: u64 = 0x5145_4d55_2043_4647;

/// Bits of the control word; in its upper half is a key.
mod control {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// A longer transfer is an error: no item has as many bytes, and nobody waits for zeroes.
const MOST: u32 = 1 << 16;

/// A transfer, as it is in the guest's memory, in big-endian words.
struct Transfer {
    control: u32,
    size: u32,
    address: u64,
}

impl Transfer {
    fn read(memory: &GuestMemoryMmap, at: u64) -> Option<Self> {
        let word: [u8; 16] = memory.read_obj(GuestAddress(at)).ok()?;
        let word = u128::from_be_bytes(word);
        Some(Self { control: (word >> 96) as u32, size: (word >> 64) as u32, address: word as u64 })
    }

    /// Does it. `None`: it can't be done.
    fn carry_out(
        &self,
        items: &mut Items,
        memory: &GuestMemoryMmap,
        wrote: &dyn Fn(u64, u64),
    ) -> Option<()> {
        if self.control & control::SELECT != 0 {
            items.select((self.control >> 16) as u16);
        }
        if self.size > MOST {
            return None;
        }
        let (mut bytes, address) = (vec![0; self.size as usize], GuestAddress(self.address));
        if self.control & control::READ != 0 {
            bytes.fill_with(|| items.read());
            memory.write_slice(&bytes, address).ok()?;
            wrote(self.address, self.size.into());
        } else if self.control & control::WRITE != 0 {
            memory.read_slice(&mut bytes, address).ok()?;
            items.write(&bytes)?;
        } else if self.control & control::SKIP != 0 {
            items.skip(bytes.len());
        }
        Some(())
    }
}

/// Does the transfer that is at an address, and says so there; and to `wrote`, what it has written. One that is not in memory nobody waits for.
pub fn carry_out(items: &mut Items, memory: &GuestMemoryMmap, wrote: &dyn Fn(u64, u64), at: u64) {
    let Some(transfer) = Transfer::read(memory, at) else { return };
    let result = match transfer.carry_out(items, memory, wrote) {
        Some(()) => 0,
        None => control::ERROR,
    };
    // It was there a moment ago.
    let _ = memory.write_obj(result.to_be_bytes(), GuestAddress(at));
    wrote(at, 4);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::key;
    use super::*;

    const SIZE: usize = 1 << 20;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap()
    }

    /// Has a transfer carried out; gives the control word after it.
    fn ask(
        items: &mut Items,
        memory: &GuestMemoryMmap,
        control: u32,
        size: u32,
        address: u64,
    ) -> u32 {
        let at = GuestAddress(0x1000);
        let word = u128::from(control) << 96 | u128::from(size) << 64 | u128::from(address);
        memory.write_obj(word.to_be_bytes(), at).unwrap();
        carry_out(items, memory, &|_, _| {}, at.0);
        u32::from_be_bytes(memory.read_obj(at).unwrap())
    }

    #[test]
    fn items_are_read_from_where_the_last_transfer_has_ended() {
        let (mut items, memory) = (Items::new(0x1234_5678, 2), memory());
        memory.write_slice(&[0xff; 16], GuestAddress(0x2000)).unwrap();
        let select = u32::from(key::RAM_SIZE) << 16 | control::SELECT;
        assert_eq!(ask(&mut items, &memory, select | control::READ, 2, 0x2000), 0);
        assert_eq!(ask(&mut items, &memory, control::SKIP, 1, 0), 0);
        assert_eq!(ask(&mut items, &memory, control::READ, 7, 0x2002), 0);
        let bytes: [u8; 10] = memory.read_obj(GuestAddress(0x2000)).unwrap();
        assert_eq!(bytes, [0x78, 0x56, 0x12, 0, 0, 0, 0, 0, 0, 0xff]);
    }

    #[test]
    fn only_what_may_be_written_is() {
        let (mut items, memory) = (Items::new(1, 1), memory());
        let write = |key: u16| u32::from(key) << 16 | control::SELECT | control::WRITE;
        memory
            .write_slice(&[0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0], GuestAddress(0x2000))
            .unwrap();
        assert_eq!(ask(&mut items, &memory, write(key::RAM_SIZE), 8, 0x2000), control::ERROR);
        assert_eq!(
            ask(&mut items, &memory, write(key::VMCOREINFO), 16, SIZE as u64 - 8),
            control::ERROR
        );
        assert_eq!(ask(&mut items, &memory, write(key::VMCOREINFO), 17, 0x2000), control::ERROR);
        assert_eq!(items.vmcoreinfo(), None);
        assert_eq!(ask(&mut items, &memory, write(key::VMCOREINFO), 16, 0x2000), 0);
        let note = items.vmcoreinfo().unwrap();
        assert_eq!((note.address, note.size), (0x3_0000, 0x200));
    }

    proptest! {
        #[test]
        fn no_transfer_makes_it_panic(
            control in prop_oneof![any::<u32>(), 0..0x40_0020_u32],
            size in prop_oneof![any::<u32>(), 0..40_u32],
            address in prop_oneof![any::<u64>(), 0..SIZE as u64 + 100],
            at in prop_oneof![any::<u64>(), SIZE as u64 - 20..SIZE as u64 + 20],
        ) {
            let (mut items, memory) = (Items::new(1, 1), memory());
            let after = ask(&mut items, &memory, control, size, address);
            prop_assert!(after <= 1 || address <= 0x1004, "{:#x}", after);
            carry_out(&mut items, &memory, &|_, _| {}, at);
        }
    }
}
