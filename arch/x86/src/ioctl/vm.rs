//! A VM's ioctls: [`vm()`]. Those that are the same on every architecture are [`virt::ioctl::vm`]'s.
//!
//! Neighbours: `irqchip`, `pit`, `clock`, `msr_filter`. Where Intel's real mode may keep pages (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR) is taken
//! and not used: no engine here needs any. So is how many shadow pages there may be.
//!
//! Not implemented: KVM_CREATE_PIT and its state, a TSC's frequency for a whole VM, device attributes.
//!
//! See: Linux, arch/x86/kvm/x86.c, `kvm_arch_vm_ioctl`, `kvm_vm_ioctl_enable_cap`; api.rst 4.8 to 4.13, 7.

use abi::device::EnableCap;
use abi::irq::{X2APIC_API_DISABLE_BROADCAST_QUIRK, X2APIC_API_USE_32BIT_IDS, X2APIC_API_VALID};
use abi::{cap, ioctl};
use virt::host::Host;
use virt::ioctl::{Argument, New};
use virt::routing::Routes;
use virt::{Arch, Errno, Vm};

use super::{capability, clock, irqchip, msr_filter, pit};
use crate::cpuid::Table;
use crate::engine::Engine;
use crate::machine::X86;
use crate::quirks::Quirks;
use crate::setup::Setup;
use crate::vcpu::Vcpu;

/// The highest address of three pages below 4 GiB.
const LAST_TSS_ADDR: u64 = 0xffff_d000;
/// Pins that I/O APICs of the VMM's may have reserved: routes, in Linux.
const MAX_RESERVED_PINS: u64 = Routes::MAX as u64;

/// Fewer shadow pages a machine cannot do with that has any.
const MIN_SHADOW_PAGES: u64 = 64;

/// Answers the ioctl `number` on a VM, with `argument` a value or an address of the caller's. `make`
/// makes what has a descriptor, a vCPU by [`create_vcpu`], and gives that. Gives what `ioctl` returns. Process context, on the caller's thread; calls of which [`virt::ioctl::is_exclusive`] says so are made one after the other.
///
/// # Errors
/// As Linux: `ENOTTY` for an unknown number, `EFAULT` for an address that cannot be reached, `EINVAL`, `EEXIST`, `ENXIO` and others for
/// what cannot be; and what `make` says.
pub fn vm<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    number: u32,
    argument: u64,
    make: impl FnOnce(New) -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    let argument = &Argument::new(vm.arch().host().clone(), argument);
    match number {
        ioctl::CHECK_EXTENSION => Ok(capability::value(argument.value())),
        ioctl::ENABLE_CAP => enable(vm, argument),
        ioctl::CREATE_IRQCHIP => done(vm.arch().create_irqchip()),
        ioctl::GET_IRQCHIP => irqchip::get(vm, argument),
        ioctl::SET_IRQCHIP => irqchip::set(vm, argument),
        ioctl::CREATE_PIT2 => pit::create(vm, argument),
        ioctl::GET_PIT2 => pit::get(vm, argument),
        ioctl::SET_PIT2 => pit::set(vm, argument),
        ioctl::REINJECT_CONTROL => pit::reinject(vm, argument),
        ioctl::SET_TSS_ADDR if argument.value() <= LAST_TSS_ADDR => Ok(0),
        ioctl::SET_TSS_ADDR => Err(Errno::EINVAL),
        ioctl::SET_NR_MMU_PAGES if argument.value() < MIN_SHADOW_PAGES => Err(Errno::EINVAL),
        ioctl::SET_NR_MMU_PAGES => {
            vm.arch().machine().setup.set_shadow_pages(argument.value());
            Ok(0)
        }
        ioctl::GET_NR_MMU_PAGES => Ok(vm.arch().machine().setup.shadow_pages() as u32),
        ioctl::SET_IDENTITY_MAP_ADDR => set_identity_map(vm, argument),
        ioctl::SET_BOOT_CPU_ID => {
            done(vm.arch().machine().setup.set_boot_cpu(argument.value() as u32))
        }
        ioctl::X86_SET_MSR_FILTER => msr_filter::set(vm, argument),
        ioctl::GET_CLOCK => clock::get(vm, argument),
        ioctl::SET_CLOCK => clock::set(vm, argument),
        _ => virt::ioctl::vm(vm, number, argument, make),
    }
}

fn done(result: Result<(), Errno>) -> Result<u32, Errno> {
    result.map(|()| 0)
}

/// Makes a vCPU as KVM does: CPUID answers nothing until it is told what. Process context, one after the other.
///
/// # Errors
/// As [`Vcpu::new`].
// A vCPU is made on the stack.
#[inline(never)]
pub fn create_vcpu<E: Engine, H: Host>(vm: &Vm<X86<E, H>>, id: u32) -> Result<Vcpu<E, H>, Errno> {
    let mut made = Vcpu::new(vm.arch().machine(), id);
    if let Ok(vcpu) = &mut made {
        vcpu.set_cpuid(Table::default());
    }
    made
}

fn set_identity_map<E: Engine, H: Host>(
    vm: &Vm<X86<E, H>>,
    argument: &Argument<H>,
) -> Result<u32, Errno> {
    if vm.arch().machine().setup.made() != 0 {
        return Err(Errno::EINVAL);
    }
    let _address: u64 = argument.read()?;
    Ok(0)
}

/// KVM_CAP_X2APIC_API. What was chosen once stays so. See: api.rst 7.9.
fn x2apic_api(setup: &Setup, flags: u64) -> Result<u32, Errno> {
    if flags & !X2APIC_API_VALID != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & X2APIC_API_USE_32BIT_IDS != 0 {
        setup.use_wide_ids();
    }
    if flags & X2APIC_API_DISABLE_BROADCAST_QUIRK != 0 {
        setup.narrow_broadcast();
    }
    Ok(0)
}

/// Switches a capability on.
fn enable<E: Engine, H: Host>(vm: &Vm<X86<E, H>>, argument: &Argument<H>) -> Result<u32, Errno> {
    let from: EnableCap = argument.read()?;
    let ([value, ..], setup) = (from.args, &vm.arch().machine().setup);
    match from.cap {
        _ if from.flags != 0 => Err(Errno::EINVAL),
        cap::SPLIT_IRQCHIP if value > MAX_RESERVED_PINS => Err(Errno::EINVAL),
        cap::SPLIT_IRQCHIP => {
            // Linux says so in either case.
            setup.split_irqchip().map_err(|_| Errno::EEXIST)?;
            // No GSI leads anywhere until the VMM says so.
            vm.set_routes(Routes::default());
            Ok(0)
        }
        cap::X2APIC_API => x2apic_api(setup, value),
        cap::EXCEPTION_PAYLOAD => {
            setup.tell_payload(value != 0);
            Ok(0)
        }
        cap::X86_TRIPLE_FAULT_EVENT => {
            setup.tell_triple_fault(value != 0);
            Ok(0)
        }
        cap::MSR_PLATFORM_INFO => {
            vm.arch().machine().msr_policy.show_platform_info(value != 0);
            Ok(0)
        }
        cap::DISABLE_QUIRKS2 if value & !Quirks::ALL != 0 => Err(Errno::EINVAL),
        cap::DISABLE_QUIRKS | cap::DISABLE_QUIRKS2 => {
            vm.arch().machine().quirks.disable(value);
            Ok(0)
        }
        cap::X86_USER_SPACE_MSR => msr_filter::set_exits(vm, value),
        cap::MAX_VCPU_ID => done(setup.limit_ids(u32::try_from(value).map_err(|_| Errno::EINVAL)?)),
        _ => virt::ioctl::enable(vm, &from),
    }
}
