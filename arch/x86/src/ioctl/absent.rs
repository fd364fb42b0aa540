//! KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE: what there is none of, and what a VMM is told that saves, restores or resets it all
//! the same.
//!
//! That there is nothing to save is answered as Linux does; anything else is EINVAL. Of a nested guest Cloud Hypervisor asks whatever the capability says.
//!
//! See: api.rst 4.114, 4.115 (nested state); Linux, arch/x86/kvm/vmx/nested.c, `vmx_get_nested_state`.

use abi::encoding::Encoded;
use abi::nested::{
    NestedState, STATE_NESTED_FORMAT_SVM, STATE_NESTED_FORMAT_VMX, STATE_NESTED_GIF_SET,
};
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

/// The address of what is not there.
const INVALID: u64 = !0;

/// Intel's form of no state: no VMXON region, no current VMCS.
#[inline(never)]
pub(super) fn get_nested_state<H: Host>(argument: &Argument<H>) -> Result<u32, Errno> {
    let room: NestedState = argument.read()?;
    let mut hdr = [0; 15];
    (hdr[0], hdr[1]) = (INVALID, INVALID);
    let size = NestedState::SIZE as u32;
    let empty = NestedState { flags: 0, format: STATE_NESTED_FORMAT_VMX, size, hdr };
    if room.size < size {
        argument.write(&NestedState { size, ..room })?;
        return Err(Errno::E2BIG);
    }
    argument.write(&empty)?;
    Ok(0)
}

/// Takes no state, in either form.
#[inline(never)]
pub(super) fn set_nested_state<H: Host>(argument: &Argument<H>) -> Result<u32, Errno> {
    let from: NestedState = argument.read()?;
    let empty = match from.format {
        STATE_NESTED_FORMAT_VMX => from.flags == 0 && from.hdr[..2] == [INVALID; 2],
        STATE_NESTED_FORMAT_SVM => from.flags & !STATE_NESTED_GIF_SET == 0,
        _ => false,
    };
    if (from.size as usize) < NestedState::SIZE || !empty {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}
