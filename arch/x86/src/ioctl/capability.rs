//! KVM_CHECK_EXTENSION: what of the interface is there. [`CAPABILITIES`] is the one place that says so.
//!
//! A value tells the truth about this hypervisor, which may be less than Linux's: what is not in the table, or 0 there, is not
//! to be had, and asking for it all the same is an error. The device and a VM answer the same.
//!
//! Not there, and so 0: nested guests, system management mode, Hyper-V's and Xen's interfaces, devices, attributes of devices and VMs,
//! a TSC of another frequency than the host's, asynchronous page faults, stolen time.
//!
//! See: api.rst 4.4 (`KVM_CHECK_EXTENSION`), 6 to 8.

use abi::irq::X2APIC_API_VALID;
use abi::run::SYNC_VALID;
use abi::{cap, memory};
use virt::ioctl::MAX_RING_SIZE;
use virt::memory::Slots;
use virt::routing::Routes;

use super::{clock, debug};
use crate::machine::MAX_CPUS;
use crate::machine_check::MachineCheck;
use crate::quirks::Quirks;

/// Something that the interface may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its number: [`abi::cap`].
    pub number: u32,
    /// Its name, without `KVM_CAP_`.
    pub name: &'static str,
    /// What KVM_CHECK_EXTENSION answers; 0: it is not there.
    pub value: u32,
}

macro_rules! capabilities {
    ($($name:ident = $value:expr),* $(,)?) => {
        &[$(Capability { number: cap::$name, name: stringify!($name), value: $value }),*]
    };
}

/// All that is known, by number.
pub const CAPABILITIES: &[Capability] = capabilities! {
    IRQCHIP = 1,
    HLT = 1,
    USER_MEMORY = 1,
    SET_TSS_ADDR = 1,
    VAPIC = 1,
    EXT_CPUID = 1,
    CLOCKSOURCE = 1,
    // No fewer are advised than there can be: the host is not asked how many processors it has.
    NR_VCPUS = MAX_CPUS,
    NR_MEMSLOTS = Slots::MAX as u32,
    // KVM_CREATE_PIT2 only.
    PIT = 0,
    NOP_IO_DELAY = 1,
    MP_STATE = 1,
    COALESCED_MMIO = memory::COALESCED_MMIO_PAGE_OFFSET,
    SYNC_MMU = 1,
    DESTROY_MEMORY_REGION_WORKS = 1,
    USER_NMI = 1,
    SET_GUEST_DEBUG = 1,
    REINJECT_CONTROL = 1,
    IRQ_ROUTING = Routes::MAX as u32,
    IRQ_INJECT_STATUS = 1,
    JOIN_MEMORY_REGIONS_WORKS = 1,
    MCE = MachineCheck::MAX_BANKS,
    IRQFD = 1,
    PIT2 = 1,
    SET_BOOT_CPU_ID = 1,
    PIT_STATE2 = 1,
    IOEVENTFD = 1,
    SET_IDENTITY_MAP_ADDR = 1,
    XEN_HVM = 0,
    ADJUST_CLOCK = clock::FLAGS,
    INTERNAL_ERROR_DATA = 1,
    VCPU_EVENTS = 1,
    HYPERV = 0,
    INTR_SHADOW = 1,
    DEBUGREGS = 1,
    X86_ROBUST_SINGLESTEP = 1,
    // On a vCPU: this is not told on x86.
    ENABLE_CAP = 0,
    XSAVE = 1,
    XCRS = 1,
    ASYNC_PF = 0,
    TSC_CONTROL = 0,
    GET_TSC_KHZ = 1,
    MAX_VCPUS = MAX_CPUS,
    ONE_REG = 0,
    TSC_DEADLINE_TIMER = 1,
    SYNC_REGS = SYNC_VALID as u32,
    KVMCLOCK_CTRL = 1,
    SIGNAL_MSI = 1,
    READONLY_MEM = 1,
    IRQFD_RESAMPLE = 1,
    DEVICE_CTRL = 1,
    EXT_EMUL_CPUID = 1,
    IOAPIC_POLARITY_IGNORED = 1,
    ENABLE_CAP_VM = 1,
    IOEVENTFD_NO_LENGTH = 1,
    VM_ATTRIBUTES = 0,
    CHECK_EXTENSION_VM = 1,
    DISABLE_QUIRKS = 1,
    X86_SMM = 0,
    MULTI_ADDRESS_SPACE = 1,
    SPLIT_IRQCHIP = 1,
    IOEVENTFD_ANY_LENGTH = 1,
    VCPU_ATTRIBUTES = 1,
    MAX_VCPU_ID = MAX_CPUS,
    X2APIC_API = X2APIC_API_VALID as u32,
    IMMEDIATE_EXIT = 1,
    X86_DISABLE_EXITS = 0,
    GET_MSR_FEATURES = 1,
    NESTED_STATE = 0,
    MSR_PLATFORM_INFO = 1,
    COALESCED_PIO = 1,
    EXCEPTION_PAYLOAD = 1,
    HYPERV_CPUID = 0,
    MANUAL_DIRTY_LOG_PROTECT2 =
        memory::DIRTY_LOG_MANUAL_PROTECT_ENABLE | memory::DIRTY_LOG_INITIALLY_SET,
    PMU_EVENT_FILTER = 0,
    HALT_POLL = 0,
    ASYNC_PF_INT = 0,
    SMALLER_MAXPHYADDR = 0,
    STEAL_TIME = 0,
    X86_USER_SPACE_MSR = 1,
    X86_MSR_FILTER = 1,
    ENFORCE_PV_FEATURE_CPUID = 1,
    SYS_HYPERV_CPUID = 0,
    DIRTY_LOG_RING = MAX_RING_SIZE,
    X86_BUS_LOCK_EXIT = 0,
    SET_GUEST_DEBUG2 = debug::CONTROL,
    SREGS2 = 1,
    EXIT_HYPERCALL = 0,
    BINARY_STATS_FD = 1,
    EXIT_ON_EMULATION_FAILURE = 0,
    VM_GPA_BITS = 0,
    // What XSAVE can save here fits into KVM_GET_XSAVE's 4 KiB.
    XSAVE2 = size_of::<abi::fpu::Xsave>() as u32,
    SYS_ATTRIBUTES = 1,
    PMU_CAPABILITY = 0,
    DISABLE_QUIRKS2 = Quirks::ALL as u32,
    VM_TSC_CONTROL = 0,
    SYSTEM_EVENT_DATA = 0,
    X86_TRIPLE_FAULT_EVENT = 1,
    X86_NOTIFY_VMEXIT = 0,
    VM_DISABLE_NX_HUGE_PAGES = 0,
    DIRTY_LOG_RING_ACQ_REL = MAX_RING_SIZE,
    USER_MEMORY2 = 1,
};

/// What KVM_CHECK_EXTENSION answers to this number, which may be any.
#[must_use]
pub fn value(number: u64) -> u32 {
    let known = CAPABILITIES.iter().find(|known| u64::from(known.number) == number);
    known.map_or(0, |known| known.value)
}
