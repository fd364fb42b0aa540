//! The dirty ring's entries as a VMM sees them: [`DirtyGfns`], and how large the ring may be.
//!
//! An entry's flags say whose it is: nobody's, filled, or collected. Each side writes what it has to say before the flags.
//!
//! See: api.rst 8.29 (`KVM_CAP_DIRTY_LOG_RING`); Linux, virt/kvm/dirty_ring.c.

use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use abi::encoding::Encoded;
use abi::memory::{DIRTY_GFN_DIRTY, DIRTY_GFN_RESET, DIRTY_LOG_PAGE_OFFSET, DirtyGfn};

use super::Mapping;
use crate::arch::Arch;
use crate::dirty_ring::{Entries, MAX_ENTRIES};
use crate::host::Errno;
use crate::memory::PAGE;
use crate::vm::Vm;

/// Bytes that a ring may have.
pub const MAX_RING_SIZE: u32 = MAX_ENTRIES * DirtyGfn::SIZE as u32;

/// Where a vCPU's ring begins in its mapping.
pub const RING_OFFSET: u32 = DIRTY_LOG_PAGE_OFFSET * PAGE as u32;

/// Bytes of a ring of so many entries.
#[must_use]
pub const fn ring_size(entries: u32) -> u32 {
    entries * DirtyGfn::SIZE as u32
}

/// Has each vCPU have a ring of so many bytes.
pub(super) fn enable<A: Arch>(vm: &Vm<A>, bytes: u64) -> Result<u32, Errno> {
    if !bytes.is_power_of_two() || bytes < PAGE {
        return Err(Errno::EINVAL);
    }
    vm.use_dirty_rings(bytes / DirtyGfn::SIZE as u64)?;
    Ok(0)
}

/// The entries of a vCPU's ring, in a mapping of them alone that is all zeros at first.
#[derive(Debug)]
pub struct DirtyGfns<M>(pub M);

impl<M: Mapping> DirtyGfns<M> {
    fn number<T: Encoded>(&self, at: usize) -> T {
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..T::SIZE) {
            self.0.load(at, part);
        }
        T::decode(&bytes)
    }
}

impl<M: Mapping + Send + Sync> Entries for DirtyGfns<M> {
    fn fill(&self, at: u32, slot: u32, page: u64) {
        let at = at as usize * DirtyGfn::SIZE;
        self.0.store(at + offset_of!(DirtyGfn, slot), &slot.to_ne_bytes());
        self.0.store(at + offset_of!(DirtyGfn, offset), &page.to_ne_bytes());
        // It is there before the VMM is told that it is.
        fence(Ordering::Release);
        self.0.store(at + offset_of!(DirtyGfn, flags), &DIRTY_GFN_DIRTY.to_ne_bytes());
    }

    fn free(&self, at: u32) -> Option<(u32, u64)> {
        let at = at as usize * DirtyGfn::SIZE;
        let flags = at + offset_of!(DirtyGfn, flags);
        if self.number::<u32>(flags) & DIRTY_GFN_RESET == 0 {
            return None;
        }
        // What it says is what it was when that was said.
        fence(Ordering::Acquire);
        let slot = self.number(at + offset_of!(DirtyGfn, slot));
        let page = self.number(at + offset_of!(DirtyGfn, offset));
        self.0.store(flags, &0_u32.to_ne_bytes());
        Some((slot, page))
    }
}
