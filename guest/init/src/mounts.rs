//! What programs expect to find in the file system: kernel file systems, links in `/dev`, applets.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::{Error, sys};

/// Type, where, flags, options.
const MOUNTS: [(&str, &str, libc::c_ulong, &str); 7] = [
    ("devtmpfs", "/dev", libc::MS_NOSUID, "mode=755"),
    ("proc", "/proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
    ("sysfs", "/sys", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
    // Group 5 is `tty` in every distribution.
    ("devpts", "/dev/pts", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"),
    ("tmpfs", "/dev/shm", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
    ("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=755"),
    ("tmpfs", "/tmp", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
];

/// Links that shells and scripts use.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("fd/0", "/dev/stdin"),
    ("fd/1", "/dev/stdout"),
    ("fd/2", "/dev/stderr"),
];

/// Mounts all file systems and makes the folders and links that belong to them.
pub(crate) fn mount_all() -> Result<(), Error> {
    for (kind, target, flags, options) in MOUNTS {
        ensure_dir(target)?;
        match sys::mount(kind.as_bytes(), kind, target.as_bytes(), flags, options) {
            Ok(()) => {}
            // A kernel with CONFIG_DEVTMPFS_MOUNT has done it already.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(Error::of(format!("mount {kind} on {target}"))(error)),
        }
    }
    for (target, link) in LINKS {
        ignore_existing(symlink(target, link)).map_err(Error::of(format!("make {link}")))?;
    }
    ensure_dir("/root")
}

/// Makes links for BusyBox's applets, unless whoever packed the initramfs has done so.
pub(crate) fn install_applets() -> Result<(), Error> {
    const BUSYBOX: &str = "/bin/busybox";
    if Path::new("/bin/sh").exists() || !Path::new(BUSYBOX).exists() {
        return Ok(());
    }
    for dir in ["/sbin", "/usr/bin", "/usr/sbin"] {
        ensure_dir(dir)?;
    }
    let action = "install BusyBox's applets";
    let status = Command::new(BUSYBOX).args(["--install", "-s"]).status();
    match status.map_err(Error::of(action))? {
        status if status.success() => Ok(()),
        status => Err(Error::of(action)(io::Error::other(status.to_string()))),
    }
}

fn ensure_dir(path: &str) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::of(format!("make {path}")))
}

fn ignore_existing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}
