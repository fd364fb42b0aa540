//! The virtio devices of a machine as functions of its PCI bus: where their memory is, and where their interrupts go.

use std::sync::Arc;

use hv::Vm;
use vm_memory::GuestMemoryMmap;

use crate::acpi;
use crate::boot::layout::{PCI_CONFIGURATION, PCI_MEMORY};
use crate::devices::Line;
use crate::memory::Wrote;
use crate::pci::Function;
use crate::pci::root::{FUNCTIONS, Root};
use crate::pci::wire::Wire;
use crate::virtio::Device;
use crate::virtio::pci::{Surroundings, VirtioFunction, WINDOW};

/// The interrupts of the lines: those of the I/O APIC that no device of ISA's has.
const LINES: std::ops::Range<u32> = 16..24;

/// Which line a device number has.
fn line_of(device: usize) -> usize {
    device % LINES.len()
}

/// How ACPI tells of it.
pub(super) fn platform() -> acpi::Pci {
    let lines = (0..=FUNCTIONS).map(|device| LINES.start + line_of(device) as u32);
    acpi::Pci {
        ecam: PCI_CONFIGURATION,
        memory: PCI_MEMORY..PCI_CONFIGURATION,
        lines: lines.collect(),
    }
}

/// The bus, with these devices as numbers 1 and so on. `wrote` is told what they write to memory.
///
/// # Errors
/// Gives how many devices there are if that is more than the bus has room for.
pub(super) fn root<V: Vm + Clone>(
    vm: &V,
    memory: &Arc<GuestMemoryMmap>,
    wrote: &Wrote,
    devices: Vec<Arc<dyn Device>>,
) -> Result<Root, usize> {
    if devices.len() > FUNCTIONS {
        return Err(devices.len());
    }
    let line = |gsi| -> Line {
        let vm = vm.clone();
        Arc::new(move |level| vm.set_irq(gsi, level))
    };
    let wires: Vec<_> = LINES.map(|gsi| Wire::new(line(gsi))).collect();
    let function = |(number, device): (usize, Arc<dyn Device>)| {
        let messages = vm.clone();
        let around = Surroundings {
            memory: Arc::clone(memory),
            wrote: Arc::clone(wrote),
            line: wires[line_of(number)].end(number as u32),
            send: Arc::new(move |message| messages.send_msi(message.address, message.data)),
            notifications: Arc::new(vm.clone()),
        };
        let address = PCI_MEMORY + number as u32 * WINDOW;
        Arc::new(VirtioFunction::new(device, around, address)) as Arc<dyn Function>
    };
    Ok(Root::new(PCI_CONFIGURATION.into(), (1..).zip(devices).map(function).collect()))
}
