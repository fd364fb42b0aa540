//! Where a halted vCPU's thread waits.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use virt::host::Parker;

/// How long to look for the wake-up before the thread sleeps: a sleep and a wake-up
/// across processors cost more than this.
const SPIN: Duration = Duration::from_micros(20);

/// A wait that any thread can end; a wake-up before the wait counts.
#[derive(Debug, Default)]
pub struct ThreadParker {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Parker for ThreadParker {
    fn park(&self, ready: &mut dyn FnMut() -> bool) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut woken = self.woken.lock();
        // Asked again under the lock, which `unpark` takes after the reason is there.
        while !(*woken || ready()) {
            self.condition.wait(&mut woken);
        }
        *woken = false;
    }

    fn unpark(&self) {
        *self.woken.lock() = true;
        self.condition.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_wake_up_before_the_wait_counts() {
        let parker = ThreadParker::default();
        parker.unpark();
        parker.park(&mut || false);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let parker = Arc::new(ThreadParker::default());
        let ready = Arc::new(AtomicBool::new(false));
        let waker = {
            let (parker, ready) = (Arc::clone(&parker), Arc::clone(&ready));
            std::thread::spawn(move || {
                ready.store(true, Ordering::Release);
                parker.unpark();
            })
        };
        parker.park(&mut || ready.load(Ordering::Acquire));
        waker.join().unwrap();
    }
}
