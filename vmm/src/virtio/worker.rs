//! [`Worker`]: a thread that does a device's work when a queue is notified, until the device is reset.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use hv::{Event, EventFd};
use rustix::event::{PollFd, PollFlags, poll};

use super::interrupt::Interrupt;
use super::queue::Broken;

/// A thread that waits for an event. Dropped, it is stopped.
pub struct Worker {
    event: EventFd,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// One that does nothing yet.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new() -> io::Result<Self> {
        Ok(Self::on(EventFd::new()?))
    }

    /// One that this event has work.
    #[must_use]
    pub fn on(event: EventFd) -> Self {
        Self { event, running: Mutex::new(None) }
    }

    /// What has it work.
    #[must_use]
    pub fn event(&self) -> EventFd {
        self.event.clone()
    }

    /// Does `work` from now on, once at first and each time that the event is signalled, until it gives false. What was there before is
    /// stopped.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(
        &self,
        name: &str,
        mut work: impl FnMut() -> bool + Send + 'static,
    ) -> io::Result<()> {
        self.stop();
        let stop = Arc::new(AtomicBool::new(false));
        let (event, stopped) = (self.event.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            while !stopped.load(Ordering::Acquire) && work() {
                wait(&event);
            }
        })?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Running { stop, thread });
        Ok(())
    }

    /// Serves queues from now on: `serve` does what there is, and gives whether there may be more. A driver that does not keep to the rules is
    /// served no more, and asked for a reset; so it is if the host has no thread left.
    pub fn serve(
        &self,
        name: &str,
        interrupt: &Arc<Interrupt>,
        mut serve: impl FnMut() -> Result<bool, Broken> + Send + 'static,
    ) {
        let (event, broken) = (self.event(), Arc::clone(interrupt));
        let work = move || match serve() {
            Ok(more) => {
                if more {
                    event.signal();
                }
                true
            }
            Err(Broken) => {
                broken.ask_for_reset();
                false
            }
        };
        if self.start(name, work).is_err() {
            interrupt.ask_for_reset();
        }
    }

    /// Stops the thread: when this returns it does nothing any more.
    pub fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { stop, thread }) = running {
            stop.store(true, Ordering::Release);
            self.event.signal();
            // What it panicked of it has said.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until the event is signalled, and takes that.
fn wait(event: &EventFd) {
    loop {
        let mut one = [PollFd::new(event, PollFlags::IN)];
        // A signal of the process' cuts it short, and nothing else can be wrong with an eventfd.
        let _ = poll(&mut one, None);
        if event.take() != 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_is_done_at_first_and_at_each_signal_until_it_is_stopped() {
        let worker = Worker::new().unwrap();
        let (told, done) = channel();
        worker.start("test", move || told.send(()).is_ok()).unwrap();
        done.recv().unwrap();
        worker.event().signal();
        done.recv().unwrap();
        worker.stop();
        worker.event().signal();
        assert!(done.recv().is_err(), "the thread is gone");
    }

    #[test]
    fn it_can_be_started_again() {
        let worker = Worker::new().unwrap();
        for _ in 0..3 {
            let (told, done) = channel();
            worker.start("test", move || told.send(()).is_err()).unwrap();
            done.recv().unwrap();
        }
    }
}
