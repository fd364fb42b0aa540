//! [`Split`]: the 8259s, the 8254 and the I/O APIC in this process, where only the local APICs are the kernel's.
//!
//! The chips are the core's ([`LockedChips`]). Here is what is between them and KVM:
//!
//! - accesses to them are exits that the VMM does not see: [`Split::answer`];
//! - the I/O APIC's messages go to the local APICs by `KVM_SIGNAL_MSI`;
//! - of which vectors the local APICs tell the end, they know from the kernel's table of routes: [`routes`];
//! - the 8259s' interrupt is handed to whichever vCPU has its LINT0 open for it: [`Split::offer_interrupt`].
//!
//! See: Linux, Documentation/virt/kvm/api.rst, 7.5, `KVM_CAP_SPLIT_IRQCHIP`.

mod routes;

use std::sync::{Arc, Weak};

use arch_x86::irqchip::Message;
use arch_x86::irqchip::chips::{Chips, Effects, wiring};
use arch_x86::irqchip::ioapic::{self, Redirection};
use arch_x86::locked_chips::LockedChips;
use arch_x86::machine::{has_port, ioapic_offset};
use arch_x86::vcpu::{Answer, Data, Exit};
use host_user::Process;
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi};
use kvm_ioctls::{VcpuFd, VmFd};
use virt::host::{Expire, Host};

use super::ioctl;
use super::vm::Shared;
use crate::Error;
use routes::Routes;

/// The chips that are not the kernel's.
pub(super) struct Split {
    process: Process,
    chips: LockedChips<Process>,
    routes: Routes,
}

/// Calls the 8254 when its deadline has passed.
struct PitExpiry(Weak<Shared>);

impl Expire for PitExpiry {
    fn expired(&self) {
        if let Some(vm) = self.0.upgrade()
            && let Some(split) = &vm.split
        {
            split.change(&vm, |chips, now| ((), chips.advance(now)));
        }
    }
}

impl Split {
    /// Leaves the local APICs to the kernel, of a machine that has no vCPU yet.
    ///
    /// # Errors
    /// When the kernel is too old, or the host has no thread left.
    pub fn new(fd: &VmFd) -> Result<Self, Error> {
        let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..kvm_enable_cap::default() };
        split.args[0] = ioapic::PINS as u64;
        fd.enable_cap(&split).map_err(|error| Error::Kvm {
            action: "leave the interrupt controllers but the local APICs to this process",
            error: error.into(),
        })?;
        let process = Process::new();
        Ok(Self { process, chips: LockedChips::default(), routes: Routes::default() })
    }

    /// Has the 8254 be there, and gives it its timer, which ends with the machine.
    ///
    /// # Errors
    /// When the host has none left.
    pub fn start(&self, vm: &Arc<Shared>) -> Result<(), Error> {
        let timer = self.process.timer(Arc::new(PitExpiry(Arc::downgrade(vm))));
        let timer =
            timer.map_err(|errno| Error::Start(std::io::Error::from_raw_os_error(errno.0)))?;
        self.chips.set_timer(timer);
        self.change(vm, |chips, _| ((), chips.set_pit(true)));
        Ok(())
    }

    /// Works on the chips, and carries out what that set off.
    fn change<T>(&self, vm: &Shared, work: impl FnOnce(&mut Chips, u64) -> (T, Effects)) -> T {
        let now = self.process.now();
        self.chips.change(|chips| work(chips, now), |effects| carry_out(vm, effects))
    }

    /// Sets the level of a GSI.
    pub fn set_irq(&self, vm: &Shared, gsi: u32, level: bool) {
        self.change(vm, |chips, _| ((), chips.set_gsi(gsi, level)));
    }

    /// A local APIC says that an interrupt has ended.
    pub fn end(&self, vm: &Shared, vector: u8) {
        self.change(vm, |chips, _| ((), chips.eoi(vector)));
    }

    /// The answer to an access that is to one of the chips.
    ///
    /// # Errors
    /// When the kernel does not take what follows from it.
    pub fn answer(&self, vm: &Shared, exit: &Exit) -> Result<Option<Answer>, Error> {
        match *exit {
            Exit::In { port, size, count } if has_port(port) => {
                let mut data = Data::zeroed(usize::from(size) * usize::from(count));
                for element in data.as_mut_slice().chunks_mut(size.max(1).into()) {
                    // A chip has 8 data lines; the others float.
                    element.fill(0xff);
                    element[0] = self.change(vm, |chips, now| chips.read_port(port, now));
                }
                Ok(Some(Answer::Data(data)))
            }
            Exit::Out { port, size, data } if has_port(port) => {
                for element in data.as_slice().chunks(size.max(1).into()) {
                    self.change(vm, |chips, now| ((), chips.write_port(port, element[0], now)));
                }
                Ok(Some(Answer::None))
            }
            Exit::MmioRead { gpa, size } => Ok(ioapic_offset(gpa).map(|offset| {
                let mut data = Data::zeroed(size.into());
                self.chips.look(|chips| chips.read_mmio(offset, data.as_mut_slice()));
                Answer::Data(data)
            })),
            Exit::MmioWrite { gpa, data } => match ioapic_offset(gpa) {
                Some(offset) => {
                    self.write_ioapic(vm, offset, data.as_slice())?;
                    Ok(Some(Answer::None))
                }
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// The local APICs must know that they are to tell of an interrupt's end before it comes.
    fn write_ioapic(&self, vm: &Shared, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut result = Ok(());
        self.chips.change(
            |chips| ((), chips.write_mmio(offset, bytes)),
            |effects| {
                result = self.routes.update(&vm.fd, || self.redirections());
                carry_out(vm, effects);
            },
        );
        result
    }

    fn redirections(&self) -> [Redirection; ioapic::PINS] {
        self.chips.look(|chips| chips.ioapic().state().redirections)
    }

    /// The GSI by which the kernel knows what an irqfd on a GSI sends. From now on its route follows the pin's entry.
    ///
    /// # Errors
    /// When the kernel does not take the route.
    pub fn route_irqfd(&self, vm: &Shared, gsi: u32) -> Result<u32, Error> {
        let (_, pin) = wiring(gsi);
        let Some(pin) = pin else { return Ok(routes::NOWHERE) };
        self.routes.follow_masks_of(pin);
        self.routes.update(&vm.fd, || self.redirections())?;
        Ok(routes::irqfds_gsi(pin))
    }

    /// Hands a vCPU that is about to be entered the 8259s' interrupt, if it can take it now; if not, it is to come
    /// out as soon as it can. Whether its LINT0 lets the interrupt in, the kernel looks at.
    ///
    /// # Errors
    /// When the kernel does not take it.
    #[inline(never)]
    pub fn offer_interrupt(&self, vm: &Shared, fd: &mut VcpuFd) -> Result<(), Error> {
        if self.chips.pic_output() {
            let run = fd.get_kvm_run();
            // As it was when the vCPU came out. What was handed to it since then it has not taken yet.
            if std::mem::take(&mut run.ready_for_interrupt_injection) != 0
                && let Some(vector) = self.acknowledge(vm)
            {
                ioctl::interrupt(fd, vector).map_err(|error| Error::Run { error })?;
            }
        }
        fd.get_kvm_run().request_interrupt_window = self.chips.pic_output().into();
        Ok(())
    }

    /// The vector of what the 8259s ask for, unless they do not any more.
    fn acknowledge(&self, vm: &Shared) -> Option<u8> {
        self.change(vm, |chips, _| {
            if !chips.intr() {
                return (None, Effects::default());
            }
            let (vector, effects) = chips.acknowledge();
            (Some(vector), effects)
        })
    }
}

fn carry_out(vm: &Shared, effects: &Effects) {
    for message in &effects.messages {
        signal(&vm.fd, message);
    }
    if effects.intr == Some(true) {
        // Wired to every LINT0: whichever is open for it takes it.
        vm.kick();
    }
}

/// Sends a message to the local APICs.
fn signal(fd: &VmFd, message: &Message) {
    let (address, data) = message.to_msi();
    let (address_lo, address_hi) = (address as u32, (address >> 32) as u32);
    // If nobody answers to its destination, nobody is to be told.
    let _ = fd.signal_msi(kvm_msi { address_lo, address_hi, data, ..kvm_msi::default() });
}
