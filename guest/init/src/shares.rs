//! Folders of the host's: [`mount_all`] puts them where the host says, as they are or with what the guest writes laid over them
//! ([`copy_on_write`]), of which `root` makes the guest's root.
//!
//! See: Linux, Documentation/filesystems/virtiofs.rst and overlayfs.rst.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use guest_protocol::{Access, Mount};

use crate::{Error, sys};

/// What it is if the kernel does not know the type.
const NO_VIRTIOFS: &str = "the guest's kernel has no virtiofs: it takes CONFIG_FUSE_FS and CONFIG_VIRTIO_FS, and if those are modules, \
     --modules";
const NO_OVERLAY: &str = "the guest's kernel has no overlay: it takes CONFIG_OVERLAY_FS, and if that is a module, --modules";

/// Where layers are mounted until they are one. In the guest's own `/run`.
const LOWER: &str = "/run/unibody.layers/lower";
const OWN: &str = "/run/unibody.layers/own";
const LAYERS: &str = "/run/unibody.layers";

/// Of a folder that is no root: rights that its files give, and devices that they name, are the host's.
const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Mounts folders of the host's.
pub(crate) fn mount_all(mounts: &[Mount]) -> Result<(), Error> {
    for mount in mounts {
        let target = Path::new(OsStr::from_bytes(&mount.target));
        let mounted = fs::create_dir_all(target).and_then(|()| match mount.access {
            Access::ReadWrite => mount_one(&mount.tag, target, FLAGS),
            Access::ReadOnly => mount_one(&mount.tag, target, FLAGS | libc::MS_RDONLY),
            Access::CopyOnWrite => copy_on_write(&mount.tag, target, FLAGS),
        });
        let action = || format!("mount a folder of the host's on {}", target.display());
        mounted.map_err(|error| Error::of(action())(error))?;
    }
    Ok(())
}

fn mount_one(tag: &[u8], target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    sys::mount(tag, "virtiofs", target.as_os_str().as_bytes(), flags, "")
        .map_err(|error| explain(error, NO_VIRTIOFS))?;
    // A server that does not serve is first heard of by who looks.
    fs::metadata(target).map(drop)
}

/// Mounts a folder with a layer over it that has what the guest writes there, in the guest's memory.
pub(crate) fn copy_on_write(tag: &[u8], target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    for folder in [LOWER, OWN] {
        fs::create_dir_all(folder)?;
    }
    mount_one(tag, Path::new(LOWER), libc::MS_RDONLY)?;
    let mounted = lay_over(target, flags);
    // The file system has both for itself: nobody else is to find them.
    let detached = sys::detach(LOWER);
    mounted.and(detached)?;
    for folder in [LOWER, OWN, LAYERS] {
        fs::remove_dir(folder)?;
    }
    Ok(())
}

fn lay_over(target: &Path, flags: libc::c_ulong) -> io::Result<()> {
    sys::mount(b"own", "tmpfs", OWN.as_bytes(), 0, "mode=755")?;
    let upper = Path::new(OWN).join("upper");
    let mount = || {
        fs::create_dir(&upper)?;
        fs::create_dir(Path::new(OWN).join("work"))?;
        // The folder itself is seen as its upper layer is.
        let facts = fs::metadata(LOWER)?;
        chown(&upper, Some(facts.uid()), Some(facts.gid()))?;
        fs::set_permissions(&upper, facts.permissions())?;
        // Programs that keep to one file system are to find but one: st_dev of all is the same with xino.
        let options = format!("lowerdir={LOWER},upperdir={OWN}/upper,workdir={OWN}/work,xino=on");
        sys::mount(b"unibody", "overlay", target.as_os_str().as_bytes(), flags, &options)
            .map_err(|error| explain(error, NO_OVERLAY))
    };
    let mounted = mount();
    mounted.and(sys::detach(OWN))
}

/// Says what it takes if the kernel does not know the type of file system.
fn explain(error: io::Error, what: &'static str) -> io::Error {
    if error.raw_os_error() == Some(libc::ENODEV) { io::Error::other(what) } else { error }
}
