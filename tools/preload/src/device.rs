//! What `/dev/kvm` is: [`Device`].

use std::sync::Arc;

use arch_x86::cpuid::Leaf;
use arch_x86::engine::Engine;
use arch_x86::ioctl::{System, system};
use engine_soft::SoftEngine;
use host_user::Process;
use virt::{Errno, Memory};

use crate::object::{Made, Object};
use crate::options::Options;
use crate::pages;
use crate::vm::Vm;

/// The device.
pub struct Device {
    system: System<Process>,
    options: Options,
}

impl Device {
    /// The device as a program finds it that opens it.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let memory = Arc::new(Memory::<parking_lot::RawMutex>::default());
        // SAFETY: there is never a slot in `memory`.
        let engine = unsafe { SoftEngine::new(memory, engine_soft::Options::default()) };
        let instructions = engine.instructions();
        let system = System { host: Process::new(), hardware: host_cpuid, instructions };
        Self { system, options }
    }

    /// Answers an ioctl. A VM that it makes is given to `install`, which gives its number.
    ///
    /// # Errors
    /// As [`system`].
    pub fn ioctl(
        &self,
        number: u32,
        argument: u64,
        install: impl FnOnce(Made) -> Result<u32, Errno>,
    ) -> Result<u32, Errno> {
        system(&self.system, number, argument, || {
            let descriptor = pages::descriptor(c"kvm-vm", 0)?;
            let object = Object::vm(Vm::new(self.options)?);
            install(Made { object, descriptor })
        })
    }
}

/// The processor's own CPUID.
pub(crate) fn host_cpuid(function: u32, index: u32) -> Leaf {
    let answer = core::arch::x86_64::__cpuid_count(function, index);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}
