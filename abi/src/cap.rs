//! Capabilities: what `KVM_CHECK_EXTENSION` asks about. Neighbours: [`crate::device::EnableCap`].
//!
//! x86's and the neutral ones up to Linux 6.1, and some later ones. Each line says what a value
//! other than 0 tells.
//!
//! See: api.rst 4.4, and 6–8 for those that are switched on.

/// The chips can be in the hypervisor.
pub const IRQCHIP: u32 = 0;
/// HLT comes out, or is waited for.
pub const HLT: u32 = 1;
/// Guest memory is the caller's.
pub const USER_MEMORY: u32 = 3;
/// `KVM_SET_TSS_ADDR`.
pub const SET_TSS_ADDR: u32 = 4;
/// `KVM_SET_VAPIC_ADDR`.
pub const VAPIC: u32 = 6;
/// `KVM_SET_CPUID2`.
pub const EXT_CPUID: u32 = 7;
/// kvmclock's first MSRs.
pub const CLOCKSOURCE: u32 = 8;
/// How many vCPUs are advised.
pub const NR_VCPUS: u32 = 9;
/// How many slots there are.
pub const NR_MEMSLOTS: u32 = 10;
/// `KVM_CREATE_PIT`.
pub const PIT: u32 = 11;
/// Delays by port 80h can be left out.
pub const NOP_IO_DELAY: u32 = 12;
/// `KVM_GET_MP_STATE`.
pub const MP_STATE: u32 = 14;
/// The page of the ring of coalesced writes.
pub const COALESCED_MMIO: u32 = 15;
/// Changes of the caller's mappings are followed.
pub const SYNC_MMU: u32 = 16;
/// A slot can be removed.
pub const DESTROY_MEMORY_REGION_WORKS: u32 = 21;
/// `KVM_NMI`.
pub const USER_NMI: u32 = 22;
/// `KVM_SET_GUEST_DEBUG`.
pub const SET_GUEST_DEBUG: u32 = 23;
/// `KVM_REINJECT_CONTROL`.
pub const REINJECT_CONTROL: u32 = 24;
/// `KVM_SET_GSI_ROUTING`.
pub const IRQ_ROUTING: u32 = 25;
/// `KVM_IRQ_LINE_STATUS`.
pub const IRQ_INJECT_STATUS: u32 = 26;
/// Slots can be joined.
pub const JOIN_MEMORY_REGIONS_WORKS: u32 = 30;
/// How many machine-check banks there are.
pub const MCE: u32 = 31;
/// `KVM_IRQFD`.
pub const IRQFD: u32 = 32;
/// `KVM_CREATE_PIT2`.
pub const PIT2: u32 = 33;
/// `KVM_SET_BOOT_CPU_ID`.
pub const SET_BOOT_CPU_ID: u32 = 34;
/// `KVM_GET_PIT2`.
pub const PIT_STATE2: u32 = 35;
/// `KVM_IOEVENTFD`.
pub const IOEVENTFD: u32 = 36;
/// `KVM_SET_IDENTITY_MAP_ADDR`.
pub const SET_IDENTITY_MAP_ADDR: u32 = 37;
/// Xen guests.
pub const XEN_HVM: u32 = 38;
/// `KVM_GET_CLOCK`: the flags it knows.
pub const ADJUST_CLOCK: u32 = 39;
/// An internal error has details.
pub const INTERNAL_ERROR_DATA: u32 = 40;
/// `KVM_GET_VCPU_EVENTS`.
pub const VCPU_EVENTS: u32 = 41;
/// Hyper-V's MSRs.
pub const HYPERV: u32 = 44;
/// The interrupt shadow is in the events.
pub const INTR_SHADOW: u32 = 49;
/// `KVM_GET_DEBUGREGS`.
pub const DEBUGREGS: u32 = 50;
/// A step survives what the guest does to TF.
pub const X86_ROBUST_SINGLESTEP: u32 = 51;
/// `KVM_ENABLE_CAP` on a vCPU.
pub const ENABLE_CAP: u32 = 54;
/// `KVM_GET_XSAVE`.
pub const XSAVE: u32 = 55;
/// `KVM_GET_XCRS`.
pub const XCRS: u32 = 56;
/// Asynchronous page faults.
pub const ASYNC_PF: u32 = 59;
/// `KVM_SET_TSC_KHZ`.
pub const TSC_CONTROL: u32 = 60;
/// `KVM_GET_TSC_KHZ`.
pub const GET_TSC_KHZ: u32 = 61;
/// How many vCPUs there can be.
pub const MAX_VCPUS: u32 = 66;
/// `KVM_GET_ONE_REG`.
pub const ONE_REG: u32 = 70;
/// The local APIC's timer has the mode.
pub const TSC_DEADLINE_TIMER: u32 = 72;
/// Registers in the shared page.
pub const SYNC_REGS: u32 = 74;
/// `KVM_KVMCLOCK_CTRL`.
pub const KVMCLOCK_CTRL: u32 = 76;
/// `KVM_SIGNAL_MSI`.
pub const SIGNAL_MSI: u32 = 77;
/// Slots that cannot be written.
pub const READONLY_MEM: u32 = 81;
/// An irqfd for a level.
pub const IRQFD_RESAMPLE: u32 = 82;
/// `KVM_CREATE_DEVICE`.
pub const DEVICE_CTRL: u32 = 89;
/// `KVM_GET_EMULATED_CPUID`.
pub const EXT_EMUL_CPUID: u32 = 95;
/// The I/O APIC ignores a pin's polarity.
pub const IOAPIC_POLARITY_IGNORED: u32 = 97;
/// `KVM_ENABLE_CAP` on a VM.
pub const ENABLE_CAP_VM: u32 = 98;
/// An ioeventfd of any length in memory.
pub const IOEVENTFD_NO_LENGTH: u32 = 100;
/// `KVM_SET_DEVICE_ATTR` on a VM.
pub const VM_ATTRIBUTES: u32 = 101;
/// `KVM_CHECK_EXTENSION` on a VM.
pub const CHECK_EXTENSION_VM: u32 = 105;
/// Quirks can be switched off.
pub const DISABLE_QUIRKS: u32 = 116;
/// System management mode.
pub const X86_SMM: u32 = 117;
/// How many address spaces there are.
pub const MULTI_ADDRESS_SPACE: u32 = 118;
/// The local APICs only are in the hypervisor.
pub const SPLIT_IRQCHIP: u32 = 121;
/// An ioeventfd of any length.
pub const IOEVENTFD_ANY_LENGTH: u32 = 122;
/// `KVM_SET_DEVICE_ATTR` on a vCPU.
pub const VCPU_ATTRIBUTES: u32 = 127;
/// One past the highest vCPU number.
pub const MAX_VCPU_ID: u32 = 128;
/// Interfaces have 32-bit APIC identities.
pub const X2APIC_API: u32 = 129;
/// `immediate_exit` in the shared page.
pub const IMMEDIATE_EXIT: u32 = 136;
/// Exits can be switched off.
pub const X86_DISABLE_EXITS: u32 = 143;
/// `KVM_GET_MSRS` on the device.
pub const GET_MSR_FEATURES: u32 = 153;
/// Bytes of a nested guest's state.
pub const NESTED_STATE: u32 = 157;
/// The MSR PLATFORM_INFO can be read.
pub const MSR_PLATFORM_INFO: u32 = 159;
/// Writes to ports can wait, too.
pub const COALESCED_PIO: u32 = 162;
/// An exception's payload is in the events.
pub const EXCEPTION_PAYLOAD: u32 = 164;
/// `KVM_CLEAR_DIRTY_LOG`.
pub const MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
/// `KVM_GET_SUPPORTED_HV_CPUID`.
pub const HYPERV_CPUID: u32 = 167;
/// `KVM_SET_PMU_EVENT_FILTER`.
pub const PMU_EVENT_FILTER: u32 = 173;
/// How long HLT is polled.
pub const HALT_POLL: u32 = 182;
/// Asynchronous page faults by interrupt.
pub const ASYNC_PF_INT: u32 = 183;
/// A guest's addresses may be shorter than the host's.
pub const SMALLER_MAXPHYADDR: u32 = 185;
/// Stolen time.
pub const STEAL_TIME: u32 = 187;
/// MSRs can be the caller's.
pub const X86_USER_SPACE_MSR: u32 = 188;
/// `KVM_X86_SET_MSR_FILTER`.
pub const X86_MSR_FILTER: u32 = 189;
/// Paravirtual MSRs only as CPUID says.
pub const ENFORCE_PV_FEATURE_CPUID: u32 = 190;
/// `KVM_GET_SUPPORTED_HV_CPUID` on the device.
pub const SYS_HYPERV_CPUID: u32 = 191;
/// Bytes of a dirty ring.
pub const DIRTY_LOG_RING: u32 = 192;
/// Bus locks come out.
pub const X86_BUS_LOCK_EXIT: u32 = 193;
/// The flags that `KVM_SET_GUEST_DEBUG` knows.
pub const SET_GUEST_DEBUG2: u32 = 195;
/// `KVM_GET_SREGS2`.
pub const SREGS2: u32 = 200;
/// The hypercalls that can come out.
pub const EXIT_HYPERCALL: u32 = 201;
/// `KVM_GET_STATS_FD`.
pub const BINARY_STATS_FD: u32 = 203;
/// What cannot be emulated comes out.
pub const EXIT_ON_EMULATION_FAILURE: u32 = 204;
/// Bits of a guest-physical address.
pub const VM_GPA_BITS: u32 = 207;
/// Bytes of `KVM_GET_XSAVE2`.
pub const XSAVE2: u32 = 208;
/// `KVM_GET_DEVICE_ATTR` on the device.
pub const SYS_ATTRIBUTES: u32 = 209;
/// The performance counters can be switched off.
pub const PMU_CAPABILITY: u32 = 212;
/// The quirks that can be switched off.
pub const DISABLE_QUIRKS2: u32 = 213;
/// `KVM_SET_TSC_KHZ` on a VM.
pub const VM_TSC_CONTROL: u32 = 214;
/// A system event has details.
pub const SYSTEM_EVENT_DATA: u32 = 215;
/// A triple fault is in the events.
pub const X86_TRIPLE_FAULT_EVENT: u32 = 218;
/// `NOTIFY` comes out.
pub const X86_NOTIFY_VMEXIT: u32 = 219;
/// Large pages may be executed.
pub const VM_DISABLE_NX_HUGE_PAGES: u32 = 220;
/// A dirty ring with acquire and release.
pub const DIRTY_LOG_RING_ACQ_REL: u32 = 223;
/// `KVM_SET_USER_MEMORY_REGION2`.
pub const USER_MEMORY2: u32 = 231;
