//! [`EventFd`]: an eventfd that threads share, and whoever has its descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use virt::host::Event;

/// A handle of an eventfd: it counts how often it was signalled, and its descriptor is readable while that is not zero.
/// Reading and writing never wait.
#[derive(Clone, Debug)]
pub struct EventFd(Arc<OwnedFd>);

impl EventFd {
    /// One that was not signalled yet.
    ///
    /// # Errors
    /// When this process, or the host, has too many files open.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// How often it was signalled since the last time; 0 if it was not.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            // It was not.
            _ => 0,
        }
    }
}

impl Event for EventFd {
    fn signal(&self) {
        // What can't be counted any more was signalled all the same.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl PartialEq for EventFd {
    /// Whether they are of one eventfd.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_counted_until_they_are_taken() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.take(), 0);
        let same = event.clone();
        event.signal();
        same.signal();
        assert_eq!((event.take(), same.take()), (2, 0));
        assert!(event == same && event != EventFd::new().unwrap());
    }

    #[test]
    fn one_that_is_full_stays_signalled_and_nobody_waits() {
        let event = EventFd::new().unwrap();
        let most = u64::MAX - 1;
        rustix::io::write(&event, &most.to_ne_bytes()).unwrap();
        event.signal();
        assert_eq!(event.take(), most);
    }
}
