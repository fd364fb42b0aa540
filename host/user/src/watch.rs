//! Watches: one thread waits for all events of a machine that are watched, and calls their targets.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use virt::host::{Event, Notify};

use crate::event::EventFd;
use crate::own_descriptor::OwnDescriptor;
use crate::thread;

/// The watched events of a machine. The thread is there from the first one on, and ends with this.
///
/// Lock order: nothing is called with a lock held.
#[derive(Default)]
pub(crate) struct Watches(Mutex<Option<Started>>);

struct Started {
    waiting: Arc<Waiting>,
    stop: EventFd,
}

/// What the thread waits for.
struct Waiting {
    epoll: OwnDescriptor,
    targets: Mutex<Targets>,
}

#[derive(Default)]
struct Targets {
    by_number: BTreeMap<u64, (EventFd, Arc<dyn Notify>)>,
    last_number: u64,
}

/// The number of what stops the thread. No target has it.
const STOP: u64 = 0;

impl Watches {
    /// Has `target` called whenever `event` is signalled.
    ///
    /// # Errors
    /// When the host has no descriptor or no thread left, or the event is watched already.
    pub fn watch(&self, event: &EventFd, target: Arc<dyn Notify>) -> io::Result<QueuedWatch> {
        let mut started = self.0.lock();
        let waiting = match &mut *started {
            Some(started) => &started.waiting,
            none => &none.insert(Started::new()?).waiting,
        };
        let number = waiting.add(event, target)?;
        Ok(QueuedWatch { waiting: Arc::clone(waiting), number })
    }
}

impl Started {
    fn new() -> io::Result<Self> {
        let epoll = OwnDescriptor::from(epoll::create(CreateFlags::CLOEXEC)?);
        let stop = EventFd::new()?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let waiting = Arc::new(Waiting { epoll, targets: Mutex::default() });
        let (shared, kept) = (Arc::clone(&waiting), stop.clone());
        // It keeps what stops it: a closed descriptor would be waited for in vain.
        let serve = move || {
            shared.serve();
            drop(kept);
        };
        thread::start("events", serve)?;
        Ok(Self { waiting, stop })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Not waited for: this may be its own thread.
        self.stop.signal();
    }
}

impl Waiting {
    fn add(&self, event: &EventFd, target: Arc<dyn Notify>) -> io::Result<u64> {
        let mut targets = self.targets.lock();
        targets.last_number += 1;
        let number = targets.last_number;
        epoll::add(&self.epoll, event, EventData::new_u64(number), EventFlags::IN)?;
        targets.by_number.insert(number, (event.clone(), target));
        Ok(number)
    }

    fn remove(&self, number: u64) {
        let mut targets = self.targets.lock();
        let removed = targets.by_number.remove(&number);
        if let Some((event, _)) = &removed {
            // It was added, and is open as long as there is a handle.
            let _ = epoll::delete(&self.epoll, event);
        }
        drop(targets);
        drop(removed);
    }

    /// The thread's life.
    fn serve(&self) {
        let mut ready = Vec::with_capacity(16);
        loop {
            ready.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for one in &ready {
                let number = one.data.u64();
                if number == STOP {
                    return;
                }
                self.tell(number);
            }
        }
    }

    fn tell(&self, number: u64) {
        let targets = self.targets.lock();
        // Taken while it is watched: what is signalled after that stays.
        let known = targets.by_number.get(&number).filter(|(event, _)| event.take() > 0);
        let target = known.map(|(_, target)| Arc::clone(target));
        drop(targets);
        if let Some(target) = target {
            target.signalled();
        }
    }
}

/// A watch, which the machine's thread serves.
pub struct QueuedWatch {
    waiting: Arc<Waiting>,
    number: u64,
}

impl Drop for QueuedWatch {
    fn drop(&mut self) {
        self.waiting.remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::{Duration, Instant};

    use super::*;

    struct Tell(Sender<u32>, u32);

    impl Notify for Tell {
        fn signalled(&self) {
            let _ = self.0.send(self.1);
        }
    }

    const LIMIT: Duration = Duration::from_secs(10);

    fn watched(watches: &Watches, number: u32) -> (EventFd, QueuedWatch, Receiver<u32>) {
        let event = EventFd::new().unwrap();
        let (sender, receiver) = channel();
        let watch = watches.watch(&event, Arc::new(Tell(sender, number))).unwrap();
        (event, watch, receiver)
    }

    #[test]
    fn each_event_calls_its_own_target() {
        let watches = Watches::default();
        let (first, _kept, told_first) = watched(&watches, 1);
        let (second, _kept, told_second) = watched(&watches, 2);
        for _ in 0..100 {
            first.signal();
            assert_eq!(told_first.recv_timeout(LIMIT), Ok(1));
            second.signal();
            assert_eq!(told_second.recv_timeout(LIMIT), Ok(2));
        }
        assert_eq!((first.take(), second.take()), (0, 0));
    }

    #[test]
    fn what_was_signalled_before_counts() {
        let watches = Watches::default();
        let event = EventFd::new().unwrap();
        event.signal();
        let (sender, receiver) = channel();
        let _watch = watches.watch(&event, Arc::new(Tell(sender, 1))).unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT), Ok(1));
    }

    #[test]
    fn an_event_that_is_watched_no_more_keeps_its_signals() {
        let watches = Watches::default();
        let (event, watch, told) = watched(&watches, 1);
        let (other, _kept, told_other) = watched(&watches, 2);
        let again = watches.watch(&event, Arc::new(Tell(channel().0, 3)));
        assert_eq!(again.err().map(|error| error.kind()), Some(io::ErrorKind::AlreadyExists));
        drop(watch);
        event.signal();
        other.signal();
        // The thread would have seen the first one, too.
        assert_eq!(told_other.recv_timeout(LIMIT), Ok(2));
        assert!(told.try_recv().is_err());
        assert_eq!(event.take(), 1);
        let (sender, told) = channel();
        let _watch = watches.watch(&event, Arc::new(Tell(sender, 4))).unwrap();
        event.signal();
        assert_eq!(told.recv_timeout(LIMIT), Ok(4));
    }

    #[test]
    fn there_is_a_thread_only_while_it_takes_one() {
        let watches = Watches::default();
        assert!(watches.0.lock().is_none());
        let (_event, watch, _told) = watched(&watches, 1);
        let waiting = Arc::downgrade(&watch.waiting);
        drop((watches, watch));
        // The thread has it until it ends.
        let start = Instant::now();
        while waiting.strong_count() > 0 {
            assert!(start.elapsed() < LIMIT, "the thread goes on");
            std::thread::yield_now();
        }
    }
}
