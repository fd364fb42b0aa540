//! Capabilities that are switched on, devices and their attributes. Neighbours: [`crate::cap`].
//!
//! See: api.rst 4.37 (`KVM_ENABLE_CAP`), 4.79 (`KVM_CREATE_DEVICE`), 4.80 (`KVM_SET_DEVICE_ATTR`);
//! Linux, Documentation/virt/kvm/devices/vfio.rst.

/// Switches a capability on: `struct kvm_enable_cap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnableCap {
    /// Which: [`crate::cap`].
    pub cap: u32,
    /// Zero.
    pub flags: u32,
    /// The capability's own.
    pub args: [u64; 4],
    /// Zero.
    pub pad: [u8; 64],
}

/// Makes a device: `struct kvm_create_device`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateDevice {
    /// In: its kind.
    pub type_: u32,
    /// Out: its descriptor.
    pub fd: u32,
    /// In: 1 only asks whether it could be made.
    pub flags: u32,
}

/// Of its flags: whether it could be made is only asked.
pub const CREATE_DEVICE_TEST: u32 = 1;

/// A kind of device: that which knows of the groups of devices that are passed through.
pub const DEV_TYPE_VFIO: u32 = 4;

/// Its group of attributes. Their value is a descriptor, an `i32`.
pub const VFIO_GROUP: u32 = 1;
/// Of those: adds the VFIO group.
pub const VFIO_GROUP_ADD: u64 = 1;
/// Of those: removes it.
pub const VFIO_GROUP_DEL: u64 = 2;

/// An attribute of `/dev/kvm`, of group 0: the components of XSAVE that guests may be let use, a `u64` as XCR0 has them.
pub const X86_XCOMP_GUEST_SUPP: u64 = 0;

/// A group of a vCPU's attributes: its time stamp counter.
pub const VCPU_TSC_CTRL: u32 = 0;
/// Of that: what is added to the host's.
pub const VCPU_TSC_OFFSET: u64 = 0;

/// An attribute of a device, a VM or a vCPU: `struct kvm_device_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAttr {
    /// Zero.
    pub flags: u32,
    /// The group.
    pub group: u32,
    /// Which of the group.
    pub attr: u64,
    /// Address of its value in the caller's memory.
    pub addr: u64,
}
