//! [`Listener`]: the Unix socket by which programs on the host reach those in the guest, and the sockets by which these reach the host;
//! [`SocketFile`]: its file.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use hv::host_error::explain;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// Why there can be no such socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody listens there.
    #[error("another program listens there")]
    InUse,
    /// The file is not a socket.
    #[error("there is a file of another kind")]
    NotASocket,
    /// The host refuses.
    #[error("{}", explain(.0))]
    Listen(#[source] io::Error),
}

/// A socket at a path.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

/// A socket's file, which is removed when this is dropped: not with the socket, which a device has for as long as anybody has the device.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file that was made.
    identity: (u64, u64),
}

fn identity(data: &Metadata) -> (u64, u64) {
    (data.dev(), data.ino())
}

impl Listener {
    /// Listens at a path. What a program has left behind that ended without removing it is replaced.
    ///
    /// # Errors
    /// When somebody listens there, or the host does not let it be made.
    pub fn bind(path: &Path) -> Result<(Self, SocketFile), Error> {
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_dead(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let socket = socket.map_err(Error::Listen)?;
        socket.set_nonblocking(true).map_err(Error::Listen)?;
        let identity = identity(&fs::symlink_metadata(path).map_err(Error::Listen)?);
        let path = path.to_path_buf();
        Ok((Self { socket, path: path.clone() }, SocketFile { path, identity }))
    }

    /// A program that wants to connect, if there is one, as a socket that does not wait.
    ///
    /// # Errors
    /// When this process has too many files open: the program still waits.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects to the program on the host that listens for a port of the guest's: at the path with `_` and the port's number behind it. One
    /// that has more to accept than it can is as good as none.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(Path::new(&path))?)?;
        Ok(socket.into())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Unless somebody else's is there by now.
        if fs::symlink_metadata(&self.path).is_ok_and(|data| identity(&data) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens at.
fn remove_dead(path: &Path) -> Result<(), Error> {
    let data = fs::symlink_metadata(path).map_err(Error::Listen)?;
    if !data.file_type().is_socket() {
        return Err(Error::NotASocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(Error::Listen)
        }
        Err(error) => Err(Error::Listen(error)),
        Ok(_) => Err(Error::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_file_is_there_as_long_as_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, file) = Listener::bind(&path).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(listener.accept().unwrap().is_some());
        assert!(matches!(Listener::bind(&path), Err(Error::InUse)));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_one_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        // The standard library leaves the file behind.
        drop(UnixListener::bind(&path).unwrap());
        let bound = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"another's").unwrap();
        drop(bound);
        assert!(matches!(Listener::bind(&path), Err(Error::NotASocket)));
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        let nowhere = folder.path().join("no/folder");
        assert!(matches!(Listener::bind(&nowhere), Err(Error::Listen(_))));
    }

    #[test]
    fn ports_are_sockets_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (listener, _file) = Listener::bind(&path).unwrap();
        assert!(listener.connect(7).is_err());
        let program = UnixListener::bind(folder.path().join("socket_7")).unwrap();
        let _stream = listener.connect(7).unwrap();
        assert!(program.accept().is_ok());
    }
}
