//! A VM: [`Machine`], and its descriptor, [`Vm`]. It lives as long as its descriptor, or one of its vCPUs'.
//!
//! Its memory is that of the process that made it: calls from another one are refused, as Linux's KVM does.

use alloc::sync::Arc;
use core::cell::Cell;
use core::mem::ManuallyDrop;

use arch_x86::hardware::{HostPages, Virtualization};
use arch_x86::ioctl::vm;
use arch_x86::machine::{MAX_CPUS, X86};
use virt::ioctl::{New, is_exclusive, vfio};
use virt::memory::PAGE;
use virt::{Errno, Memory};

use crate::deferred;
use crate::descriptor::{Object, Reserved, install};
use crate::device::{Device, hardware};
use crate::kernel::Kernel;
use crate::mm::Watched;
use crate::shared::SharedPages;
use crate::sleep_lock::SleepLock;
use crate::statistics::Statistics;
use crate::vcpu::Vcpu;
use crate::virtualization::On;

type EngineOf<V> = <V as Virtualization<Kernel>>::Engine;
type CoreMachine<V> = arch_x86::machine::Machine<EngineOf<V>, Kernel>;

/// The core's VM on a virtualization.
pub type CoreVm<V> = virt::Vm<X86<EngineOf<V>, Kernel>>;

/// A machine of a process's.
pub struct Machine<V: Virtualization<Kernel>> {
    core: ManuallyDrop<CoreVm<V>>,
    /// Held during calls that are made one after the other.
    exclusive: SleepLock<()>,
    ring: Arc<SharedPages>,
    /// Its process. Told of no more pages before the machine goes.
    process: ManuallyDrop<Watched>,
    _on: On,
}

/// The pages that a machine's engine maps.
struct EnginePages<V: Virtualization<Kernel>>(Arc<CoreMachine<V>>);

impl<V: Virtualization<Kernel>> HostPages for EnginePages<V> {
    fn change(&self, start: u64, end: u64) {
        self.0.engine.change(start, end);
    }

    fn changed(&self, start: u64, end: u64) {
        self.0.engine.changed(start, end);
    }
}

impl<V: Virtualization<Kernel>> Machine<V> {
    fn new(device: &Device<V>) -> Result<Self, Errno> {
        let on = device.switch.on()?;
        let memory = Arc::new(Memory::default());
        let engine = device.virtualization.engine(Arc::clone(&memory))?;
        let arch = X86::new(Kernel, engine, Arc::clone(&memory), hardware, MAX_CPUS)?;
        let (exclusive, ring) = (SleepLock::new(())?, SharedPages::new(PAGE as usize)?);
        let process = Watched::new(Arc::new(EnginePages::<V>(Arc::clone(arch.machine()))))?;
        Ok(Self {
            core: ManuallyDrop::new(CoreVm::<V>::new(memory, arch)?),
            exclusive,
            ring: Arc::new(ring),
            process: ManuallyDrop::new(process),
            _on: on,
        })
    }

    /// The core's part.
    pub fn core(&self) -> &CoreVm<V> {
        &self.core
    }

    /// The page of writes that wait, which all vCPUs share.
    pub fn ring(&self) -> &Arc<SharedPages> {
        &self.ring
    }

    /// Whether calls are made by the process whose VM it is.
    ///
    /// # Errors
    /// `EIO` if not.
    pub fn check_process(&self) -> Result<(), Errno> {
        if self.process.is_this_process() { Ok(()) } else { Err(Errno::EIO) }
    }
}

impl<V: Virtualization<Kernel>> Drop for Machine<V> {
    /// In process context: by a descriptor's release.
    fn drop(&mut self) {
        let machine = Arc::clone(self.core.arch().machine());
        // SAFETY: neither is used after this.
        unsafe {
            ManuallyDrop::drop(&mut self.process);
            ManuallyDrop::drop(&mut self.core);
        }
        // A timer's or an event's call may have it for a moment. It would be sound for that one to be the last, but it would free all
        // of a machine with interrupts off.
        while Arc::strong_count(&machine) > 1 {
            deferred::yield_now();
        }
        drop(machine);
    }
}

/// A VM's descriptor.
pub struct Vm<V: Virtualization<Kernel>>(Arc<Machine<V>>);

impl<V: Virtualization<Kernel>> Vm<V> {
    /// A machine without vCPUs, memory and chips, of this process. Process context.
    ///
    /// # Errors
    /// What keeps the virtualization from being switched on, and `ENOMEM`.
    pub fn new(device: &Device<V>) -> Result<Self, Errno> {
        Ok(Self(Arc::new(Machine::new(device)?)))
    }
}

impl<V: Virtualization<Kernel>> Object for Vm<V> {
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        let machine = &self.0;
        machine.check_process()?;
        let alone = if is_exclusive(number) { Some(machine.exclusive.lock()?) } else { None };
        // What it makes has a descriptor when nobody waits any more for this call.
        let made = Cell::new(None);
        let make = |new| match new {
            New::Vcpu(id) => {
                // First: one that could not have a descriptor would keep its number.
                let place = Reserved::new(c"kvm-vcpu", false)?;
                made.set(Some(Made::Vcpu(place, Vcpu::new(machine, id)?)));
                Ok(0)
            }
            New::Statistics(file) => {
                made.set(Some(Made::Statistics(Statistics::new(file))));
                Ok(0)
            }
            // Its number is in the answer. Nothing that is called on it waits for this call.
            New::Vfio => install(c"kvm-vfio", Vfio(Arc::clone(machine))),
        };
        let done = vm(machine.core(), number, argument, make);
        drop(alone);
        match made.take() {
            None => done,
            Some(Made::Vcpu(place, vcpu)) => place.install(vcpu),
            Some(Made::Statistics(statistics)) => install(c"kvm-vm-stats", statistics),
        }
    }
}

/// The descriptor of a VM's device for VFIO.
struct Vfio<V: Virtualization<Kernel>>(Arc<Machine<V>>);

impl<V: Virtualization<Kernel>> Object for Vfio<V> {
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        self.0.check_process()?;
        vfio(self.0.core(), number, argument)
    }
}

/// What a call has made.
enum Made<V: Virtualization<Kernel>> {
    /// With the descriptor that it is to have.
    Vcpu(Reserved, Vcpu<V>),
    Statistics(Statistics),
}
