//! [`KvmVm`]: a machine's memory and interrupts, and how its vCPUs are brought out of the guest.

use std::io;
use std::sync::Arc;

use arch_x86::irqchip::chips::wiring;
use arch_x86::irqchip::ioapic::PINS;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_irqchip,
    kvm_msi, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm as Device, VmFd};
use vm_memory::GuestRegionMmap;

use super::kick::{self, Kicked};
use super::split::Split;
use super::vcpu::KvmVcpu;
use super::{Supported, events, watch};
use crate::pause::Gate;
use crate::regions::{Place, Regions};
use crate::{Error, EventFd, IoEventFd, Irqchip, MemoryFlags, MemoryId, Vm, VmConfig};

/// Three pages that Intel's processors need in the guest's address space, below the chips: for a task in real mode.
/// See: Linux, Documentation/virt/kvm/api.rst, 4.36 and 4.41.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// What a machine's threads share.
pub(super) struct Shared {
    /// Dropped before the memory that its slots point to.
    pub fd: VmFd,
    pub supported: Arc<Supported>,
    pub gate: Gate,
    pub cpus: u32,
    /// The chips that are not the kernel's.
    pub split: Option<Split>,
    kicked: Vec<Arc<Kicked>>,
    pub regions: Regions,
}

impl Shared {
    /// Brings all vCPUs out of the guest.
    pub fn kick(&self) {
        self.kick_where(|_| true);
    }

    /// Brings those vCPUs out of the guest.
    pub fn kick_where(&self, is_meant: impl Fn(usize) -> bool) {
        let all = self.kicked.iter().enumerate();
        all.filter(|(n, _)| is_meant(*n)).for_each(|(_, kicked)| kicked.kick());
    }

    /// Makes a slot, or changes what it is.
    fn set_slot(&self, place: Place) -> io::Result<()> {
        let flag = |on, bit| if on { bit } else { 0 };
        let slot = kvm_userspace_memory_region {
            slot: place.slot,
            flags: flag(place.flags.read_only, KVM_MEM_READONLY)
                | flag(place.flags.log_dirty, KVM_MEM_LOG_DIRTY_PAGES),
            guest_phys_addr: place.gpa,
            memory_size: place.size,
            userspace_addr: place.hva,
        };
        // SAFETY: the region is mapped for reading, and for writing unless the slot is read-only, which `Regions` checks; it is held
        // in `regions` until its slot is deleted or the machine's descriptor is closed; `vm-memory` gives out no references to
        // its bytes, only volatile accesses.
        unsafe { self.fd.set_user_memory_region(slot) }.map_err(Into::into)
    }

    /// By vCPU, how often it has come out of the guest.
    pub fn runs(&self) -> Vec<u32> {
        self.kicked.iter().map(|kicked| kicked.runs()).collect()
    }
}

/// Does again what a signal has cut short: KVM_CREATE_VM, which waits for all of the process' memory.
fn uninterrupted<T>(
    mut create: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, kvm_ioctls::Error> {
    loop {
        match create() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// A machine of KVM's.
#[derive(Clone)]
pub struct KvmVm(Arc<Shared>);

impl KvmVm {
    pub(super) fn new(
        device: &Device,
        engine: &'static str,
        supported: Arc<Supported>,
        config: VmConfig,
    ) -> Result<Self, Error> {
        let start =
            |action| move |error: kvm_ioctls::Error| Error::Kvm { action, error: error.into() };
        kick::install()
            .map_err(|error| Error::Kvm { action: "handle the signal that kicks vCPUs", error })?;
        let most = device.get_max_vcpus();
        if config.cpus as usize > most {
            return Err(Error::TooManyCpus { asked: config.cpus, most });
        }
        let fd = uninterrupted(|| device.create_vm()).map_err(|error| match error.errno() {
            libc::EBUSY => Error::Taken { engine },
            _ => start("make a virtual machine")(error),
        })?;
        fd.set_tss_address(TSS_ADDRESS).map_err(start("place a task segment"))?;
        let split = match config.irqchip {
            Irqchip::Kernel => {
                fd.create_irq_chip().map_err(start("make the interrupt controllers"))?;
                let flags = KVM_PIT_SPEAKER_DUMMY;
                let pit = kvm_pit_config { flags, ..kvm_pit_config::default() };
                fd.create_pit2(pit).map_err(start("make the interval timer"))?;
                wire(&fd)?;
                None
            }
            Irqchip::Split => Some(Split::new(&fd)?),
        };
        let shared = Arc::new(Shared {
            fd,
            supported,
            gate: Gate::default(),
            cpus: config.cpus,
            split,
            kicked: (0..config.cpus).map(|_| Arc::default()).collect(),
            regions: Regions::new(device.get_nr_memslots()),
        });
        if let Some(split) = &shared.split {
            split.start(&shared)?;
        }
        let watched = watch::start(Arc::downgrade(&shared));
        watched.map_err(|error| Error::Kvm { action: "start a thread", error })?;
        Ok(Self(shared))
    }
}

/// Wires the kernel's chips as a PC's are, and as ACPI tells the guest: by itself it has GSI 0, the 8254's, at the I/O APIC's
/// pin 0.
fn wire(fd: &VmFd) -> Result<(), Error> {
    let entry = |gsi, irqchip, pin| {
        let irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        let type_ = KVM_IRQ_ROUTING_IRQCHIP;
        kvm_irq_routing_entry { gsi, type_, u: Target { irqchip }, ..Default::default() }
    };
    let entries = (0..PINS as u32).flat_map(|gsi| {
        let (line, pin) = wiring(gsi);
        let line = line.map(u32::from).map(|line| match line {
            0..8 => entry(gsi, KVM_IRQCHIP_PIC_MASTER, line),
            _ => entry(gsi, KVM_IRQCHIP_PIC_SLAVE, line - 8),
        });
        line.into_iter().chain(pin.map(|pin| entry(gsi, KVM_IRQCHIP_IOAPIC, pin as u32)))
    });
    let refused = |error| Error::Kvm { action: "wire the interrupt controllers", error };
    let routing = KvmIrqRouting::from_entries(&entries.collect::<Vec<_>>())
        .map_err(|error| refused(io::Error::other(format!("{error:?}"))))?;
    fd.set_gsi_routing(&routing).map_err(|error| refused(error.into()))
}

impl Vm for KvmVm {
    type Vcpu = KvmVcpu;

    fn add_memory(
        &self,
        region: Arc<GuestRegionMmap>,
        flags: MemoryFlags,
    ) -> Result<MemoryId, Error> {
        self.0.regions.add(region, flags, |place| self.0.set_slot(place))
    }

    fn move_memory(&self, id: MemoryId, gpa: u64) -> Result<(), Error> {
        self.0.regions.relocate(id, gpa, |place| self.0.set_slot(place))
    }

    fn remove_memory(&self, id: MemoryId) -> Result<(), Error> {
        // A slot without a size is deleted.
        self.0.regions.remove(id, |place| self.0.set_slot(Place { size: 0, ..place }))
    }

    fn log_dirty(&self, id: MemoryId, on: bool) -> Result<(), Error> {
        self.0.regions.log_dirty(id, on, |place| self.0.set_slot(place))
    }

    fn take_dirty(&self, id: MemoryId) -> Result<Vec<u64>, Error> {
        let take = |place: Place| self.0.fd.get_dirty_log(place.slot, place.size as usize);
        self.0.regions.take_dirty(id, |place| take(place).map_err(Into::into))
    }

    fn create_vcpu(&self, id: u32) -> Result<KvmVcpu, Error> {
        let Some(kicked) = self.0.kicked.get(id as usize) else {
            return Err(Error::Vcpu { id, error: io::Error::from_raw_os_error(libc::EINVAL) });
        };
        KvmVcpu::new(Arc::clone(&self.0), Arc::clone(kicked), id)
    }

    fn set_irq(&self, gsi: u32, level: bool) {
        match &self.0.split {
            Some(split) => split.set_irq(&self.0, gsi, level),
            // If it is refused there is no such line: nobody to tell.
            None => drop(self.0.fd.set_irq_line(gsi, level)),
        }
    }

    fn add_ioeventfd(&self, new: IoEventFd) -> Result<(), Error> {
        events::add_ioeventfd(&self.0, &new)
    }

    fn remove_ioeventfd(&self, old: &IoEventFd) -> Result<(), Error> {
        events::remove_ioeventfd(&self.0, old)
    }

    fn add_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error> {
        events::add_irqfd(&self.0, gsi, event)
    }

    fn remove_irqfd(&self, gsi: u32, event: &EventFd) -> Result<(), Error> {
        events::remove_irqfd(&self.0, gsi, event)
    }

    fn send_msi(&self, address: u64, data: u32) {
        let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
        let message = kvm_msi { address_lo, address_hi, data, ..Default::default() };
        // Whether somebody was there is nothing to a device.
        let _ = self.0.fd.signal_msi(message);
    }

    fn pause(&self) {
        self.0.gate.pause(|| self.0.kick());
    }

    fn resume(&self) {
        self.0.gate.resume();
    }

    fn interrupt_vcpus(&self) {
        self.0.gate.interrupt(|| self.0.kick());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_signal_cut_short_is_done_again() {
        let mut results = [Err(libc::EINTR), Err(libc::EINTR), Ok(7), Ok(8)].into_iter();
        let mut create = || results.next().expect("no more").map_err(kvm_ioctls::Error::new);
        assert_eq!((uninterrupted(&mut create), create()), (Ok(7), Ok(8)));
        let refused: Result<(), _> = uninterrupted(|| Err(kvm_ioctls::Error::new(libc::ENOMEM)));
        assert_eq!(refused.map_err(|error| error.errno()), Err(libc::ENOMEM));
    }
}
