//! What `/dev/kvm` is: [`Device`].

use arch_x86::cpuid::Instructions;
use arch_x86::ioctl::{System, system};
use host_user::Process;
use virt::Errno;

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
        let (hardware, instructions) = (options.processor.hardware(), engine_soft::instructions());
        // The software CPU executes all that is offered whatever the host has.
        let lacks = Instructions::default();
        let system = System { host: Process::new(), hardware, instructions, lacks };
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
