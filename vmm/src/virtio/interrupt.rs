//! [`Interrupt`]: how a device tells its driver of something: by a message, or by the interrupt line of old.
//!
//! See: VIRTIO 1.2, 4.1.4.5, 4.1.5.1.2.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::devices::Line;
use crate::pci::msix::{Message, MsiX};

/// The vector that is none.
pub const NO_VECTOR: u16 = 0xffff;

/// Bits of the ISR status.
const QUEUE: u8 = 1 << 0;
const CONFIGURATION: u8 = 1 << 1;

/// Who sends messages to the guest's processors.
pub type SendMessage = Arc<dyn Fn(Message) + Send + Sync>;

/// What a device interrupts by. Any thread.
pub struct Interrupt {
    vectors: Mutex<Vectors>,
    status: AtomicU8,
    needs_reset: AtomicBool,
    /// Counts changes of the configuration.
    generation: AtomicU8,
    line: Line,
    send: SendMessage,
}

struct Vectors {
    msix: MsiX,
    configuration: u16,
    queues: Vec<u16>,
    /// The guest wants no interrupt line.
    no_line: bool,
}

impl Interrupt {
    /// Of a device with so many queues: a vector for each, and one for its configuration.
    #[must_use]
    pub fn new(queues: usize, line: Line, send: SendMessage) -> Self {
        let vectors = Vectors {
            msix: MsiX::new(queues as u16 + 1),
            configuration: NO_VECTOR,
            queues: vec![NO_VECTOR; queues],
            no_line: false,
        };
        Self {
            vectors: Mutex::new(vectors),
            status: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
            generation: AtomicU8::new(0),
            line,
            send,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vectors> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, cause: u8, vector: impl FnOnce(&Vectors) -> u16) {
        let mut vectors = self.lock();
        if vectors.msix.is_enabled() {
            let vector = vector(&vectors);
            let message = vectors.msix.raise(vector);
            drop(vectors);
            message.into_iter().for_each(|message| (self.send)(message));
        } else {
            self.status.fetch_or(cause, Ordering::AcqRel);
            // Under the lock: who reads the status comes before this, or after.
            (self.line)(!vectors.no_line);
        }
    }

    /// Something was put into the used ring of a queue.
    pub fn queue(&self, queue: u16) {
        let of = |vectors: &Vectors| vectors.queues.get(usize::from(queue)).copied();
        self.raise(QUEUE, |vectors| of(vectors).unwrap_or(NO_VECTOR));
    }

    /// The device's configuration has changed.
    pub fn configuration(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIGURATION, |vectors| vectors.configuration);
    }

    /// The driver did what the device cannot go on after: it is to reset it.
    pub fn ask_for_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.configuration();
        }
    }

    /// Another number after each change of the configuration.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a reset was asked for.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Whether the device's line is asserted.
    #[must_use]
    pub fn is_line_up(&self) -> bool {
        self.status.load(Ordering::Acquire) != 0
    }

    /// The guest reads the ISR status: what has been since it last did.
    pub fn take_status(&self) -> u8 {
        let _vectors = self.lock();
        let status = self.status.swap(0, Ordering::AcqRel);
        (self.line)(false);
        status
    }

    /// The guest says whether it wants the interrupt line.
    pub fn set_line_disabled(&self, disabled: bool) {
        let mut vectors = self.lock();
        if vectors.no_line != disabled {
            vectors.no_line = disabled;
            (self.line)(!disabled && self.is_line_up());
        }
    }

    /// The guest accesses the messages' registers, after which some may be due.
    pub fn with_msix<M: IntoIterator<Item = Message>>(&self, work: impl FnOnce(&mut MsiX) -> M) {
        let messages = work(&mut self.lock().msix);
        messages.into_iter().for_each(|message| (self.send)(message));
    }

    /// A queue's vector; of none, the configuration's.
    #[must_use]
    pub fn vector(&self, queue: Option<u16>) -> u16 {
        let vectors = self.lock();
        match queue {
            None => vectors.configuration,
            Some(queue) => vectors.queues.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR),
        }
    }

    /// Sets it. One that there is not is none, as the guest finds by reading. See: VIRTIO 1.2, 4.1.5.1.2.1.
    pub fn set_vector(&self, queue: Option<u16>, vector: u16) {
        let mut vectors = self.lock();
        let vector = if usize::from(vector) <= vectors.queues.len() { vector } else { NO_VECTOR };
        match queue {
            None => vectors.configuration = vector,
            Some(queue) => {
                if let Some(own) = vectors.queues.get_mut(usize::from(queue)) {
                    *own = vector;
                }
            }
        }
    }

    /// The device is reset. The messages' own registers stay as they are: they are PCI's.
    pub fn reset(&self) {
        let mut vectors = self.lock();
        vectors.configuration = NO_VECTOR;
        vectors.queues.fill(NO_VECTOR);
        self.needs_reset.store(false, Ordering::Release);
        self.status.store(0, Ordering::Release);
        (self.line)(false);
    }
}

#[cfg(test)]
#[path = "interrupt_test.rs"]
mod interrupt_test;
