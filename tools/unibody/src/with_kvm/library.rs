//! The library as a file that the dynamic loader finds: [`place`].
//!
//! It is in the folder that `unibody pull` keeps things in, or in `$XDG_RUNTIME_DIR/unibody`: a file by the name of its content, so that
//! programs which still run with another version's keep theirs, and their children find it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use preload_image::LIBRARY;
use rustix::fs::{OFlags, StatVfsMountFlags, statvfs};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::error::{Error, reason};
use crate::pull::command::user_store;

/// Puts the library where the loader finds it, unless it is there; says where.
pub(super) fn place() -> Result<PathBuf, Error> {
    let cache = user_store().map(|store| store.root().to_path_buf());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute()).map(|path| path.join("unibody"));
    let mut last = None;
    for folder in cache.ok().into_iter().chain(runtime) {
        match place_in(&folder) {
            Ok(file) => return Ok(file),
            Err(why) => last = Some((folder, why)),
        }
    }
    let advice = "Set XDG_CACHE_HOME to a folder that is yours, from which programs may be run, \
                  and whose path has no colon and no space";
    Err(match last {
        Some((folder, why)) => {
            let action = format!("cannot put the library into '{}'", folder.display());
            Error::new(action, why)
        }
        None => Error::new("cannot find a place for the library", "this user has no cache"),
    }
    .advise(advice))
}

fn place_in(folder: &Path) -> Result<PathBuf, String> {
    // See: ld.so(8): a list's members are separated by either.
    if folder.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b':' | b' ')) {
        return Err("its path has a colon or a space".into());
    }
    let told = |error: io::Error| reason(&error);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(told)?;
    let data = fs::metadata(folder).map_err(told)?;
    if data.uid() != geteuid().as_raw() {
        return Err("it is another user's".into());
    }
    let mount = statvfs(folder).map_err(|error| told(error.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err("it is mounted such that no program can be run from it".into());
    }
    let hash: String = Sha256::digest(LIBRARY).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = folder.join(format!("kvm-{}.so", &hash[..16]));
    if !is_there(&file) {
        write(&file).map_err(told)?;
    }
    Ok(file)
}

/// Whether the file is this user's alone to write, and has all of the library.
fn is_there(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else { return false };
    let right = file.metadata().is_ok_and(|data| {
        let own = data.uid() == geteuid().as_raw() && data.mode() & 0o022 == 0;
        own && data.is_file() && data.len() == LIBRARY.len() as u64
    });
    let mut found = Vec::new();
    right && file.take(LIBRARY.len() as u64).read_to_end(&mut found).is_ok() && found == LIBRARY
}

/// Writes it. Whoever starts a program at the same time finds it whole.
fn write(file: &Path) -> io::Result<()> {
    let partial = file.with_extension(std::process::id().to_string());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let write = || options.open(&partial)?.write_all(LIBRARY);
    let written = write().and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_written_once_and_mended_if_it_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let file = place_in(&folder).unwrap();
        assert!(fs::read(&file).unwrap() == LIBRARY);
        let inode = || fs::metadata(&file).unwrap().ino();
        let first = inode();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert_eq!(inode(), first, "it was there");
        fs::write(&file, &LIBRARY[..1000]).unwrap();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert!(fs::read(&file).unwrap() == LIBRARY);
        // Others could have changed it.
        let (second, open) = (inode(), fs::Permissions::from_mode(0o666));
        fs::set_permissions(&file, open).unwrap();
        assert_eq!(place_in(&folder), Ok(file.clone()));
        assert_ne!(inode(), second);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_path_that_the_loader_would_divide_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a b", "a:b"] {
            assert!(place_in(&folder.path().join(name)).unwrap_err().contains("colon or a space"));
        }
    }
}
