//! KVM's interface, x86's part of it: ioctls, decoded onto the methods of this crate and of [`virt`].
//!
//! [`system()`], [`vm()`] and [`vcpu`] are called by what has the device's, a VM's and a vCPU's descriptor: the kernel module, or what
//! stands in for it in a process. They decode only: an argument is read through [`Host`], checked, and made neutral values of; nothing
//! below knows [`abi`]'s structures. What is refused leaves the vCPU as it was, but for KVM_SET_MSRS, which stops at the first that
//! is. Error numbers are Linux's. Addresses are a stranger's: [`Host::copy_from_caller`] fails where nothing is mapped.
//!
//! Of the device: `system`, [`capability`], `msr_index`. Of a VM: `vm`, `irqchip`, `pit`, `msr_filter`, and the neutral ones of
//! [`virt::ioctl`]. Of a vCPU, by subject: `regs`, `sregs`, `xstate`, `msr`, `cpuid`, `lapic`, `events`, `debug`, `clock`, `attributes`,
//! `vapic`, and `absent`.
//! What they have in common is [`Argument`]. [`run()`] is KVM_RUN, which has the memory that a vCPU shares with its caller as well.
//! [`offered`] lists all of them.
//!
//! Not here, and refused as unknown: KVM_SET_SIGNAL_MASK, which is the descriptor's owner's; KVM_SMI, as there is no system management
//! mode.
//!
//! See: Linux, Documentation/virt/kvm/api.rst; arch/x86/kvm/x86.c, `kvm_arch_vcpu_ioctl`.

mod absent;
mod attributes;
pub mod capability;
mod clock;
mod cpuid;
mod debug;
mod events;
mod irqchip;
mod lapic;
mod msr;
mod msr_filter;
mod msr_index;
pub mod offered;
mod pit;
mod regs;
mod run;
mod sregs;
mod sync_regs;
mod system;
mod vapic;
mod vm;
mod xstate;

#[cfg(feature = "selftest")]
mod caller;
#[cfg(feature = "selftest")]
pub mod coalesced_test;
#[cfg(feature = "selftest")]
pub mod cpuid_test;
#[cfg(feature = "selftest")]
pub mod debug_test;
#[cfg(feature = "selftest")]
pub mod devices_test;
#[cfg(feature = "selftest")]
pub mod events_test;
#[cfg(feature = "selftest")]
pub mod interface_test;
#[cfg(feature = "selftest")]
pub mod lapic_test;
#[cfg(feature = "selftest")]
pub mod msr_filter_test;
#[cfg(feature = "selftest")]
pub mod msr_test;
#[cfg(feature = "selftest")]
pub mod quirks_test;
#[cfg(feature = "selftest")]
pub mod registers_test;
#[cfg(feature = "selftest")]
pub mod resample_test;
#[cfg(feature = "selftest")]
pub mod routes_test;
#[cfg(feature = "selftest")]
pub mod run_test;
#[cfg(feature = "selftest")]
pub mod setup_test;
#[cfg(feature = "selftest")]
pub mod slots_test;
#[cfg(feature = "selftest")]
pub mod statistics_test;
#[cfg(feature = "selftest")]
pub mod system_test;
#[cfg(feature = "selftest")]
pub mod vapic_test;
#[cfg(feature = "selftest")]
pub mod vm_test;
#[cfg(feature = "selftest")]
pub mod x2apic_api_test;
#[cfg(feature = "selftest")]
pub mod xstate_test;

use abi::device::EnableCap;
use abi::{cap, ioctl};
use virt::Errno;
use virt::host::Host;

use crate::engine::Engine;
use crate::vcpu::Vcpu;
use virt::ioctl::{Argument, StatisticsFile};

pub use run::run;
pub use system::{System, system};
pub use virt::ioctl::Mapping;
pub use vm::{create_vcpu, vm};

/// Answers the ioctl `number` on a vCPU, with `argument` a value or an address of the caller's; `create_statistics` gives a descriptor that
/// reads as that file. Gives what `ioctl` returns. Process context, on the vCPU's thread while it does not run.
///
/// # Errors
/// As Linux: `EINVAL` for an unknown number, `EFAULT` for an address that cannot be reached, `E2BIG` for more entries than there
/// may be or than there is room for, `EINVAL` for what cannot be set, `ENOMEM`; and what `create_statistics` says.
pub fn vcpu<E: Engine, H: Host>(
    vcpu: &mut Vcpu<E, H>,
    number: u32,
    argument: u64,
    create_statistics: impl FnOnce(StatisticsFile) -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    let argument = &Argument::new(vcpu.host().clone(), argument);
    match number {
        ioctl::GET_REGS => regs::get(vcpu, argument),
        ioctl::SET_REGS => regs::set(vcpu, argument),
        ioctl::GET_SREGS => sregs::get(vcpu, argument),
        ioctl::SET_SREGS => sregs::set(vcpu, argument),
        ioctl::GET_SREGS2 => sregs::get2(vcpu, argument),
        ioctl::SET_SREGS2 => sregs::set2(vcpu, argument),
        ioctl::GET_MSRS => msr::get(vcpu, argument),
        ioctl::SET_MSRS => msr::set(vcpu, argument),
        ioctl::GET_CPUID2 => cpuid::get(vcpu, argument),
        ioctl::SET_CPUID2 => cpuid::set(vcpu, argument),
        ioctl::GET_LAPIC => lapic::get(vcpu, argument),
        ioctl::SET_LAPIC => lapic::set(vcpu, argument),
        ioctl::GET_MP_STATE => events::get_mp_state(vcpu, argument),
        ioctl::SET_MP_STATE => events::set_mp_state(vcpu, argument),
        ioctl::GET_VCPU_EVENTS => events::get(vcpu, argument),
        ioctl::SET_VCPU_EVENTS => events::set(vcpu, argument),
        ioctl::NMI => Ok(events::nmi(vcpu)),
        ioctl::INTERRUPT => events::queue_interrupt(vcpu, argument),
        ioctl::GET_FPU => xstate::get_fpu(vcpu, argument),
        ioctl::SET_FPU => xstate::set_fpu(vcpu, argument),
        ioctl::GET_XSAVE | ioctl::GET_XSAVE2 => xstate::get_xsave(vcpu, argument),
        ioctl::SET_XSAVE => xstate::set_xsave(vcpu, argument),
        ioctl::GET_XCRS => xstate::get_xcrs(vcpu, argument),
        ioctl::SET_XCRS => xstate::set_xcrs(vcpu, argument),
        ioctl::GET_DEBUGREGS => debug::get_registers(vcpu, argument),
        ioctl::SET_DEBUGREGS => debug::set_registers(vcpu, argument),
        ioctl::SET_GUEST_DEBUG => debug::set_guest_debug(vcpu, argument),
        ioctl::TRANSLATE => debug::translate(vcpu, argument),
        ioctl::GET_TSC_KHZ => Ok(vcpu.tsc_khz()),
        ioctl::SET_TSC_KHZ => clock::set_tsc_khz(vcpu, argument),
        ioctl::KVMCLOCK_CTRL => clock::kvmclock_ctrl(vcpu),
        ioctl::X86_SETUP_MCE => msr::set_up_machine_check(vcpu, argument),
        ioctl::GET_NESTED_STATE => absent::get_nested_state(argument),
        ioctl::SET_NESTED_STATE => absent::set_nested_state(argument),
        ioctl::TPR_ACCESS_REPORTING => vapic::tpr_access_reporting(vcpu, argument),
        ioctl::SET_VAPIC_ADDR => vapic::set_vapic_addr(vcpu, argument),
        ioctl::GET_STATS_FD => {
            create_statistics(StatisticsFile::of_vcpu(vcpu.id(), vcpu.statistics().clone()))
        }
        ioctl::HAS_DEVICE_ATTR => attributes::has(attributes::VCPU, argument),
        ioctl::GET_DEVICE_ATTR => attributes::get(vcpu, argument),
        ioctl::SET_DEVICE_ATTR => attributes::set(vcpu, argument),
        ioctl::ENABLE_CAP => enable(vcpu, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// Switches a capability of a vCPU on.
fn enable<E: Engine, H: Host>(vcpu: &mut Vcpu<E, H>, argument: &Argument<H>) -> Result<u32, Errno> {
    let from: EnableCap = argument.read()?;
    match from.cap {
        cap::ENFORCE_PV_FEATURE_CPUID if from.flags == 0 => {
            vcpu.enforce_pv_features(from.args[0] != 0);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
