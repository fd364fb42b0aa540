//! Which ioctls there are, for people: [`OFFERED`].
//!
//! It decides nothing: the functions beside do, and tests compare (`tools/preload/src/object_test.rs`, which has all three descriptors).

use abi::ioctl;

/// What has a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// `/dev/kvm`.
    Device,
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
}

/// An ioctl of a descriptor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Whose it is.
    pub of: Descriptor,
    /// Its number: [`abi::ioctl`].
    pub number: u32,
    /// Its name, without `KVM_`.
    pub name: &'static str,
}

macro_rules! offered {
    ($($of:ident: $($name:ident)*;)*) => {
        &[$($(
            Offered { of: Descriptor::$of, number: ioctl::$name, name: stringify!($name) },
        )*)*]
    };
}

/// All that there are. KVM_SET_SIGNAL_MASK is there where signals are: in a process.
pub const OFFERED: &[Offered] = offered! {
    Device: GET_API_VERSION CREATE_VM CHECK_EXTENSION GET_VCPU_MMAP_SIZE GET_SUPPORTED_CPUID
        GET_EMULATED_CPUID GET_MSR_INDEX_LIST GET_MSR_FEATURE_INDEX_LIST GET_MSRS
        X86_GET_MCE_CAP_SUPPORTED HAS_DEVICE_ATTR GET_DEVICE_ATTR;
    Vm: CHECK_EXTENSION ENABLE_CAP CREATE_VCPU SET_USER_MEMORY_REGION SET_USER_MEMORY_REGION2
        GET_DIRTY_LOG CLEAR_DIRTY_LOG RESET_DIRTY_RINGS REGISTER_COALESCED_MMIO UNREGISTER_COALESCED_MMIO
        CREATE_IRQCHIP GET_IRQCHIP SET_IRQCHIP CREATE_PIT2 GET_PIT2 SET_PIT2 SET_GSI_ROUTING
        IRQ_LINE IRQ_LINE_STATUS SIGNAL_MSI IRQFD IOEVENTFD GET_CLOCK SET_CLOCK SET_TSS_ADDR
        SET_IDENTITY_MAP_ADDR SET_BOOT_CPU_ID X86_SET_MSR_FILTER GET_STATS_FD
        SET_NR_MMU_PAGES GET_NR_MMU_PAGES REINJECT_CONTROL CREATE_DEVICE;
    Vcpu: RUN SET_SIGNAL_MASK ENABLE_CAP GET_REGS SET_REGS GET_SREGS SET_SREGS GET_SREGS2 SET_SREGS2 GET_MSRS
        SET_MSRS GET_CPUID2 SET_CPUID2 GET_LAPIC SET_LAPIC GET_MP_STATE SET_MP_STATE
        GET_VCPU_EVENTS SET_VCPU_EVENTS NMI INTERRUPT GET_FPU SET_FPU GET_XSAVE GET_XSAVE2
        SET_XSAVE GET_XCRS SET_XCRS GET_DEBUGREGS SET_DEBUGREGS SET_GUEST_DEBUG TRANSLATE
        GET_TSC_KHZ SET_TSC_KHZ KVMCLOCK_CTRL X86_SETUP_MCE GET_NESTED_STATE SET_NESTED_STATE
        TPR_ACCESS_REPORTING SET_VAPIC_ADDR GET_STATS_FD
        HAS_DEVICE_ATTR GET_DEVICE_ATTR SET_DEVICE_ATTR;
};
