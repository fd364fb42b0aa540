//! [`VirtioFunction`]: a virtio device as a function of PCI, without legacy interface.
//!
//! Its memory has, a page each, the common configuration ([`common`]), the ISR status, the device's own configuration, a word for the
//! notification of each queue, and the messages' table and pending bits.
//!
//! See: VIRTIO 1.2, 4.1.

pub mod common;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Event, EventFd, IoAddress, IoEventFd, Vm};
use vm_memory::GuestMemoryMmap;

use self::common::{Action, Common, Elsewhere};
use super::interrupt::{Interrupt, SendMessage};
use super::queue::{Broken, Virtqueue};
use super::{Active, Device, feature};
use crate::devices::Line;
use crate::memory::Wrote;
use crate::pci::Function;
use crate::pci::config::{Config, Identity, command};
use crate::pci::msix;

/// Bytes of a function's memory.
pub const WINDOW: u32 = 0x8000;

/// Where what is in it.
mod at {
    pub const COMMON: u64 = 0x0000;
    pub const ISR: u64 = 0x1000;
    pub const DEVICE: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x3000;
    pub const TABLE: u64 = 0x4000;
    pub const PENDING: u64 = 0x5000;
    pub const END: u64 = 0x6000;
}

/// A page.
const PAGE: u64 = 0x1000;

/// From a queue's notification to the next one's.
const NOTIFY_MULTIPLIER: u32 = 4;

/// The maker of virtio devices, and the number that the first of them would have. See: VIRTIO 1.2, 4.1.2.
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// No transitional device.
const REVISION: u8 = 1;

/// The number of capabilities that are their maker's. See: PCI 3.0, appendix H.
const VENDOR_CAPABILITY: u8 = 9;

/// What a capability says the place of. See: VIRTIO 1.2, 4.1.4.
#[derive(Clone, Copy)]
enum Structure {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    /// An access by configuration space.
    Access = 5,
}

/// Where the guest's notifications go to besides this process' vCPU threads.
pub trait Notifications: Send + Sync {
    /// From now on a write signals an event. Whether it does.
    fn add(&self, notification: IoEventFd) -> bool;
    /// It does no more.
    fn remove(&self, notification: &IoEventFd);
}

impl<V: Vm> Notifications for V {
    fn add(&self, notification: IoEventFd) -> bool {
        self.add_ioeventfd(notification).is_ok()
    }

    fn remove(&self, notification: &IoEventFd) {
        // It was added, so it is there.
        let _ = self.remove_ioeventfd(notification);
    }
}

/// What a function has of the machine.
#[derive(Clone)]
pub struct Surroundings {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// Who is told what the device writes there.
    pub wrote: Wrote,
    /// Its interrupt line.
    pub line: Line,
    /// Where its messages go.
    pub send: SendMessage,
    /// Who signals events for the guest's notifications.
    pub notifications: Arc<dyn Notifications>,
}

/// A device on the bus.
pub struct VirtioFunction {
    device: Arc<dyn Device>,
    memory: Arc<GuestMemoryMmap>,
    wrote: Wrote,
    interrupt: Arc<Interrupt>,
    notifications: Arc<dyn Notifications>,
    /// What the notification of each queue signals.
    events: Vec<Option<EventFd>>,
    is_active: AtomicBool,
    state: Mutex<State>,
}

struct State {
    config: Config,
    common: Common,
    /// Where in configuration space the messages' capability is, and that of accesses by configuration space.
    msix: u8,
    access: u8,
    /// What the hypervisor signals events for.
    registered: Vec<IoEventFd>,
}

impl VirtioFunction {
    /// The function of a device, with its memory at an address.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, around: Surroundings, address: u32) -> Self {
        let sizes = device.queue_sizes();
        let interrupt = Arc::new(Interrupt::new(sizes.len(), around.line, around.send));
        let (config, msix, access) = configuration(&*device, sizes.len() as u16, address);
        let events = (0..sizes.len() as u16).map(|queue| device.queue_event(queue)).collect();
        let common = Common::new(device.features() | feature::COMMON, &sizes);
        let state = State { config, common, msix, access, registered: Vec::new() };
        Self {
            device,
            memory: around.memory,
            wrote: around.wrote,
            interrupt,
            notifications: around.notifications,
            events,
            is_active: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver has put something into a queue.
    #[inline]
    fn notify(&self, offset: u64) {
        let queue = offset / u64::from(NOTIFY_MULTIPLIER);
        match (self.events.get(queue as usize), self.is_active.load(Ordering::Acquire)) {
            (Some(Some(event)), true) => event.signal(),
            (Some(None), true) => self.device.notify(queue as u16),
            _ => {}
        }
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        let elsewhere = Elsewhere {
            needs_reset: self.interrupt.needs_reset(),
            generation: self.interrupt.generation(),
            config_vector: self.interrupt.vector(None),
            queue_vector: self.interrupt.vector(Some(state.common.selected())),
        };
        state.common.read(offset, data, elsewhere);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        match state.common.write(offset, data) {
            None => {}
            Some(Action::SetVector(queue, vector)) => self.interrupt.set_vector(queue, vector),
            Some(Action::Reset) => {
                if self.is_active.swap(false, Ordering::AcqRel) {
                    self.device.reset();
                }
                self.interrupt.reset();
            }
            Some(Action::Activate) => match self.queues(&state.common) {
                Ok(queues) => {
                    let features = state.common.features();
                    let interrupt = Arc::clone(&self.interrupt);
                    self.device.activate(Active { queues, features, interrupt });
                    self.is_active.store(true, Ordering::Release);
                }
                Err(Broken) => self.interrupt.ask_for_reset(),
            },
        }
    }

    fn queues(&self, common: &Common) -> Result<Vec<Option<Virtqueue>>, Broken> {
        let queues = (0..).zip(common.queues()?);
        let queue = |(number, queue): (u16, Option<_>)| {
            let new = |queue| {
                let (memory, interrupt) = (Arc::clone(&self.memory), Arc::clone(&self.interrupt));
                Virtqueue::new(number, queue, memory, interrupt, Arc::clone(&self.wrote))
            };
            queue.map(new).transpose()
        };
        queues.map(queue).collect()
    }

    /// The capability by which the guest accesses the memory through configuration space: where, and how many bytes.
    fn indirect(&self, offset: u8) -> Option<(u64, usize)> {
        let state = self.lock();
        if offset != state.access + access::DATA {
            return None;
        }
        let [place, size] =
            [access::OFFSET, access::LENGTH].map(|at| state.config.dword(state.access + at));
        let is_there = matches!(size, 1 | 2 | 4) && u64::from(place) < at::END;
        is_there.then_some((place.into(), size as usize))
    }

    /// The hypervisor is told of where the notifications are now.
    fn register(&self, state: &mut State) {
        for old in state.registered.drain(..) {
            self.notifications.remove(&old);
        }
        let Some(window) = state.config.window() else { return };
        for (queue, event) in (0..).zip(&self.events) {
            let Some(event) = event else { continue };
            let place = window.start + at::NOTIFY + queue * u64::from(NOTIFY_MULTIPLIER);
            let at = IoAddress::Mmio(place);
            let new = || IoEventFd { at, size: 2, data: None, event: event.clone() };
            if self.notifications.add(new()) {
                state.registered.push(new());
            }
        }
    }
}

/// Where a capability has what. See: VIRTIO 1.2, 4.1.4 and 4.1.4.9.
mod access {
    pub const OFFSET: u8 = 8;
    pub const LENGTH: u8 = 12;
    pub const DATA: u8 = 16;
}

/// The configuration space of a device, and where the capabilities are that its function looks at.
fn configuration(device: &dyn Device, queues: u16, address: u32) -> (Config, u8, u8) {
    let kind = device.kind();
    let identity = Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + kind.id,
        revision: REVISION,
        class: kind.class,
        subsystem: [VENDOR, FIRST_DEVICE + kind.id],
        has_line: true,
    };
    let mut config = Config::new(&identity, WINDOW);
    config.place(address);
    let notify = (u32::from(queues) * NOTIFY_MULTIPLIER).max(4);
    let places = [
        (Structure::Common, at::COMMON, common::SIZE as u32),
        (Structure::Isr, at::ISR, 1),
        (Structure::Device, at::DEVICE, PAGE as u32),
        (Structure::Notify, at::NOTIFY, notify),
        (Structure::Access, 0, 0),
    ];
    let mut last = 0;
    for (structure, place, size) in places {
        let (more, writable): (&[u8], &[u8]) = match structure {
            Structure::Notify => (&NOTIFY_MULTIPLIER.to_le_bytes(), &[]),
            // Base address register, offset, length and data are the guest's to write.
            Structure::Access => {
                (&[0; 4], &[0, 0, 0xff, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])
            }
            _ => (&[], &[]),
        };
        let length = 16 + more.len() as u8;
        let [place, size] = [place as u32, size].map(u32::to_le_bytes);
        let body = [&[length, structure as u8, 0, 0, 0, 0], &place[..], &size, more].concat();
        last = config.add_capability(VENDOR_CAPABILITY, &body, writable);
    }
    let messages = msix::MsiX::new(queues + 1);
    let (body, writable) = messages.capability(at::TABLE as u32, at::PENDING as u32);
    let msix = config.add_capability(msix::CAPABILITY, &body, &writable);
    (config, msix, last)
}

impl Function for VirtioFunction {
    fn read_config(&self, offset: u8, data: &mut [u8]) {
        if let Some((place, size)) = self.indirect(offset) {
            let mut bytes = [0; 4];
            self.read(place, &mut bytes[..size]);
            let size = data.len().min(4);
            data[..size].copy_from_slice(&bytes[..size]);
            return;
        }
        let mut state = self.lock();
        state.config.show_line(self.interrupt.is_line_up());
        state.config.read(offset, data);
    }

    fn write_config(&self, offset: u8, data: &[u8]) {
        let (before, control) = {
            let mut state = self.lock();
            let control = state.msix + 3;
            let byte = |config: &Config| (config.word(control) & 0xff) as u8;
            let before = (state.config.window(), byte(&state.config));
            state.config.write(offset, data);
            if state.config.window() != before.0 {
                self.register(&mut state);
            }
            let disabled = state.config.commands(command::INTERRUPT_DISABLE);
            self.interrupt.set_line_disabled(disabled);
            (before.1, byte(&state.config))
        };
        if before != control {
            self.interrupt.with_msix(|msix| msix.set_control(control));
        }
        if let Some((place, size)) = self.indirect(offset).filter(|(_, size)| *size <= data.len()) {
            self.write(place, &data[..size]);
        }
    }

    fn window(&self) -> Option<Range<u64>> {
        self.lock().config.window()
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            at::COMMON..at::ISR => self.read_common(offset - at::COMMON, data),
            at::ISR => {
                if let Some(first) = data.first_mut() {
                    *first = self.interrupt.take_status();
                }
            }
            at::DEVICE..at::NOTIFY => self.device.read_config(offset - at::DEVICE, data),
            at::TABLE..at::PENDING => self.interrupt.with_msix(|msix| {
                msix.read_table(offset - at::TABLE, data);
                None
            }),
            at::PENDING..at::END => self.interrupt.with_msix(|msix| {
                msix.read_pending(offset - at::PENDING, data);
                None
            }),
            _ => {}
        }
    }

    #[inline]
    fn write(&self, offset: u64, data: &[u8]) {
        match offset {
            at::NOTIFY..at::TABLE => self.notify(offset - at::NOTIFY),
            at::COMMON..at::ISR => self.write_common(offset - at::COMMON, data),
            at::DEVICE..at::NOTIFY => self.device.write_config(offset - at::DEVICE, data),
            at::TABLE..at::PENDING => {
                self.interrupt.with_msix(|msix| msix.write_table(offset - at::TABLE, data));
            }
            _ => {}
        }
    }
}

impl Drop for VirtioFunction {
    /// Nothing of the device is to go on when the machine does not.
    fn drop(&mut self) {
        if *self.is_active.get_mut() {
            self.device.reset();
        }
    }
}

#[cfg(test)]
#[path = "pci_test.rs"]
mod pci_test;
