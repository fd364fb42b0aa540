//! The process that shares a folder of the host's with a guest: [`serve`].
//!
//! It is the program itself, executed once more, and ends when who has started it does, or closes the connection. What it does is
//! virtiofsd's: requests of FUSE come in the guest's memory, by vhost-user. What is here is what becomes of the process before the first of
//! them is read:
//!
//! - it is confined to the folder, by the kernel (`confine`): virtiofsd by itself believes what a guest calls a name;
//! - everything is done as the user whose process it is. Who owns a file is shown as it is; what a guest makes is the user's, whoever asks
//!   for it in the guest (`ids`).
//!
//! A folder over which a guest lays its own changes ([`Access::Lower`]) is one of which the host changes little meanwhile, and is believed for
//! longer. If it is the host's root, nothing is read beneath what is no part of an installed system (`confine`).
//!
//! What is not there: files that never had a name (O_TMPFILE is EOPNOTSUPP), POSIX ACLs. What differs, and nobody tells a guest of: inotify
//! hears of what the guest itself does, and not of what the host does; locks are the guest's own; of a file that the host has changed the
//! guest may see the old state for a second.
//!
//! See: VIRTIO 1.2, 5.11; QEMU, `docs/interop/vhost-user.rst`.

#![forbid(unsafe_code)]

mod confine;
mod messages;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, getgid, getuid, set_parent_process_death_signal};
use vhost::vhost_user::{Error as Protocol, Listener};
use vhost_user_backend::{Error as Daemon, VhostUserDaemon};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::limits;
use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};
use virtiofsd::soft_idmap::cmdline::IdMap;
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use virtiofsd_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// Descriptors that are no file of the guest's.
const OWN_DESCRIPTORS: u64 = 64;

/// For how long a guest may believe what it has heard of a file.
const VALID: Duration = Duration::from_secs(1);

/// The same of a folder over which it lays its changes.
const VALID_BELOW: Duration = Duration::from_secs(5);

/// What a guest may do with the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read.
    ReadOnly,
    /// Read, as the lower layer of a file system whose upper one is the guest's.
    Lower,
}

/// Whether this host can confine the process that it takes.
#[must_use]
pub fn is_possible() -> bool {
    confine::is_possible()
}

/// Why nothing is shared, or no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not to be without limits.
    #[error(transparent)]
    Confine(#[from] confine::Error),
    /// The socket that it was started with is none.
    #[error("cannot use the socket: {0}")]
    Socket(io::Error),
    /// The host's limits.
    #[error("cannot have files open: {0}")]
    Limits(String),
    /// The folder can't be used.
    #[error("cannot use the folder: {0}")]
    Folder(io::Error),
    /// The library fails.
    #[error("cannot serve it: {0}")]
    Serve(String),
}

/// Serves the folder that this process is in, until nobody is connected any more. `socket` is one that listens, and which has a connection
/// waiting: the only one that there will be.
///
/// # Errors
/// When it can't be confined, or not be served.
pub fn serve(socket: impl AsFd, access: Access) -> Result<(), Error> {
    messages::to_stderr();
    end_on_panic();
    // Who has started it may be gone by now: then so is the connection.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| Error::Socket(errno.into()))?;
    let socket = socket.as_fd().try_clone_to_owned().map_err(Error::Socket)?;
    let listener = Listener::from(UnixListener::from(socket));
    let files = limits::setup_rlimit_nofile(None).map_err(Error::Limits)?;
    let config = config(files, access);
    match access {
        Access::ReadOnly | Access::Lower => {
            let fs = PassthroughFsRo::new(config).map_err(Error::Folder)?;
            confine::confine(access)?;
            serve_files(fs, listener)
        }
        Access::ReadWrite => {
            let fs = PassthroughFs::new(config).map_err(Error::Folder)?;
            confine::confine(access)?;
            serve_files(fs, listener)
        }
    }
}

/// Has a thread that panics end the process, rather than leave a guest waiting.
fn end_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        std::process::exit(1);
    }));
}

/// What virtiofsd is told.
fn config(files: u64, access: Access) -> Config {
    let is_lower = access == Access::Lower;
    let valid = if is_lower { VALID_BELOW } else { VALID };
    Config {
        root_dir: ".".into(),
        entry_timeout: valid,
        attr_timeout: valid,
        // What was read of a file stays when it is opened again; if the file has become another one, its attributes tell.
        cache_policy: if is_lower { CachePolicy::Always } else { CachePolicy::Auto },
        xattr: true,
        readdirplus: true,
        // What the guest mounts by itself when it is entered can be no lower layer.
        announce_submounts: !is_lower,
        // A guest need not ask before each write whether the file has rights that this takes away.
        killpriv_v2: true,
        uid_map: Some(ids(getuid().as_raw())),
        gid_map: Some(ids(getgid().as_raw())),
        guest_fd_limit: files.saturating_sub(OWN_DESCRIPTORS),
        ..Config::default()
    }
}

/// Whoever a guest says it is, it is this one.
fn ids(own: u32) -> Vec<IdMap> {
    vec![IdMap::SquashGuest { from_guest: 0, to_host: own, count: u32::MAX }]
}

fn serve_files<F>(fs: F, mut listener: Listener) -> Result<(), Error>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let failed = |error: &dyn std::fmt::Display| Error::Serve(error.to_string());
    let backend = VhostUserFsBackendBuilder::default().build(fs).map_err(|error| failed(&error))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("share".into(), Arc::new(backend), memory)
        .map_err(|error| failed(&error))?;
    daemon.start(&mut listener).map_err(|error| failed(&error))?;
    match daemon.wait() {
        // Nobody is connected any more.
        Ok(()) | Err(Daemon::HandleRequest(Protocol::Disconnected | Protocol::PartialMessage)) => {
            Ok(())
        }
        Err(error) => Err(failed(&error)),
    }
}
