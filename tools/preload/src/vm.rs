//! A VM: [`Vm`]. It lives as long as its descriptor, or one of its vCPUs.

use std::cell::Cell;
use std::sync::Arc;

use arch_x86::ioctl::vm;
use arch_x86::machine::{MAX_CPUS, X86};
use engine_soft::SoftEngine;
use host_user::Process;
use parking_lot::Mutex;
use virt::ioctl::is_exclusive;
use virt::{Errno, Memory};

use crate::object::{Made, Object};
use crate::options::Options;
use crate::pages::Ring;
use crate::statistics::Statistics;
use crate::vcpu::Vcpu;
use crate::{CoreVm, Machine};

/// A machine in this process.
pub struct Vm {
    core: CoreVm,
    /// Held during calls that are made one after the other. Nothing else is locked outside of it.
    exclusive: Mutex<()>,
    ring: Ring,
}

impl Vm {
    /// A machine without vCPUs, memory and chips.
    ///
    /// # Errors
    /// When memory is short, or the host has no thread left.
    pub fn new(options: Options) -> Result<Arc<Self>, Errno> {
        let memory = Arc::new(Memory::default());
        memory.count_first_reads();
        let hardware = options.processor.hardware();
        let usual = engine_soft::Options::default();
        let translated = options.jit_cache.unwrap_or(usual.translated);
        let options = engine_soft::Options { translated, ..usual };
        // SAFETY: that memory is mapped as long as it is a slot is what who makes a slot of it (KVM_SET_USER_MEMORY_REGION) promises: the
        // program in whose process this is, of memory of its own, as for any system call which it hands addresses to that
        // others use until it says so. This library makes no references to it.
        let engine = unsafe { SoftEngine::new(Arc::clone(&memory), options) };
        let arch = X86::new(Process::new(), engine, Arc::clone(&memory), hardware, MAX_CPUS)?;
        let core = CoreVm::new(memory, arch)?;
        Ok(Arc::new(Self { core, exclusive: Mutex::default(), ring: Ring::new()? }))
    }

    /// Answers an ioctl. A vCPU or statistics that it makes are given to `install`, which gives their number.
    ///
    /// # Errors
    /// As [`vm`].
    pub fn ioctl(
        self: &Arc<Self>,
        number: u32,
        argument: u64,
        install: impl FnOnce(Made) -> Result<u32, Errno>,
    ) -> Result<u32, Errno> {
        let _alone = is_exclusive(number).then(|| self.exclusive.lock());
        // One of the two is called, and once.
        let install = Cell::new(Some(install));
        let install = |made| install.take().map_or(Err(Errno::EINVAL), |install| install(made));
        let create_vcpu = |id| {
            let (vcpu, descriptor) = Vcpu::new(self, id)?;
            install(Made { object: Object::vcpu(vcpu), descriptor })
        };
        vm(&self.core, number, argument, create_vcpu, |file| install(Statistics::made(file)?))
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn core(&self) -> &CoreVm {
        &self.core
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        self.core.arch().machine()
    }
}
