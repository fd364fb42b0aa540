//! [`Root`]: the host bridge, and what is on its bus.
//!
//! The guest reaches the functions' configuration spaces by the ports of old ([`AddressPort`], [`DataPort`]) and by memory (ECAM, [`Root::access`]), and
//! their memory where it has placed that. Where nobody answers all bits read as ones.
//!
//! See: PCI Local Bus Specification 3.0, 3.2.2.3.2; PCI Express Base Specification 5.0, 7.2.2.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::Function;
use super::config::{Config, Identity, register};
use crate::bus::Device;

/// How many functions there may be besides the bridge: one for each device number.
pub const FUNCTIONS: usize = 31;

/// The port that says what of configuration space is accessed. What is behind it by number is another's: the chipset's reset register.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// Four bytes of configuration space.
pub const FIRST_DATA_PORT: u16 = 0xcfc;
/// The last of them.
pub const LAST_DATA_PORT: u16 = 0xcff;

/// Bytes of memory by which the configuration spaces of a bus are reached.
pub const ECAM_SIZE: u64 = 1 << 20;

/// The bit of the address port by which the data port is configuration space.
const ENABLED: u32 = 1 << 31;

/// What the guest's access is.
pub enum Access<'a> {
    /// The answer goes here, which holds all ones.
    Read(&'a mut [u8]),
    /// This is written.
    Write(&'a [u8]),
}

/// Who answers at some memory.
struct Window {
    range: Range<u64>,
    /// The function's number.
    function: usize,
}

/// The root complex.
pub struct Root {
    /// Where configuration space is as memory.
    ecam: u64,
    bridge: Config,
    /// By number: device 1 and so on.
    functions: Vec<Arc<dyn Function>>,
    /// Those that answer at memory now.
    windows: RwLock<Vec<Window>>,
}

/// The bridge itself: Intel's 82G33, which Linux knows by its class alone.
const BRIDGE: Identity = Identity {
    vendor: 0x8086,
    device: 0x29c0,
    revision: 0,
    class: [0x06, 0x00, 0x00],
    subsystem: [0, 0],
    has_line: false,
};

impl Root {
    /// A bus with these functions, as devices 1 and so on, of which there are at most [`FUNCTIONS`].
    #[must_use]
    pub fn new(ecam: u64, functions: Vec<Arc<dyn Function>>) -> Self {
        let bridge = Config::new(&BRIDGE, 0);
        Self { ecam, bridge, functions, windows: RwLock::default() }
    }

    /// An access to memory that no slot has.
    #[inline]
    pub fn access(&self, gpa: u64, access: Access<'_>) {
        let found = {
            let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
            let window = windows.iter().find(|window| window.range.contains(&gpa));
            window.map(|window| (window.function, gpa - window.range.start))
        };
        match found.and_then(|(number, offset)| Some((self.functions.get(number)?, offset))) {
            Some((function, offset)) => match access {
                Access::Read(data) => function.read(offset, data),
                Access::Write(data) => function.write(offset, data),
            },
            None => self.access_ecam(gpa, access),
        }
    }

    fn access_ecam(&self, gpa: u64, access: Access<'_>) {
        if let Some(at) = gpa.checked_sub(self.ecam).filter(|at| *at < ECAM_SIZE) {
            self.configure((at >> 12) as u8, (at & 0xfff) as u16, access);
        }
    }

    /// An access to configuration space: `number` is device and function, as PCI has it.
    fn configure(&self, number: u8, offset: u16, access: Access<'_>) {
        let (device, function) = (usize::from(number >> 3), number & 7);
        let is_small =
            |size: usize| matches!(size, 1 | 2 | 4) && usize::from(offset).is_multiple_of(size);
        // There are no extended capabilities.
        let Ok(offset) = u8::try_from(offset) else {
            if let (Access::Read(data), true) = (access, self.is_there(device, function)) {
                data.fill(0);
            }
            return;
        };
        match (access, device.checked_sub(1)) {
            _ if !self.is_there(device, function) => {}
            (Access::Read(data), _) if !is_small(data.len()) => {}
            (Access::Write(data), _) if !is_small(data.len()) => {}
            (Access::Read(data), None) => self.bridge.read(offset, data),
            (Access::Write(_), None) => {}
            (Access::Read(data), Some(number)) => self.functions[number].read_config(offset, data),
            (Access::Write(data), Some(number)) => self.write(number, offset, data),
        }
    }

    fn is_there(&self, device: usize, function: u8) -> bool {
        device <= self.functions.len() && function == 0
    }

    /// A write to a function's configuration space, after which its memory may be elsewhere.
    fn write(&self, number: usize, offset: u8, data: &[u8]) {
        let function = &self.functions[number];
        function.write_config(offset, data);
        if offset >= register::BAR0 + 4 {
            return;
        }
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.retain(|window| window.function != number);
        // Asked under the lock: of two writes at a time the last one to come here knows both.
        windows.extend(function.window().map(|range| Window { range, function: number }));
    }
}

/// The ports' state: what the next access to the data port is for.
pub struct Ports {
    root: Arc<Root>,
    address: AtomicU32,
}

impl Ports {
    /// Those of a bridge.
    #[must_use]
    pub fn new(root: Arc<Root>) -> Arc<Self> {
        Arc::new(Self { root, address: AtomicU32::new(0) })
    }

    /// What the data port is at `offset`: the function's number, and where in its space; on bus 0.
    fn target(&self, offset: u16) -> Option<(u8, u16)> {
        let address = self.address.load(Ordering::Relaxed);
        let is_ours = address & ENABLED != 0 && address >> 16 & 0xff == 0;
        is_ours.then_some(((address >> 8) as u8, (address & 0xfc) as u16 + offset))
    }
}

/// [`ADDRESS_PORT`], which answers to whole words alone.
pub struct AddressPort(pub Arc<Ports>);

impl Device for AddressPort {
    fn read(&self, _offset: u16, data: &mut [u8]) {
        if data.len() == 4 {
            data.copy_from_slice(&self.0.address.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    fn write(&self, _offset: u16, data: &[u8]) {
        if let Ok(address) = data.try_into() {
            self.0.address.store(u32::from_le_bytes(address), Ordering::Relaxed);
        }
    }
}

/// The ports from [`FIRST_DATA_PORT`] on.
pub struct DataPort(pub Arc<Ports>);

impl Device for DataPort {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if let Some((number, at)) = self.0.target(offset) {
            self.0.root.configure(number, at, Access::Read(data));
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        if let Some((number, at)) = self.0.target(offset) {
            self.0.root.configure(number, at, Access::Write(data));
        }
    }
}

#[cfg(test)]
#[path = "root_test.rs"]
mod root_test;
