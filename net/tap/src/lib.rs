//! TAP interfaces of the host's, which its administrator has made for a user: [`Interface`], and its [`Queue`]s, from which frames are read and to
//! which they are written as they are, with virtio's header before them.
//!
//! It is a crate of its own for the `unsafe` of its system calls (`ioctl`), which who uses it does without.
//!
//! See: Linux, Documentation/networking/tuntap.rst.

mod ioctl;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::{Errno, readv, retry_on_intr, writev};

pub use self::ioctl::offload;

/// Bytes of the header before each frame. See: VIRTIO 1.2, 5.1.6.
pub const HEADER: usize = 12;

/// Why a TAP interface can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device that makes them can't be opened.
    #[error("cannot open /dev/net/tun: {0}")]
    Device(#[source] io::Error),
    /// The name is none.
    #[error("it is no name of an interface: those have 1 to 15 bytes")]
    Name,
    /// There is none of that name.
    #[error("there is no such interface")]
    Absent,
    /// It is another user's, or nobody's.
    #[error("the interface is not this user's")]
    Permission,
    /// It is another program's.
    #[error("another program uses the interface")]
    InUse,
    /// It is another kind of interface.
    #[error("the interface is no TAP interface")]
    Kind,
    /// Something else.
    #[error("{0}")]
    Other(#[source] io::Error),
}

/// An interface that is this process's.
pub struct Interface {
    queues: Vec<File>,
}

/// One of its queues.
pub struct Queue(File);

/// Whether the interface was made for several queues. It is looked at before it is opened: that would make one that is not there, if this user
/// may, and tell less if not.
fn has_queues(name: &str) -> Result<bool, Error> {
    /// Of the interface's flags. See: Linux, include/uapi/linux/if_tun.h.
    const TAP: u32 = 0x0002;
    const MULTI_QUEUE: u32 = 0x0100;
    let is_name =
        (1..16).contains(&name.len()) && !name.contains(['/', '\0']) && !name.starts_with('.');
    if !is_name {
        return Err(Error::Name);
    }
    let folder = format!("/sys/class/net/{name}");
    if fs::metadata(&folder).is_err() {
        return Err(Error::Absent);
    }
    let text = fs::read_to_string(format!("{folder}/tun_flags")).map_err(|_| Error::Kind)?;
    let digits = text.trim().trim_start_matches("0x");
    let flags = u32::from_str_radix(digits, 16).map_err(|_| Error::Kind)?;
    if flags & TAP == 0 { Err(Error::Kind) } else { Ok(flags & MULTI_QUEUE != 0) }
}

fn open_queue(name: &str, several: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open("/dev/net/tun").map_err(Error::Device)?;
    ioctl::set_interface(&file, name, several).map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => Error::Permission,
        Errno::BUSY => Error::InUse,
        error => Error::Other(error.into()),
    })?;
    let header = ioctl::set_header_size(&file, HEADER as i32);
    header.map_err(|error| Error::Other(error.into()))?;
    Ok(file)
}

impl Interface {
    /// Opens one, with so many queues if it was made for several. The first one is used.
    ///
    /// # Errors
    /// When there is none, it is not this user's, or another program uses it.
    pub fn open(name: &str, queues: u16) -> Result<Self, Error> {
        let several = has_queues(name)?;
        let count = if several { queues.max(1) } else { 1 };
        let queues = (0..count).map(|_| open_queue(name, several)).collect::<Result<_, _>>()?;
        let interface = Self { queues };
        interface.use_queues(1).map_err(Error::Other)?;
        Ok(interface)
    }

    /// How many queues it has.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Uses so many of the queues: the host sends to no others.
    ///
    /// # Errors
    /// When there are not as many, or the host says so.
    pub fn use_queues(&self, count: u16) -> io::Result<()> {
        if !(1..=self.count()).contains(&count) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (number, queue) in (0..).zip(&self.queues).skip(1) {
            match ioctl::attach_queue(queue, number < count) {
                // It is so already.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Its queues, from which the host may leave out some of [`offload`].
    ///
    /// # Errors
    /// When this process has too many files open, or the host says so.
    pub fn queues(&self, left_out: usize) -> io::Result<Vec<Queue>> {
        let queue = |file: &File| {
            ioctl::set_offload(file, left_out)?;
            file.try_clone().map(Queue)
        };
        self.queues.iter().map(queue).collect()
    }
}

impl Queue {
    /// Writes a frame. What the host refuses is lost, as on any cable.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when it has no room now.
    pub fn write(&self, header: &[u8; HEADER], frame: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        match retry_on_intr(|| writev(&self.0, &parts)) {
            Err(Errno::AGAIN) => Err(Errno::AGAIN.into()),
            _ => Ok(()),
        }
    }

    /// Reads the next frame, if there is one: gives its size.
    pub fn read(&self, header: &mut [u8; HEADER], frame: &mut [u8]) -> Option<usize> {
        loop {
            let mut parts = [IoSliceMut::new(header), IoSliceMut::new(frame)];
            match readv(&self.0, &mut parts) {
                Err(Errno::INTR) => {}
                size => return size.ok()?.checked_sub(HEADER),
            }
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_interface_of_the_kind_is_told_so() {
        for name in ["", "a-name-too-long-to-be", "a/b", ".."] {
            assert!(matches!(Interface::open(name, 1), Err(Error::Name)), "{name}");
        }
        assert!(matches!(Interface::open("no-such-tap", 1), Err(Error::Absent)));
        assert!(matches!(Interface::open("lo", 1), Err(Error::Kind)));
    }
}
