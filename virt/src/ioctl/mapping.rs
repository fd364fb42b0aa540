//! What a vCPU shares with its caller, [`Mapping`], and the ring in it that all vCPUs of a machine share: [`put_into_ring`].
//!
//! A vCPU's mapping has three pages: `struct kvm_run`, the data of port accesses, and at
//! [`COALESCED_MMIO_PAGE_OFFSET`] the ring of writes that wait
//! ([`crate::coalesced`]). The third is one page for all vCPUs of a machine: a caller may look for the writes of all of them in the
//! mapping of any. Who has the descriptors sees to that.
//!
//! See: api.rst 4.5 (`KVM_GET_VCPU_MMAP_SIZE`), 4.116 (`KVM_REGISTER_COALESCED_MMIO`); Linux, virt/kvm/coalesced_mmio.c.

use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use abi::encoding::Encoded;
use abi::memory::{COALESCED_MMIO_PAGE_OFFSET, CoalescedMmio, CoalescedMmioRing};

use crate::memory::PAGE;

/// Bytes of the mapping that a vCPU shares.
pub const VCPU_MMAP_SIZE: u32 = 3 * PAGE as u32;

/// The memory that a vCPU shares with its caller, of [`VCPU_MMAP_SIZE`] bytes, the last page of which is the machine's.
///
/// The caller writes to it meanwhile: there is no reference to it, and a value is read once. An aligned one of 1, 2, 4 or 8 bytes is
/// read, and written, as a whole. What is beyond it reads as 0, and is not written.
pub trait Mapping {
    /// Reads from an offset on.
    fn load(&self, offset: usize, bytes: &mut [u8]);
    /// Writes from an offset on.
    fn store(&self, offset: usize, bytes: &[u8]);
}

impl<M: Mapping> Mapping for Arc<M> {
    fn load(&self, offset: usize, bytes: &mut [u8]) {
        (**self).load(offset, bytes);
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        (**self).store(offset, bytes);
    }
}

/// Where the ring is.
const RING: usize = COALESCED_MMIO_PAGE_OFFSET as usize * PAGE as usize;
/// How many writes it has room for, one of which stays free.
const ENTRIES: u32 = ((PAGE as usize - CoalescedMmioRing::SIZE) / CoalescedMmio::SIZE) as u32;

/// The number at an offset in the ring.
fn load(mapping: &impl Mapping, offset: usize) -> u32 {
    let mut bytes = [0; u32::SIZE];
    mapping.load(RING + offset, &mut bytes);
    u32::decode(&bytes)
}

/// Puts a write of one to eight bytes into the ring, with its lock held. Gives whether there was room; if the caller has made the ring's
/// numbers something else, there is none.
pub fn put_into_ring(mapping: &impl Mapping, at: u64, ports: bool, bytes: &[u8]) -> bool {
    let last = load(mapping, offset_of!(CoalescedMmioRing, last));
    if last >= ENTRIES {
        return false;
    }
    let next = (last + 1) % ENTRIES;
    if next == load(mapping, offset_of!(CoalescedMmioRing, first)) {
        return false;
    }
    // The caller has read what was there before it said so.
    fence(Ordering::Acquire);
    let mut data = [0; 8];
    data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let len = bytes.len().min(data.len()) as u32;
    let mut entry = [0; size_of::<CoalescedMmio>()];
    CoalescedMmio { phys_addr: at, len, pio: ports.into(), data }.encode(&mut entry);
    let place = CoalescedMmioRing::SIZE + last as usize * CoalescedMmio::SIZE;
    mapping.store(RING + place, &entry);
    // It is there before the caller is told that it is.
    fence(Ordering::Release);
    mapping.store(RING + offset_of!(CoalescedMmioRing, last), &next.to_ne_bytes());
    true
}
