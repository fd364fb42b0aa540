//! Folders of the host's for a guest ([`Share`]), from `--share`'s words or as `root` has chosen them, to virtio-fs devices, and the processes
//! that serve them.
//!
//! That process is this program, executed once more ([`serve`]); `share_server` says what it may. It is started in its folder, with a socket
//! for its stdin that has this process' connection waiting: it cannot be too late for that, and nobody else can connect.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use guest_protocol::{Access, Mount};
use vmm::virtio::Device;
use vmm::virtio::fs::{Fs, QUEUES};
use vmm::virtio::vhost_user::{FrontEnd, Lost, Server};

use super::disk::split;
use crate::cli;
use crate::error::{Error, quoted, reason, say};

const WORDS: &str = "a share is HOST:GUEST, a folder and where the guest has it, a path from its root; behind that may come ,ro; a comma \
     in a path is written twice";

/// What is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// By what the guest knows it.
    tag: String,
    /// A folder.
    pub(crate) host: PathBuf,
    /// Where the guest has it.
    guest: PathBuf,
    access: Access,
}

impl Share {
    /// One that has no tag yet.
    pub(crate) fn new(host: PathBuf, guest: PathBuf, access: Access) -> Share {
        Share { tag: String::new(), host, guest, access }
    }

    /// The same with this tag, of at most 36 bytes.
    pub(crate) fn tagged(self, tag: String) -> Share {
        Share { tag, ..self }
    }

    /// Whether the guest has it where the host does.
    pub(crate) fn is_at_own_path(&self) -> bool {
        self.host == self.guest
    }

    /// What the guest's init is to mount.
    pub(crate) fn mount(&self) -> Mount {
        Mount {
            tag: self.tag.clone().into_bytes(),
            target: self.guest.clone().into_os_string().into_vec(),
            access: self.access,
        }
    }
}

/// Reads `HOST:GUEST[,ro]`.
pub(crate) fn parse(text: &OsStr) -> Result<Share, String> {
    let mut parts = split(text.as_bytes()).into_iter();
    let paths = parts.next().unwrap_or_default();
    // The guest's begins with a slash, and the host's may have colons.
    let colon = paths.windows(2).rposition(|two| two == b":/").ok_or(WORDS)?;
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let (host, guest) = (path(&paths[..colon]), path(&paths[colon + 1..]));
    if host.as_os_str().is_empty() {
        return Err(WORDS.to_owned());
    }
    let mut share = Share::new(host, guest, Access::ReadWrite);
    for part in parts {
        match part.as_slice() {
            b"ro" => share.access = Access::ReadOnly,
            other => {
                return Err(format!("'{}' is not known: {WORDS}", String::from_utf8_lossy(other)));
            }
        }
    }
    Ok(share)
}

/// Serves the folder that this process is in: what the hidden verb does.
pub(crate) fn serve(options: &cli::ShareServer) -> Result<u8, Error> {
    let access = match (options.lower, options.read_only) {
        (true, _) => share_server::Access::Lower,
        (false, true) => share_server::Access::ReadOnly,
        (false, false) => share_server::Access::ReadWrite,
    };
    match share_server::serve(io::stdin(), access) {
        Ok(()) => Ok(0),
        Err(error) => Err(Error::new("cannot share a folder with the guest", error)),
    }
}

/// A process that serves a folder.
struct Process {
    child: Mutex<Child>,
    folder: PathBuf,
    /// The guest is at its end, and nobody need hear that the process is.
    is_over: AtomicBool,
}

impl Server for Process {
    fn end(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended, and been waited for.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn tell(&self, why: &Lost) {
        if !self.is_over.load(Ordering::Acquire) {
            say(&format!(
                "unibody: share {} is lost: {why}. The guest has I/O errors there",
                quoted(&self.folder)
            ));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The folders that are shared, as long as it is there.
#[derive(Default)]
pub(crate) struct Shares(Vec<(Arc<FrontEnd>, Arc<Process>)>);

impl Shares {
    /// Waits until each is served. That takes some milliseconds from [`start`] on, in which other things can be done.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        for (front_end, process) in &self.0 {
            process.is_over.store(true, Ordering::Release);
            front_end.greet().map_err(|why| failed(&process.folder, why))?;
            process.is_over.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for (_, process) in &self.0 {
            process.is_over.store(true, Ordering::Release);
            process.end();
        }
    }
}

fn failed(folder: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot share {}", quoted(folder)), why)
}

/// Starts to serve folders, and makes devices of them. `cheap_exits`: see [`hv::Vm::CHEAP_EXITS`].
pub(crate) fn start(
    shares: &[Share],
    cheap_exits: bool,
) -> Result<(Shares, Vec<Arc<dyn Device>>), Error> {
    let mut all = Shares::default();
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    for share in shares {
        let (process, stream) = spawn(share)?;
        let server = Arc::clone(&process) as Arc<dyn Server>;
        let front_end = FrontEnd::new(stream, QUEUES as u64, server)
            .map_err(|error| failed(&share.host, reason(&error)))?;
        all.0.push((Arc::clone(&front_end), process));
        devices.push(Arc::new(Fs::new(&share.tag, front_end, cheap_exits)));
    }
    Ok((all, devices))
}

/// Starts the process for a folder. Gives it, and the connection to it.
fn spawn(share: &Share) -> Result<(Arc<Process>, UnixStream), Error> {
    let folder = &share.host;
    // What is wrong with the folder is not to be taken for something that is wrong with the program.
    let facts = folder.metadata().map_err(|error| {
        failed(folder, reason(&error)).advise("Give the path of a folder that you may read")
    })?;
    if !facts.is_dir() {
        return Err(failed(folder, "it is no folder").advise("Give the folder that it is in"));
    }
    let (listener, stream) = connect().map_err(|error| {
        failed(folder, format!("cannot make a socket: {}", reason(&error)))
            .advise("Have TMPDIR name a folder that you may write to")
    })?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(cli::SHARE_SERVER).args(match share.access {
        Access::ReadWrite => None,
        Access::ReadOnly => Some("--read-only"),
        Access::CopyOnWrite => Some("--lower"),
    });
    command.current_dir(folder).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
    // A key that ends what is on the terminal is this process' to hear.
    command.process_group(0);
    let child = command.spawn().map_err(|error| failed(folder, reason(&error)))?;
    let (child, is_over) = (Mutex::new(child), AtomicBool::new(false));
    Ok((Arc::new(Process { child, folder: folder.clone(), is_over }), stream))
}

/// A socket that listens, and has one connection waiting, whose other end this is. Its name is in a folder that nobody else may enter, and
/// gone when this returns.
fn connect() -> io::Result<(UnixListener, UnixStream)> {
    let folder = tempfile::Builder::new().prefix("unibody-").tempdir()?;
    let path = folder.path().join("share");
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path)?;
    folder.close()?;
    Ok((listener, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Share, String> {
        parse(OsStr::new(text))
    }

    fn share(host: &str, guest: &str, access: Access) -> Share {
        Share::new(host.into(), guest.into(), access)
    }

    #[test]
    fn a_share_is_two_paths_and_words() {
        assert_eq!(parsed("a:/b"), Ok(share("a", "/b", Access::ReadWrite)));
        assert_eq!(parsed("/x/y:/mnt/z,ro"), Ok(share("/x/y", "/mnt/z", Access::ReadOnly)));
        assert_eq!(parsed("a:b:c:/d:e"), Ok(share("a:b:c", "/d:e", Access::ReadWrite)));
        assert_eq!(parsed("a,,b:/c,,d,ro"), Ok(share("a,b", "/c,d", Access::ReadOnly)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", "a", "a:", "a:b", ":/b", "a:/b,", "a:/b,rw", ",ro", "a,ro:/b"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_connection_is_waiting_and_its_name_is_gone() {
        let (listener, stream) = connect().unwrap();
        let name = listener.local_addr().unwrap();
        assert!(!name.as_pathname().unwrap().parent().unwrap().exists());
        let (other, _) = listener.accept().unwrap();
        drop(stream);
        assert_eq!(io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
    }
}
