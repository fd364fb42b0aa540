//! Interrupts on their way to the chips: lines, routes, messages, descriptors.
//! Neighbours: [`crate::irqchip`].
//!
//! See: api.rst 4.25 (`KVM_IRQ_LINE`), 4.52 (`KVM_SET_GSI_ROUTING`), 4.70 (`KVM_SIGNAL_MSI`),
//! 4.59 (`KVM_IOEVENTFD`), 4.75 (`KVM_IRQFD`).

use crate::bytes::{get_u32, set};

/// Moves a line: `struct kvm_irq_level`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqLevel {
    /// In: the GSI. Out, from `KVM_IRQ_LINE_STATUS`: how many CPUs got it, as an `i32`.
    pub irq: u32,
    /// In: 1 raises it, 0 lowers it.
    pub level: u32,
}

/// A vector for a vCPU without an interrupt controller: `struct kvm_interrupt`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupt {
    /// The vector.
    pub irq: u32,
}

/// What precedes the entries: `struct kvm_irq_routing` without them.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRoutingHeader {
    /// How many follow.
    pub nr: u32,
    /// Zero.
    pub flags: u32,
}

/// [`IrqRoutingEntry::type_`]: a chip's pin.
pub const IRQ_ROUTING_IRQCHIP: u32 = 1;
/// [`IrqRoutingEntry::type_`]: a message.
pub const IRQ_ROUTING_MSI: u32 = 2;

/// Where a GSI goes: `struct kvm_irq_routing_entry`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRoutingEntry {
    /// The GSI.
    pub gsi: u32,
    /// `IRQ_ROUTING_…`.
    pub type_: u32,
    /// Zero, or [`MSI_VALID_DEVID`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// An [`IrqRoutingIrqchip`] or an [`IrqRoutingMsi`], by [`Self::type_`].
    pub target: [u8; 32],
}

impl IrqRoutingEntry {
    /// A route to a chip's pin.
    pub fn to_irqchip(gsi: u32, to: IrqRoutingIrqchip) -> Self {
        let mut entry = Self { gsi, type_: IRQ_ROUTING_IRQCHIP, ..Self::default() };
        set(&mut entry.target, 0, to.irqchip.to_ne_bytes());
        set(&mut entry.target, 4, to.pin.to_ne_bytes());
        entry
    }

    /// A route to a message.
    pub fn to_msi(gsi: u32, to: IrqRoutingMsi) -> Self {
        let mut entry = Self { gsi, type_: IRQ_ROUTING_MSI, ..Self::default() };
        set(&mut entry.target, 0, to.address_lo.to_ne_bytes());
        set(&mut entry.target, 4, to.address_hi.to_ne_bytes());
        set(&mut entry.target, 8, to.data.to_ne_bytes());
        set(&mut entry.target, 12, to.devid.to_ne_bytes());
        entry
    }

    /// The target as a chip's pin.
    pub fn irqchip(&self) -> IrqRoutingIrqchip {
        IrqRoutingIrqchip { irqchip: get_u32(&self.target, 0), pin: get_u32(&self.target, 4) }
    }

    /// The target as a message.
    pub fn msi(&self) -> IrqRoutingMsi {
        IrqRoutingMsi {
            address_lo: get_u32(&self.target, 0),
            address_hi: get_u32(&self.target, 4),
            data: get_u32(&self.target, 8),
            devid: get_u32(&self.target, 12),
        }
    }
}

/// A chip's pin: `struct kvm_irq_routing_irqchip`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRoutingIrqchip {
    /// [`crate::irqchip`]'s `IRQCHIP_…`.
    pub irqchip: u32,
    /// The pin.
    pub pin: u32,
}

/// A message: `struct kvm_irq_routing_msi`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqRoutingMsi {
    /// Low half of the address.
    pub address_lo: u32,
    /// High half.
    pub address_hi: u32,
    /// The data.
    pub data: u32,
    /// The device, with [`MSI_VALID_DEVID`].
    pub devid: u32,
}

/// The message names its device. Not used on x86.
pub const MSI_VALID_DEVID: u32 = 1 << 0;

/// KVM_CAP_X2APIC_API: x2APIC IDs have 32 bits in a local APIC's registers and in the addresses of messages.
pub const X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
/// KVM_CAP_X2APIC_API: destination 0xff of a message is for xAPICs alone.
pub const X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;
/// Every bit of KVM_CAP_X2APIC_API that is known.
pub const X2APIC_API_VALID: u64 = X2APIC_API_USE_32BIT_IDS | X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// A message to send now: `struct kvm_msi`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// Low half of the address.
    pub address_lo: u32,
    /// High half.
    pub address_hi: u32,
    /// The data.
    pub data: u32,
    /// [`MSI_VALID_DEVID`].
    pub flags: u32,
    /// The device.
    pub devid: u32,
    /// Zero.
    pub pad: [u8; 12],
}

/// In [`Irqfd::flags`]: undo it.
pub const IRQFD_FLAG_DEASSIGN: u32 = 1 << 0;
/// In [`Irqfd::flags`]: a level that stays until it is acknowledged, which [`Irqfd::resamplefd`] reports.
pub const IRQFD_FLAG_RESAMPLE: u32 = 1 << 1;

/// An eventfd that raises an interrupt: `struct kvm_irqfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Irqfd {
    /// The eventfd.
    pub fd: u32,
    /// The GSI.
    pub gsi: u32,
    /// `IRQFD_FLAG_…`.
    pub flags: u32,
    /// The eventfd that hears of the acknowledgement.
    pub resamplefd: u32,
    /// Zero.
    pub pad: [u8; 16],
}

/// In [`Ioeventfd::flags`]: only writes of [`Ioeventfd::datamatch`].
pub const IOEVENTFD_FLAG_DATAMATCH: u32 = 1 << 0;
/// In [`Ioeventfd::flags`]: a port.
pub const IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
/// In [`Ioeventfd::flags`]: undo it.
pub const IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;

/// An address whose writes signal an eventfd: `struct kvm_ioeventfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ioeventfd {
    /// What must be written.
    pub datamatch: u64,
    /// Where.
    pub addr: u64,
    /// 1, 2, 4 or 8 bytes; 0: any.
    pub len: u32,
    /// The eventfd.
    pub fd: i32,
    /// `IOEVENTFD_FLAG_…`.
    pub flags: u32,
    /// Zero.
    pub pad: [u8; 36],
}

/// Reports accesses to the task priority: `struct kvm_tpr_access_ctl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TprAccessCtl {
    /// Whether to.
    pub enabled: u32,
    /// Zero.
    pub flags: u32,
    /// Zero.
    pub reserved: [u32; 8],
}
