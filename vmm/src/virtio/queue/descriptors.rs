//! [`read`]: the descriptors of a chain, as the [`Chain`] that they mean.
//!
//! `virtio-queue` reads them as well, one at a time, and looks for each anew where its table is in memory. A disk's requests have tables of their own
//! (indirect descriptors) with one for each page that is moved: here such a table is copied first, at once.
//!
//! See: VIRTIO 1.2, 2.7.5.

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::{Broken, Buffer, Chain};

/// Bytes of a descriptor.
const SIZE: usize = 16;

/// A table of descriptors.
enum Table {
    /// The queue's, in the guest's memory: where it is, and how many it holds.
    Queue(GuestAddress, u16),
    /// One of a chain's own, as it was when it was read.
    Copied(Vec<u8>),
}

impl Table {
    /// The one that a descriptor refers to.
    fn referred_to(by: &Descriptor, memory: &GuestMemoryMmap) -> Result<Self, Broken> {
        let size = by.len() as usize;
        // It has at least one, and no more than can be numbered.
        if size == 0 || !size.is_multiple_of(SIZE) || size / SIZE > usize::from(u16::MAX) {
            return Err(Broken);
        }
        if !GuestMemory::check_range(memory, by.addr(), size, Permissions::Read) {
            return Err(Broken);
        }
        let mut copied = vec![0; size];
        memory.read_slice(&mut copied, by.addr()).map_err(|_| Broken)?;
        Ok(Self::Copied(copied))
    }

    /// How many descriptors it has.
    fn len(&self) -> u16 {
        match self {
            Self::Queue(_, size) => *size,
            Self::Copied(bytes) => u16::try_from(bytes.len() / SIZE).unwrap_or(u16::MAX),
        }
    }

    fn get(&self, index: u16, memory: &GuestMemoryMmap) -> Result<Descriptor, Broken> {
        if index >= self.len() {
            return Err(Broken);
        }
        let at = usize::from(index) * SIZE;
        let mut bytes = [0; SIZE];
        match self {
            Self::Queue(table, _) => {
                let address = table.0.checked_add(at as u64).ok_or(Broken)?;
                memory.read_slice(&mut bytes, GuestAddress(address)).map_err(|_| Broken)?;
            }
            Self::Copied(all) => bytes.copy_from_slice(&all[at..at + SIZE]),
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let size = u32::from_le_bytes([i, j, k, l]);
        let (flags, next) = (u16::from_le_bytes([m, n]), u16::from_le_bytes([o, p]));
        Ok(Descriptor::new(address, size, flags, next))
    }
}

/// The chain that begins with a descriptor of the queue's table. Whether its buffers are in memory is not looked at.
///
/// # Errors
/// When it does not end, leaves its table, has a table in a table, or more bytes than there may be; or what is written comes before what is read.
pub fn read(queue: &Queue, head: u16, memory: &GuestMemoryMmap) -> Result<Chain, Broken> {
    let mut table = Table::Queue(GuestAddress(queue.desc_table()), queue.size());
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    let (mut next, mut total) = (head, 0_u32);
    // No chain is longer than its table: one that is, is a loop.
    let mut left = table.len();
    loop {
        left = left.checked_sub(1).ok_or(Broken)?;
        let descriptor = table.get(next, memory)?;
        if descriptor.refers_to_indirect_table() {
            // See: VIRTIO 1.2, 2.7.5.3.1.
            if matches!(table, Table::Copied(_)) || descriptor.has_next() {
                return Err(Broken);
            }
            table = Table::referred_to(&descriptor, memory)?;
            (next, left) = (0, table.len());
            continue;
        }
        // See: VIRTIO 1.2, 2.7.5.2.
        total = total.checked_add(descriptor.len()).ok_or(Broken)?;
        let buffer = Buffer { address: descriptor.addr().0, size: descriptor.len() };
        match descriptor.is_write_only() {
            true => writable.push(buffer),
            // What is read comes first. See: VIRTIO 1.2, 2.7.4.2.
            false if !writable.is_empty() => return Err(Broken),
            false => readable.push(buffer),
        }
        if !descriptor.has_next() {
            return Ok(Chain { head, readable, writable });
        }
        next = descriptor.next();
    }
}
