//! KVM_GET_MSRS, KVM_SET_MSRS: model-specific registers, as many as there are before the first that is refused; KVM_X86_SETUP_MCE: how
//! many machine-check banks there are.
//!
//! A VMM sets some to values that the guest could not write: [`Vcpu::set_msr`]. See: api.rst 4.18, 4.19, 4.105 (`KVM_X86_SETUP_MCE`).

use abi::encoding::Encoded;
use abi::msr::{MsrEntry, MsrsHeader};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use super::msr_index;
use crate::engine::Engine;
use crate::vcpu::Vcpu;

/// One call has less than this many.
const MAX_ENTRIES: u32 = 256;

#[inline(never)]
pub(super) fn get<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    fill(argument, |index| vcpu.read_msr(index).ok())
}

/// The device's: those that tell features.
#[inline(never)]
pub(super) fn get_features<H: Host>(argument: &Argument<H>) -> Result<u32, Errno> {
    fill(argument, msr_index::feature)
}

/// Fills the entries up to the first for whose register there is no value; gives how many.
fn fill<H: Host>(
    argument: &Argument<H>,
    mut value: impl FnMut(u32) -> Option<u64>,
) -> Result<u32, Errno> {
    let mut entries = entries(argument)?;
    let mut done = 0;
    for bytes in entries.chunks_exact_mut(MsrEntry::SIZE) {
        let entry = MsrEntry::decode(bytes);
        let Some(data) = value(entry.index) else { break };
        MsrEntry { data, ..entry }.encode(bytes);
        done += 1;
    }
    argument.put(MsrsHeader::SIZE, &entries)?;
    Ok(done)
}

#[inline(never)]
pub(super) fn set<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    let entries = entries(argument)?;
    let mut done = 0;
    for bytes in entries.chunks_exact(MsrEntry::SIZE) {
        let entry = MsrEntry::decode(bytes);
        if vcpu.set_msr(entry.index, entry.data).is_err() {
            break;
        }
        done += 1;
    }
    Ok(done)
}

#[inline(never)]
pub(super) fn set_up_machine_check<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    vcpu.set_up_machine_check(argument.read()?)?;
    Ok(0)
}

/// The entries behind the header.
fn entries<H: Host>(argument: &Argument<H>) -> Result<alloc::vec::Vec<u8>, Errno> {
    let MsrsHeader { nmsrs, .. } = argument.read()?;
    if nmsrs >= MAX_ENTRIES {
        return Err(Errno::E2BIG);
    }
    argument.bytes(MsrsHeader::SIZE, nmsrs as usize * MsrEntry::SIZE)
}
