//! [`MsiX`]: a function's message-signalled interrupts: the table, the bits of what is pending, and the capability's control register.
//!
//! It says which messages are to be sent; it sends none.
//!
//! See: PCI Local Bus Specification 3.0, 6.8.2, 6.8.3.

/// The capability's number.
pub const CAPABILITY: u8 = 0x11;

/// Bits of the control register, as its upper byte.
pub mod control {
    /// Messages are what the function interrupts by.
    pub const ENABLE: u8 = 1 << 7;
    /// All of them are masked.
    pub const MASK: u8 = 1 << 6;
}

/// Bytes of an entry of the table.
pub const ENTRY: u64 = 16;

/// The mask bit of an entry's last word.
const MASKED: u32 = 1;

/// What an interrupt is signalled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Guest-physical.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// Address, its upper half, data and control.
type Entry = [u32; 4];

/// The registers.
#[derive(Clone, Debug)]
pub struct MsiX {
    table: Vec<Entry>,
    pending: Vec<bool>,
    control: u8,
}

impl MsiX {
    /// So many vectors, all masked.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let count = usize::from(vectors);
        Self { table: vec![[0, 0, 0, MASKED]; count], pending: vec![false; count], control: 0 }
    }

    /// The capability's body: the table at `table` and the pending bits at `pending` of base address register 0; and what of it the guest
    /// may write.
    #[must_use]
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.table.len().saturating_sub(1) as u16).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        (body, [0, control::ENABLE | control::MASK])
    }

    /// Whether messages are what the function interrupts by.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.control & control::ENABLE != 0
    }

    /// The upper byte of the control register was written. Gives what is to be sent now.
    pub fn set_control(&mut self, control: u8) -> Vec<Message> {
        self.control = control;
        (0..self.table.len()).filter_map(|vector| self.deliver(vector)).collect()
    }

    fn is_masked(&self, vector: usize) -> bool {
        !self.is_enabled()
            || self.control & control::MASK != 0
            || self.table[vector][3] & MASKED != 0
    }

    /// What is pending, if it is not masked any more.
    fn deliver(&mut self, vector: usize) -> Option<Message> {
        let is_due = self.pending[vector] && !self.is_masked(vector);
        is_due.then(|| {
            self.pending[vector] = false;
            self.message(vector)
        })
    }

    fn message(&self, vector: usize) -> Message {
        let [low, high, data, _] = self.table[vector];
        Message { address: u64::from(high) << 32 | u64::from(low), data }
    }

    /// There is an interrupt. What is to be sent for it now; if that is masked, it is pending. A vector that there is not is none.
    pub fn raise(&mut self, vector: u16) -> Option<Message> {
        let vector = usize::from(vector);
        *self.pending.get_mut(vector)? = true;
        self.deliver(vector)
    }

    /// Reads from the table. What is not 4 or 8 bytes at a multiple of that is all zeroes.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if !is_whole(offset, data.len()) || offset >= ENTRY * self.table.len() as u64 {
            return;
        }
        for (at, word) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
            let entry = self.table.get((at / ENTRY) as usize);
            let value = entry.map_or(0, |entry| entry[(at % ENTRY / 4) as usize]);
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes to the table. Gives what is to be sent now.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Option<Message> {
        if !is_whole(offset, data.len()) {
            return None;
        }
        let vector = (offset / ENTRY) as usize;
        let entry = self.table.get_mut(vector)?;
        for (at, word) in (offset..).step_by(4).zip(data.chunks(4)) {
            if let Ok(bytes) = word.try_into() {
                entry[(at % ENTRY / 4) as usize] = u32::from_le_bytes(bytes);
            }
        }
        self.deliver(vector)
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let bytes = self.pending.chunks(8).skip(offset as usize);
        for (byte, bits) in data.iter_mut().zip(bytes) {
            *byte = bits.iter().enumerate().map(|(bit, on)| u8::from(*on) << bit).sum();
        }
    }

    /// As at reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.table.len() as u16);
    }
}

/// The table is accessed by whole words, one or two. See: 6.8.2.
fn is_whole(offset: u64, size: usize) -> bool {
    matches!(size, 4 | 8) && offset.is_multiple_of(size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_message(vector: u16) -> MsiX {
        let mut msix = MsiX::new(3);
        let at = u64::from(vector) * ENTRY;
        msix.write_table(at, &0xfee0_1000_u64.to_le_bytes());
        msix.write_table(at + 8, &0x41_u32.to_le_bytes());
        msix
    }

    const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x41 };

    fn unmask(msix: &mut MsiX, vector: u16) -> Option<Message> {
        msix.write_table(u64::from(vector) * ENTRY + 12, &[0; 4])
    }

    #[test]
    fn an_interrupt_is_sent_if_nothing_masks_it() {
        let mut msix = with_message(1);
        assert_eq!(unmask(&mut msix, 1), None);
        assert_eq!(msix.set_control(control::ENABLE), []);
        assert_eq!(msix.raise(1), Some(MESSAGE));
        assert_eq!((msix.raise(2), msix.raise(3), msix.raise(u16::MAX)), (None, None, None));
    }

    #[test]
    fn what_is_masked_is_sent_later_and_once() {
        let mut msix = with_message(2);
        assert_eq!(msix.set_control(control::ENABLE), []);
        assert_eq!((msix.raise(2), msix.raise(2)), (None, None));
        let mut bits = [0xff; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(unmask(&mut msix, 2), Some(MESSAGE));
        assert_eq!(unmask(&mut msix, 2), None);

        assert_eq!(msix.set_control(control::ENABLE | control::MASK), []);
        assert_eq!(msix.raise(2), None);
        assert_eq!(msix.set_control(control::ENABLE), [MESSAGE]);
    }

    #[test]
    fn the_table_is_read_by_words() {
        let msix = with_message(1);
        let mut both = [0; 8];
        msix.read_table(ENTRY, &mut both);
        assert_eq!(u64::from_le_bytes(both), 0xfee0_1000);
        let mut word = [0; 4];
        msix.read_table(ENTRY + 12, &mut word);
        assert_eq!(word, [1, 0, 0, 0], "masked at reset");
        for (offset, size) in [(1, 4), (4, 8), (0, 1), (0, 2), (3 * ENTRY, 4), (u64::MAX - 3, 4)] {
            let mut data = vec![0xff; size];
            msix.read_table(offset, &mut data);
            assert!(data.iter().all(|byte| *byte == 0), "{offset:#x} {size}");
        }
    }

    #[test]
    fn no_access_is_out_of_bounds() {
        let mut msix = with_message(0);
        for offset in [3 * ENTRY, 1 << 40, u64::MAX - 7] {
            assert_eq!(msix.write_table(offset, &[0; 8]), None);
            assert_eq!(msix.write_table(offset, &[0; 4]), None);
            msix.read_pending(offset, &mut [0; 8]);
        }
    }
}
