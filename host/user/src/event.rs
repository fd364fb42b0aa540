//! [`EventFd`]: an eventfd that threads share, and whoever has its descriptor.
//!
//! One may be of somebody else's making, who hands in a descriptor. That it is an eventfd, and which one, is what the kernel says in
//! `/proc` (since Linux 5.2), as several descriptors may be of the same.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use virt::host::Event;

use crate::own_descriptor::OwnDescriptor;

/// A handle of an eventfd: it counts how often it was signalled, and its descriptor is readable while that is not zero.
/// Reading and writing do not wait.
#[derive(Clone, Debug)]
pub struct EventFd {
    descriptor: Arc<OwnDescriptor>,
    /// The kernel's number for it, if it is of somebody else's making.
    foreign: Option<u32>,
}

impl EventFd {
    /// One that was not signalled yet.
    ///
    /// # Errors
    /// When this process, or the host, has too many files open.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { descriptor: Arc::new(fd.into()), foreign: None })
    }

    /// The one that a descriptor of this process is of, which stays the caller's.
    ///
    /// # Errors
    /// When it is no descriptor (`EBADF`), or one of something else (`EINVAL`), and when there are too many files open.
    pub fn of(descriptor: RawFd) -> io::Result<Self> {
        let duplicate = OwnDescriptor::duplicate_of(descriptor)?;
        let number = duplicate.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let number = |line: &str| line.strip_prefix("eventfd-id:")?.trim().parse().ok();
        let Some(number) = info.lines().find_map(number) else {
            return Err(rustix::io::Errno::INVAL.into());
        };
        Ok(Self { descriptor: Arc::new(duplicate), foreign: Some(number) })
    }

    /// Whether an access would not wait. One of somebody else's making may be such that it waits; that is not changed, and
    /// in between only its maker could come first.
    fn is_ready(&self, to: PollFlags) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut one = [PollFd::new(&*self.descriptor, to)];
        self.foreign.is_none() || poll(&mut one, Some(&at_once)) == Ok(1)
    }

    /// How often it was signalled since the last time; 0 if it was not.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        if !self.is_ready(PollFlags::IN) {
            return 0;
        }
        match rustix::io::read(&self.descriptor, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            // It was not.
            _ => 0,
        }
    }
}

impl Event for EventFd {
    fn signal(&self) {
        // What can't be counted any more was signalled all the same.
        if self.is_ready(PollFlags::OUT) {
            let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
        }
    }
}

impl PartialEq for EventFd {
    /// Whether they are of one eventfd.
    fn eq(&self, other: &Self) -> bool {
        let same_number = self.foreign.is_some() && self.foreign == other.foreign;
        same_number || Arc::ptr_eq(&self.descriptor, &other.descriptor)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
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

    #[test]
    fn a_descriptor_of_somebody_elses_is_the_same_event() {
        let theirs = eventfd(0, EventfdFlags::empty()).unwrap();
        let (one, two) =
            (EventFd::of(theirs.as_raw_fd()).unwrap(), EventFd::of(theirs.as_raw_fd()));
        assert!(one == two.unwrap());
        one.signal();
        one.signal();
        let mut count = [0; 8];
        rustix::io::read(&theirs, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 2);
        // Nobody waits, although it is such that one would.
        assert_eq!(one.take(), 0);
        let most = u64::MAX - 1;
        rustix::io::write(&theirs, &most.to_ne_bytes()).unwrap();
        one.signal();
        assert_eq!(one.take(), most);
        let other = eventfd(0, EventfdFlags::empty()).unwrap();
        assert!(one != EventFd::of(other.as_raw_fd()).unwrap());
        // It is kept open.
        drop(theirs);
        one.signal();
        assert_eq!(one.take(), 1);
    }

    #[test]
    fn a_descriptor_of_something_else_is_refused() {
        let number = |descriptor| EventFd::of(descriptor).err().and_then(|e| e.raw_os_error());
        let file = fs::File::open("/proc/self/status").unwrap();
        assert_eq!(number(file.as_raw_fd()), Some(libc::EINVAL));
        for none in [-1, i32::MAX, i32::MIN] {
            assert_eq!(number(none), Some(libc::EBADF));
        }
    }
}
