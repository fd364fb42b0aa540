//! [`Probe`]: a device that does nothing by itself, and interrupts when it is told to.

use std::sync::{Arc, Mutex, PoisonError};

use hv::EventFd;
use vmm::virtio::interrupt::Interrupt;
use vmm::virtio::{Active, Device, Kind};

/// The device.
pub struct Probe {
    queues: usize,
    event: EventFd,
    interrupt: Mutex<Option<Arc<Interrupt>>>,
}

impl Probe {
    /// One with so many queues, of which the first is served by an event.
    pub fn new(queues: usize) -> Arc<Self> {
        let event = EventFd::new().expect("there are files left");
        Arc::new(Self { queues, event, interrupt: Mutex::default() })
    }

    /// Interrupts for a queue, or for its configuration, if the driver is ready. Gives whether it is.
    pub fn raise(&self, queue: Option<u16>) -> bool {
        let interrupt = self.interrupt.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (&interrupt, queue) {
            (Some(interrupt), Some(queue)) => interrupt.queue(queue),
            (Some(interrupt), None) => interrupt.configuration(),
            (None, _) => {}
        }
        interrupt.is_some()
    }

    fn set(&self, interrupt: Option<Arc<Interrupt>>) {
        *self.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }
}

impl Device for Probe {
    fn kind(&self) -> Kind {
        Kind { id: 4, class: [0xff, 0, 0] }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![16; self.queues]
    }

    fn config(&self) -> Vec<u8> {
        vec![0x77; 24]
    }

    fn activate(&self, active: Active) {
        self.set(Some(active.interrupt));
    }

    fn queue_event(&self, queue: u16) -> Option<EventFd> {
        (queue == 0).then(|| self.event.clone())
    }

    fn reset(&self) {
        self.set(None);
    }
}
