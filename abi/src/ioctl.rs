//! The numbers of the calls. Neighbours: all modules whose structures they carry.
//!
//! A number holds the size of its argument; of an argument with entries
//! after it, that of what precedes them.
//!
//! See: Linux `include/uapi/asm-generic/ioctl.h` for the encoding.

use crate::clock::ClockData;
use crate::cpuid::CpuidHeader;
use crate::debug::{DebugRegs, GuestDebug};
use crate::device::{CreateDevice, DeviceAttr, EnableCap};
use crate::events::{Events, MpState};
use crate::fpu::{Fpu, Xcrs, Xsave};
use crate::irq::{Interrupt, Ioeventfd, IrqLevel, IrqRoutingHeader, Irqfd, Msi, TprAccessCtl};
use crate::irqchip::{Irqchip, LapicState, PitConfig, PitState2};
use crate::memory::{
    ClearDirtyLog, CoalescedMmioZone, DirtyLog, UserspaceMemoryRegion, UserspaceMemoryRegion2,
};
use crate::msr::{MsrFilter, MsrListHeader, MsrsHeader};
use crate::nested::NestedState;
use crate::regs::{Regs, Sregs, Sregs2, Translation};

/// KVM's letter among ioctl numbers.
pub const KVMIO: u8 = 0xAE;

/// Bits of [`io`]'s size: 14.
const SIZE_MASK: u32 = (1 << 14) - 1;

/// The caller passes an argument in memory.
pub const WRITE: u32 = 1;
/// The hypervisor fills an argument in memory.
pub const READ: u32 = 2;

/// A number without an argument in memory: `_IO`.
pub const fn io(number: u8) -> u32 {
    encode(0, 0, number)
}

/// A number whose argument is filled: `_IOR`.
pub const fn ior<T>(number: u8) -> u32 {
    encode(READ, size_of::<T>(), number)
}

/// A number whose argument is passed: `_IOW`.
pub const fn iow<T>(number: u8) -> u32 {
    encode(WRITE, size_of::<T>(), number)
}

/// A number whose argument is passed and filled: `_IOWR`.
pub const fn iowr<T>(number: u8) -> u32 {
    encode(READ | WRITE, size_of::<T>(), number)
}

/// The directions that a number tells: [`READ`], [`WRITE`], both or none.
pub const fn direction(ioctl: u32) -> u32 {
    ioctl >> 30
}

/// The bytes of argument that a number tells.
pub const fn argument_size(ioctl: u32) -> usize {
    ((ioctl >> 16) & SIZE_MASK) as usize
}

const fn encode(direction: u32, size: usize, number: u8) -> u32 {
    direction << 30 | (size as u32 & SIZE_MASK) << 16 | (KVMIO as u32) << 8 | number as u32
}

// On the device's descriptor.

/// The version: [`crate::API_VERSION`].
pub const GET_API_VERSION: u32 = io(0x00);
/// Makes a VM; answers its descriptor.
pub const CREATE_VM: u32 = io(0x01);
/// Which MSRs are a vCPU's state.
pub const GET_MSR_INDEX_LIST: u32 = iowr::<MsrListHeader>(0x02);
/// Whether a capability is there: [`crate::cap`]. Also on a VM.
pub const CHECK_EXTENSION: u32 = io(0x03);
/// Bytes of the mapping that a vCPU shares.
pub const GET_VCPU_MMAP_SIZE: u32 = io(0x04);
/// What CPUID can answer.
pub const GET_SUPPORTED_CPUID: u32 = iowr::<CpuidHeader>(0x05);
/// What of it is emulated.
pub const GET_EMULATED_CPUID: u32 = iowr::<CpuidHeader>(0x09);
/// Which MSRs tell features.
pub const GET_MSR_FEATURE_INDEX_LIST: u32 = iowr::<MsrListHeader>(0x0A);
/// What Hyper-V's leaves can answer.
pub const GET_SUPPORTED_HV_CPUID: u32 = iowr::<CpuidHeader>(0xC1);
/// What of MCG_CAP can be set.
pub const X86_GET_MCE_CAP_SUPPORTED: u32 = ior::<u64>(0x9D);

// On a VM's descriptor.

/// Makes a vCPU; answers its descriptor.
pub const CREATE_VCPU: u32 = io(0x41);
/// Which pages of a slot were written.
pub const GET_DIRTY_LOG: u32 = iow::<DirtyLog>(0x42);
/// Obsolete: how many shadow pages there may be.
pub const SET_NR_MMU_PAGES: u32 = io(0x44);
/// Obsolete, likewise.
pub const GET_NR_MMU_PAGES: u32 = io(0x45);
/// Makes, moves, changes or removes a slot.
pub const SET_USER_MEMORY_REGION: u32 = iow::<UserspaceMemoryRegion>(0x46);
/// Where Intel's real mode may keep three pages.
pub const SET_TSS_ADDR: u32 = io(0x47);
/// Where it may keep one more.
pub const SET_IDENTITY_MAP_ADDR: u32 = iow::<u64>(0x48);
/// Makes, moves, changes or removes a slot, which may have memory without a mapping.
pub const SET_USER_MEMORY_REGION2: u32 = iow::<UserspaceMemoryRegion2>(0x49);
/// Makes the 8259s, the I/O APIC and the local APICs.
pub const CREATE_IRQCHIP: u32 = io(0x60);
/// Moves a line.
pub const IRQ_LINE: u32 = iow::<IrqLevel>(0x61);
/// A chip's state.
pub const GET_IRQCHIP: u32 = iowr::<Irqchip>(0x62);
/// Sets it. The direction is wrong, and has always been.
pub const SET_IRQCHIP: u32 = ior::<Irqchip>(0x63);
/// Moves a line, and says how many CPUs got it.
pub const IRQ_LINE_STATUS: u32 = iowr::<IrqLevel>(0x67);
/// Lets writes wait.
pub const REGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x67);
/// No longer.
pub const UNREGISTER_COALESCED_MMIO: u32 = iow::<CoalescedMmioZone>(0x68);
/// Sets all routes.
pub const SET_GSI_ROUTING: u32 = iow::<IrqRoutingHeader>(0x6A);
/// Whether missed ticks come later.
pub const REINJECT_CONTROL: u32 = io(0x71);
/// Ties an eventfd to an interrupt.
pub const IRQFD: u32 = iow::<Irqfd>(0x76);
/// Makes the 8254.
pub const CREATE_PIT2: u32 = iow::<PitConfig>(0x77);
/// Which vCPU starts.
pub const SET_BOOT_CPU_ID: u32 = io(0x78);
/// Ties an address to an eventfd.
pub const IOEVENTFD: u32 = iow::<Ioeventfd>(0x79);
/// Sets kvmclock.
pub const SET_CLOCK: u32 = iow::<ClockData>(0x7B);
/// kvmclock's value.
pub const GET_CLOCK: u32 = ior::<ClockData>(0x7C);
/// The 8254's state.
pub const GET_PIT2: u32 = ior::<PitState2>(0x9F);
/// Sets it.
pub const SET_PIT2: u32 = iow::<PitState2>(0xA0);
/// Sends a message.
pub const SIGNAL_MSI: u32 = iow::<Msi>(0xA5);
/// Forgets that pages were written.
pub const CLEAR_DIRTY_LOG: u32 = iowr::<ClearDirtyLog>(0xC0);
/// Which MSRs the guest may use without asking.
pub const X86_SET_MSR_FILTER: u32 = iow::<MsrFilter>(0xC6);
/// Collects what was taken from the dirty rings.
pub const RESET_DIRTY_RINGS: u32 = io(0xC7);
/// Makes a device.
pub const CREATE_DEVICE: u32 = iowr::<CreateDevice>(0xE0);

// On a vCPU's descriptor.

/// Runs it until there is a reason to come out.
pub const RUN: u32 = io(0x80);
/// General registers.
pub const GET_REGS: u32 = ior::<Regs>(0x81);
/// Sets them.
pub const SET_REGS: u32 = iow::<Regs>(0x82);
/// Special registers.
pub const GET_SREGS: u32 = ior::<Sregs>(0x83);
/// Sets them.
pub const SET_SREGS: u32 = iow::<Sregs>(0x84);
/// Translates a linear address.
pub const TRANSLATE: u32 = iowr::<Translation>(0x85);
/// Injects a vector, without a local APIC in the hypervisor.
pub const INTERRUPT: u32 = iow::<Interrupt>(0x86);
/// MSRs; answers how many it could. Also on the device.
pub const GET_MSRS: u32 = iowr::<MsrsHeader>(0x88);
/// Sets them; answers how many it could.
pub const SET_MSRS: u32 = iow::<MsrsHeader>(0x89);
/// The signals that are blocked while it runs.
pub const SET_SIGNAL_MASK: u32 = iow::<u32>(0x8B);
/// x87 and SSE.
pub const GET_FPU: u32 = ior::<Fpu>(0x8C);
/// Sets them.
pub const SET_FPU: u32 = iow::<Fpu>(0x8D);
/// The local APIC's registers.
pub const GET_LAPIC: u32 = ior::<LapicState>(0x8E);
/// Sets them.
pub const SET_LAPIC: u32 = iow::<LapicState>(0x8F);
/// What CPUID answers.
pub const SET_CPUID2: u32 = iow::<CpuidHeader>(0x90);
/// What it was set to.
pub const GET_CPUID2: u32 = iowr::<CpuidHeader>(0x91);
/// Accesses to the task priority come out.
pub const TPR_ACCESS_REPORTING: u32 = iowr::<TprAccessCtl>(0x92);
/// Where a copy of the task priority is kept.
pub const SET_VAPIC_ADDR: u32 = iow::<u64>(0x93);
/// Whether it runs.
pub const GET_MP_STATE: u32 = ior::<MpState>(0x98);
/// Sets that.
pub const SET_MP_STATE: u32 = iow::<MpState>(0x99);
/// Sends it an NMI.
pub const NMI: u32 = io(0x9A);
/// Debugs it.
pub const SET_GUEST_DEBUG: u32 = iow::<GuestDebug>(0x9B);
/// Sets MCG_CAP.
pub const X86_SETUP_MCE: u32 = iow::<u64>(0x9C);
/// What is pending.
pub const GET_VCPU_EVENTS: u32 = ior::<Events>(0x9F);
/// Sets that.
pub const SET_VCPU_EVENTS: u32 = iow::<Events>(0xA0);
/// The debug registers.
pub const GET_DEBUGREGS: u32 = ior::<DebugRegs>(0xA1);
/// Sets them.
pub const SET_DEBUGREGS: u32 = iow::<DebugRegs>(0xA2);
/// The TSC's rate. Also on a VM.
pub const SET_TSC_KHZ: u32 = io(0xA2);
/// Likewise.
pub const GET_TSC_KHZ: u32 = io(0xA3);
/// Switches a capability on. Also on a VM.
pub const ENABLE_CAP: u32 = iow::<EnableCap>(0xA3);
/// The XSAVE area, if 4 KiB are enough.
pub const GET_XSAVE: u32 = ior::<Xsave>(0xA4);
/// Sets it, whatever its size.
pub const SET_XSAVE: u32 = iow::<Xsave>(0xA5);
/// The extended control registers.
pub const GET_XCRS: u32 = ior::<Xcrs>(0xA6);
/// Sets them.
pub const SET_XCRS: u32 = iow::<Xcrs>(0xA7);
/// Tells the guest that it was paused.
pub const KVMCLOCK_CTRL: u32 = io(0xAD);
/// Sends it an SMI.
pub const SMI: u32 = io(0xB7);
/// A nested guest's state: the header's size.
pub const GET_NESTED_STATE: u32 = iowr::<NestedState>(0xBE);
/// Sets it.
pub const SET_NESTED_STATE: u32 = iow::<NestedState>(0xBF);
/// Special registers, with PAE's pointers.
pub const GET_SREGS2: u32 = ior::<Sregs2>(0xCC);
/// Sets them.
pub const SET_SREGS2: u32 = iow::<Sregs2>(0xCD);
/// The XSAVE area, of the size that `KVM_CAP_XSAVE2` tells.
pub const GET_XSAVE2: u32 = ior::<Xsave>(0xCF);

// On a device, a VM or a vCPU.

/// Sets an attribute.
pub const SET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xE1);
/// An attribute.
pub const GET_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xE2);
/// Whether there is one.
pub const HAS_DEVICE_ATTR: u32 = iow::<DeviceAttr>(0xE3);
/// A descriptor with statistics.
pub const GET_STATS_FD: u32 = io(0xCE);
