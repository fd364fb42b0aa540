//! A nested guest's state, of which there is only its absence. Neighbours: [`crate::ioctl`].
//!
//! See: api.rst 4.114 (`KVM_GET_NESTED_STATE`).

/// In [`NestedState::format`]: of Intel's kind.
pub const STATE_NESTED_FORMAT_VMX: u16 = 0;
/// In [`NestedState::format`]: of AMD's kind.
pub const STATE_NESTED_FORMAT_SVM: u16 = 1;
/// In [`NestedState::flags`]: AMD's global interrupt flag.
pub const STATE_NESTED_GIF_SET: u16 = 1 << 8;

/// What precedes the state: `struct kvm_nested_state` without it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedState {
    /// `STATE_NESTED_…`.
    pub flags: u16,
    /// `STATE_NESTED_FORMAT_…`.
    pub format: u16,
    /// Bytes of all, with what follows.
    pub size: u32,
    /// By [`Self::format`]; Intel's begins with the addresses of the VMXON region and the current VMCS, all ones
    /// if there is none.
    pub hdr: [u64; 15],
}
