//! Timers: one thread sleeps until the earliest deadline and calls whoever is due.
//!
//! It sleeps by the standard library's lock and condition, which are words of memory and no more: `parking_lot` has a list of all threads that
//! sleep, in which a process that is forked finds those of its parent, whose memory it may have given to others.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use virt::host::{Expire, Timer};

use crate::scheduling::ask_for_short_slices;
use crate::thread;

/// The armed timers of a machine.
///
/// Lock order: whether it is served, then the queue; nothing is called with the queue's lock held.
pub struct Timers {
    start: Instant,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Whether the thread is there.
    served: Mutex<bool>,
}

#[derive(Default)]
struct Queue {
    /// Armed timers by deadline (nanoseconds from `start`), then by their number.
    armed: BTreeMap<(u64, u64), Arc<dyn Expire>>,
    next_number: u64,
}

impl Timers {
    /// No timer yet, and no thread: that is there from the first one on, and ends when the last timer and the last handle
    /// are gone.
    pub(crate) fn new(start: Instant) -> Arc<Self> {
        let (queue, served) = (Mutex::default(), Mutex::default());
        Arc::new(Self { start, queue, changed: Condvar::new(), served })
    }

    /// Makes a timer that calls `target`.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn timer(self: &Arc<Self>, target: Arc<dyn Expire>) -> io::Result<QueuedTimer> {
        self.serve()?;
        let mut queue = lock(&self.queue);
        let number = queue.next_number;
        queue.next_number += 1;
        Ok(QueuedTimer { timers: Arc::clone(self), number, target, deadline: Mutex::new(None) })
    }

    /// Starts the thread, unless it is there.
    fn serve(self: &Arc<Self>) -> io::Result<()> {
        let mut served = lock(&self.served);
        if !*served {
            let weak = Arc::downgrade(self);
            thread::start("timers", move || serve(&weak))?;
            *served = true;
        }
        Ok(())
    }
}

/// Nothing is half done when somebody panics with the lock held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longest sleep between looks at whether the machine is still there.
const IDLE: Duration = Duration::from_millis(500);

fn serve(timers: &Weak<Timers>) {
    // A guest's timer that comes late is one that a guest can see. Refused, it is as late as other threads let it be.
    let _ = ask_for_short_slices();
    while let Some(timers) = timers.upgrade() {
        let due = {
            let mut queue = lock(&timers.queue);
            let now = timers.start.elapsed().as_nanos() as u64;
            match queue.armed.first_key_value() {
                Some(((deadline, _), _)) if *deadline <= now => {
                    queue.armed.pop_first().map(|(_, target)| target)
                }
                first => {
                    let left = first
                        .map_or(IDLE, |((at, _), _)| Duration::from_nanos(*at - now).min(IDLE));
                    drop(timers.changed.wait_timeout(queue, left));
                    None
                }
            }
        };
        if let Some(target) = due {
            target.expired();
        }
    }
}

/// A timer of [`Timers`].
pub struct QueuedTimer {
    timers: Arc<Timers>,
    number: u64,
    target: Arc<dyn Expire>,
    deadline: Mutex<Option<u64>>,
}

impl QueuedTimer {
    fn set(&self, deadline: Option<u64>) {
        let mut current = lock(&self.deadline);
        let mut queue = lock(&self.timers.queue);
        if let Some(old) = current.take() {
            queue.armed.remove(&(old, self.number));
        }
        if let Some(at) = deadline {
            let earliest = queue.armed.first_key_value().is_none_or(|((first, _), _)| at < *first);
            queue.armed.insert((at, self.number), Arc::clone(&self.target));
            if earliest {
                self.timers.changed.notify_one();
            }
        }
        *current = deadline;
    }
}

impl Timer for QueuedTimer {
    fn arm(&self, deadline: u64) {
        self.set(Some(deadline));
    }

    fn disarm(&self) {
        self.set(None);
    }
}

impl Drop for QueuedTimer {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Tell(Sender<u32>, u32);

    impl Expire for Tell {
        fn expired(&self) {
            let _ = self.0.send(self.1);
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines() {
        let start = Instant::now();
        let timers = Timers::new(start);
        let (sender, receiver) = channel();
        let late = timers.timer(Arc::new(Tell(sender.clone(), 2))).unwrap();
        let soon = timers.timer(Arc::new(Tell(sender, 1))).unwrap();
        late.arm(20_000_000);
        soon.arm(10_000_000);
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(1));
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(2));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_timer_that_is_disarmed_or_moved_does_not_fire_at_its_old_deadline() {
        let timers = Timers::new(Instant::now());
        let (sender, receiver) = channel();
        let moved = timers.timer(Arc::new(Tell(sender.clone(), 1))).unwrap();
        let off = timers.timer(Arc::new(Tell(sender.clone(), 2))).unwrap();
        let last = timers.timer(Arc::new(Tell(sender, 3))).unwrap();
        moved.arm(1_000_000_000_000);
        moved.arm(1);
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(1));
        let now = timers.start.elapsed().as_nanos() as u64;
        off.arm(now + 20_000_000);
        last.arm(now + 40_000_000);
        off.disarm();
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(3));
        assert!(receiver.try_recv().is_err());
    }
}
