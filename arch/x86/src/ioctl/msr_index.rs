//! KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST, and KVM_GET_MSRS of the device: which model-specific registers are a
//! vCPU's state, and which tell what the hypervisor has.
//!
//! A VMM saves all of the first list, and takes it amiss if one cannot be read or set back. What is set by KVM_SET_SREGS is
//! not in it.
//!
//! See: api.rst 4.3 (`KVM_GET_MSR_INDEX_LIST`), 4.18 (`KVM_GET_MSRS`).

use abi::encoding::Encoded;
use abi::msr::MsrListHeader;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::{Argument, zeroed};

use crate::msr::{Stored, index};

/// The registers that are state.
pub(super) const STATE: &[u32] = &[
    index::SYSENTER_CS,
    index::SYSENTER_ESP,
    index::SYSENTER_EIP,
    index::STAR,
    index::LSTAR,
    index::CSTAR,
    index::SFMASK,
    index::KERNEL_GS_BASE,
    index::TSC_AUX,
    index::TSC,
    index::TSC_ADJUST,
    index::TSC_DEADLINE,
    index::PAT,
    index::MISC_ENABLE,
    index::POWER_CTL,
    index::SPEC_CTRL,
    index::FEATURE_CONTROL,
    index::ARCH_CAPABILITIES,
    index::PLATFORM_INFO,
    index::KVM_WALL_CLOCK,
    index::KVM_SYSTEM_TIME,
    index::KVM_WALL_CLOCK_NEW,
    index::KVM_SYSTEM_TIME_NEW,
    index::MCG_STATUS,
    index::AMD_HWCR,
    index::MTRR_DEFAULT_TYPE,
    index::MTRR_FIX64K,
    index::MTRR_FIX16K_0,
    index::MTRR_FIX16K_1,
    index::MTRR_FIX4K_0,
    index::MTRR_FIX4K_0 + 1,
    index::MTRR_FIX4K_0 + 2,
    index::MTRR_FIX4K_0 + 3,
    index::MTRR_FIX4K_0 + 4,
    index::MTRR_FIX4K_0 + 5,
    index::MTRR_FIX4K_0 + 6,
    index::MTRR_FIX4K_7,
    index::MTRR_FIRST_VARIABLE,
    index::MTRR_FIRST_VARIABLE + 1,
    index::MTRR_FIRST_VARIABLE + 2,
    index::MTRR_FIRST_VARIABLE + 3,
    index::MTRR_FIRST_VARIABLE + 4,
    index::MTRR_FIRST_VARIABLE + 5,
    index::MTRR_FIRST_VARIABLE + 6,
    index::MTRR_FIRST_VARIABLE + 7,
    index::MTRR_FIRST_VARIABLE + 8,
    index::MTRR_FIRST_VARIABLE + 9,
    index::MTRR_FIRST_VARIABLE + 10,
    index::MTRR_FIRST_VARIABLE + 11,
    index::MTRR_FIRST_VARIABLE + 12,
    index::MTRR_FIRST_VARIABLE + 13,
    index::MTRR_FIRST_VARIABLE + 14,
    index::MTRR_LAST_VARIABLE,
];

/// Those that tell features: the same for all vCPUs, until a VMM sets them.
pub(super) const FEATURES: &[u32] = &[
    index::MICROCODE_REVISION,
    index::ARCH_CAPABILITIES,
    index::PERF_CAPABILITIES,
    index::AMD_DE_CFG,
];

/// Gives a list, if there is room for it; how many it has in any case.
#[inline(never)]
pub(super) fn list<H: Host>(argument: &Argument<H>, indices: &[u32]) -> Result<u32, Errno> {
    let room: MsrListHeader = argument.read()?;
    argument.write(&MsrListHeader { nmsrs: indices.len() as u32 })?;
    if (room.nmsrs as usize) < indices.len() {
        return Err(Errno::E2BIG);
    }
    let mut bytes = zeroed(indices.len() * u32::SIZE)?;
    for (to, index) in bytes.chunks_exact_mut(u32::SIZE).zip(indices) {
        index.encode(to);
    }
    argument.put(MsrListHeader::SIZE, &bytes)?;
    Ok(0)
}

/// The value of a register that tells features.
pub(super) fn feature(number: u32) -> Option<u64> {
    let known = FEATURES.contains(&number);
    known.then(|| Stored::default().read(number).ok()).flatten()
}
