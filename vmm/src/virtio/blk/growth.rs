//! [`Growth`]: a thread that has the driver see that its disk has become larger.
//!
//! See: VIRTIO 1.2, 2.5 and 5.2.5.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use hv::{Event, EventFd};

use crate::disk::Disk;
use crate::disk::watch::Watch;
use crate::virtio::interrupt::Interrupt;

/// The thread. Dropped, it is stopped.
pub struct Growth {
    /// How the driver is told, while there is one.
    driver: Arc<Mutex<Option<Arc<Interrupt>>>>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Growth {
    /// Looks after a disk.
    ///
    /// # Errors
    /// When the host does not tell of a change, or has no thread left.
    pub fn new(disk: Arc<Disk>) -> io::Result<Self> {
        let (watch, stop) = (Watch::new(disk.file())?, EventFd::new()?);
        let driver: Arc<Mutex<Option<Arc<Interrupt>>>> = Arc::default();
        let (told, stopped) = (Arc::clone(&driver), stop.clone());
        let work = move || {
            // What was before the watch began is found at first.
            loop {
                if disk.grow() {
                    let interrupt = told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    interrupt.into_iter().for_each(|interrupt| interrupt.configuration());
                }
                if !watch.wait(&stopped) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("disk-size".into()).spawn(work)?;
        Ok(Self { driver, stop, thread: Some(thread) })
    }

    /// Who is told from now on.
    pub fn tell(&self, interrupt: Option<Arc<Interrupt>>) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.stop.signal();
        // What it panicked of it has said.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
