//! TAP interfaces of the host's, which its administrator has made for a user: [`Interface`], and its [`Queue`]s, from which frames are read and to
//! which they are written as they are, with virtio's header before them.
//!
//! It is a crate of its own for the `unsafe` of its system calls (`ioctl`), which who uses it does without.
//!
//! See: Linux, Documentation/networking/tuntap.rst.

mod ioctl;

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::{Errno, readv, retry_on_intr, writev};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

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

/// Whether there is an interface. It is looked for before it is opened: that would make one that is not there, if this user may, and tell
/// less if not.
fn find(name: &str) -> Result<(), Error> {
    let is_name = (1..16).contains(&name.len()) && !name.contains(['/', '\0']);
    if !is_name {
        return Err(Error::Name);
    }
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None);
    match any.and_then(|socket| name_to_index(socket, name)) {
        Ok(_) => Ok(()),
        Err(Errno::NODEV) => Err(Error::Absent),
        Err(error) => Err(Error::Other(error.into())),
    }
}

fn open_queue(name: &str, several: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open("/dev/net/tun").map_err(Error::Device)?;
    ioctl::set_interface(&file, name, several).map_err(|error| match error {
        Errno::PERM | Errno::ACCESS => Error::Permission,
        Errno::BUSY => Error::InUse,
        // It is none, or was not made for several queues; or for one.
        Errno::INVAL => Error::Kind,
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
        find(name)?;
        let queues = match open_queue(name, true) {
            Ok(first) => {
                let others = (1..queues).map(|_| open_queue(name, true));
                std::iter::once(Ok(first)).chain(others).collect::<Result<_, _>>()?
            }
            Err(Error::Kind) => vec![open_queue(name, false)?],
            Err(error) => return Err(error),
        };
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
        for name in ["", "a-name-too-long-to-be", "a/b"] {
            assert!(matches!(Interface::open(name, 1), Err(Error::Name)), "{name}");
        }
        assert!(matches!(Interface::open("no-such-tap", 1), Err(Error::Absent)));
        // Who may not even open the device is told that.
        assert!(matches!(Interface::open("lo", 1), Err(Error::Kind | Error::Device(_))));
    }
}
