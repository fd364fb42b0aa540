//! KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG: memory slots and their logs.
//!
//! There is one address space, and no memory without a mapping of the caller's (`guest_memfd`).
//!
//! See: api.rst 4.35, 4.140 (regions), 4.8 (`KVM_GET_DIRTY_LOG`), 4.117 (`KVM_CLEAR_DIRTY_LOG`).

use abi::encoding::Encoded;
use abi::memory::{
    ClearDirtyLog, DirtyLog, MEM_LOG_DIRTY_PAGES, MEM_READONLY, UserspaceMemoryRegion,
    UserspaceMemoryRegion2,
};
use alloc::vec::Vec;

use super::{Argument, zeroed};
use crate::arch::Arch;
use crate::host::{Errno, Host};
use crate::memory::{PAGE, Slot, Slots};
use crate::vm::Vm;

/// Pages of a word of a bitmap.
const BITS: u64 = u64::BITS as u64;

pub(super) fn set<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    set_region(vm, &argument.read()?)
}

pub(super) fn set2<A: Arch>(vm: &Vm<A>, argument: &Argument<A::Host>) -> Result<u32, Errno> {
    let from: UserspaceMemoryRegion2 = argument.read()?;
    // What names a descriptor has a flag of its own, which is refused as others are.
    set_region(
        vm,
        &UserspaceMemoryRegion {
            slot: from.slot,
            flags: from.flags,
            guest_phys_addr: from.guest_phys_addr,
            memory_size: from.memory_size,
            userspace_addr: from.userspace_addr,
        },
    )
}

fn set_region<A: Arch>(vm: &Vm<A>, from: &UserspaceMemoryRegion) -> Result<u32, Errno> {
    let (address, size) = (from.userspace_addr, from.memory_size);
    // Nothing has to be mapped there, but it must be possible.
    if from.flags & !(MEM_LOG_DIRTY_PAGES | MEM_READONLY) != 0
        || !vm.arch().host().can_be_callers(address, size)
    {
        return Err(Errno::EINVAL);
    }
    vm.set_slot(Slot {
        id: slot_id(from.slot)?,
        gpa: from.guest_phys_addr,
        size: from.memory_size,
        hva: from.userspace_addr,
        read_only: from.flags & MEM_READONLY != 0,
        log_dirty: from.flags & MEM_LOG_DIRTY_PAGES != 0,
    })?;
    Ok(0)
}

/// The number of a slot, without the address space in its upper half.
fn slot_id(number: u32) -> Result<u32, Errno> {
    if number < Slots::MAX as u32 { Ok(number) } else { Err(Errno::EINVAL) }
}

/// Bitmaps are not asked for where pages come in rings.
fn has_bitmaps<A: Arch>(vm: &Vm<A>) -> Result<(), Errno> {
    if vm.ring_entries().is_some() { Err(Errno::ENXIO) } else { Ok(()) }
}

pub(super) fn get_dirty_log<A: Arch>(
    vm: &Vm<A>,
    argument: &Argument<A::Host>,
) -> Result<u32, Errno> {
    let from: DirtyLog = argument.read()?;
    has_bitmaps(vm)?;
    let id = slot_id(from.slot)?;
    let marks = if vm.keeps_logs() { vm.look_dirty(id)? } else { vm.take_dirty(id)? };
    let mut bytes = zeroed(marks.len() * u64::SIZE)?;
    for (to, word) in bytes.chunks_exact_mut(u64::SIZE).zip(marks) {
        word.encode(to);
    }
    argument.elsewhere(from.dirty_bitmap).put(0, &bytes)?;
    Ok(0)
}

pub(super) fn clear_dirty_log<A: Arch>(
    vm: &Vm<A>,
    argument: &Argument<A::Host>,
) -> Result<u32, Errno> {
    let from: ClearDirtyLog = argument.read()?;
    has_bitmaps(vm)?;
    let (first, count) = (from.first_page, u64::from(from.num_pages));
    let id = slot_id(from.slot)?;
    if !first.is_multiple_of(BITS) {
        return Err(Errno::EINVAL);
    }
    let pages = vm.memory().log(id)?.0.size / PAGE;
    let left = pages.checked_sub(first).ok_or(Errno::EINVAL)?;
    // Whole words, but for the last one of the slot.
    if count > left || count < left && !count.is_multiple_of(BITS) {
        return Err(Errno::EINVAL);
    }
    let bits = words(&argument.elsewhere(from.dirty_bitmap), count.div_ceil(BITS) as usize)?;
    vm.clear_dirty(id, first, &bits)?;
    Ok(0)
}

/// So many words of a bitmap.
fn words<H: Host>(bitmap: &Argument<H>, count: usize) -> Result<Vec<u64>, Errno> {
    let bytes = bitmap.bytes(0, count * u64::SIZE)?;
    let mut words = Vec::new();
    words.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    words.extend(bytes.chunks_exact(u64::SIZE).map(u64::decode));
    Ok(words)
}
