//! [`Lane`]: what a device's thread serves, and who notifies of it, too, if nobody does just then.
//!
//! Where an exit costs little it is faster to do short work on the vCPU's thread that asks for it than to wake another one. The
//! thread is a [`Worker`]; [`blk`](super::blk) and [`console`](super::console) have lanes.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hv::{Event, EventFd};

use super::worker::Worker;

/// What is served while there is a driver, and by what thread.
pub struct Lane<T> {
    worker: Worker,
    served: Arc<Mutex<Option<T>>>,
}

fn lock<T>(served: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Lane<T> {
    /// One that serves nothing yet.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new() -> io::Result<Self> {
        Ok(Self { worker: Worker::new()?, served: Arc::default() })
    }

    /// One whose thread this event has serve.
    #[must_use]
    pub fn on(event: EventFd) -> Self {
        Self { worker: Worker::on(event), served: Arc::default() }
    }

    /// What has the thread serve.
    #[must_use]
    pub fn event(&self) -> EventFd {
        self.worker.event()
    }

    /// Has the thread serve this from now on, once at first and each time that it is told to. `serve` gives whether there is more to do; it is
    /// dropped by the thread when that stops.
    ///
    /// # Errors
    /// When the host has no thread left.
    pub fn start(
        &self,
        name: &str,
        served: T,
        mut serve: impl FnMut(&mut T) -> bool + Send + 'static,
    ) -> io::Result<()> {
        *lock(&self.served) = Some(served);
        let (served, event) = (Arc::clone(&self.served), self.event());
        self.worker.start(name, move || {
            let more = lock(&served).as_mut().map(&mut serve);
            if more == Some(true) {
                event.signal();
            }
            more.is_some()
        })
    }

    /// Serves here; what is left, as `serve` says, is the thread's. Who serves just now is told to look again.
    pub fn serve_here(&self, serve: impl FnOnce(&mut T) -> bool) {
        let is_left = match self.served.try_lock() {
            Ok(mut served) => served.as_mut().is_some_and(serve),
            Err(_) => true,
        };
        if is_left {
            self.event().signal();
        }
    }

    /// What is served, if there is something.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        lock(&self.served).as_mut().map(work)
    }

    /// Stops the thread: when this returns it does nothing any more.
    pub fn stop(&self) {
        self.worker.stop();
    }

    /// Stops the thread, and drops what it served.
    pub fn end(&self) {
        self.stop();
        *lock(&self.served) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A lane that tells of each time that it is served by its thread, and has more to do the first time.
    fn lane() -> (Lane<Sender<u32>>, Receiver<u32>) {
        let (told, heard) = channel();
        let lane = Lane::new().unwrap();
        let count = Mutex::new(0);
        let serve = move |told: &mut Sender<u32>| {
            let mut count = count.lock().unwrap();
            *count += 1;
            told.send(*count).unwrap();
            *count == 1
        };
        lane.start("test", told, serve).unwrap();
        (lane, heard)
    }

    #[test]
    fn the_thread_serves_while_there_is_more_and_when_it_is_told_to() {
        let (lane, heard) = lane();
        assert_eq!([1, 2].map(|_| heard.recv_timeout(LIMIT).unwrap()), [1, 2]);
        // When this returns the thread waits.
        lane.with(|_| ());
        lane.serve_here(|told| {
            told.send(77).unwrap();
            false
        });
        assert_eq!(heard.recv_timeout(LIMIT), Ok(77));
        lane.serve_here(|_| true);
        assert_eq!(heard.recv_timeout(LIMIT), Ok(3), "what was left here");
        lane.with(|_| lane.serve_here(|_| unreachable!("it is being served")));
        assert_eq!(heard.recv_timeout(LIMIT), Ok(4));
        lane.end();
        assert_eq!(lane.with(|_| ()), None);
        lane.serve_here(|_| unreachable!("there is nothing"));
        assert!(heard.recv().is_err(), "it is dropped");
    }
}
