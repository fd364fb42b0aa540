//! What is at which of the machine's ports.

use std::sync::Arc;

use super::UARTS;
use crate::bus::{Bus, Taken};
use crate::devices::Switch;
use crate::devices::cmos::{self, Cmos};
use crate::devices::debug_exit::{self, DebugExit};
use crate::devices::fw_cfg::{self, FwCfg};
use crate::devices::i8042::{self, I8042};
use crate::devices::power::{self, PowerBlock, ResetRegister};
use crate::devices::pvpanic::{self, PvPanic};
use crate::devices::serial::{self, Serial};
use crate::pci::root::{self, AddressPort, DataPort, Ports, Root};

/// Adds what every machine has.
pub(super) fn populate(
    bus: &mut Bus,
    serials: &[Arc<Serial>],
    switch: &Switch,
) -> Result<(), Taken> {
    for (serial, (port, _)) in serials.iter().zip(UARTS) {
        bus.insert(port, port + serial::PORTS - 1, Arc::clone(serial) as _)?;
    }
    let clock = Arc::new(Cmos::new(cmos::host_clock()));
    bus.insert(cmos::FIRST_PORT, cmos::LAST_PORT, clock)?;
    // Port 0x61, the speaker's, lies between the controller's own and belongs to the 8254.
    bus.insert(i8042::FIRST_PORT, i8042::LAST_PORT, Arc::new(I8042::new(Arc::clone(switch))))?;
    let power = Arc::new(PowerBlock::new(Arc::clone(switch)));
    bus.insert(power::FIRST_PORT, power::LAST_PORT, power)?;
    let reset = Arc::new(ResetRegister::new(Arc::clone(switch)));
    bus.insert(power::RESET_PORT, power::RESET_PORT, reset)
}

/// Adds the devices that QEMU's machines have: test kernels look for some, Linux for others.
pub(super) fn insert_qemus(
    bus: &mut Bus,
    fw_cfg: Arc<FwCfg>,
    debug_exit: bool,
    switch: &Switch,
) -> Result<(), Taken> {
    bus.insert(fw_cfg::FIRST_PORT, fw_cfg::LAST_PORT, fw_cfg)?;
    bus.insert(pvpanic::PORT, pvpanic::PORT, Arc::new(PvPanic::new(Arc::clone(switch))))?;
    if debug_exit {
        let device = Arc::new(DebugExit::new(Arc::clone(switch)));
        bus.insert(debug_exit::FIRST_PORT, debug_exit::LAST_PORT, device)?;
    }
    Ok(())
}

/// Adds the ports of PCI's host bridge, if there is one.
pub(super) fn insert_pci(bus: &mut Bus, root: Option<&Arc<Root>>) -> Result<(), Taken> {
    let Some(root) = root else { return Ok(()) };
    let ports = Ports::new(Arc::clone(root));
    let address = Arc::new(AddressPort(Arc::clone(&ports)));
    bus.insert(root::ADDRESS_PORT, root::ADDRESS_PORT, address)?;
    bus.insert(root::FIRST_DATA_PORT, root::LAST_DATA_PORT, Arc::new(DataPort(ports)))
}
