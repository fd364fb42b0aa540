//! The device's ioctls: [`system`]. What they tell does not depend on a VM.
//!
//! Neighbours: `capability`, `msr_index`; `attributes`, `cpuid` and `msr`, which a vCPU shares. See: Linux, arch/x86/kvm/x86.c,
//! `kvm_arch_dev_ioctl`.

use abi::ioctl;
use virt::Errno;
use virt::host::Host;
use virt::ioctl::Argument;

use super::{attributes, capability, cpuid, msr, msr_index};
use crate::cpuid::{Instructions, Leaf};
use crate::engine::Engine;
use crate::machine_check::MachineCheck;

/// What VMs are made on.
#[derive(Clone, Debug)]
pub struct System<H> {
    /// The host's services.
    pub host: H,
    /// The host's processor's CPUID.
    pub hardware: fn(u32, u32) -> Leaf,
    /// The instructions that the engine can run.
    pub instructions: Instructions,
    /// What it lacks: no vCPU is offered that.
    pub lacks: Instructions,
}

impl<H> System<H> {
    /// What VMs are made on whose vCPUs such an engine runs: any, also one that runs nothing.
    pub fn of(host: H, hardware: fn(u32, u32) -> Leaf, engine: &impl Engine) -> Self {
        Self { host, hardware, instructions: engine.instructions(), lacks: engine.lacks() }
    }
}

/// Answers the ioctl `number` on the device, with `argument` a value or an address of the caller's; `create_vm` makes a VM and gives
/// its descriptor. Gives what `ioctl` returns. Process context, on the caller's thread.
///
/// # Errors
/// As Linux: `EINVAL` for an unknown number or argument, `EFAULT` for an address that cannot be reached, `E2BIG` for less room than
/// what there is needs, `ENOMEM`, and what `create_vm` says.
pub fn system<H: Host>(
    system: &System<H>,
    number: u32,
    argument: u64,
    create_vm: impl FnOnce() -> Result<u32, Errno>,
) -> Result<u32, Errno> {
    let argument = &Argument::new(system.host.clone(), argument);
    match number {
        ioctl::CHECK_EXTENSION => Ok(capability::value(argument.value())),
        ioctl::GET_SUPPORTED_CPUID => cpuid::supported(system, argument),
        ioctl::GET_EMULATED_CPUID => cpuid::emulated(argument),
        ioctl::GET_MSR_INDEX_LIST => msr_index::list(argument, msr_index::STATE),
        ioctl::GET_MSR_FEATURE_INDEX_LIST => msr_index::list(argument, msr_index::FEATURES),
        ioctl::GET_MSRS => msr::get_features(argument),
        ioctl::X86_GET_MCE_CAP_SUPPORTED => {
            argument.write(&MachineCheck::CAPABILITIES)?;
            Ok(0)
        }
        ioctl::HAS_DEVICE_ATTR => attributes::has(attributes::DEVICE, argument),
        ioctl::GET_DEVICE_ATTR => attributes::get_devices(system, argument),
        _ => virt::ioctl::system(number, argument, create_vm),
    }
}
