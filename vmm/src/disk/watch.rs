//! [`Watch`]: waits until somebody may have made an image's file longer.
//!
//! The host tells when one who had a file open for writing has closed it (inotify), as truncate(1) and qemu-img do after they have made it longer;
//! what this process writes by itself is no such event. Of block devices it tells nothing: they are looked at now and then.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use hv::EventFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::read;

/// How often a block device is looked at.
const PERIOD: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Of a file, or a block device.
pub struct Watch {
    events: OwnedFd,
    period: Option<Timespec>,
}

impl Watch {
    /// Of one that is open.
    ///
    /// # Errors
    /// When the host watches no more files for this user.
    pub fn new(file: &File) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // The file itself, wherever its name leads by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        inotify::add_watch(&events, path, WatchFlags::CLOSE_WRITE)?;
        let is_device = file.metadata()?.file_type().is_block_device();
        Ok(Self { events, period: is_device.then_some(PERIOD) })
    }

    /// Waits. Gives whether it is because of the file, and not of `stop`.
    #[must_use]
    pub fn wait(&self, stop: &EventFd) -> bool {
        let mut both = [PollFd::new(&self.events, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // A signal of the process' cuts it short: then the file is looked at once more.
        let _ = poll(&mut both, self.period.as_ref());
        // All that there is, for it says no more than that there was something.
        let mut events = [0; 4096];
        while read(&self.events, &mut events).is_ok_and(|size| size == events.len()) {}
        stop.take() == 0
    }
}
