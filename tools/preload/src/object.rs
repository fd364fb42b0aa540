//! What a descriptor is of: [`Object`].

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virt::Errno;

use crate::device::Device;
use crate::forks::Owner;
use crate::running;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// The device, a VM or a vCPU, of the process that has made it.
pub struct Object {
    owner: Owner,
    kind: ManuallyDrop<Kind>,
}

enum Kind {
    Device(Device),
    Vm(Arc<Vm>),
    Vcpu(Vcpu),
}

/// An object that an ioctl has made, and the descriptor which it is to have.
pub struct Made {
    /// The object.
    pub object: Object,
    /// Its descriptor.
    pub descriptor: OwnedFd,
}

impl Object {
    fn new(kind: Kind) -> Self {
        Self { owner: Owner::this_process(), kind: ManuallyDrop::new(kind) }
    }

    /// The device.
    #[must_use]
    pub fn device(device: Device) -> Self {
        Self::new(Kind::Device(device))
    }

    /// A VM.
    #[must_use]
    pub fn vm(vm: Arc<Vm>) -> Self {
        Self::new(Kind::Vm(vm))
    }

    /// A vCPU.
    #[must_use]
    pub fn vcpu(vcpu: Vcpu) -> Self {
        Self::new(Kind::Vcpu(vcpu))
    }

    /// Answers an ioctl. What it makes is given to `install`, which gives its number.
    ///
    /// # Errors
    /// As Linux, and `EIO` in a child of the process that it was made in; `EBUSY` from a signal's handler that has interrupted KVM_RUN,
    /// which may hold what the call would wait for.
    pub fn ioctl(
        &self,
        number: u32,
        argument: u64,
        install: impl FnOnce(Made) -> Result<u32, Errno>,
    ) -> Result<u32, Errno> {
        if !self.owner.is_this_process() {
            return Err(Errno::EIO);
        }
        if running::is_running() {
            return Err(Errno::EBUSY);
        }
        match &*self.kind {
            Kind::Device(device) => device.ioctl(number, argument, install),
            Kind::Vm(vm) => vm.ioctl(number, argument, install),
            Kind::Vcpu(vcpu) => vcpu.ioctl(number, argument),
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            // SAFETY: it is dropped here only, and not used after that.
            unsafe { ManuallyDrop::drop(&mut self.kind) };
        }
        // Else it stays: its threads, and what they had locked, are another process's.
    }
}
