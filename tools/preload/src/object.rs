//! What a descriptor is of: [`Object`].

use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virt::Errno;

use crate::device::Device;
use crate::forks::Owner;
use crate::running::{self, SignalSet};
use crate::statistics::Statistics;
use crate::vcpu::Vcpu;
use crate::vm::Vm;

/// The device, a VM, a vCPU, statistics or a VM's device for VFIO, of the process that has made it.
pub struct Object {
    owner: Owner,
    kind: ManuallyDrop<Kind>,
}

enum Kind {
    Device(Device),
    Vm(Arc<Vm>),
    Vcpu(Vcpu),
    Statistics(Statistics),
    Vfio(Arc<Vm>),
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

    /// Statistics.
    #[must_use]
    pub fn statistics(statistics: Statistics) -> Self {
        Self::new(Kind::Statistics(statistics))
    }

    /// A VM's device for VFIO.
    #[must_use]
    pub fn vfio(vm: Arc<Vm>) -> Self {
        Self::new(Kind::Vfio(vm))
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
            Kind::Vcpu(vcpu) => vcpu.ioctl(number, argument, install),
            Kind::Statistics(_) => Err(Errno::ENOTTY),
            Kind::Vfio(vm) => virt::ioctl::vfio(vm.core(), number, argument),
        }
    }

    /// Has a KVM_RUN of this vCPU end with EINTR, as a signal would: the one that is under way, if there is any. Without a lock, from any
    /// thread.
    pub fn end_run(&self) {
        if let Kind::Vcpu(vcpu) = &*self.kind
            && self.owner.is_this_process()
        {
            vcpu.end_run();
        }
    }

    /// The signals that are blocked during KVM_RUN, if it is a vCPU's and was said which.
    pub(crate) fn signal_mask(&self) -> Option<SignalSet> {
        match &*self.kind {
            Kind::Vcpu(vcpu) if self.owner.is_this_process() => vcpu.signal_mask(),
            _ => None,
        }
    }

    /// Brings a vCPU out that this thread runs.
    pub(crate) fn end_run_of(&self, thread: libc::pthread_t) {
        if let Kind::Vcpu(vcpu) = &*self.kind
            && self.owner.is_this_process()
        {
            vcpu.end_run_of(thread);
        }
    }

    /// The descriptor is about to be read.
    pub(crate) fn read(&self) {
        if let Kind::Statistics(statistics) = &*self.kind
            && self.owner.is_this_process()
        {
            statistics.renew();
        }
    }

    /// Checks whether the descriptor's `size` bytes from `offset` on may be mapped; `private`: not shared, or to be executed.
    ///
    /// # Errors
    /// `ENODEV` if none may be, `EINVAL` if not so.
    pub(crate) fn check_mapping(
        &self,
        offset: usize,
        size: usize,
        private: bool,
    ) -> Result<(), Errno> {
        match &*self.kind {
            Kind::Vcpu(vcpu) if private && vcpu.has_dirty_ring(offset, size) => Err(Errno::EINVAL),
            Kind::Vcpu(_) => Ok(()),
            _ => Err(Errno::ENODEV),
        }
    }

    /// The descriptor's `size` bytes from `offset` on were mapped at `start`.
    ///
    /// # Errors
    /// When the host refuses.
    ///
    /// # Safety
    /// The mapping is the caller's to change.
    pub(crate) unsafe fn mapped(
        &self,
        start: usize,
        offset: usize,
        size: usize,
    ) -> Result<(), Errno> {
        match &*self.kind {
            // SAFETY: the caller's promise.
            Kind::Vcpu(vcpu) if self.owner.is_this_process() => unsafe {
                vcpu.ring().put_over(start, offset, size)
            },
            _ => Ok(()),
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

#[cfg(test)]
#[path = "object_test.rs"]
mod object_test;
