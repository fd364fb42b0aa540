//! The host's files as the guest's root: [`enter`].
//!
//! The root is a folder of the host's with what the guest writes laid over it (`shares`). What the kernel makes, and what lasts no longer than
//! the guest, is the guest's own ([`OWN_FOLDERS`], as init has mounted them). What init needs of the initial file system, as the kernel's modules, stays in reach at [`INITIAL`].
//!
//! See: util-linux, switch_root(8); the initial file system is the kernel's rootfs, which pivot_root(2) can't leave.

use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chroot};
use std::path::Path;

use guest_protocol::{Access, MODULES_FOLDER, OWN_FOLDERS, Start};

use crate::network::RESOLVER;
use crate::{Error, shares, sys};

/// Where the root is put together.
const NEW: &str = "/.unibody/root";

/// Where the initial file system is in it.
const INITIAL: &str = "/run/unibody";

/// By what the kernel loads modules.
const MODPROBE: &str = "/proc/sys/kernel/modprobe";

/// Where the initial file system is.
pub(crate) fn initial() -> &'static Path {
    let moved = Path::new(INITIAL);
    // `/run` is the guest's own.
    if moved.exists() { moved } else { Path::new("/") }
}

/// Makes the host's folder the root, if there is to be one. If it can't be, and need not, the rest of `start` is as for none; gives then what
/// the person should know.
pub(crate) fn enter(start: &mut Start) -> Result<Option<String>, Error> {
    let Some(root) = start.root.take() else { return Ok(None) };
    let new = Path::new(NEW);
    let mounted = fs::create_dir_all(new).and_then(|()| shares::copy_on_write(&root.tag, new, 0));
    match mounted {
        Ok(()) => {}
        Err(error) if root.is_needed => {
            return Err(Error::of("have the host's files as the guest's root")(error));
        }
        Err(error) => {
            do_without(start);
            return Ok(Some(format!("the host's files are not the guest's root: {error}")));
        }
    }
    let has_network = start.network.is_some();
    fill(new, has_network).map_err(Error::of("put the guest's root together"))?;
    switch(new).map_err(Error::of("go to the guest's root"))?;
    Ok(None)
}

/// User, folders and environment are those of a root that is not there.
pub(crate) fn do_without(start: &mut Start) {
    (start.user, start.cwd) = (None, None);
    start.mounts.retain(|mount| mount.access != Access::CopyOnWrite);
    start.env.retain(|(name, _)| name == b"TERM");
}

/// Puts into it what is the guest's own.
fn fill(new: &Path, has_network: bool) -> io::Result<()> {
    for own in OWN_FOLDERS {
        let folder = new.join(own.trim_start_matches('/'));
        // One that is a link elsewhere would have that hidden.
        if fs::symlink_metadata(&folder).is_ok_and(|facts| !facts.is_dir()) {
            fs::remove_file(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        sys::mount(own.as_bytes(), "", folder.as_os_str().as_bytes(), libc::MS_MOVE, "")?;
    }
    if has_network && let Ok(text) = fs::read(RESOLVER) {
        let resolver = new.join(RESOLVER.trim_start_matches('/'));
        resolver.parent().map_or(Ok(()), fs::create_dir_all)?;
        // It may be a link to where nothing is in the guest.
        if fs::symlink_metadata(&resolver).is_ok() {
            fs::remove_file(&resolver)?;
        }
        fs::write(&resolver, text)?;
    }
    let initial = new.join(INITIAL.trim_start_matches('/'));
    fs::create_dir(&initial)?;
    sys::mount(b"/", "", initial.as_os_str().as_bytes(), libc::MS_BIND, "")?;
    // The kernel has anybody write to it.
    fs::set_permissions(&initial, Permissions::from_mode(0o755))?;
    if Path::new(MODULES_FOLDER).exists() && !has_modules(new) {
        // A kernel that loads none has no such file.
        let _ = fs::write(new.join(MODPROBE.trim_start_matches('/')), format!("{INITIAL}/init"));
    }
    Ok(())
}

/// Whether the host's own tools find modules of this kernel there.
fn has_modules(new: &Path) -> bool {
    let release = fs::read_to_string(new.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    new.join("lib/modules").join(release.trim()).join("modules.dep.bin").exists()
}

fn switch(new: &Path) -> io::Result<()> {
    env::set_current_dir(new)?;
    sys::mount(b".", "", b"/", libc::MS_MOVE, "")?;
    chroot(".")?;
    env::set_current_dir("/")
}
