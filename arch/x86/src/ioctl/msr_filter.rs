//! KVM_X86_SET_MSR_FILTER, and KVM_CAP_X86_USER_SPACE_MSR: which model-specific registers the guest may use, and whose accesses the
//! VMM wants to see.
//!
//! See: api.rst 4.97, 7.21; Linux, arch/x86/kvm/x86.c, `kvm_vm_ioctl_set_msr_filter`.

use abi::msr::{
    EXIT_REASON_FILTER, EXIT_REASON_INVAL, EXIT_REASON_UNKNOWN, MSR_FILTER_DEFAULT_DENY,
    MSR_FILTER_READ, MSR_FILTER_WRITE, MsrFilter as Abi, MsrFilterRange,
};
use alloc::sync::Arc;
use virt::host::Host;
use virt::ioctl::Argument;
use virt::{Errno, Vm};

use crate::engine::Engine;
use crate::machine::X86;
use crate::msr_policy::{FilterRange, MsrFilter, MsrReason};

/// The largest bitmap, in bytes. See: Linux, arch/x86/include/uapi/asm/kvm.h, `KVM_MSR_FILTER_MAX_BITMAP_SIZE`.
const MAX_BITMAP: u32 = 0x600;

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let from: Abi = argument.read()?;
    let denies = from.flags & MSR_FILTER_DEFAULT_DENY != 0;
    let mut filter = MsrFilter { denies, ..MsrFilter::default() };
    let used = from.ranges.iter().filter(|range| range.nmsrs != 0);
    let count = used.clone().count();
    // A guest that could use none at all is not what is meant.
    if from.flags & !MSR_FILTER_DEFAULT_DENY != 0 || denies && count == 0 {
        return Err(Errno::EINVAL);
    }
    filter.ranges.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    for range in used {
        filter.ranges.push(read(range, argument)?);
    }
    vm.arch().machine().msr_policy.set_filter(Arc::new(filter));
    Ok(0)
}

fn read<H: Host>(range: &MsrFilterRange, argument: &Argument<H>) -> Result<FilterRange, Errno> {
    let about = range.flags & (MSR_FILTER_READ | MSR_FILTER_WRITE);
    if about == 0 || about != range.flags || range.nmsrs > MAX_BITMAP * 8 {
        return Err(Errno::EINVAL);
    }
    // Whole words of 64 bits.
    let bytes = range.nmsrs.next_multiple_of(64) / 8;
    Ok(FilterRange {
        first: range.base,
        count: range.nmsrs,
        reads: about & MSR_FILTER_READ != 0,
        writes: about & MSR_FILTER_WRITE != 0,
        allowed: argument.elsewhere(range.bitmap).bytes(0, bytes as usize)?,
    })
}

/// Has accesses be exits for the reasons of [`abi::msr`]'s bits.
pub(super) fn set_exits<E: Engine, H: Host>(vm: &Vm<X86<E, H>>, bits: u64) -> Result<u32, Errno> {
    let mut left = bits;
    let mut has = |bit| {
        let set = left & u64::from(bit) != 0;
        left &= !u64::from(bit);
        set
    };
    let reasons = [
        (has(EXIT_REASON_INVAL), MsrReason::Invalid),
        (has(EXIT_REASON_UNKNOWN), MsrReason::Unknown),
        (has(EXIT_REASON_FILTER), MsrReason::Filtered),
    ];
    if left != 0 {
        return Err(Errno::EINVAL);
    }
    let reasons = reasons.into_iter().filter_map(|(on, reason)| on.then_some(reason));
    vm.arch().machine().msr_policy.set_exits(reasons);
    Ok(0)
}
