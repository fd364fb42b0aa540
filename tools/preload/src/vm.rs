//! A VM: [`Vm`]. It lives as long as its descriptor, or one of its vCPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::ioctl;
use arch_x86::ioctl::vm;
use arch_x86::machine::{MAX_CPUS, X86};
use engine_soft::SoftEngine;
use host_user::Process;
use parking_lot::Mutex;
use virt::arch::Arch;
use virt::ioctl::{New, is_exclusive};
use virt::{Errno, Memory};

use crate::mappings::MAPPINGS;
use crate::object::{Made, Object};
use crate::options::Options;
use crate::pages::{self, Ring};
use crate::statistics::Statistics;
use crate::vcpu::Vcpu;
use crate::{CoreVm, Machine};

/// A machine in this process.
pub struct Vm {
    core: CoreVm,
    /// Held during calls that are made one after the other. Nothing else is locked outside of it.
    exclusive: Mutex<()>,
    ring: Ring,
    /// As far as the vCPUs know of what is gone ([`crate::mappings`]).
    gone: AtomicU64,
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
        let engine = engine.probing(host_user::memory::is_there);
        let arch = X86::new(Process::new(), engine, Arc::clone(&memory), hardware, MAX_CPUS)?;
        let core = CoreVm::new(memory, arch)?;
        let (ring, gone) = (Ring::new()?, AtomicU64::new(MAPPINGS.how_many()));
        Ok(Arc::new(Self { core, exclusive: Mutex::default(), ring, gone }))
    }

    /// Answers an ioctl. What it makes is given to `install`, which gives its number.
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
        let done = vm(&self.core, number, argument, |new| install(self.make(new)?));
        if matches!(number, ioctl::SET_USER_MEMORY_REGION | ioctl::SET_USER_MEMORY_REGION2) {
            for slot in self.core.memory().view().slots().iter() {
                MAPPINGS.used(slot.hva, slot.size);
            }
        }
        done
    }

    fn make(self: &Arc<Self>, new: New) -> Result<Made, Errno> {
        match new {
            New::Vcpu(id) => {
                let (vcpu, descriptor) = Vcpu::new(self, id)?;
                Ok(Made { object: Object::vcpu(vcpu), descriptor })
            }
            New::Statistics(file) => Statistics::made(file),
            New::Vfio => {
                let descriptor = pages::descriptor(c"kvm-vfio", 0)?;
                Ok(Made { object: Object::vfio(Arc::clone(self)), descriptor })
            }
        }
    }

    /// Has the vCPUs forget where they have found memory, if any is gone since the last time.
    pub(crate) fn forget_what_is_gone(&self) {
        let gone = MAPPINGS.how_many();
        if self.gone.load(Ordering::SeqCst) != gone {
            self.core.arch().memory_changed(0, u64::MAX);
            // Not before: another vCPU would enter, and knew still what is gone.
            self.gone.store(gone, Ordering::SeqCst);
        }
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
